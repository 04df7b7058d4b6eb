"""Stores that `encode` makes, against the model and codec called by hand; interruption, resumption, bad input."""

from __future__ import annotations

import copy
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import build_model, fit_to, smooth

from nec import open_store
from nec.datasets import ArrayDataset, open_dataset
from nec.encode import encode, encode_array
from nec.errors import IncompleteError, InputError

torch = pytest.importorskip("torch")


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 images a chunk, 16 a shard: 150 images make 10 shards."""
    pipeline = import_module("nec.encode.encode")  # the package's attribute of that name is the function
    monkeypatch.setattr(pipeline, "IMAGES_PER_CHUNK", 8)
    monkeypatch.setattr(pipeline, "CHUNKS_PER_SHARD", 2)


def by_hand(model: Any, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model.embed(model.normalize(images)).numpy()


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_store_holds_the_models_embeddings(model: Any, images: ArrayDataset, tmp_path: Path) -> None:
    report = encode(model, images, tmp_path / "a.zarr", quality=4.0, batch_size=40)
    store = open_store(str(tmp_path / "a.zarr"))
    assert (store.names, store.class_names, store.split) == (images.names, ["a", "b", "c"], None)
    np.testing.assert_array_equal(store.labels, images.labels)
    expected = by_hand(model, images.images)
    error = np.square(store.embeddings[:] - expected).mean() / expected.var()
    assert error < 0.03 / 4  # quality 1 is an error of 3% of the variance, and 4 is four times finer
    np.testing.assert_array_equal(store.codec.symbols(expected, 4.0), store.codec.symbols(store.embeddings[:], 4.0))
    assert store.attrs["model"]["sha256"] == model.sha256
    facts = store.attrs["provenance"]
    assert facts["raw_bytes"] == report["raw_bytes"] == images.images.nbytes
    assert facts["dataset"] == images.description
    assert (report["images"], report["grid"], report["encoded_images"]) == (150, [4, 4], 150)


def test_model_encode_is_encode_array(model: Any, tmp_path: Path) -> None:
    pictures = smooth(20, 16, 3)
    model.encode(pictures, str(tmp_path / "bytes.zarr"), 2.0, names=[f"n{i}" for i in range(20)])
    encode_array(model, pictures.astype(np.float32) / 255, tmp_path / "floats.zarr", 2.0)
    stored, floats = open_store(str(tmp_path / "bytes.zarr")), open_store(str(tmp_path / "floats.zarr"))
    assert stored.names[3] == "n3"
    np.testing.assert_allclose(stored.embeddings[:], floats.embeddings[:], atol=0.2)


def test_split_is_recorded_and_selects(model: Any, images: ArrayDataset, tmp_path: Path) -> None:
    images = ArrayDataset(images.images, images.names, images.labels, images.class_names)
    images.split = np.array(["train", "val", "test"])[np.arange(150) % 3]
    encode(model, images, tmp_path / "a.zarr", split="test")
    store = open_store(str(tmp_path / "a.zarr"))
    assert store.names == images.names[2::3]
    assert set(store.split) == {"test"}
    assert set(store.labels) == {2}
    assert store.attrs["provenance"]["raw_bytes"] == images.images[2::3].nbytes


@pytest.mark.usefixtures("small_shards")
@pytest.mark.parametrize("stops_at", [17, 70, 149])
def test_interrupted_and_resumed_store_is_byte_identical(
    model: Any, images: ArrayDataset, tmp_path: Path, stops_at: int
) -> None:
    class Interrupted(ArrayDataset):
        def read(self, index: int) -> np.ndarray:
            if index == stops_at:
                raise KeyboardInterrupt
            return super().read(index)

    arguments = (images.images, images.names, images.labels, images.class_names)
    encode(model, images, tmp_path / "whole.zarr", batch_size=6)
    with pytest.raises(KeyboardInterrupt):
        encode(model, Interrupted(*arguments), tmp_path / "cut.zarr", batch_size=6, workers=1)
    with pytest.raises(IncompleteError):
        open_store(str(tmp_path / "cut.zarr"))
    report = encode(model, images, tmp_path / "cut.zarr", batch_size=6, resume=True)
    assert report["encoded_images"] <= 150
    if stops_at > 60:
        assert report["encoded_images"] < 150
    assert files(tmp_path / "cut.zarr") == files(tmp_path / "whole.zarr")


@pytest.mark.usefixtures("small_shards")
def test_resume_refuses_what_would_change_the_embeddings(model: Any, images: ArrayDataset, tmp_path: Path) -> None:
    encode(model, images, tmp_path / "a.zarr", batch_size=16)
    before = files(tmp_path / "a.zarr")
    for changes in ({"batch_size": 8}, {"image_size": 24}, {"quality": 2.0}):
        with pytest.raises(InputError, match="differ"):
            encode(model, images, tmp_path / "a.zarr", **{"batch_size": 16, "resume": True, **changes})
    symmetric = copy.copy(model)
    symmetric.config = replace(model.config, symmetries=4)  # the same weights
    with pytest.raises(InputError, match="differ"):
        encode(symmetric, images, tmp_path / "a.zarr", batch_size=16, resume=True)
    with pytest.raises(InputError, match="exists"):
        encode(model, images, tmp_path / "a.zarr", batch_size=16)
    with pytest.raises(InputError, match="one of them"):
        encode(model, images, tmp_path / "a.zarr", resume=True, overwrite=True)
    assert files(tmp_path / "a.zarr") == before
    encode(model, images, tmp_path / "a.zarr", quality=0.5, overwrite=True)
    assert open_store(str(tmp_path / "a.zarr")).quality == pytest.approx(0.5)


@pytest.mark.usefixtures("small_shards")
def test_unreadable_image_early_leaves_nothing_and_late_a_store_to_resume(
    model: Any, folder: Path, tmp_path: Path
) -> None:
    names = open_dataset(folder).names
    last, first = folder / names[-1], folder / names[1]
    whole = {path: path.read_bytes() for path in (first, last)}
    first.write_bytes(whole[first][:100])
    with pytest.raises(InputError, match=rf"{names[1]} is damaged or truncated"):
        encode(model, open_dataset(folder), tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()
    first.write_bytes(whole[first])
    last.write_bytes(whole[last][:100])
    with pytest.raises(InputError, match=rf"{names[-1]} is damaged.*--resume"):
        encode(model, open_dataset(folder), tmp_path / "a.zarr", batch_size=4, workers=1)
    last.write_bytes(whole[last])
    encode(model, open_dataset(folder), tmp_path / "a.zarr", batch_size=4, resume=True)
    assert len(open_store(str(tmp_path / "a.zarr"))) == 60


def test_nan_pixels_leave_nothing(model: Any, tmp_path: Path) -> None:
    pictures = smooth(9, 16, 3).astype(np.float32)
    pictures[7, 3, 2, 1] = np.nan
    with pytest.raises(InputError, match="000007 has 1 NaN"):
        encode_array(model, pictures, tmp_path / "a.zarr")
    assert list(tmp_path.iterdir()) == []


def test_models_that_cannot_encode(model: Any, images: ArrayDataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no codec yet.*nec fit"):
        encode(build_model(), images, tmp_path / "a.zarr")
    other = build_model(embed_dim=8)
    other.codec = model.codec
    with pytest.raises(InputError, match="16 dimensions, the model has 8"):
        encode(other, images, tmp_path / "a.zarr")
    assert list(tmp_path.iterdir()) == []


def test_target_bytes(model: Any, images: ArrayDataset, tmp_path: Path) -> None:
    misses = []
    for target in (20, 33, 50, 80, 130):
        report = encode(model, images, tmp_path / "a.zarr", target_bytes=target, overwrite=True)
        misses.append(abs(report["bytes_per_image"] / target - 1))
    assert np.mean(misses) < 0.05
    assert open_store(str(tmp_path / "a.zarr")).attrs["provenance"]["target_bytes"] == 130
    for target in (1e-3, 1e9, -5, float("nan")):
        with pytest.raises(InputError, match="--target-bytes"):
            encode(model, images, tmp_path / "b.zarr", target_bytes=target)
    assert not (tmp_path / "b.zarr").exists()


def test_geotiff_store_is_georeferenced(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    scene = smooth(1, 50, 4)[0, :41]
    model = fit_to(build_model(4), smooth(50, 16, 4, seed=4))
    transform = rasterio.Affine(10, 0, 500000, 0, -10, 4600000)
    for name in ("b.tif", "a.tif"):
        options = {"crs": "EPSG:32633", "transform": transform, "dtype": "uint8"}
        with rasterio.open(tmp_path / name, "w", "GTiff", 50, 41, 4, **options) as file:
            file.write(scene.transpose(2, 0, 1))
    encode(model, open_dataset([tmp_path / "b.tif", tmp_path / "a.tif"]), tmp_path / "s.zarr", 4.0)
    store = open_store(str(tmp_path / "s.zarr"))
    assert (store.names, store.grid) == (["a.tif", "b.tif"], (10, 12))
    reference = store.attrs["provenance"]["georeference"][1]
    assert reference["crs"] == "EPSG:32633"
    assert reference["transform"] == [40, 0, 500000, 0, -40, 4600000]  # a token of 4 px of 10 m, from the same corner
    assert (reference["pixels"], reference["valid_pixels"]) == ([41, 50], [40, 48])
    window = by_hand(model, scene[None, 24:40, 32:48])[0]
    assert np.abs(store.embeddings[0][6:, 8:] - window).mean() < 0.2 * window.std()
    with pytest.raises(InputError, match="4 band"):
        encode(fit_to(build_model(), smooth(50, 16, 3)), open_dataset(tmp_path / "a.tif"), tmp_path / "t.zarr")


def test_real_naip(data_dir: Path, tmp_path: Path) -> None:
    path = data_dir / "geotiff" / "naip"
    if not path.is_dir():
        pytest.skip(f"{path} not found")
    model = fit_to(build_model(4, patch_size=8), smooth(50, 16, 4, seed=4))
    report = encode(model, open_dataset(path), tmp_path / "naip.zarr")
    assert (report["images"], report["grid"]) == (3, [90, 116])
    assert np.isfinite(open_store(str(tmp_path / "naip.zarr")).embeddings[1]).all()
