"""The embeddings that benchmarks work on: a random part to fit codecs to, the rest to code."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def split(path: str, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(fitting, coding): 60% and 40% of the images of the array `embeddings` (n, y, x, d) in an .npz."""
    with np.load(path) as file:
        values = file["embeddings"].astype(np.float32)
    order = np.random.default_rng(seed).permutation(len(values))
    cut = len(order) * 3 // 5
    return values[order[:cut]], values[order[cut:]]
