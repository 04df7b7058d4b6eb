"""The compiled coder and contexts behind the interfaces of the plain ones; importing this module needs numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.codec import kernel, kernel_contexts, kernel_pyramid
from nec.codec.pyramid import ORDER, ORIENTATIONS
from nec.codec.tables import ESCAPE_FREQUENCIES, PRECISION, Bank, bad_escape, check_first_word, left_over
from nec.codec.waves import FAR, NEAR, RECIPROCAL, Wave

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
    channels. `scales` the lowest and the last index and the offset bins. Low bits are None where there are none. A pyramid,
    `spatial`, has weights (4, channels), and neither bases nor mirrors.
    """
    shape = (*wave.shape(*grid.shape[:2]), images[1] - images[0], len(at[0]))
    b0, _ = at
    kind, move, less = _EXPONENT[b0.itemsize]
    magnitude = np.empty(len(at[0]), kind)
    chosen = scales, table_of, (magnitude, magnitude.view(b0.dtype), move, less)
    tables = np.empty(shape, np.uint16)
    values: tuple[Any, Any] = None, None
    fill: Any
    given: tuple[Any, ...]
    if spatial:
        place = ORDER.index(wave.kind)
        bands = _BANDS[place : place + 1], _BANDS[:place], _BANDS
        fill, given = kernel_pyramid.context, (grid, images, wave.step, *bands, at, *chosen, tables)
    else:
        values = np.empty(shape, b0.dtype), np.empty(shape, np.int8)
        places = (wave.row, wave.column, wave.step), _OFFSETS[wave.kind], RECIPROCAL.astype(b0.dtype)
        fill, given = kernel_contexts.context, (grid, images, *places, at, *chosen, offset_of, tables, *values)
    if fill(*given, _no_shifts(shape)):
        return tables, None, *values
    shifts = np.empty(shape, np.int32)
    fill(*given, shifts)
    return tables, shifts, *values


def _no_shifts(shape: tuple[int, ...]) -> NDArray[np.int32]:
    return np.empty((*shape[:3], 0), np.int32)


class FastWriter:
    """`BlockWriter` on the kernel."""

    def __init__(self) -> None:
        self._parts: list[NDArray[np.uint32]] = []
        self._count, self._state = 0, np.uint64(0)

    def push_block(
        self, bank: Bank, table: NDArray[Any], residual: NDArray[Any], shift: NDArray[np.int32] | None = None
    ) -> None:
        words = np.empty(_WORDS_A_VALUE * table.size, np.uint32)  # memory is taken only where it is written
        count, state = kernel.push_block(
            words, 0, self._state, bank.lookup.arrays, _ESCAPES, *_flat(table, shift), _line(residual, np.int64)
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
