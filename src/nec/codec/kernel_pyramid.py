"""The contexts of a pyramid (docs/format.md, section 4, version 2), compiled by numba: see `pyramid.Relatives`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.codec.kernel import compiled
from nec.codec.kernel_contexts import NO_OFFSET, look_up

Ints = NDArray[Any]


@compiled
def _fill(grid: Ints, image: int, step: int, places: Ints, sums: Ints) -> None:
    """Sums (rows, columns, channels) of bands' magnitudes; beyond a band's last row or column its last ones count."""
    kind = sums.dtype.type  # numba computes in 64 bits otherwise
    sums[:] = 0
    for i in range(len(places)):
        row, column = places[i, 0] * step // 2, places[i, 1] * step // 2
        if grid.shape[0] > row and grid.shape[1] > column:
            rows, columns = (grid.shape[0] - row + step - 1) // step, (grid.shape[1] - column + step - 1) // step
            for y in range(sums.shape[0]):
                for x in range(sums.shape[1]):
                    values = grid[row + min(y, rows - 1) * step, column + min(x, columns - 1) * step, image]
                    total = sums[y, x]
                    for c in range(len(total)):
                        total[c] += kind(abs(values[c]))


@compiled
def _blur(before: Ints, middle: Ints, after: Ints, total: Ints) -> None:
    kind = total.dtype.type
    for c in range(len(total)):
        total[c] = kind(before[c] + after[c] + kind(middle[c] << 1))


@compiled
def _blur_rows(sums: Ints, total: Ints) -> None:
    last = sums.shape[1] - 1
    for y in range(sums.shape[0]):
        for x in range(last + 1):
            _blur(sums[y, max(x - 1, 0)], sums[y, x], sums[y, min(x + 1, last)], total[y, x])


@compiled
def _add_weighted(sums: tuple[Ints, Ints], weights: tuple[Ints, Ints], start: Ints, total: Ints) -> None:
    kind = total.dtype.type
    one, other = sums
    first, second = weights
    for c in range(len(total)):
        total[c] = kind(start[c] + kind(first[c] * one[c]) + kind(second[c] * other[c]))


@compiled
def _index(
    sums: tuple[Ints, Ints], weights: tuple[Ints, Ints], start: Ints, scales: tuple[int, int, int], exponent: Any,
    table_of: Ints, table: Ints, shift: Ints,
) -> Any:  # fmt: skip
    """Tables of a token's channels; returns the largest index, before low bits take it down to the last one."""
    magnitude = exponent[0]
    one, other = sums
    first, second = weights
    kind = start.dtype.type
    for c in range(len(table)):
        magnitude[c] = max(kind(start[c] + kind(first[c] * one[c]) + kind(second[c] * other[c])), kind(1))
    return look_up(exponent, scales, table_of, NO_OFFSET, table, shift)


@compiled
def context(
    grid: Ints, images: tuple[int, int], step: int, own: Ints, before: Ints, parents: Ints, at: tuple[Ints, Ints],
    scales: tuple[int, int, int], table_of: Ints, exponent: Any, tables: Ints, shifts: Ints,
) -> bool:  # fmt: skip
    """Fill `tables` (rows, columns, images, channels) of a wave, and `shifts` (the same, or its last axis empty).

    False if residuals have raw low bits and `shifts` has no room for how many.

    `own`, `before` and `parents` are the places, in half steps, of the wave's band, its siblings and all bands.
    """
    b0, weights = at
    kind, largest = b0.dtype.type, np.int64(0)
    rows, columns = tables.shape[0], tables.shape[1]
    cell_rows, cell_columns = (rows + 1) // 2, (columns + 1) // 2
    coarsest = step >= max(grid.shape[0], grid.shape[1])
    units = np.empty_like(weights)  # the features' units, 1/64 and 4/64, go into the weights
    for i in range(4):
        for c in range(len(b0)):
            units[i, c] = kind(weights[i, c] * (4 if i % 2 else 64))
    above = np.empty((cell_rows, cell_columns, len(b0)), b0.dtype)
    same, known, above_rows = np.empty_like(above), np.empty_like(above), np.empty_like(above)
    beside = np.zeros((rows, columns, len(b0)), b0.dtype)
    beside_rows = np.zeros_like(beside)
    around = np.zeros(len(b0), b0.dtype)
    for i in range(images[1] - images[0]):
        image = images[0] + i
        if coarsest:
            root = np.abs(grid[0, 0, image, : len(b0)]).astype(b0.dtype)
            _add_weighted((root, around), (units[0], units[1]), b0, known[0, 0])
        else:
            _fill(grid, image, 2 * step, own, same)
            _fill(grid, image, 2 * step, parents, above)
            _blur_rows(above, above_rows)
            for y in range(cell_rows):
                upper, lower = above_rows[max(y - 1, 0)], above_rows[min(y + 1, cell_rows - 1)]
                for x in range(cell_columns):
                    _blur(upper[x], above_rows[y, x], lower[x], around)
                    _add_weighted((same[y, x], around), (units[0], units[1]), b0, known[y, x])
        if len(before):
            _fill(grid, image, step, before, beside)
            _blur_rows(beside, beside_rows)
        around[:] = 0
        for y in range(rows):
            upper, lower = beside_rows[max(y - 1, 0)], beside_rows[min(y + 1, rows - 1)]
            for x in range(columns):
                if len(before):
                    _blur(upper[x], beside_rows[y, x], lower[x], around)
                start, table = known[y // 2, x // 2], tables[y, x, i]
                sums = beside[y, x], around
                index = _index(sums, (units[2], units[3]), start, scales, exponent, table_of, table, shifts[y, x, i])
                largest = max(largest, index)
        around[:] = 0
    return bool(shifts.shape[3] or largest <= scales[1])
