"""The symmetries of the square, acting on images and on token grids: images from above have no upright side.

A model is not told so: it gives a turned image other tokens than the turned tokens of the image. What these differ by
is noise to every task that does not care how the camera was held. The mean over a group of turns g,

    f_G(x) = 1/|G| sum over g of g^-1 f(g x),

keeps what they agree on, turns with the image exactly (g^-1 f_G(g x) = f_G(x) for g in G: averaging over a group, Chen,
Dobriban and Lee 2020) and, being smoother, also takes fewer bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

Values = TypeVar("Values")
"""A NumPy array or a tensor."""

GROUPS = {1: (0,), 2: (0, 2), 4: (0, 1, 2, 3), 8: tuple(range(8))}
"""Group by size: the identity; with the half turn; all turns; with mirror images."""


def turn(values: Values, index: int, dims: tuple[int, int]) -> Values:
    """Symmetry `index` (0 to 7) of a square on the axes `dims` (rows, columns): 0 to 3 quarter turns
    counter-clockwise, 4 to 7 the same and then mirrored left to right. 0 is the identity.
    """
    turned = _rotate(values, index % 4, dims)
    return _mirror(turned, dims[1]) if index >= 4 else turned


def turn_back(values: Values, index: int, dims: tuple[int, int]) -> Values:
    """Inverse of `turn`: the same shape and axes."""
    upright = _mirror(values, dims[1]) if index >= 4 else values
    return _rotate(upright, -(index % 4), dims)


def _rotate(values: Any, quarters: int, dims: tuple[int, int]) -> Any:
    if isinstance(values, np.ndarray):
        return np.ascontiguousarray(np.rot90(values, quarters, dims))
    import torch

    return torch.rot90(values, quarters, dims)


def _mirror(values: Any, dim: int) -> Any:
    return np.ascontiguousarray(np.flip(values, dim)) if isinstance(values, np.ndarray) else values.flip(dim)


def symmetric_mean(embed: Callable[[Any], Values], images: Any, symmetries: tuple[int, ...]) -> Values:
    """Mean over `symmetries` g (indices of `turn`, at least one) of g^-1 embed(g images).

    Images (n, c, h, w) -> tokens (n, y, x, d), arrays or tensors; `embed` does the same for each turned batch.
    """
    total: Any = None
    for index in symmetries:
        tokens = turn_back(embed(turn(images, index, (2, 3))), index, (1, 2))
        total = tokens if total is None else total + tokens
    return total / len(symmetries)
