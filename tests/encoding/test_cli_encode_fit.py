"""`nec encode` and `nec fit` as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import build_model, smooth

from nec import EmbeddingCodec, open_store
from nec.cli import main
from nec.models import save_model


@pytest.fixture(autouse=True)
def models(model: Any, tmp_path: Path) -> None:
    """Models "tiny" (with a codec), "bare" (without), "four" (four bands) in folders of those names."""
    bare, four = build_model(), build_model(4)
    four.codec = model.codec
    for name, made in {"tiny": model, "bare": bare, "four": four}.items():
        save_model(made, tmp_path / name, half=False)


def test_encode_prints_json(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "a.zarr")
    assert main(["encode", f"folder:{folder}", "--model", str(tmp_path / "tiny"), "--out", out, "--json"]) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert printed.err == ""
    assert {"images", "grid", "dimensions", "stored_bytes", "bytes_per_image", "quality", "seconds"} <= set(report)
    assert (report["images"], report["dimensions"]) == (60, 16)
    assert open_store(out).class_names == ["x", "y"]


def test_encode_options_and_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "a.zarr")
    base = ["encode", str(folder), "--model", str(tmp_path / "tiny"), "--out", out]
    assert main([*base, "--image-size", "24", "--target-bytes", "60", "--batch-size", "16", "--workers", "1"]) == 0
    assert "60 images" in capsys.readouterr().out
    store = open_store(out)
    assert store.grid == (6, 6)
    assert store.bytes_per_image == pytest.approx(60, rel=0.1)
    assert main([*base, "--image-size", "24", "--quality", "2", "--overwrite"]) == 0
    assert open_store(out).quality == 2
    assert main([*base, "--image-size", "24", "--quality", "2", "--resume"]) == 0


def test_split_lists(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("x/00.png\ny/01.png\n")
    base = [
        "encode",
        f"folder:{folder}",
        "--model",
        str(tmp_path / "tiny"),
        "--out",
        str(tmp_path / "a.zarr"),
        "--json",
    ]
    assert main([*base, "--split-list", f"train={tmp_path / 'train.txt'}", "--split", "train"]) == 0
    assert open_store(str(tmp_path / "a.zarr")).names == ["x/00.png", "y/01.png"]


def check_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 2 and one line that holds `message`."""
    capsys.readouterr()
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("nec: error: ")
    assert printed.err.count("\n") == 1


def test_bad_inputs_of_encode(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    cut = tmp_path / "cut"
    cut.mkdir()
    for i, image in enumerate(smooth(3, 16, 3)):
        Image.fromarray(image).save(cut / f"{i}.jpg")
    (cut / "1.jpg").write_bytes((cut / "1.jpg").read_bytes()[:300])
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    Image.fromarray(smooth(1, 16, 3)[0]).save(mixed / "a.png")
    Image.fromarray(smooth(1, 20, 3)[0]).save(mixed / "b.png")
    out = tmp_path / "a.zarr"

    def refused(inputs: list[str], message: str, model: str = "tiny", *options: str) -> None:
        command = ["encode", *inputs, "--model", str(tmp_path / model), "--out", str(out), *options]
        check_refused(command, message, capsys)
        assert not out.exists()

    refused([f"folder:{tmp_path / 'empty'}"], "holds no images")
    refused([str(tmp_path / "nowhere")], "does not exist")
    refused(["mars:x"], "known are folder, eurosat, ucmerced")
    refused([f"folder:{cut}"], "1.jpg is damaged or truncated")
    refused([f"folder:{mixed}"], "b.png is 20x20 px, a.png is 16x16 px; give them one size with --image-size N")
    refused([str(folder)], "has 3 band(s), and the model four takes 4", "four")
    refused([str(folder)], "quality 0.0", "tiny", "--quality", "0")
    refused([str(folder)], "positive number", "tiny", "--target-bytes", "nan")
    refused([str(folder)], "has no split", "tiny", "--split", "train")
    refused([str(folder)], "give PART=FILE", "tiny", "--split-list", "train")
    refused([str(folder), str(folder)], "several inputs must all be image files")
    refused([str(folder)], "give one of them", "tiny", "--resume", "--overwrite")
    refused([str(folder)], "--mask belongs to scenes", "tiny", "--mask", "scl")
    refused([str(folder)], "give one of them", "tiny", "--quality", "1", "--target-bytes", "5")
    refused([str(folder)], "Choose from", "tiny", "--engine", "spark")


def test_bad_rasters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rasterio = pytest.importorskip("rasterio")
    rasters = tmp_path / "rasters"
    rasters.mkdir()
    pixels = smooth(1, 32, 3)[0].transpose(2, 0, 1).astype(np.float32) / 255
    pixels[1, 3, 4] = np.nan
    with rasterio.open(rasters / "nan.tif", "w", "GTiff", 32, 32, 3, dtype="float32") as file:
        file.write(pixels)
    out = tmp_path / "a.zarr"
    command = ["encode", f"folder:{rasters}", "--model", str(tmp_path / "tiny"), "--out", str(out)]
    check_refused([*command, "--scale", "1"], "nan.tif has 1 NaN or infinite pixel(s) of 1024", capsys)
    pixels[1, 3, 4] = 0
    with rasterio.open(rasters / "nan.tif", "w", "GTiff", 32, 32, 3, dtype="float32") as file:
        file.write(pixels)
    check_refused(command, "give --scale S", capsys)
    assert not out.exists()
    assert main([*command, "--scale", "1", "--json"]) == 0


def test_fit_writes_a_model_folder_that_encodes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "fitted"
    assert main(["fit", str(tmp_path / "bare"), f"folder:{folder}", "--out", str(out), "--rank", "6", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["images"], report["codec"]["rank"], report["codec"]["prior"]) == (60, 6, "hierarchical")
    assert {path.name for path in out.iterdir()} == {"config.json", "model.safetensors", "codec.json", "README.md"}
    codec = EmbeddingCodec.load(out / "codec.json")
    assert codec.id == report["codec"]["id"]
    assert not (tmp_path / "bare" / "codec.json").exists()


def test_fit_to_means_over_symmetries(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder's configuration says so, and its codec is fitted to such means, as NumPy makes them."""
    out, command = tmp_path / "symmetric", ["fit", str(tmp_path / "bare"), f"folder:{folder}", "--symmetries", "8"]
    assert main([*command, "--out", str(out)]) == 0
    assert json.loads((out / "config.json").read_text())["model"]["symmetries"] == 8
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "bare" / "model.safetensors").read_bytes()
    assert "means over 8 turns" in (out / "README.md").read_text()
    tokens = np.zeros((60, 4, 4, 16), np.float32)
    images = np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*/*.png"))])
    for index in range(8):
        turned = np.rot90(images, index % 4, (1, 2))
        turned = (turned[:, :, ::-1] if index >= 4 else turned).copy()
        with torch.no_grad():
            part = build_model().embed(build_model().normalize(turned))
        tokens += np.rot90(part[:, :, ::-1] if index >= 4 else part, -(index % 4), (1, 2)) / 8
    assert main(["fit", str(tmp_path / "bare"), f"folder:{folder}", "--out", str(tmp_path / "plain.json")]) == 0
    made, plain = (EmbeddingCodec.load(path) for path in (out / "codec.json", tmp_path / "plain.json"))
    zeros = np.zeros((1, 4, 4, 16), np.int64)  # which decode to a codec's means
    means = [
        codec.decode(codec.encode_symbols(zeros, 1.0))
        for codec in (made, plain, EmbeddingCodec.fit(tokens, spatial="haar", positions=None))
    ]
    np.testing.assert_allclose(means[0], means[2], atol=1e-4)
    assert np.abs(means[0] - means[1]).max() > 0.1
    check_refused([*command, "--out", str(tmp_path / "c.json")], "write a model folder", capsys)
    check_refused([*command, "--out", str(tmp_path / "bare")], "another model", capsys)


def test_fit_into_the_models_own_folder(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["fit", str(tmp_path / "bare"), str(folder), "--out", str(tmp_path / "bare"), "--limit", "50"]
    assert main(own) == 0
    before = (tmp_path / "bare" / "codec.json").read_bytes()
    check_refused(own, "exists", capsys)
    assert main([*own, "--overwrite"]) == 0
    assert (tmp_path / "bare" / "codec.json").read_bytes() == before


def test_fit_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    embeddings = np.random.default_rng(0).normal(size=(100, 4, 4, 8)).astype(np.float32)
    np.save(tmp_path / "e.npy", embeddings)
    out = tmp_path / "codec.json"
    assert main(["fit", str(tmp_path / "e.npy"), "--out", str(out), "--prior", "factorized"]) == 0
    assert "factorized codec for 8 dimensions" in capsys.readouterr().out
    assert EmbeddingCodec.load(out).dimensions == 8
    check_refused(["fit", str(tmp_path / "e.npy"), "--out", str(tmp_path / "model")], "NAME.json", capsys)
    check_refused(
        ["fit", str(tmp_path / "tiny"), "--out", str(tmp_path / "c.json")], "give a model and a dataset", capsys
    )
    embeddings[3] = np.nan
    np.save(tmp_path / "e.npy", embeddings)
    check_refused(["fit", str(tmp_path / "e.npy"), "--out", str(tmp_path / "c.json")], "NaN", capsys)
    assert not (tmp_path / "c.json").exists()


def test_any_model_by_its_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my_model.py").write_text(
        "from nec import Backbone\n"
        "def make(gain=1):\n"
        "    def means(x):\n"
        "        return float(gain) * x.reshape(len(x), 3, 4, 4, 4, 4).mean((3, 5)).transpose(0, 2, 3, 1)\n"
        "    return Backbone.from_callable(means, input_size=16, mean=[0] * 3, std=[1] * 3, sha256=str(gain))\n"
    )
    command = ["encode", f"folder:{folder}", "--model", "python:my_model:make", "--out"]
    assert main([*command, "a.zarr"]) == 0
    assert "codec fitted on 60 of the images" in capsys.readouterr().out
    assert open_store("a.zarr").grid == (4, 4)
    assert main(["fit", "python:my_model:make", f"folder:{folder}", "--out", "codec.json"]) == 0
    capsys.readouterr()
    assert main([*command, "b.zarr", "--codec", "codec.json", "--json"]) == 0
    assert "codec_fitted_on" not in json.loads(capsys.readouterr().out)
    assert main([*command, "c.zarr", "--model-option", "gain=3", "--codec", "codec.json"]) == 0
    found, times = open_store("a.zarr").embeddings[:], open_store("c.zarr").embeddings[:]
    assert np.abs(times - 3 * found).mean() < 0.3 * np.abs(found).mean()
    check_refused([*command, "a.zarr", "--model-option", "gain=3", "--resume"], "differ", capsys)
    check_refused([*command, "d.zarr", "--model-option", "gain"], "give KEY=VALUE", capsys)
    check_refused(
        ["fit", "python:my_model:make", f"folder:{folder}", "--out", "folder"], "no model folder to copy", capsys
    )
    check_refused(
        ["encode", str(folder), "--model", "tiny", "--out", "e.zarr", "--device", "abacus"],
        "no device 'abacus'",
        capsys,
    )
