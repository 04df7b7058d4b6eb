"""Integer frequency tables, and how blocks of residuals under them are pushed to and pulled from an ANS stream.

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
Ints = NDArray[np.integer]
_MODEL = constriction.stream.model
_MAX_ESCAPE = 1 << 30
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


def _geometric() -> NDArray[np.int64]:
    frequencies = np.ones(40, np.int64)
    frequencies[:15] = TOTAL >> np.arange(1, 16)
    frequencies[0] += TOTAL - frequencies.sum()
    return frequencies


ESCAPE_FREQUENCIES = _geometric()
"""Of the bit lengths 0..39 of escaped residuals."""


class _Models:
    """Models that do not depend on the codec, made once."""

    escape = categorical(ESCAPE_FREQUENCIES)
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

    def push_block(
        self, bank: Bank, table: NDArray[np.integer], residual: Ints, shift: NDArray[np.int32] | None = None
    ) -> None:
        """Push residuals, each under its table of the bank, in the order of docs/format.md, sections 3 and 5.

        Arrays of one shape, in C order; `shift` counts the raw low bits of each residual, None where there are none.
        """
        if shift is not None:
            residual, low = _split(residual, shift)
            for bits in _descending(shift):
                self._push_raw(low[shift == bits].astype(np.int64), bits)
        order, used, counts = _grouped(table.reshape(-1))
        values = residual.reshape(-1)[order].astype(np.int32)
        radius = np.repeat(bank.radii[used], counts)
        size = np.abs(values)
        escaped = size > radius
        if escaped.any():
            at = np.flatnonzero(escaped)
            excess = size[at].astype(np.int64) - radius[at] - 1
            self._push_escapes(2 * excess + (values[at] < 0))
        coded = np.where(escaped, 2 * radius + 1, values + radius)
        stop = len(coded)
        for index, count in zip(used[::-1].tolist(), counts[::-1].tolist(), strict=True):
            self._push(coded[stop - count : stop], bank.models[index])
            stop -= count

    def _push(self, symbols: NDArray[np.int32], model: Any) -> None:
        self._coder.encode_reverse(symbols, model)

    def _push_raw(self, values: NDArray[np.int64], bits: int) -> None:
        for shift, width in reversed(_draws(bits)):
            self._push(((values >> shift) & ((1 << width) - 1)).astype(np.int32), _Models.uniform[width])

    def _push_escapes(self, values: NDArray[np.int64]) -> None:
        """Non-negative integers below 2^39 in Exp-Golomb form: all bit lengths first, then the bits by length."""
        code = values + 1
        lengths = bit_length(code) - 1
        for length in np.unique(lengths)[::-1]:
            chosen = code[lengths == length]
            self._push_raw(chosen - (1 << int(length)), int(length))
        self._push(lengths.astype(np.int32), _Models.escape)

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
        check_first_word(words)
        self._coder = constriction.stream.stack.AnsCoder(np.ascontiguousarray(words[::-1], dtype=np.uint32))

    def pull_block(self, bank: Bank, table: NDArray[np.integer], shift: NDArray[np.int32] | None = None) -> Ints:
        """Inverse of `push_block`: residuals of the shape of `table`, int64 with `shift`, else int32."""
        order, used, counts = _grouped(table.reshape(-1))
        models = bank.models
        parts = [self._pull(count, models[i]) for i, count in zip(used.tolist(), counts.tolist(), strict=True)]
        coded = np.concatenate(parts) if parts else np.zeros(0, np.int32)
        radius = np.repeat(bank.radii[used], counts)
        values = coded - radius
        at = np.flatnonzero(values > radius)
        if len(at):
            code = self._pull_escapes(len(at))
            if code.max() >= _MAX_ESCAPE:
                raise bad_escape()
            size = (code >> 1) + radius[at] + 1
            values[at] = np.where(code & 1, -size, size)
        residual = np.empty_like(values)
        residual[order] = values
        residual = residual.reshape(table.shape)
        if shift is not None:
            residual = residual.astype(np.int64) << shift
            for bits in reversed(_descending(shift)):
                chosen = shift == bits
                residual[chosen] += self._pull_raw(int(chosen.sum()), bits) - (1 << bits - 1)
        return residual

    def _pull(self, count: int, model: Any) -> NDArray[np.int32]:
        return self._coder.decode(model, count)

    def _pull_raw(self, count: int, bits: int) -> NDArray[np.int64]:
        values = np.zeros(count, np.int64)
        for shift, width in _draws(bits):
            values |= self._pull(count, _Models.uniform[width]).astype(np.int64) << shift
        return values

    def _pull_escapes(self, count: int) -> NDArray[np.int64]:
        lengths = self._pull(count, _Models.escape)
        code = np.zeros(count, np.int64)
        for length in np.unique(lengths):
            chosen = np.flatnonzero(lengths == length)
            code[chosen] = (1 << int(length)) + self._pull_raw(len(chosen), int(length))
        return code - 1

    def check_finished(self) -> None:
        """Raise `CorruptError` unless every word was used and the coder is back in its first state."""
        if not self._coder.is_empty():
            raise left_over()


def check_first_word(words: NDArray[np.uint32]) -> None:
    """Raise `CorruptError` where a stream starts with a zero word, which no coder writes."""
    if len(words) and words[0] == 0:
        raise CorruptError("code stream is damaged: it starts with a zero word")


def bad_escape() -> CorruptError:
    """The error for a stream whose escaped residual passes 2^29."""
    return CorruptError("code stream is damaged: an escaped symbol is out of range")


def left_over() -> CorruptError:
    """The error for a stream that does not end after its last symbol."""
    return CorruptError("code stream is damaged: words are left over after the last symbol")


def _grouped(table: NDArray[np.integer]) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Stable order by table, the tables in use, and how many symbols each has."""
    counts = np.bincount(table)
    used = np.flatnonzero(counts)
    return np.argsort(table, kind="stable"), used, counts[used]


def _split(residual: Ints, shift: NDArray[np.int32]) -> tuple[Ints, Ints]:
    """High part, rounded to nearest, and low part 0 <= low < 2^shift of a residual."""
    shift = shift.astype(np.int64)  # NumPy 1 computes a scalar and an array in the array's type
    half = (np.int64(1) << shift) >> 1
    high = (residual.astype(np.int64) + half) >> shift
    return high, residual + half - (high << shift)


def _descending(shift: NDArray[np.int32]) -> list[int]:
    return [bits for bits in np.unique(shift)[::-1].tolist() if bits > 0]
