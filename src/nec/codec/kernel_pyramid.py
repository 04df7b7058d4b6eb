"""The contexts of a pyramid (docs/format.md, section 4, version 2), compiled by numba: see `pyramid.Relatives`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.codec.kernel import compiled

Ints = NDArray[Any]


@compiled
def _fill(grid: Ints, images: tuple[int, int], step: int, places: Ints, sums: Ints) -> None:
    """Sums (rows, columns, lanes) of bands' magnitudes; beyond a band's last row or column its last ones count."""
    kind = sums.dtype.type  # numba computes in 64 bits otherwise
    channels = sums.shape[2] // (images[1] - images[0])
    sums[:] = 0
    for i in range(len(places)):
        row, column = places[i, 0] * step // 2, places[i, 1] * step // 2
        if grid.shape[0] > row and grid.shape[1] > column:
            rows, columns = (grid.shape[0] - row + step - 1) // step, (grid.shape[1] - column + step - 1) // step
            for y in range(sums.shape[0]):
                for x in range(sums.shape[1]):
                    there = grid[row + min(y, rows - 1) * step, column + min(x, columns - 1) * step]
                    for j in range(images[1] - images[0]):
                        values, total = there[images[0] + j], sums[y, x, j * channels : (j + 1) * channels]
                        for c in range(channels):
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
def _magnitude(sums: tuple[Ints, Ints], weights: tuple[Ints, Ints], start: Ints, magnitude: Any) -> None:
    one, other = sums
    first, second = weights
    kind = start.dtype.type
    for c in range(len(magnitude)):
        magnitude[c] = max(kind(start[c] + kind(first[c] * one[c]) + kind(second[c] * other[c])), kind(1))


@compiled
def _look_up(bits: Ints, scales: tuple[int, int, int], move: int, less: int, table: Ints) -> Any:
    """Scale indices up to the last one, as `prior.scale_index` has them; returns the largest of all."""
    kind = bits.dtype.type
    low, top, _ = scales
    least, most, largest = kind(less + low), kind(top), kind(0)
    for c in range(len(table)):
        index = kind(kind(bits[c] >> move) - least)
        largest = max(largest, index)
        table[c] = min(max(index, kind(0)), most)
    return np.int64(largest)


@compiled
def _split_off(bits: Ints, scales: tuple[int, int, int], move: int, less: int, table: Ints, shift: Ints) -> None:
    """Raw low bits of the lanes whose scale passes the last one, and the scale that is left to them."""
    kind = bits.dtype.type
    low, top, _ = scales
    least, most = kind(less + low), kind(top)
    for c in range(len(table)):
        index = max(kind(kind(bits[c] >> move) - least), kind(0))
        left_out = max(kind(kind(kind(index - most) + kind(3)) >> 2), kind(0))
        shift[c] = left_out
        table[c] = min(kind(index - kind(left_out << 2)), most)


@compiled
def _known(
    grid: Ints, images: tuple[int, int], step: int, own: Ints, parents: Ints, at: tuple[Ints, Ints],
    shape: tuple[int, int], known: Ints,
) -> None:  # fmt: skip
    """What cells (rows, columns, lanes) know of the spacing above: b0, and the parents by their weights."""
    b0, units = at
    above = np.empty((*shape, len(b0)), b0.dtype)
    same, rows, around = np.empty_like(above), np.empty_like(above), np.zeros(len(b0), b0.dtype)
    if step >= max(grid.shape[0], grid.shape[1]):
        root, channels = above[0, 0], len(b0) // (images[1] - images[0])
        for i in range(len(b0)):
            root[i] = abs(grid[0, 0, images[0] + i // channels, i % channels])
        _add_weighted((root, around), (units[0], units[1]), b0, known[0, 0])
        return
    _fill(grid, images, 2 * step, own, same)
    _fill(grid, images, 2 * step, parents, above)
    _blur_rows(above, rows)
    for y in range(shape[0]):
        upper, lower = rows[max(y - 1, 0)], rows[min(y + 1, shape[0] - 1)]
        for x in range(shape[1]):
            _blur(upper[x], rows[y, x], lower[x], around)
            _add_weighted((same[y, x], around), (units[0], units[1]), b0, known[y, x])


@compiled
def _in_lanes(at: tuple[Ints, Ints], images: int) -> tuple[Ints, Ints]:
    """b0 and weights for each lane; the features' units, 1/64 and 4/64, go into the weights."""
    b0, weights = at
    kind, channels = b0.dtype.type, len(b0)
    first, units = np.empty(images * channels, b0.dtype), np.empty((4, images * channels), b0.dtype)
    for image in range(images):
        for c in range(channels):
            first[image * channels + c] = b0[c]
        for i in range(4):
            for c in range(channels):
                units[i, image * channels + c] = kind(weights[i, c] * (4 if i % 2 else 64))
    return first, units


@compiled
def context(
    grid: Ints, images: tuple[int, int], step: int, own: Ints, before: Ints, parents: Ints, at: tuple[Ints, Ints],
    scales: tuple[int, int, int], table_of: Ints, exponent: Any, first: int, tables: Ints, shifts: Ints,
) -> bool:  # fmt: skip
    """Fill `tables` (rows, columns, lanes) of a wave, and `shifts` (the same, or its last axis empty), from a lane on.

    False if residuals have raw low bits and `shifts` has no room for how many.

    `own`, `before` and `parents` are the places, in half steps, of the wave's band, its siblings and all bands. Lanes
    are the images' channels side by side, so that the innermost loops are long; `exponent` has at least as many.
    """
    b0, units = _in_lanes(at, images[1] - images[0])
    magnitude, bits, move, less = exponent[0][: len(b0)], exponent[1][: len(b0)], exponent[2], exponent[3]
    rows, columns = tables.shape[0], tables.shape[1]
    cells = (rows + 1) // 2, (columns + 1) // 2
    known = np.empty((*cells, len(b0)), b0.dtype)
    _known(grid, images, step, own, parents, (b0, units), cells, known)
    beside = np.zeros((rows, columns, len(b0)), b0.dtype)
    beside_rows, around = np.zeros_like(beside), np.zeros(len(b0), b0.dtype)
    if len(before):
        _fill(grid, images, step, before, beside)
        _blur_rows(beside, beside_rows)
    for y in range(rows):
        upper, lower = beside_rows[max(y - 1, 0)], beside_rows[min(y + 1, rows - 1)]
        for x in range(columns):
            if len(before):
                _blur(upper[x], beside_rows[y, x], lower[x], around)
            _magnitude((beside[y, x], around), (units[2], units[3]), known[y // 2, x // 2], magnitude)
            table = tables[y, x, first : first + len(b0)]
            if _look_up(bits, scales, move, less, table) > scales[1]:
                if shifts.shape[2] == 0:
                    return False
                _split_off(bits, scales, move, less, table, shifts[y, x, first : first + len(b0)])
            elif shifts.shape[2]:
                shifts[y, x, first : first + len(b0)] = 0
            if scales[2] > 1:
                for c in range(len(table)):
                    table[c] = table_of[table[c] * scales[2]]
    return True
