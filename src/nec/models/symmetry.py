"""The symmetries of the square, acting on images and on token grids: images from above have no upright side.

A model is not told so: it gives a turned image other tokens than the turned tokens of the image. What these differ by
is noise to every task that does not care how the camera was held. The mean over a group of turns g,

    f_G(x) = 1/|G| sum over g of g^-1 f(g x),

keeps what they agree on, turns with the image exactly (g^-1 f_G(g x) = f_G(x) for g in G: averaging over a group, Chen,
Dobriban and Lee 2020) and, being smoother, also takes fewer bits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def turn(values: Tensor, index: int, dims: tuple[int, int]) -> Tensor:
    """Symmetry `index` (0 to 7) of a square on the axes `dims` (rows, columns): 0 to 3 quarter turns
    counter-clockwise, 4 to 7 the same and then mirrored left to right. 0 is the identity.
    """
    turned = torch.rot90(values, index % 4, dims)
    return turned.flip(dims[1]) if index >= 4 else turned


def turn_back(values: Tensor, index: int, dims: tuple[int, int]) -> Tensor:
    """Inverse of `turn`: the same shape and axes."""
    upright = values.flip(dims[1]) if index >= 4 else values
    return torch.rot90(upright, -(index % 4), dims)


GROUPS = {1: (0,), 2: (0, 2), 4: (0, 1, 2, 3), 8: tuple(range(8))}
"""Group by size: the identity; with the half turn; all turns; with mirror images."""


def symmetric_mean(embed: Callable[[Tensor], Tensor], images: Tensor, symmetries: tuple[int, ...]) -> Tensor:
    """Mean over `symmetries` g (indices of `turn`, at least one) of g^-1 embed(g images).

    Images (n, c, h, w) -> tokens (n, y, x, d); `embed` does the same for each turned batch.
    """
    total = None
    for index in symmetries:
        tokens = turn_back(embed(turn(images, index, (2, 3))), index, (1, 2))
        total = tokens if total is None else total + tokens
    assert total is not None
    return total / len(symmetries)
