"""Haar pyramid over a token grid, and what of it is known when a coefficient is coded.

At spacing S (2, 4, 8, ... up to the whole grid) four neighbouring averages a b / c d of the spacing below become

    average (a+b+c+d)/2    across (a-b+c-d)/2    down (a+b-c-d)/2    diag (a-b-c+d)/2

which is orthonormal. The averages go on to the next spacing; the last one is the root. Where a side is odd its last row
or column pairs with itself, so that averages keep one scale everywhere, and there are no details of it.

Coefficients lie in place, where `waves` puts the tokens of their wave: the root at (0, 0), details at spacing S at rows
and columns that are S/2 mod S (diag), or 0 and S/2 (across), or S/2 and 0 (down).

Haar (1910); embedded pyramids with contexts from parents: Shapiro 1993 (EZW), Taubman 2000 (EBCOT).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.codec import coder
from nec.codec.waves import Wave, spacings

ORIENTATIONS = {"across": (0, 1), "down": (1, 0), "diag": (1, 1)}
"""Kinds of details, and where they lie in a cell, in half spacings."""
ORDER = tuple(ORIENTATIONS)
"""In which the details of a level are coded."""
_CODED_BEFORE = {"across": (), "down": ("across",), "diag": ("across", "down")}
_ROOT2 = np.sqrt(2.0)

Floats = NDArray[np.floating]


def forward(values: Floats) -> Floats:
    """Coefficients in place of tokens (n, y, x, k), a new array."""
    out = np.array(values)
    for step in spacings(*values.shape[1:3]):
        for axis in (1, 2):
            _butterfly(_lattice(out, step // 2), axis)
    return out


def inverse(coefficients: Floats) -> Floats:
    """Tokens (n, y, x, k) of coefficients in place, a new array."""
    rows, columns = coefficients.shape[1:3]

    by_octave = weights(rows, columns)

    def band(octave: int, row: slice, column: slice) -> Floats:
        return coefficients[:, row, column] * by_octave[octave]

    return assemble(band, (rows, columns), (0, rows), (0, columns))


def weights(rows: int, columns: int) -> list[float]:
    """By octave, what coefficients are multiplied by; then averages and details need only be added and subtracted."""
    by_octave = [1 / scale(rows, columns, step) for step in spacings(rows, columns)]
    return [*by_octave, by_octave[-1] if by_octave else 1.0]


Band = Callable[[int, slice, slice], NDArray[Any]]


def assemble(
    band: Band, grid: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int], out: Floats | None = None
) -> Floats:
    """Tokens [rows) x [columns) of a grid, (n, rows, columns, d), from the coefficients that they depend on alone.

    `band` gives coefficients (n, ..., d) of an octave, times its weight, at rows and columns of the grid. `out` is
    where the tokens go, a new array by default.
    """
    steps = spacings(*grid)
    values, top, left = band(len(steps), slice(0, 1), slice(0, 1)), 0, 0
    for octave, step in reversed(list(enumerate(steps))):
        half = step // 2
        first_row, first_column = rows[0] // step, columns[0] // step  # of the cells at this spacing
        stop_row, stop_column = -(-rows[1] // step), -(-columns[1] // step)
        averages = values[:, first_row - top : stop_row - top, first_column - left : stop_column - left]
        details = [
            band(
                octave,
                slice(first_row * step + y * half, stop_row * step, step),
                slice(first_column * step + x * half, stop_column * step, step),
            )
            for y, x in ORIENTATIONS.values()
        ]
        top, left = 2 * first_row, 2 * first_column
        shape = min(2 * stop_row, -(-grid[0] // half)) - top, min(2 * stop_column, -(-grid[1] // half)) - left
        aligned = half == 1 and (top, left, *shape) == (rows[0], columns[0], rows[1] - rows[0], columns[1] - columns[0])
        fresh = (len(values), *shape, values.shape[3])
        values = out if aligned and out is not None else np.empty(fresh, values.dtype)
        _expand(averages, *details, out=values)
    found = values[:, rows[0] - top : rows[1] - top, columns[0] - left : columns[1] - left]
    if out is None:
        return found
    if values is not out:
        out[...] = found
    return out


def _expand(averages: Floats, *details: Floats, out: Floats) -> None:
    """Averages of the spacing below: pairs along the columns, then along the rows; a last one without partner stays."""
    if coder.KERNEL is not None:
        coder.KERNEL.expand(*map(np.ascontiguousarray, (averages, *details)), out)
        return
    across, down, diag = details
    rows, columns = down.shape[1], across.shape[2]  # of pairs
    upper = np.empty((*averages.shape[:2], *out.shape[2:]), out.dtype)
    lower = np.empty((*down.shape[:2], *out.shape[2:]), out.dtype)
    for lines, whole, detail in ((upper, averages, across), (lower, down, diag)):
        np.add(whole[:, :, :columns], detail, out=lines[:, :, : 2 * columns : 2])
        np.subtract(whole[:, :, :columns], detail, out=lines[:, :, 1 : 2 * columns : 2])
        lines[:, :, 2 * columns :] = whole[:, :, columns:]
    np.add(upper[:, :rows], lower, out=out[:, : 2 * rows : 2])
    np.subtract(upper[:, :rows], lower, out=out[:, 1 : 2 * rows : 2])
    out[:, 2 * rows :] = upper[:, rows:]


def cell_weights(size: int, spacing: int, cells: tuple[int, int], period: int) -> NDArray[np.float64]:
    """What each of `period` repeated lines counts in the mean of a cell, for cells [first, stop) along one side.

    Cells are of `spacing` lines out of `size`, as the pyramid takes them: at an odd end the last line counts twice.
    """
    lines, weight, step = np.arange(*cells), np.ones(cells[1] - cells[0]), spacing
    while step > 1:
        step //= 2
        count, first = -(-size // step), lines[0]
        finer = np.arange(2 * first, min(2 * (lines[-1] + 1), count))
        paired = (finer % 2 == 1) | (finer + 1 < count)
        lines, weight = finer, weight[finer // 2 - first] * np.where(paired, 0.5, 1.0)
    found = np.zeros((cells[1] - cells[0], period))
    np.add.at(found, (lines // spacing - cells[0], lines % period), weight)
    return found


def scale(rows: int, columns: int, spacing: int) -> float:
    """Averages at a spacing are the means of their cells times this: root 2 for each halving of a side above 1."""
    halvings = [step for step in spacings(rows, columns) if step <= spacing]
    return float(_ROOT2 ** sum(size > step // 2 for step in halvings for size in (rows, columns)))


def _lattice(array: NDArray[Any], step: int) -> NDArray[Any]:
    return array[:, ::step, ::step]


def _butterfly(view: Floats, axis: int) -> None:
    """Sums and differences of pairs along an axis, in place; a last one without partner is scaled as if doubled."""
    view = np.moveaxis(view, axis, 0)
    pairs = len(view) // 2
    first, second = view[: 2 * pairs : 2], view[1 : 2 * pairs : 2]
    total, difference = (first + second) / _ROOT2, (first - second) / _ROOT2
    first[...], second[...] = total, difference
    if len(view) % 2 and len(view) > 1:
        view[-1] *= _ROOT2


def octaves(rows: int, columns: int) -> NDArray[np.int64]:
    """Octave of each place (rows, columns): 0 for details at spacing 2, 1 for those at 4, ...; the root's is last."""
    found = np.zeros((rows, columns), np.int64)
    for octave, step in enumerate(spacings(rows, columns)):
        found[::step, ::step] = octave + 1
    return found


class Relatives:
    """Sums over a wave's known relatives; grids are (y, x, n, k) of magnitudes, integers (fitting passes floats).

    A detail's parents are the three details at twice its spacing in the cell that holds it; at the largest spacing the
    root stands in. Its siblings are the details of its own cell that are coded before it. Places beyond a band's last
    row or column are its last ones.
    """

    def __init__(self, wave: Wave, rows: int, columns: int) -> None:
        self.wave, self.rows, self.columns = wave, rows, columns
        self.coarsest = wave.step >= max(rows, columns)

    def features(self, sizes: NDArray[Any]) -> list[NDArray[Any]]:
        """Four sums in units of 1/64, each (rows, columns, n, k) of the wave.

        The parent of the same orientation; all parents and those around them; the siblings; the siblings and those
        around them. "Around" weighs 3 x 3 cells with (1, 2, 1) / 4 along either axis.
        """
        shape = self.wave.shape(self.rows, self.columns)
        none = np.zeros((*shape, *sizes.shape[2:]), sizes.dtype)
        siblings = self._cells(sizes, self.wave.step, _CODED_BEFORE[self.wave.kind], shape)
        around = none if siblings is None else 4 * _blurred(siblings)
        beside = none if siblings is None else 64 * siblings
        if self.coarsest:
            return [np.broadcast_to(64 * sizes[:1, :1], none.shape), none, beside, around]
        double = self.wave.step * 2
        cells = (-(-shape[0] // 2), -(-shape[1] // 2))
        same = self._cells(sizes, double, (self.wave.kind,), cells)
        parents = self._cells(sizes, double, tuple(ORIENTATIONS), cells)
        assert parents is not None
        first = none if same is None else 64 * _doubled(same, shape)
        return [first, _doubled(4 * _blurred(parents), shape), beside, around]

    def _cells(
        self, sizes: NDArray[Any], step: int, kinds: tuple[str, ...], shape: tuple[int, int]
    ) -> NDArray[Any] | None:
        """Sum of the kinds' details at a spacing, one a cell of `shape`; None where there are no kinds."""
        total = None
        for kind in kinds:
            row, column = (step // 2 * place for place in ORIENTATIONS[kind])
            band = sizes[row::step, column::step]
            if 0 in band.shape[:2]:
                continue
            band = _fitted(band, shape)
            total = band if total is None else total + band
        return total


def _fitted(band: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Cut to a shape, or extended by its last row and column."""
    if band.shape[:2] == shape:
        return band
    rows, columns = (np.minimum(np.arange(count), size - 1) for count, size in zip(shape, band.shape, strict=False))
    return band[rows[:, None], columns]


def _doubled(band: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    return band.repeat(2, 0).repeat(2, 1)[: shape[0], : shape[1]]


def _blurred(band: NDArray[Any]) -> NDArray[Any]:
    """Sums over 3 x 3 cells with weights (1, 2, 1) along either axis."""
    for axis in (0, 1):
        band = np.moveaxis(band, axis, 0)
        before, after = np.concatenate([band[:1], band[:-1]]), np.concatenate([band[1:], band[-1:]])
        band = np.moveaxis(before + 2 * band + after, 0, axis)
    return band
