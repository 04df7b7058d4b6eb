"""What ships: the models eurosat-tiny and eurosat-symmetric and the store eurosat, as their users rely on them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import nec
from nec.cli import main
from nec.store import verify
from nec.store.opening import resolve

MB = 10**6


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_sizes_stay_within_their_limits() -> None:
    for name in ("eurosat-tiny", "eurosat-symmetric"):
        assert folder_bytes(resolve(name, "models")) < 12 * MB
    assert folder_bytes(resolve("eurosat")) < 8 * MB
    assert nec.open_store("eurosat").bytes_per_image <= 250


def test_store_is_whole_and_describes_itself() -> None:
    store = nec.open_store("eurosat")
    assert len(store) == 27000
    assert store.grid == (8, 8)
    assert len(store.class_names) == 10
    assert store.split is not None
    parts, counts = np.unique(store.split, return_counts=True)
    assert dict(zip(parts.tolist(), counts.tolist(), strict=True)) == {"train": 18900, "val": 2700, "test": 5400}
    assert len(set(store.names)) == 27000
    for name, label in list(zip(store.names, store.labels, strict=True))[::997]:
        assert name.split("/")[-2] == store.class_names[label]
    assert store.attrs["provenance"]["raw_bytes"] == 91_844_360


@pytest.mark.slow
def test_every_chunk_verifies() -> None:
    report = verify(resolve("eurosat"))
    assert report.ok, report.corrupt


@pytest.mark.slow
def test_classify_reaches_what_the_readme_says(capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("torch")
    assert main(["classify", "eurosat", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["accuracy"] >= 0.88
    assert figures["bytes_per_image"] <= 250
    assert figures["test_images"] == 5400
    assert figures["train_images"] == 18900


def test_model_and_store_belong_together() -> None:
    pytest.importorskip("torch")
    model, store = nec.load_model("eurosat-symmetric"), nec.open_store("eurosat")
    assert {key: store.attrs["model"].get(key) for key in model.identity} == model.identity
    assert model.config.symmetries == 8
    assert model.sha256 == nec.load_model("eurosat-tiny").sha256  # the foundation model itself
    assert model.codec is not None
    assert store.attrs["codec"]["id"] == model.codec.id == store.codec.id
    assert sum(p.numel() for p in model.parameters()) < 5_000_000


@pytest.mark.slow
def test_store_holds_the_models_embeddings_of_the_real_images(data_dir: Path) -> None:
    torch = pytest.importorskip("torch")
    from nec.datasets import open_dataset

    dataset = open_dataset(f"eurosat:{data_dir / 'EuroSAT_RGB.zip'}")
    model, store = nec.load_model("eurosat-symmetric"), nec.open_store("eurosat")
    assert dataset.names == store.names
    assert np.array_equal(dataset.labels, store.labels)
    assert np.array_equal(dataset.split, store.split)
    chosen = np.random.default_rng(0).choice(len(store), 64, replace=False)
    with torch.inference_mode():
        tokens = model.embed(model.normalize(dataset.load(chosen)))
    symbols = store.codec.symbols(tokens, store.quality)
    stored = store.codec.symbols(store.embeddings[chosen], store.quality)
    # Another processor's floats may fall on the other side of a rounding edge now and then, by one.
    assert np.mean(symbols != stored) < 1e-3
    assert np.abs(symbols - stored).max() <= 1
