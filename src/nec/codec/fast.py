"""The compiled coder and contexts behind the interfaces of the plain ones; importing this module needs numba."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.codec import kernel, kernel_contexts, kernel_pyramid
from nec.codec.pyramid import ORDER, ORIENTATIONS
from nec.codec.tables import ESCAPE_FREQUENCIES, PRECISION, Bank, bad_escape, check_first_word, left_over
from nec.codec.waves import FAR, NEAR, RECIPROCAL, Wave

_PLANE = 1 << 15  # values of a wave whose contexts are taken at once
_WORDS_A_VALUE = 5  # at most: 24 bits of its table, 24 of an escape's length, 39 of its bits, 40 low bits
_NO_SHIFT = np.zeros(0, np.int32)
_ESCAPE = (ESCAPE_FREQUENCIES << PRECISION - 16).astype(np.uint32)
_ESCAPES = _ESCAPE, np.concatenate([[0], np.cumsum(_ESCAPE)]).astype(np.uint32)
_EXPONENT = {4: (np.float32, 21, 127 << 2), 8: (np.float64, 50, 1023 << 2)}  # by bytes of the integers
_BANDS = np.array([ORIENTATIONS[kind] for kind in ORDER], np.int64)
_OFFSETS = {kind: tuple(np.array(o[kind], np.int64).reshape(-1, 2) for o in (NEAR, FAR)) for kind in NEAR}


def contexts(
    grid: NDArray[Any],
    images: tuple[int, int],
    wave: Wave,
    at: tuple[NDArray[Any], NDArray[Any]],
    scales: tuple[int, int, int],
    offset_of: NDArray[np.uint8],
    table_of: NDArray[np.uint16],
    spatial: bool,
) -> tuple[NDArray[np.uint16], NDArray[np.int32] | None, NDArray[Any] | None, NDArray[np.int8] | None]:
    """Tables, raw low bits, bases and mirrors of a wave (not the root) for images [first, last) of a grid (y, x, n, k).

    `at` is b0 (channels,) and weights (5, channels), whose dtype is computed in; the C-ordered grid may have more
    channels. `scales` are the lowest and the last index and the offset bins. Low bits are None where there are none.
    A pyramid, `spatial`, has weights (4, channels), and neither bases nor mirrors.
    """
    shape = (*wave.shape(*grid.shape[:2]), images[1] - images[0], len(at[0]))
    tables = np.empty(shape, np.uint16)
    chosen = scales, table_of
    if spatial:
        place = ORDER.index(wave.kind)
        bands = _BANDS[place : place + 1], _BANDS[:place], _BANDS
        shifts = _filled(
            shape, lambda shifts: _fill_pyramid(grid, images, wave.step, bands, at, chosen, tables, shifts)
        )
        return tables, shifts, None, None
    values = np.empty(shape, at[0].dtype), np.empty(shape, np.int8)
    places = (wave.row, wave.column, wave.step), _OFFSETS[wave.kind], RECIPROCAL.astype(at[0].dtype)
    given = grid, images, *places, at, *chosen, _exponent(at[0].dtype, len(at[0])), offset_of, tables, *values
    return tables, _filled(shape, lambda shifts: kernel_contexts.context(*given, shifts)), *values


def _exponent(dtype: np.dtype[Any], lanes: int) -> tuple[NDArray[Any], NDArray[Any], int, int]:
    """Floats, the same memory as integers, and how far and by what to move these to get `prior.scale_index`."""
    kind, move, less = _EXPONENT[dtype.itemsize]
    magnitude = np.empty(lanes, kind)
    return magnitude, magnitude.view(dtype), move, less


def _filled(shape: tuple[int, ...], fill: Callable[[NDArray[np.int32]], bool]) -> NDArray[np.int32] | None:
    """Raw low bits, None if there are none: contexts are taken again with room for them where there are."""
    if fill(np.empty((*shape[:3], 0), np.int32)):
        return None
    shifts = np.empty(shape, np.int32)
    fill(shifts)
    return shifts


def _fill_pyramid(
    grid: NDArray[Any],
    images: tuple[int, int],
    step: int,
    bands: tuple[NDArray[np.int64], ...],
    at: tuple[NDArray[Any], NDArray[Any]],
    chosen: tuple[Any, ...],
    tables: NDArray[np.uint16],
    shifts: NDArray[np.int32],
) -> bool:
    """As many images at once as keep the kernel's planes in the nearer caches."""
    rows, columns, count, channels = tables.shape
    group = max(1, min(count, _PLANE // (rows * columns * channels)))
    exponent = _exponent(at[0].dtype, group * channels)
    flat = [array.reshape(rows, columns, count * array.shape[3]) for array in (tables, shifts)]
    for first in range(0, count, group):
        some = images[0] + first, images[0] + min(first + group, count)
        if not kernel_pyramid.context(grid, some, step, *bands, at, *chosen, exponent, first * channels, *flat):
            return False
    return True


class FastWriter:
    """`BlockWriter` on the kernel."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.uint32]] = []
        self._count, self._state = 0, np.uint64(0)

    def push_block(
        self, bank: Bank, table: NDArray[Any], residual: NDArray[Any], shift: NDArray[np.int32] | None = None
    ) -> None:
        words = np.empty(_WORDS_A_VALUE * table.size, np.uint32)  # memory is taken only where it is written
        values = _line(residual, np.int32 if shift is None else np.int64)
        count, state = kernel.push_block(
            words, 0, self._state, bank.lookup.arrays, _ESCAPES, *_flat(table, shift), values
        )
        self._parts.append(words[:count].copy())
        self._count, self._state = self._count + count, np.uint64(state)

    @property
    def words_below(self) -> int:
        return max(self._count + len(self._state_words()) - 2, 0)

    def finish(self) -> NDArray[np.uint32]:
        return np.concatenate([*self._parts, np.array(self._state_words(), np.uint32)])[::-1]

    def _state_words(self) -> list[int]:
        state = int(self._state)
        words = [state & 0xFFFFFFFF, state >> 32]
        return words[: -(-state.bit_length() // 32)]


class FastReader:
    """`BlockReader` on the kernel."""

    def __init__(self, words: NDArray[np.uint32]) -> None:
        check_first_word(words)
        self._words, self._state = np.ascontiguousarray(words, np.uint32), 0
        self._position = min(len(words), 2)
        for word in self._words[: self._position].tolist():
            self._state = self._state << 32 | word

    def pull_block(
        self, bank: Bank, table: NDArray[Any], shift: NDArray[np.int32] | None = None
    ) -> NDArray[np.integer]:
        residual: NDArray[Any] = np.empty(table.size, np.int32 if shift is None else np.int64)
        self._position, self._state = kernel.pull_block(
            self._words,
            self._position,
            np.uint64(self._state),
            bank.lookup.arrays,
            _ESCAPES,
            *_flat(table, shift),
            residual,
        )
        if self._position == kernel.ESCAPE_TOO_LARGE:
            raise bad_escape()
        return residual.reshape(table.shape)

    def check_finished(self) -> None:
        if self._position < len(self._words) or self._state:
            raise left_over()


def _line(array: NDArray[Any], dtype: Any) -> NDArray[Any]:
    return np.ascontiguousarray(array, dtype).reshape(-1)


def _flat(table: NDArray[Any], shift: NDArray[np.int32] | None) -> tuple[NDArray[np.uint16], NDArray[np.int32]]:
    return _line(table, np.uint16), _NO_SHIFT if shift is None else _line(shift, np.int32)
