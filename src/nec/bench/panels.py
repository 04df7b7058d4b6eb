"""Predicted class maps of a few test images, for the eye: one .npz a method point."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from nec.bench.subset import Subset

PANELS = 6  # test images whose predicted class maps are kept
_SEARCHED = 100


def panel_places(subset: Subset) -> tuple[int, ...]:
    """Places in the test part of the images that panels show: those with the most classes among the first hundred."""
    count = min(_SEARCHED, len(subset.indices["test"]))
    masks = subset.dataset.masks(subset.indices["test"][:count])
    classes = np.array([len(np.unique(mask[mask < len(subset.classes)])) for mask in masks])
    return tuple(sorted(np.argsort(-classes, kind="stable")[:PANELS].tolist()))


def write_panel(path: Path, subset: Subset, source: Path, **facts: Any) -> None:
    """Write `images` (m, h, w, 3), `truth` and `predicted` (m, h, w) uint8 and `facts`, from a cached head."""
    places = np.asarray(panel_places(subset))
    chosen = subset.indices["test"][places]
    with np.load(source) as file:
        predicted = file["predicted"]
    images, truth = subset.dataset.load(chosen, subset.plan.options.image_size), subset.dataset.masks(chosen)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_npz(path, images=images, truth=truth, predicted=predicted, **facts)


def save_npz(path: Path, **arrays: Any) -> None:
    """Write a compressed .npz, whole or not at all."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        np.savez_compressed(temporary, **arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
