"""The compiled coder behind the interface of `nec.codec.tables`; importing this module needs numba."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.codec import kernel
from nec.codec.tables import ESCAPE_FREQUENCIES, PRECISION, Bank, bad_escape, check_first_word, left_over

_WORDS_A_VALUE = 5  # at most: 24 bits of its table, 24 of an escape's length, 39 of its bits, 40 low bits
_NO_SHIFT = np.zeros(0, np.int32)
_ESCAPE = (ESCAPE_FREQUENCIES << PRECISION - 16).astype(np.uint32)
_ESCAPES = _ESCAPE, np.concatenate([[0], np.cumsum(_ESCAPE)]).astype(np.uint32)


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
