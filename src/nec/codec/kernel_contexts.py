"""The contexts of docs/format.md, section 4, compiled by numba: what `Prior.context` gives, in one pass over a wave."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.codec.kernel import compiled

Ints = NDArray[Any]
_PREDICTION_BITS, _HALF = 13, 1 << 12


@compiled
def _places(shape: tuple[int, ...], y: int, x: int, offsets: Ints, half: int, found: Ints) -> int:
    """Rows and columns of a token's neighbours that lie in the grid, into `found`; returns how many there are."""
    count = 0
    for i in range(len(offsets)):
        ny, nx = y + offsets[i, 0] * half, x + offsets[i, 1] * half
        if 0 <= ny < shape[0] and 0 <= nx < shape[1]:
            found[count, 0], found[count, 1] = ny, nx
            count += 1
    return count


@compiled
def _means(grid: Ints, image: int, places: Ints, count: int, reciprocal: Ints, means: Ints) -> None:
    """Means of the neighbours' values and of their absolute values, (2, channels), in 1/64."""
    total, sizes = means[0], means[1]
    total[:] = 0
    sizes[:] = 0
    for i in range(count):
        values = grid[places[i, 0], places[i, 1], image]
        for c in range(len(total)):
            total[c] += values[c]
            sizes[c] += abs(values[c])
    for c in range(len(total)):
        total[c] *= reciprocal[count]
        sizes[c] *= reciprocal[count]


@compiled
def _predict(near: Ints, far: Ints, weights: Ints, prediction: Ints) -> None:
    kind = prediction.dtype.type  # numba computes in 64 bits otherwise
    for c in range(len(prediction)):
        prediction[c] = kind(weights[0, c] * near[0, c] + weights[1, c] * far[0, c])


@compiled
def _expect(near: Ints, far: Ints, at: Any, prediction: Ints, magnitude: NDArray[np.floating]) -> None:
    b0, weights = at
    kind = prediction.dtype.type
    for c in range(len(prediction)):
        size = kind(weights[2, c] * near[1, c] + weights[3, c] * far[1, c])
        size = kind(size + weights[4, c] * kind(abs(prediction[c]) >> 7) + b0[c])
        magnitude[c] = max(size, kind(1))


@compiled
def _divide(prediction: Ints, base: Ints, mirror: Ints, offset: Ints) -> None:
    """Predictions into integers, and fractions as signs and |fraction| >> 6."""
    kind = prediction.dtype.type
    for c in range(len(prediction)):
        whole = kind(kind(prediction[c] + _HALF) >> _PREDICTION_BITS)
        fraction = kind(prediction[c] - kind(whole << _PREDICTION_BITS))
        base[c] = whole
        mirror[c] = -1 if fraction < 0 else 1
        offset[c] = abs(fraction) >> 6


@compiled
def _look_up(
    exponent: Any, scales: tuple[int, int, int], table_of: Ints, bins_of: Ints, table: Ints, shift: Ints
) -> Any:
    """Tables of magnitudes, and their residuals' raw low bits where `shift` has room; returns the largest index."""
    _, bits, move, less = exponent
    low, top, bins = scales
    largest = np.int64(0)
    for c in range(len(table)):
        index = max((np.int64(bits[c]) >> move) - less - low, 0)
        largest = max(largest, index)
        if len(shift):
            shift[c] = max((index - top + 3) >> 2, 0)
            index -= 4 * np.int64(shift[c])
        table[c] = table_of[min(index, top) * bins + bins_of[c]]
    return largest


@compiled
def context(
    grid: Ints, images: tuple[int, int], wave: tuple[int, int, int], offsets: tuple[Ints, Ints], reciprocal: Ints,
    at: tuple[Ints, Ints], scales: tuple[int, int, int], table_of: Ints, exponent: Any, offset_of: Ints,
    tables: Ints, bases: Ints, mirrors: Ints, shifts: Ints,
) -> bool:  # fmt: skip
    """Fill `tables`, `bases`, `mirrors` and `shifts`, each (rows, columns, images, channels), of a wave.

    False if residuals have raw low bits and the last axis of `shifts` is empty, so that it has no room for how many.
    `grid` (y, x, n, k) in C order. `scales`: lowest index, last index, offset bins; `exponent`: a float array
    (channels,), the same memory as integers, and how far and by what to move these to get `prior.scale_index`.
    """
    magnitude = exponent[0]
    channels, half = len(at[0]), wave[2] // 2
    kind = at[0].dtype
    near, far = np.empty((2, channels), kind), np.empty((2, channels), kind)
    near_places, far_places = np.empty((8, 2), np.int64), np.empty((8, 2), np.int64)
    prediction, offset = np.empty(channels, kind), np.empty(channels, np.uint8)
    largest = np.int64(0)
    for row in range(tables.shape[0]):
        for column in range(tables.shape[1]):
            y, x = wave[0] + row * wave[2], wave[1] + column * wave[2]
            near_count = _places(grid.shape, y, x, offsets[0], half, near_places)
            far_count = _places(grid.shape, y, x, offsets[1], half, far_places)
            for i in range(images[1] - images[0]):
                _means(grid, images[0] + i, near_places, near_count, reciprocal, near)
                _means(grid, images[0] + i, far_places, far_count, reciprocal, far)
                _predict(near, far, at[1], prediction)
                _expect(near, far, at, prediction, magnitude)
                _divide(prediction, bases[row, column, i], mirrors[row, column, i], offset)
                for c in range(channels):
                    offset[c] = offset_of[offset[c]]
                table, shift = tables[row, column, i], shifts[row, column, i]
                largest = max(largest, _look_up(exponent, scales, table_of, offset, table, shift))
    return bool(shifts.shape[3] or largest <= scales[1])
