"""`nec info`, `nec verify` and `nec decode` on a store, through the command line."""

from __future__ import annotations

import json
import subprocess
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zarr

import nec
from nec import cli
from nec.store import ImageSpec, ImageWriter

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_info_json_has_the_keys_that_scripts_read(store_path: Path, run: Run) -> None:
    result = run("info", store_path, "--json")
    assert result.returncode == 0
    report = json.loads(result.stdout)
    assert (report["images"], report["grid"], report["dimensions"], report["quality"]) == (20, [2, 3], 5, 2.0)
    assert report["bytes_per_image"] == report["stored_bytes"] / 20
    assert report["model"] == {"name": "toy", "sha256": "00"}
    assert set(report["codec"]) == {"prior", "id"}
    assert report["bits_per_value"] == pytest.approx(8 * report["stored_bytes"] / (20 * 2 * 3 * 5))


def test_info_for_people(store_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", str(store_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["images", "20"] for line in lines)
    assert any(line.startswith("bytes per image") for line in lines)


def test_info_of_a_codec_and_of_a_model(tmp_path: Path, store_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codec = nec.open_store(store_path).codec
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"embed_dim": 5}))
    codec.save(model / "codec.json")
    assert cli.main(["info", str(model / "codec.json"), "--json"]) == 0
    alone = json.loads(capsys.readouterr().out)
    assert (alone["kind"], alone["id"], alone["dimensions"]) == ("codec", codec.id, 5)
    assert cli.main(["info", str(model), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["kind"], report["config"], report["codec"]["id"]) == ("model", {"embed_dim": 5}, codec.id)
    assert report["files"]["codec.json"] == (model / "codec.json").stat().st_size


def test_verify_statuses(store_path: Path, run: Run) -> None:
    whole = run("verify", store_path, "--json")
    assert whole.returncode == 0
    assert whole.stderr == ""
    assert json.loads(whole.stdout) == {"ok": True, "chunks": 5, "found": 5, "corrupt": []}
    shard = store_path / "embeddings" / "c.2.0.0.0"
    shard.write_bytes(shard.read_bytes()[:-1])
    damaged = run("verify", store_path, "--json")
    assert damaged.returncode == 1
    assert [fault["where"] for fault in json.loads(damaged.stdout)["corrupt"]] == ["embeddings/c.2.0.0.0"]
    shown = run("verify", store_path)
    assert shown.returncode == 1
    assert "corrupt: embeddings/c.2.0.0.0 images 16 to 19" in shown.stdout
    (store_path / "zarr.json").write_text("{")
    assert run("verify", store_path).returncode == 1


def test_decode_gives_the_stores_values(tmp_path: Path, store_path: Path, run: Run) -> None:
    store = nec.open_store(store_path)
    expected = store.embeddings[:]
    for suffix in ("npy", "npz", "zarr"):
        result = run("decode", store_path, "--out", tmp_path / f"out.{suffix}")
        assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)
    assert np.load(tmp_path / "out.npy", mmap_mode="r").dtype == np.float32
    group = zarr.open_group(tmp_path / "out.zarr", mode="r")
    for decoded in (np.load(tmp_path / "out.npz"), group):
        np.testing.assert_array_equal(decoded["embeddings"][:], expected)
        np.testing.assert_array_equal(decoded["labels"][:], store.labels)
        assert [str(name) for name in decoded["names"][:]] == store.names
        assert [str(part) for part in decoded["split"][:]] == list(store.split)  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npy", "out.npz", "out.zarr", "toy.zarr"]
    assert run("decode", store_path, "--out", tmp_path / "out.npy", "--overwrite", "--quiet").stderr == ""


@pytest.fixture(scope="module")
def long_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of 48 shards of 64 images, 12 MiB when decoded."""
    block = np.random.default_rng(0).normal(size=(64, 8, 8, 16)).astype(np.float32)
    path, names = tmp_path_factory.mktemp("long") / "long.zarr", [str(i) for i in range(64 * 48)]
    codec = nec.EmbeddingCodec.fit(block)
    spec = ImageSpec(codec=codec, quality=0.1, names=names, grid=(8, 8), images_per_chunk=32, chunks_per_shard=2)
    with ImageWriter.create(path, spec) as writer:
        for start, _ in writer.missing():
            writer.write(start, block)
        writer.finish()
    return path


@pytest.mark.parametrize("suffix", ["npy", "npz", "zarr"])
def test_decode_keeps_memory_bounded(tmp_path: Path, long_store: Path, suffix: str) -> None:
    """Decoding takes less memory than a third of what comes out."""
    size = nec.open_store(long_store).embeddings[:64].nbytes * 48
    peaks = []
    for run in range(2):  # the first may import modules, and threads of other tests may end meanwhile
        tracemalloc.start()
        assert cli.main(["decode", str(long_store), "--out", str(tmp_path / f"out{run}.{suffix}"), "--quiet"]) == 0
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert min(peaks) < size / 3
