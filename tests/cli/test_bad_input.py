"""Bad input through the real command: one clear line on stderr, exit status 2, nothing left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

import nec  # noqa: E402
from nec.models import ModelConfig, NecModel, save_model  # noqa: E402

SOURCE = Path(nec.__file__).parents[1]
SIZES = {
    "image_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2,
    "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2,
}  # fmt: skip


def picture(bands: int = 3, size: int = 16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (size, size, bands), dtype=np.uint8).squeeze()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = NecModel(ModelConfig.from_dict(SIZES)).eval()
    images = made.normalize(np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3), dtype=np.uint8))
    made.codec = nec.EmbeddingCodec.fit(made.embed(images))
    folder = tmp_path_factory.mktemp("models") / "m"
    save_model(made, folder)
    return folder


def write_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def truncated(folder: Path) -> None:
    write_png(folder / "images" / "a" / "1.png", picture())
    file = folder / "images" / "a" / "2.png"
    write_png(file, picture())
    file.write_bytes(file.read_bytes()[:200])


def grey(folder: Path) -> None:
    write_png(folder / "images" / "a" / "1.png", picture(1))


def unequal(folder: Path) -> None:
    write_png(folder / "images" / "a" / "1.png", picture())
    write_png(folder / "images" / "a" / "2.png", picture(size=24))


def not_a_multiple(folder: Path) -> None:
    write_png(folder / "images" / "a" / "1.png", picture(size=15))


def empty(folder: Path) -> None:
    (folder / "images").mkdir()


def nothing(folder: Path) -> None:
    pass


ENCODE = ["encode", "folder:images", "--model", "MODEL", "--out", "out.zarr"]
PRETRAIN = ["pretrain", "folder:images", "--out", "new", "--config", "image_size=16", "--config", "patch_size=8"]
CASES: dict[str, tuple[Callable[[Path], None], list[str], str]] = {
    "missing folder": (nothing, ENCODE, "images"),
    "empty folder": (empty, ENCODE, "images"),
    "truncated image": (truncated, ENCODE, "2.png"),
    "band count": (grey, ENCODE, "band"),
    "unequal sizes": (unequal, ENCODE, "--image-size"),
    "no multiple of the patch": (not_a_multiple, ENCODE, "patch"),
    "missing model": (grey, [*ENCODE[:3], "nowhere/model", *ENCODE[4:]], "nowhere/model"),
    "training on a missing folder": (nothing, PRETRAIN, "images"),
    "training on the wrong bands": (grey, PRETRAIN, "band"),
    "adapting a missing model": (grey, ["adapt", "nowhere/m", "folder:images", "--out", "new"], "nowhere/m"),
    "unknown size": (grey, [*PRETRAIN, "--config", "depht=3"], "depht"),
    "classifying nothing": (nothing, ["classify", "nowhere/x.zarr"], "nowhere/x.zarr"),
    "missing scene": (nothing, ["encode", "scene:nowhere.tif", *ENCODE[2:]], "nowhere.tif"),
    "scenes among images": (grey, [*ENCODE[:2], "a.tif", *ENCODE[2:]], "one by one"),
    "an argument of images": (nothing, ["encode", "a.tif", *ENCODE[2:], "--image-size", "8"], "--image-size"),
    "an argument of scenes": (grey, [*ENCODE, "--skip-failed"], "--skip-failed"),
    "a scheduler for threads": (grey, [*ENCODE, "--scheduler", "tcp://localhost:1"], "--engine dask"),
    "unknown command": (nothing, ["frobnicate"], "frobnicate"),
}


def run(folder: Path, arguments: list[str], model: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nec", *(str(model) if a == "MODEL" else a for a in arguments)]
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)


def check_refused(result: subprocess.CompletedProcess[str], word: str) -> None:
    assert result.returncode == 2, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("nec: error: ")
    assert word in lines[0]
    assert result.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_one_clear_line_and_status_2(name: str, tmp_path: Path, model: Path) -> None:
    prepare, arguments, word = CASES[name]
    prepare(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    check_refused(run(tmp_path, arguments, model), word)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.slow
def test_nan_embeddings_and_pixels(tmp_path: Path, model: Path) -> None:
    values = np.zeros((4, 2, 2, 3), np.float32)
    values[2, 0, 1] = np.nan
    np.save(tmp_path / "e.npy", values)
    check_refused(run(tmp_path, ["fit", "e.npy", "--out", "c.json"], model), "NaN")
    rasterio = pytest.importorskip("rasterio")
    profile = {"driver": "GTiff", "width": 16, "height": 16, "count": 3, "dtype": "float32"}
    (tmp_path / "rasters").mkdir()
    with rasterio.open(tmp_path / "rasters" / "nan.tif", "w", **profile) as file:
        file.write(np.full((3, 16, 16), np.nan, np.float32))
    arguments = ["encode", "folder:rasters", "--model", "MODEL", "--out", "o.zarr", "--scale", "1"]
    check_refused(run(tmp_path, arguments, model), "NaN")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e.npy", "rasters"]


@pytest.mark.slow
def test_weights_of_another_architecture(tmp_path: Path, model: Path) -> None:
    grey(tmp_path)
    shutil.copytree(model, tmp_path / "other")
    config = tmp_path / "other" / "config.json"
    config.write_text(config.read_text().replace('"embed_dim": 16', '"embed_dim": 32'))
    arguments = [*ENCODE[:3], "other", *ENCODE[4:]]
    check_refused(run(tmp_path, arguments, model), "does not fit its configuration")
