"""The contexts of a pyramid (docs/format.md, section 4, version 2), compiled by numba: see `pyramid.Relatives`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.codec.kernel import compiled

Ints = NDArray[Any]


@compiled
def _add(values: Ints, weight: Any, total: Ints) -> None:
    kind = total.dtype.type  # numba computes in 64 bits otherwise
    for c in range(len(total)):
        total[c] += kind(weight * abs(values[c]))


@compiled
def _add_cell(grid: Ints, image: int, step: int, place: Ints, cell: tuple[int, int], weight: Any, total: Ints) -> None:
    """Add a band's magnitudes in a cell, or in its last row or column where the band has no such cell."""
    row, column = place[0] * step // 2, place[1] * step // 2
    rows, columns = (grid.shape[0] - row + step - 1) // step, (grid.shape[1] - column + step - 1) // step
    if grid.shape[0] > row and grid.shape[1] > column:
        y, x = min(cell[0], rows - 1), min(cell[1], columns - 1)
        _add(grid[row + y * step, column + x * step, image], weight, total)


@compiled
def _add_around(
    grid: Ints, image: int, step: int, places: Ints, cell: tuple[int, int], cells: tuple[int, int], total: Ints
) -> None:
    """Add 4 (1, 2, 1) x (1, 2, 1) times the magnitudes of bands around a cell, clamped to `cells`."""
    kind = total.dtype.type
    for dy in range(-1, 2):
        for dx in range(-1, 2):
            y, x = min(max(cell[0] + dy, 0), cells[0] - 1), min(max(cell[1] + dx, 0), cells[1] - 1)
            for i in range(len(places)):
                _add_cell(grid, image, step, places[i], (y, x), kind(4 * (2 - abs(dy)) * (2 - abs(dx))), total)


@compiled
def _index(
    features: Ints, at: tuple[Ints, Ints], scales: tuple[int, int, int], exponent: Any, table_of: Ints, table: Ints
) -> Any:
    """Tables of a token's channels; returns the largest index, before it is held to the last one."""
    b0, weights = at
    low, top, bins = scales
    magnitude, bits, move, less = exponent
    kind, largest = features.dtype.type, np.int64(0)
    for c in range(len(b0)):
        size = kind(weights[0, c] * features[0, c] + weights[1, c] * features[1, c])
        size = kind(size + weights[2, c] * features[2, c] + weights[3, c] * features[3, c] + b0[c])
        magnitude[c] = max(size, kind(1))
    for c in range(len(b0)):
        index = max((np.int64(bits[c]) >> move) - less - low, 0)
        largest = max(largest, index)
        table[c] = table_of[min(index, top) * bins]
    return largest


@compiled
def context(
    grid: Ints, images: tuple[int, int], step: int, own: Ints, before: Ints, parents: Ints, at: tuple[Ints, Ints],
    scales: tuple[int, int, int], table_of: Ints, exponent: Any, tables: Ints,
) -> bool:  # fmt: skip
    """Fill `tables` (rows, columns, images, channels) of a wave; False if residuals have low bits.

    `own`, `before` and `parents` are the places, in half steps, of the wave's band, its siblings and all bands.
    """
    kind, largest = grid.dtype.type, np.int64(0)
    shape = (tables.shape[0], tables.shape[1])
    cells = ((shape[0] + 1) // 2, (shape[1] + 1) // 2)
    coarsest = step >= max(grid.shape[0], grid.shape[1])
    features = np.empty((4, len(at[0])), grid.dtype)
    for row in range(cells[0]):
        for column in range(cells[1]):
            for i in range(images[1] - images[0]):
                image = images[0] + i
                features[:2] = 0
                if coarsest:
                    _add(grid[0, 0, image], kind(64), features[0])
                else:
                    _add_cell(grid, image, 2 * step, own, (row, column), kind(64), features[0])
                    _add_around(grid, image, 2 * step, parents, (row, column), cells, features[1])
                for y in range(2 * row, min(2 * row + 2, shape[0])):
                    for x in range(2 * column, min(2 * column + 2, shape[1])):
                        features[2:] = 0
                        for b in range(len(before)):
                            _add_cell(grid, image, step, before[b], (y, x), kind(64), features[2])
                        _add_around(grid, image, step, before, (y, x), shape, features[3])
                        largest = max(largest, _index(features, at, scales, exponent, table_of, tables[y, x, i]))
    return bool(largest <= scales[1])
