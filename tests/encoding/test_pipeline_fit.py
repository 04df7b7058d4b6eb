"""Codecs fitted from models and from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from tiny import build_model, smooth

from nec import EmbeddingCodec
from nec.datasets import ArrayDataset
from nec.encoding import Reading, Running, encode, fit_codec
from nec.encoding.codecs import sample_array, sample_embeddings
from nec.errors import InputError


@pytest.fixture(scope="module")
def embeddings() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(600, 4, 4, 3)).astype(np.float32)


def test_sample_of_files(embeddings: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", embeddings)
    np.savez(tmp_path / "a.npz", embeddings=embeddings.astype(np.float16), labels=np.arange(600))
    zarr.create_array(tmp_path / "bare.zarr", data=embeddings)
    zarr.create_group(tmp_path / "a.zarr").create_array("embeddings", data=embeddings)
    for name in ("a.npy", "a.npz", "bare.zarr", "a.zarr"):
        sample = sample_array(tmp_path / name, limit=500, seed=2)
        expected = embeddings[np.sort(np.random.default_rng(2).choice(600, 500, replace=False))]
        np.testing.assert_allclose(sample, expected, atol=2e-3)
        assert sample.dtype == np.float32
        assert len(sample_array(tmp_path / name)) == 600


def test_bad_files(embeddings: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", embeddings[0])
    np.save(tmp_path / "ints.npy", embeddings.astype(int))
    np.savez(tmp_path / "other.npz", tokens=embeddings)
    zarr.create_group(tmp_path / "none.zarr")
    broken = embeddings.copy()
    broken[7, 0, 0, 0] = np.nan
    np.save(tmp_path / "nan.npy", broken)
    (tmp_path / "text.npy").write_text("hello")
    (tmp_path / "a.csv").write_text("1,2")
    np.save(tmp_path / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    for name, message in {
        "flat.npy": r"\(4, 4, 3\); embeddings are floats",
        "ints.npy": "int64",
        "other.npz": "no array named 'embeddings', but tokens",
        "none.zarr": "no array named 'embeddings'",
        "nan.npy": "1 image.*first in image 7",
        "text.npy": "cannot be read",
        "pickled.npy": "cannot be read",
        "a.csv": ".npy, .npz or .zarr",
        "missing.npy": "does not exist",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            sample_array(tmp_path / name)
        assert name in str(caught.value)
    np.save(tmp_path / "a.npy", embeddings)
    with pytest.raises(InputError, match="--limit"):
        sample_array(tmp_path / "a.npy", limit=0)


def test_sample_of_a_model_takes_training_images_only() -> None:
    model, images = build_model(), smooth(40, 16, 3)
    dataset = ArrayDataset(images)

    def sample_of(limit: int | None = None, seed: int = 0, split: list[str] | None = None) -> np.ndarray:
        job = Running(seed=seed).job("threads", 256, False)
        return sample_embeddings(model, dataset, Reading(split=split), job, limit)

    assert len(sample_of()) == 40
    dataset.split = np.array(["train", "test"])[np.arange(40) % 2]
    sample = sample_of(12, 1, ["train"])
    everything = sample_of()
    found = [int(np.abs(everything - item).max(axis=(1, 2, 3)).argmin()) for item in sample]
    assert len(set(found)) == 12
    assert all(index % 2 == 0 for index in found)


def test_fitted_codec_encodes(tmp_path: Path) -> None:
    model, images = build_model(), smooth(64, 16, 3)
    sample = sample_embeddings(model, ArrayDataset(images), Reading(), Running().job("threads", 256, False))
    model.codec = fit_codec(sample, prior="factorized", rank=8)
    assert (model.codec.rank, model.codec.prior, model.codec.dimensions) == (8, "factorized", 16)
    encode(images, tmp_path / "a.zarr", model)
    sample = sample_array(tmp_path / "a.zarr")
    assert sample.shape == (64, 4, 4, 16)
    again: Any = EmbeddingCodec.fit(sample)
    assert again.dimensions == 16
