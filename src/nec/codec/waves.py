"""Coarse-to-fine order of a token grid, and the neighbours that are known when a token is coded.

At spacing S the tokens whose row and column are multiples of S are known. Three waves then halve the spacing
(h = S / 2): `diag`, the centres of squares; `across`, the midpoints of their upper and lower sides; `down`, those of
their left and right sides. The lattice of the largest spacing, a single token, is the `root` wave.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = ("root", "diag", "across", "down")
_AXIS = ((-1, 0), (1, 0), (0, -1), (0, 1))
_DIAGONAL = ((-1, -1), (-1, 1), (1, -1), (1, 1))
# Offsets in units of h. All lie on lattices that are complete when the wave is coded.
NEAR = {"root": (), "diag": _DIAGONAL, "across": _AXIS, "down": _AXIS}
FAR = {
    "root": (),
    "diag": ((-3, -1), (-3, 1), (3, -1), (3, 1), (-1, -3), (-1, 3), (1, -3), (1, 3)),
    "across": ((-2, -1), (-2, 1), (2, -1), (2, 1), (-1, -2), (1, -2), (-1, 2), (1, 2)),
    "down": _DIAGONAL,
}
CLASSES = 10
"""Parameter classes: root, then diag, across, down for spacing 2, for 4, and for 8 or more."""
RECIPROCAL = np.array([0, 64, 32, 21, 16, 13, 11, 9, 8], np.int32)
"""64 / count, rounded: neighbour sums times this are means in units of 1/64."""


@dataclass(frozen=True)
class Wave:
    """Tokens [row::step, column::step] of a grid; `half` is the distance unit of its neighbours.

    The grid may be the lattice of every `unit`-th row and column of another one, to whose steps the class belongs.
    """

    kind: str
    row: int
    column: int
    step: int
    unit: int = 1

    @property
    def half(self) -> int:
        return self.step // 2

    @property
    def parameter_class(self) -> int:
        if self.kind == "root":
            return 0
        octave = {2: 0, 4: 1}.get(self.step * self.unit, 2)
        return 1 + 3 * octave + KINDS.index(self.kind) - 1

    def within(self, unit: int) -> Wave:
        """The same tokens in the lattice of every `unit`-th row and column, which must hold them."""
        return Wave(self.kind, self.row // unit, self.column // unit, self.step // unit, self.unit * unit)

    def shape(self, rows: int, columns: int) -> tuple[int, int]:
        """Tokens of this wave in a grid, as (rows, columns)."""
        return -(-max(rows - self.row, 0) // self.step), -(-max(columns - self.column, 0) // self.step)


def spacings(rows: int, columns: int) -> list[int]:
    """2, 4, ... up to the least power of 2 that covers the grid; none for a single token."""
    found, step = [], 1
    while step < max(rows, columns):
        step *= 2
        found.append(step)
    return found


def resolutions_of(
    rows: int, columns: int, hierarchical: bool = True, order: tuple[str, ...] = ("diag", "across", "down")
) -> list[list[Wave]]:
    """Waves of a (rows, columns) grid in coding order, one list a resolution; waves without tokens are left out.

    `order` is that of the waves within a resolution.
    """
    if rows == 0 or columns == 0:
        return []
    if not hierarchical:
        return [[Wave("root", 0, 0, 1)]]
    steps = spacings(rows, columns)[::-1]
    found = [[Wave("root", 0, 0, steps[0] if steps else 1)]]
    for step in steps:
        half = step // 2
        places = {"diag": (half, half), "across": (0, half), "down": (half, 0)}
        waves = [Wave(kind, *places[kind], step) for kind in order]
        found.append([wave for wave in waves if min(wave.shape(rows, columns)) > 0])
    return found


class Neighbours:
    """Sums over the known neighbours of a wave's tokens, borders counted out.

    Grids are (y, x, n, k): symbols known so far, int32 or int64 (fitting passes floats), anything elsewhere.
    """

    def __init__(self, wave: Wave, rows: int, columns: int) -> None:
        self.wave, self.rows, self.columns = wave, rows, columns
        self.near = self._spans(NEAR[wave.kind])
        self.far = self._spans(FAR[wave.kind])

    def _spans(self, offsets: tuple[tuple[int, int], ...]) -> list[tuple[slice, slice, slice, slice]]:
        """For each offset: rows and columns of the targets in the wave's lattice, of the sources in the grid."""
        wave, spans = self.wave, []
        shape = wave.shape(self.rows, self.columns)
        for dy, dx in offsets:
            ty, sy = self._span(wave.row + dy * wave.half, shape[0], self.rows)
            tx, sx = self._span(wave.column + dx * wave.half, shape[1], self.columns)
            if ty.stop > ty.start and tx.stop > tx.start:
                spans.append((ty, tx, sy, sx))
        return spans

    def _span(self, origin: int, count: int, size: int) -> tuple[slice, slice]:
        step = self.wave.step
        first = max(0, -(origin // step)) if origin < 0 else 0
        last = min(count, (size - 1 - origin) // step + 1)
        start = origin + first * step
        return slice(first, last), slice(start, max(start + (last - first) * step, 0), step)

    def _mean(self, grid: NDArray[Any], spans: list[tuple[slice, slice, slice, slice]]) -> NDArray[Any]:
        shape = self.wave.shape(self.rows, self.columns)
        total = np.zeros((*shape, *grid.shape[2:]), grid.dtype)
        count = np.zeros(shape, np.int32)
        for ty, tx, sy, sx in spans:
            total[ty, tx] += grid[sy, sx]
            count[ty, tx] += 1
        total *= RECIPROCAL[count][:, :, None, None].astype(grid.dtype)
        return total

    def near_mean(self, grid: NDArray[Any]) -> NDArray[Any]:
        """Mean over the nearest neighbours in units of 1/64, (rows, columns, n, k) of the wave."""
        return self._mean(grid, self.near)

    def far_mean(self, grid: NDArray[Any]) -> NDArray[Any]:
        """Mean over the ring of neighbours beyond the nearest in units of 1/64."""
        return self._mean(grid, self.far)
