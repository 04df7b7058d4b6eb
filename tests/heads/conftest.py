"""A store in memory, as far as the tasks room reads one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest


@dataclass
class FakeStore:
    embeddings: np.ndarray
    labels: np.ndarray | None
    class_names: list[str] | None
    split: np.ndarray | None
    path: str = "fake.zarr"
    bytes_per_image: float = 100.0
    attrs: dict[str, Any] = field(default_factory=dict)

    masks: np.ndarray | None = None
    mask_classes: list[str] | None = None
    mask_colors: list[tuple[int, int, int]] | None = None
    groups: np.ndarray | None = None
    quality: float = 1.0

    @property
    def grid(self) -> tuple[int, int]:
        return self.embeddings.shape[1:3]

    def __len__(self) -> int:
        return len(self.embeddings)


def _make_store(per_class: int = 60, classes: int = 3, signal: float = 1.0, seed: int = 0) -> FakeStore:
    """Grids of 4x4x16: a class's pattern on a quarter of the tokens, over noise; 70/10/20 split within each class."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    embeddings = rng.normal(size=(len(labels), 4, 4, 16))
    marked = rng.random((len(labels), 4, 4, 1)) < 0.25
    embeddings += 3 * signal * marked * rng.normal(size=(classes, 16))[labels][:, None, None]
    counts = [per_class * 7 // 10, per_class // 10, per_class - per_class * 7 // 10 - per_class // 10]
    split = np.tile(np.repeat(["train", "val", "test"], counts), classes)
    order = rng.permutation(len(labels))
    names = [f"class {i}" for i in range(classes)]
    return FakeStore(embeddings[order].astype(np.float32), labels[order].astype(np.int64), names, split[order])


@pytest.fixture
def make_store() -> Callable[..., FakeStore]:
    return _make_store
