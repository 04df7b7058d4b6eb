"""A small fitted codec, embeddings to store, and a store of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nec
from nec.store import ImageSpec, ImageWriter

IMAGES, GRID, DIMENSIONS = 53, (3, 4), 6
CLASSES = ["Forest", "Sea and Lake", "Highway"]


@pytest.fixture(scope="session")
def embeddings() -> np.ndarray:
    """Smooth in space and unlike each other in variance, as token grids are; float32 (53, 3, 4, 6)."""
    rng = np.random.default_rng(7)
    coarse = rng.normal(size=(IMAGES, 1, 1, DIMENSIONS))
    fine = 0.4 * rng.normal(size=(IMAGES, *GRID, DIMENSIONS))
    return ((coarse + fine) * np.geomspace(3, 0.1, DIMENSIONS)).astype(np.float32)


@pytest.fixture(scope="session")
def codec(embeddings: np.ndarray) -> nec.EmbeddingCodec:
    return nec.EmbeddingCodec.fit(embeddings)


@pytest.fixture(scope="session")
def keywords(codec: nec.EmbeddingCodec) -> dict[str, Any]:
    """What the store is made with: 14 chunks in 5 shards, the last of each not full."""
    return {
        "codec": codec,
        "quality": 2.0,
        "names": [f"{CLASSES[i % 3]}/bild_{i}_ä.jpg" for i in range(IMAGES)],
        "grid": GRID,
        "labels": np.arange(IMAGES) % 3,
        "class_names": CLASSES,
        "split": np.array(["train", "train", "val", "test", ""])[np.arange(IMAGES) % 5],
        "model": {"name": "toy", "sha256": "ab" * 32},
        "provenance": {"seed": 0, "raw_bytes": 123456},
        "images_per_chunk": 4,
        "chunks_per_shard": 3,
    }


@pytest.fixture
def make(embeddings: np.ndarray, keywords: dict[str, Any]) -> Callable[..., Path]:
    """Write a store at a path; other keywords replace the usual ones."""

    def build(path: Path, overwrite: bool = False, **changes: Any) -> Path:
        with ImageWriter.create(path, ImageSpec(**{**keywords, **changes}), overwrite=overwrite) as writer:
            for start, stop in writer.missing():
                writer.write(start, embeddings[start:stop])
            writer.finish()
        return path

    return build


@pytest.fixture
def store_path(tmp_path: Path, make: Callable[..., Path]) -> Path:
    return make(tmp_path / "toy.zarr")


@pytest.fixture(scope="session")
def decoded(embeddings: np.ndarray, codec: nec.EmbeddingCodec) -> np.ndarray:
    """What the store must give: each chunk through the codec alone, without Zarr."""
    return np.concatenate([codec.decode(codec.encode(embeddings[i : i + 4], 2.0)) for i in range(0, IMAGES, 4)])


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients try again at once."""
    monkeypatch.setattr("nec.store.location.FIRST_PAUSE", 0.001)
