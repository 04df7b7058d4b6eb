"""Deterministic embeddings for the tests, made without random generators whose streams may change between versions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def smooth_embeddings(n: int, y: int, x: int, d: int, seed: int = 0) -> NDArray[np.float32]:
    """Token grids (n, y, x, d) that are alike from token to token, channels of falling variance, heavy tails."""
    rng = np.random.Generator(np.random.PCG64(seed))
    noise = rng.random((n, y + 2, x + 2, d)) - 0.5
    smooth = noise[:, :-2, :-2] + 2 * noise[:, 1:-1, 1:-1] + noise[:, 2:, 2:] + noise[:, :-2, 2:] + noise[:, 2:, :-2]
    image = (rng.random((n, 1, 1, d)) - 0.5) * 3
    mixed = (smooth + image) * (1 + 3 * rng.random((n, 1, 1, 1))) / np.sqrt(1 + np.arange(d))
    turned = mixed + 0.5 * np.roll(mixed, 1, axis=3)
    return (turned + np.linspace(-1, 1, d)).astype(np.float32)
