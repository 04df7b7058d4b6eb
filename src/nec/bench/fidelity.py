"""How near decoded embeddings are to the float ones they stand for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NEIGHBOURS = 10
SAMPLE = 1000  # images: their distances to each other are all computed
_BLOCK = 128


def fidelity(decoded: NDArray[np.floating], reference: NDArray[np.floating]) -> dict[str, float]:
    """`relative_error` and `neighbour_recall` of decoded token grids (n, y, x, d) against the float ones."""
    sample = slice(0, SAMPLE)
    return {
        "relative_error": relative_error(decoded, reference),
        "neighbour_recall": neighbour_recall(_pooled(decoded[sample]), _pooled(reference[sample])),
    }


def relative_error(decoded: NDArray[np.floating], reference: NDArray[np.floating]) -> float:
    """Squared error as a share of the reference's variance around the mean of each channel (last axis)."""
    count, total = reference.size // reference.shape[-1], np.zeros(reference.shape[-1])
    square = error = 0.0
    for start in range(0, len(reference), _BLOCK):
        block = reference[start : start + _BLOCK].astype(np.float64)
        total += block.reshape(-1, block.shape[-1]).sum(axis=0)
        square += float(np.square(block).sum())
        error += float(np.square(decoded[start : start + _BLOCK] - block).sum())
    variance = square - float(np.square(total).sum()) / count
    return error / variance if variance > 0 else float(error > 0)


def neighbour_recall(decoded: NDArray[np.floating], reference: NDArray[np.floating], k: int = NEIGHBOURS) -> float:
    """Share of each vector's `k` nearest others (Euclidean) among `reference` (n, d) that are so among `decoded` too.

    With fewer than k + 1 vectors, k is one less than their number.
    """
    k = min(k, len(reference) - 1)
    if k < 1:
        return 1.0
    found, wanted = _nearest(decoded, k), _nearest(reference, k)
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(found, wanted, strict=True)]))


def _nearest(vectors: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    norms = np.square(centred).sum(axis=1)
    distances = norms[:, None] + norms - 2 * centred @ centred.T
    np.fill_diagonal(distances, np.inf)
    return np.argsort(distances, axis=1, kind="stable")[:, :k]


def _pooled(tokens: NDArray[np.floating]) -> NDArray[np.float64]:
    return tokens.reshape(len(tokens), -1, tokens.shape[-1]).mean(axis=1, dtype=np.float64)
