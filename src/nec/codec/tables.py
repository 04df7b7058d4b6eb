"""Integer frequency tables, and how they are drawn from and pushed to an ANS stream.

A bank holds one table for each pair of scale index and offset bin. A table with radius R has 2 R + 2 frequencies, of
the residuals -R..R and of "escape", all positive, with sum 65536; they are used at 24-bit precision (times 256).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import constriction
import numpy as np
from numpy.typing import NDArray

from nec.errors import CorruptError, InputError

TOTAL = 1 << 16
_MODEL = constriction.stream.model
_ESCAPE_CLASSES = 40
_DRAW = 16  # raw bits that are pushed at a time, at most


def categorical(frequencies: NDArray[np.integer]) -> Any:
    """Model of exactly these integer frequencies (sum 2^16, all positive) at constriction's 24-bit precision.

    constriction gives every symbol one unit and shares out the other 2^24 - n in proportion to the floats it gets;
    these are integers whose sum is 2^24 - n, so nothing is left to rounding. A test checks this against plain Python.
    """
    return _MODEL.Categorical(frequencies.astype(np.float64) * 256 - 1, perfect=False)


def integer_table(probabilities: NDArray[np.floating]) -> NDArray[np.int64]:
    """Frequencies of -R..R and escape from probabilities (2 m + 1,) of the integers -m..m.

    R is the smallest radius that holds all but about 2^-13 of the mass.
    """
    reach = len(probabilities) // 2
    tails = probabilities[:reach][::-1] + probabilities[reach + 1 :]
    beyond = np.concatenate([[tails.sum()], tails.sum() - np.cumsum(tails)])
    radius = max(1, int(np.argmax(beyond < 2.0**-13)))
    inside = probabilities[reach - radius : reach + radius + 1]
    mass = np.append(inside, max(beyond[radius], 2.0**-16))
    exact = mass / mass.sum() * TOTAL
    frequencies = np.maximum(np.floor(exact), 1).astype(np.int64)
    left = TOTAL - int(frequencies.sum())
    if left > 0:  # a unit each to those that lost most
        frequencies[np.argsort(frequencies - exact, kind="stable")[:left]] += 1
    else:
        frequencies[np.argmax(frequencies)] += left
    return frequencies


class Bank:
    """Frequency tables: `radii` (tables,) and `frequencies`, the tables one after another; immutable."""

    def __init__(self, radii: NDArray[np.integer], frequencies: NDArray[np.integer]) -> None:
        self.radii = np.asarray(radii, np.int32)
        self.frequencies = np.asarray(frequencies, np.int64)
        self.starts = np.concatenate([[0], np.cumsum(2 * self.radii.astype(np.int64) + 2)])
        if self.starts[-1] != len(self.frequencies) or np.any(self.radii < 0) or len(self.radii) == 0:
            raise InputError("codec tables are malformed: radii and frequencies do not fit together")
        sums = np.add.reduceat(self.frequencies, self.starts[:-1])
        if np.any(self.frequencies < 1) or np.any(sums != TOTAL):
            raise InputError(f"codec tables are malformed: frequencies must be positive and sum to {TOTAL}")

    def __len__(self) -> int:
        return len(self.radii)

    def table(self, index: int) -> NDArray[np.int64]:
        """Frequencies of one table: residuals -R..R, then escape."""
        return self.frequencies[self.starts[index] : self.starts[index + 1]]

    @cached_property
    def models(self) -> list[Any]:
        """constriction models, one a table."""
        return [categorical(self.table(index)) for index in range(len(self))]

    @cached_property
    def bits(self) -> NDArray[np.float64]:
        """Ideal code length of every entry of `frequencies`."""
        return 16 - np.log2(self.frequencies)


def _geometric() -> Any:
    frequencies = np.ones(_ESCAPE_CLASSES, np.int64)
    frequencies[:15] = TOTAL >> np.arange(1, 16)
    frequencies[0] += TOTAL - frequencies.sum()
    return categorical(frequencies)


class _Models:
    """Models that do not depend on the codec, made once."""

    escape = _geometric()
    uniform: tuple[Any, ...] = tuple(_MODEL.Uniform(1 << bits) if bits else None for bits in range(_DRAW + 1))


def _draws(bits: int) -> list[tuple[int, int]]:
    """Raw values of `bits` bits are coded low part first: (shift, width) of each part."""
    return [(shift, min(_DRAW, bits - shift)) for shift in range(0, bits, _DRAW)]


def bit_length(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bits of each non-negative integer below 2^52; 0 for 0."""
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)


class Writer:
    """ANS stack: what is pushed last is read first. Parts are pushed in reverse of the reading order."""

    def __init__(self) -> None:
        self._coder = constriction.stream.stack.AnsCoder()

    def push(self, symbols: NDArray[np.int32], model: Any) -> None:
        self._coder.encode_reverse(symbols, model)

    def push_raw(self, values: NDArray[np.int64], bits: int) -> None:
        for shift, width in reversed(_draws(bits)):
            self.push(((values >> shift) & ((1 << width) - 1)).astype(np.int32), _Models.uniform[width])

    def push_escapes(self, values: NDArray[np.int64]) -> None:
        """Non-negative integers below 2^39 in Exp-Golomb form: all bit lengths first, then the bits by length."""
        code = values + 1
        lengths = bit_length(code) - 1
        for length in np.unique(lengths)[::-1]:
            chosen = code[lengths == length]
            self.push_raw(chosen - (1 << int(length)), int(length))
        self.push(lengths.astype(np.int32), _Models.escape)

    @property
    def words_below(self) -> int:
        """Words that a reader who stops at this point of the stack does not need."""
        return max(self._coder.num_words() - 2, 0)

    def finish(self) -> NDArray[np.uint32]:
        """Words in reading order."""
        return self._coder.get_compressed()[::-1]


class Reader:
    """Reads a stream of 32-bit words in reading order, as `Writer.finish` gives them."""

    def __init__(self, words: NDArray[np.uint32]) -> None:
        if len(words) and words[0] == 0:
            raise CorruptError("code stream is damaged: it starts with a zero word")
        self._coder = constriction.stream.stack.AnsCoder(np.ascontiguousarray(words[::-1], dtype=np.uint32))

    def pull(self, count: int, model: Any) -> NDArray[np.int32]:
        return self._coder.decode(model, count)

    def pull_raw(self, count: int, bits: int) -> NDArray[np.int64]:
        values = np.zeros(count, np.int64)
        for shift, width in _draws(bits):
            values |= self.pull(count, _Models.uniform[width]).astype(np.int64) << shift
        return values

    def pull_escapes(self, count: int) -> NDArray[np.int64]:
        lengths = self.pull(count, _Models.escape)
        code = np.zeros(count, np.int64)
        for length in np.unique(lengths):
            chosen = np.flatnonzero(lengths == length)
            code[chosen] = (1 << int(length)) + self.pull_raw(len(chosen), int(length))
        return code - 1

    def check_finished(self) -> None:
        """Raise `CorruptError` unless every word was used and the coder is back in its first state."""
        if not self._coder.is_empty():
            raise CorruptError("code stream is damaged: words are left over after the last symbol")
