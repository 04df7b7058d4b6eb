"""A tiny model with random weights and a codec fitted to it, and images for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import build_model, fit_to, smooth

from nec.datasets import ArrayDataset

pytest.importorskip("torch")


@pytest.fixture(scope="session")
def model() -> Any:
    return fit_to(build_model(), smooth(200, 16, 3, seed=9))


@pytest.fixture(scope="session")
def images() -> ArrayDataset:
    return ArrayDataset(smooth(150, 16, 3), [f"{i:03d}.png" for i in range(150)], np.arange(150) % 3, ["a", "b", "c"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """60 PNGs of 16 px in two class folders."""
    for i, image in enumerate(smooth(60, 16, 3, seed=1)):
        path = tmp_path / "pictures" / "xy"[i % 2] / f"{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return tmp_path / "pictures"
