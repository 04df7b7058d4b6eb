"""Stores that `encode` makes, against the model and codec called by hand; interruption, resumption, bad input."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import build_model, fit_to, smooth

from nec import open_store
from nec.datasets import ArrayDataset, open_dataset
from nec.encoding import Reading, Running, encode
from nec.errors import IncompleteError, InputError
from nec.models import Backbone

torch = pytest.importorskip("torch")


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 images a chunk, 16 a shard: 150 images make 10 shards."""
    pipeline = import_module("nec.encoding.images")
    monkeypatch.setattr(pipeline, "IMAGES_PER_CHUNK", 8)
    monkeypatch.setattr(pipeline, "CHUNKS_PER_SHARD", 2)


def by_hand(model: Any, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model.embed(model.normalize(images))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_store_holds_the_models_embeddings(model: Any, images: ArrayDataset, tmp_path: Path) -> None:
    report = encode(images, tmp_path / "a.zarr", model, quality=4.0, running=Running(batch_size=40))
    store = open_store(str(tmp_path / "a.zarr"))
    assert (store.names, store.class_names, store.split) == (images.names, ["a", "b", "c"], None)
    np.testing.assert_array_equal(store.labels, images.labels)
    expected = by_hand(model, images.images)
    error = np.square(store.embeddings[:] - expected).mean() / expected.var()
    assert error < 0.03 / 4  # quality 1 is an error of 3% of the variance, and 4 is four times finer
    np.testing.assert_array_equal(store.codec.symbols(expected, 4.0), store.codec.symbols(store.embeddings[:], 4.0))
    assert store.attrs["model"]["sha256"] == model.sha256
    facts = store.attrs["provenance"]
    assert facts["raw_bytes"] == report.raw_bytes == images.images.nbytes
    assert facts["dataset"] == images.description
    assert (report.store["images"], report.store["grid"], report.encoded_images) == (150, [4, 4], 150)


def test_images_in_memory_are_bytes_or_lie_in_0_to_1(model: Any, tmp_path: Path) -> None:
    pictures = smooth(20, 16, 3)
    encode(pictures, tmp_path / "bytes.zarr", model, quality=2.0)
    named = ArrayDataset(pictures.astype(np.float32) / 255, [f"n{i}" for i in range(20)])
    encode(named, tmp_path / "floats.zarr", model, quality=2.0)
    stored, floats = open_store(str(tmp_path / "bytes.zarr")), open_store(str(tmp_path / "floats.zarr"))
    assert floats.names[3] == "n3"
    np.testing.assert_allclose(stored.embeddings[:], floats.embeddings[:], atol=0.2)


def test_split_is_recorded_and_selects(model: Any, images: ArrayDataset, tmp_path: Path) -> None:
    images = ArrayDataset(images.images, images.names, images.labels, images.class_names)
    images.split = np.array(["train", "val", "test"])[np.arange(150) % 3]
    encode(images, tmp_path / "a.zarr", model, reading=Reading(split=["test"]))
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
    encode(images, tmp_path / "whole.zarr", model, running=Running(batch_size=6))
    with pytest.raises(KeyboardInterrupt):
        encode(Interrupted(*arguments), tmp_path / "cut.zarr", model, running=Running(batch_size=6, workers=1))
    with pytest.raises(IncompleteError):
        open_store(str(tmp_path / "cut.zarr"))
    report = encode(images, tmp_path / "cut.zarr", model, running=Running(batch_size=6), mode="resume")
    assert report.encoded_images <= 150
    if stops_at > 60:
        assert report.encoded_images < 150
    assert files(tmp_path / "cut.zarr") == files(tmp_path / "whole.zarr")


@pytest.mark.usefixtures("small_shards")
def test_resume_refuses_what_would_change_the_embeddings(model: Any, images: ArrayDataset, tmp_path: Path) -> None:
    encode(images, tmp_path / "a.zarr", model, running=Running(batch_size=16))
    before = files(tmp_path / "a.zarr")
    same: dict[str, Any] = {"running": Running(batch_size=16), "mode": "resume"}
    for changes in ({"running": Running(batch_size=8)}, {"reading": Reading(image_size=24)}, {"quality": 2.0}):
        with pytest.raises(InputError, match="differ"):
            encode(images, tmp_path / "a.zarr", model, **{**same, **changes})
    symmetric = model.symmetric(4)  # the same weights
    symmetric.codec = model.codec
    with pytest.raises(InputError, match="differ"):
        encode(images, tmp_path / "a.zarr", symmetric, running=Running(batch_size=16), mode="resume")
    with pytest.raises(InputError, match="exists"):
        encode(images, tmp_path / "a.zarr", model, running=Running(batch_size=16))
    with pytest.raises(InputError, match="raster store"):
        encode(images, tmp_path / "a.zarr", model, mode="append")
    assert files(tmp_path / "a.zarr") == before
    encode(images, tmp_path / "a.zarr", model, quality=0.5, mode="overwrite")
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
        encode(open_dataset(folder), tmp_path / "a.zarr", model)
    assert not (tmp_path / "a.zarr").exists()
    first.write_bytes(whole[first])
    last.write_bytes(whole[last][:100])
    with pytest.raises(InputError, match=rf"{names[-1]} is damaged.*--resume"):
        encode(open_dataset(folder), tmp_path / "a.zarr", model, running=Running(batch_size=4, workers=1))
    last.write_bytes(whole[last])
    encode(open_dataset(folder), tmp_path / "a.zarr", model, running=Running(batch_size=4), mode="resume")
    assert len(open_store(str(tmp_path / "a.zarr"))) == 60


def test_nan_pixels_leave_nothing(model: Any, tmp_path: Path) -> None:
    pictures = smooth(9, 16, 3).astype(np.float32)
    pictures[7, 3, 2, 1] = np.nan
    with pytest.raises(InputError, match="000007 has 1 NaN"):
        encode(pictures, tmp_path / "a.zarr", model)
    assert list(tmp_path.iterdir()) == []


def test_models_that_cannot_encode(model: Any, images: ArrayDataset, tmp_path: Path) -> None:
    other = build_model(embed_dim=8)
    other.codec = model.codec
    with pytest.raises(InputError, match="16 dimensions, the model has 8"):
        encode(images, tmp_path / "a.zarr", other)
    assert list(tmp_path.iterdir()) == []


def test_target_bytes(model: Any, images: ArrayDataset, tmp_path: Path) -> None:
    misses = []
    for target in (20, 33, 50, 80, 130):
        report = encode(images, tmp_path / "a.zarr", model, target_bytes=target, mode="overwrite")
        misses.append(abs(report.store["bytes_per_image"] / target - 1))
    assert np.mean(misses) < 0.05
    assert open_store(str(tmp_path / "a.zarr")).attrs["provenance"]["target_bytes"] == 130
    for target in (1e-3, 1e9, -5, float("nan")):
        with pytest.raises(InputError, match="--target-bytes"):
            encode(images, tmp_path / "b.zarr", model, target_bytes=target)
    assert not (tmp_path / "b.zarr").exists()


@pytest.mark.usefixtures("small_shards")
def test_a_backbone_without_a_codec_gets_one_that_the_store_then_keeps(images: ArrayDataset, tmp_path: Path) -> None:
    bare, out = build_model(), tmp_path / "a.zarr"
    report = encode(images, out, bare, quality=4.0, running=Running(batch_size=16))
    assert (report.fitted_on, report.to_dict()["codec_fitted_on"]) == (150, 150)
    assert "codec fitted on 150 of the images" in str(report)
    assert bare.codec is None
    expected = by_hand(bare, images.images)
    assert np.square(open_store(str(out)).embeddings[:] - expected).mean() / expected.var() < 0.03 / 4
    whole = files(out)
    again = encode(images, out, bare, quality=4.0, running=Running(batch_size=16), mode="resume")
    assert (again.fitted_on, files(out)) == (None, whole)
    other = fit_to(build_model(), smooth(60, 16, 3, seed=5)).codec
    other.save(tmp_path / "other.json")
    report = encode(images, tmp_path / "b.zarr", bare, tmp_path / "other.json")
    assert report.fitted_on is None
    assert open_store(str(tmp_path / "b.zarr")).codec.id == other.id


def test_any_backbone_makes_a_store_and_its_identity_holds(tmp_path: Path) -> None:
    pictures = smooth(40, 20, 3)

    def means(images: np.ndarray) -> np.ndarray:
        n, bands, rows, columns = images.shape
        return images.reshape(n, bands, rows // 4, 4, columns // 4, 4).mean((3, 5)).transpose(0, 2, 3, 1)

    def backbone(**changes: Any) -> Backbone:
        settings = {"input_size": 20, "mean": [0.5] * 3, "std": [0.25] * 3, "name": "means", "sha256": "ab", **changes}
        return Backbone.from_callable(means, **settings)

    report = encode(pictures, tmp_path / "a.zarr", backbone(), quality=8.0)
    assert (report.store["grid"], report.store["dimensions"]) == ([5, 5], 3)
    store = open_store(str(tmp_path / "a.zarr"))
    expected = ((pictures / 255 - 0.5) / 0.25).reshape(40, 5, 4, 5, 4, 3).mean((2, 4))
    assert np.square(store.embeddings[:] - expected).mean() / expected.var() < 0.03 / 8
    assert store.attrs["model"]["preprocessing"] == {"mean": [0.5] * 3, "std": [0.25] * 3, "input_size": [20, 20]}
    assert encode(pictures, tmp_path / "a.zarr", backbone(), quality=8.0, mode="resume").fitted_on is None
    for changes in ({"sha256": "cd"}, {"mean": [0.4] * 3}, {"name": "others"}):
        with pytest.raises(InputError, match="differ"):
            encode(pictures, tmp_path / "a.zarr", backbone(**changes), quality=8.0, mode="resume")
    encode(smooth(6, 32, 3), tmp_path / "b.zarr", backbone())  # another size: resized to what it takes
    assert open_store(str(tmp_path / "b.zarr")).grid == (5, 5)
    with pytest.raises(InputError, match="NaN or infinite"):
        Backbone.from_callable(lambda x: means(x) * np.inf, input_size=20, mean=[0.5] * 3, std=[1] * 3)
