"""`nec measure`: sizes that are those of the methods' bytes, broken promises told, and bad input in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("imagecodecs")
Image = pytest.importorskip("PIL.Image")

import nec  # noqa: E402
from nec.bench.methods import UQE, Raw, methods  # noqa: E402
from nec.bench.sizes import measure_methods as measure  # noqa: E402
from nec.cli import main  # noqa: E402

SPEC = "rdc:uint8,uint8-zstd png jpeg2000:24 jpeg:90 float:32 uqe:4,16 nec:0.1,1"
ROW_KEYS = {
    "method", "family", "setting", "domain", "lossless", "stored_bytes", "side_information", "bytes_per_image",
    "min_bytes", "max_bytes", "file_bytes_per_image", "share_of_pixels", "share_of_files", "promise", "exact",
    "seconds",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 PNGs of 64 px in two class folders."""
    root = tmp_path_factory.mktemp("measure") / "pictures"
    rng = np.random.default_rng(0)
    for i in range(12):
        path = root / "xy"[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((64, 64), Image.Resampling.BICUBIC).save(path)
    return root


@pytest.fixture
def command(folder: Path) -> list[str]:
    return ["measure", f"folder:{folder}", "--model", "eurosat-tiny", "--methods", SPEC]


def test_json(command: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--json"]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    report = json.loads(printed.out)
    assert {"images", "image_shape", "grid", "dimensions", "model", "batch_size", "files", "methods"} <= set(report)
    assert (report["images"], report["image_shape"], report["grid"]) == (12, [64, 64, 3], [8, 8])
    sizes = [file.stat().st_size for file in folder.rglob("*.png")]
    assert report["files"]["stored_bytes"] == sum(sizes)
    assert (report["files"]["min_bytes"], report["files"]["max_bytes"]) == (min(sizes), max(sizes))
    rows = {row["method"]: row for row in report["methods"]}
    assert list(rows) == [method.name for method in methods(SPEC.replace("nec:", "codec-pyramid:"))]
    assert all(set(row) == ROW_KEYS and row["exact"] is True for row in rows.values())
    images = np.stack([np.asarray(Image.open(file)) for file in sorted(folder.rglob("*.png"))])
    for name in ("png", "jpeg2000-24", "rdc-uint8-zstd"):
        (method,) = methods(name.replace("-", ":", 1) if name != "png" else name)
        assert rows[name]["stored_bytes"] == len(method.encode(images)), name
    raw = rows["rdc-uint8"]
    assert images[0].nbytes <= raw["bytes_per_image"] < images[0].nbytes + 5
    assert raw["share_of_files"] == pytest.approx(raw["stored_bytes"] / sum(sizes))
    assert rows["png"]["min_bytes"] <= rows["png"]["bytes_per_image"] <= rows["png"]["file_bytes_per_image"]
    assert rows["codec-pyramid-1"]["side_information"] == nec.load_model("eurosat-tiny").codec.nbytes


def test_table(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--limit", "5", "--batch-size", "2"]) == 0
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0].startswith("5 images of 64x64x3, 8x8 tokens of 192 values")
    header, *rows = lines[2:]
    ends = header.index("bytes/image") + len("bytes/image")
    assert all(row[ends - 1].isdigit() and row[ends] == " " for row in rows)  # the column's digits end under its name
    assert [row.split("  ")[0] for row in rows] == ["original files", *(m.name for m in _named(SPEC))]
    assert "measuring" in printed.err


def _named(spec: str) -> list[Any]:
    return methods(spec.replace("nec:", "codec-pyramid:"))


def test_a_codec_is_fitted_where_the_spec_asks(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = "codec-factorized:0.3,1 codec-hierarchical:0.3"
    base = ["measure", str(folder), "--model", "eurosat-tiny", "--json", "--methods"]
    assert main([*base, spec]) == 0
    rows = json.loads(capsys.readouterr().out)["methods"]
    coarse, fine, hierarchical = rows
    assert coarse["bytes_per_image"] < fine["bytes_per_image"]
    assert coarse["side_information"] == fine["side_information"] != hierarchical["side_information"]
    assert all(row["exact"] for row in rows)


class Liar(UQE):
    """Gives back something else than it promises."""

    lossless = True


def test_a_broken_promise_is_told(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    images, embeddings = np.zeros((4, 8, 8, 3), np.uint8), np.random.default_rng(0).normal(size=(4, 2, 2, 3))
    honest, liar, raw = measure([UQE(4), Liar(4), Raw("float32")], [(images, embeddings.astype(np.float32))])
    assert (honest.exact, liar.exact, raw.exact) == (True, False, True)
    monkeypatch.setattr("nec.bench.sizes.methods", lambda spec, codec=None: [Liar(4)])
    assert main(command) == 1
    assert "FAILED: bit-exact" in capsys.readouterr().out


def test_methods_that_do_not_fit_the_images_are_listed_with_the_reason() -> None:
    images, embeddings = np.zeros((4, 8, 8, 5), np.uint16), np.ones((4, 2, 2, 3), np.float32)
    rows = measure(methods("jpeg:90 rdc:uint8,uint16 uqe:4"), [(images, embeddings)] * 2)
    assert [row.refused is None for row in rows] == [False, False, True, True]
    assert "bands" in rows[0].to_dict(1)["refused"]
    assert rows[2].images == 8


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (["--methods", "uqe:77"], "8 bits"), (["--methods", "zip"], "zip"), (["--limit", "0"], "--limit"),
        (["--model", "nowhere/m"], "nowhere/m"), (["--split", "tset"], "tset"), (["--batch-size", "0"], "batch"),
    ],
)  # fmt: skip
def test_bad_input(command: list[str], change: list[str], word: str, capsys: pytest.CaptureFixture[str]) -> None:
    option, value = change
    given = [*command, option, value]
    if option in command:
        given = [value if before == option else word for before, word in zip(["", *command], command, strict=False)]
    assert main(given) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.strip().splitlines()
    assert line.startswith("nec: error: ")
    assert word in line
    assert printed.out == ""


def test_a_missing_dataset(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measure", "folder:nowhere/x", "--model", "eurosat-tiny"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_real_images(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = f"eurosat:{data_dir / 'EuroSAT_RGB.zip'}"
    spec = "jpeg2000:24,48 uqe:2 nec:0.1"
    assert main(["measure", dataset, "--model", "eurosat-tiny", "--limit", "40", "--methods", spec, "--json"]) == 0
    rows = {row["method"]: row["bytes_per_image"] for row in json.loads(capsys.readouterr().out)["methods"]}
    assert 0.9 * 512 < rows["jpeg2000-24"] < 1.02 * 512
    assert 0.9 * 256 < rows["jpeg2000-48"] < 1.04 * 256
    assert rows["codec-pyramid-0.1"] < rows["jpeg2000-48"] < rows["uqe-2"]
