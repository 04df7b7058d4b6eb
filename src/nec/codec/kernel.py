"""The ANS coder of docs/format.md, sections 2 and 5, compiled by numba (extra `[fast]`): bytes as the plain path's.

Only `nec.codec.fast` imports this module, and only where numba is installed. A coder is an int64 count of words and a
uint64 state that the functions take and give back; tables are flat arrays over the entries of all tables of a bank.
All functions release the GIL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

BUCKET_BITS = 8
"""A table's quantiles are found from their top 8 bits: where the search through its entries starts."""
ESCAPE_CLASSES = 40
MAX_ESCAPE = 1 << 30
ESCAPE_TOO_LARGE = -1

Words = NDArray[np.uint32]
Ints = NDArray[Any]
State = Any  # np.uint64

_PRECISION, _WORD = np.uint64(24), np.uint64(32)
_MASK, _LOW = np.uint64((1 << 24) - 1), np.uint64((1 << 32) - 1)
_FULL, _REFILL = np.uint64(40), np.uint64(1 << 32)
_BUCKET_SHIFT = np.uint64(24 - BUCKET_BITS)
FINE_BITS = 11
"""The same for the values of one table in a block, where they are more than such buckets."""
_FINE_SHIFT = np.uint64(24 - FINE_BITS)
_DOMINANT = np.uint64(5 << 21)
"""Frequency from which on the most frequent entry is tried first: 5/8."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """njit without the GIL, kept on disk where a folder for that can be written."""
    try:
        return njit(function, nogil=True, error_model="numpy", cache=True)
    except RuntimeError:  # numba finds no folder it may write to
        return njit(function, nogil=True, error_model="numpy")


# ---- one symbol


@compiled
def _push(words: Words, count: int, state: State, frequency: int, start: int) -> tuple[int, State]:
    f = np.uint64(frequency)
    if (state >> _FULL) >= f:
        words[count] = state & _LOW
        count += 1
        state >>= _WORD
    quotient = state // f
    return count, (quotient << _PRECISION) + (np.uint64(start) + state - quotient * f)


@compiled
def _refill(words: Words, count: int, state: State) -> tuple[int, State]:
    if state < _REFILL and count < len(words):
        state = (state << _WORD) | np.uint64(words[count])
        count += 1
    return count, state


# ---- raw bits


@compiled
def _push_raw(words: Words, count: int, state: State, values: Ints, bits: int) -> tuple[int, State]:
    for shift in range((bits - 1) // 16 * 16, -1, -16):
        width = min(16, bits - shift)
        frequency, mask = 1 << (24 - width), (1 << width) - 1
        for i in range(len(values) - 1, -1, -1):
            part = (values[i] >> shift) & mask
            count, state = _push(words, count, state, frequency, part << (24 - width))
    return count, state


@compiled
def _pull_raw(words: Words, count: int, state: State, values: Ints, bits: int) -> tuple[int, State]:
    values[:] = 0
    for shift in range(0, bits, 16):
        width = min(16, bits - shift)
        left = np.uint64(24 - width)
        rest = np.uint64((1 << (24 - width)) - 1)
        for i in range(len(values)):
            quantile = state & _MASK
            values[i] |= np.int64(quantile >> left) << shift
            state = ((state >> _PRECISION) << left) + (quantile & rest)
            count, state = _refill(words, count, state)
    return count, state


# ---- escapes


@compiled
def _bit_length(value: int) -> int:
    length = 0
    while value > 0:
        value >>= 1
        length += 1
    return length


@compiled
def _push_escapes(words: Words, count: int, state: State, code: Ints, tables: tuple[Words, Words]) -> tuple[int, State]:
    """`code` >= 1; tables are the frequencies and starts of the bit lengths."""
    frequency, start = tables
    lengths = np.empty(len(code), np.int64)
    for i in range(len(code)):
        lengths[i] = _bit_length(code[i]) - 1
    for length in range(ESCAPE_CLASSES - 1, 0, -1):
        chosen = code[lengths == length]
        if len(chosen):
            count, state = _push_raw(words, count, state, chosen - (1 << length), length)
    for i in range(len(code) - 1, -1, -1):
        count, state = _push(words, count, state, frequency[lengths[i]], start[lengths[i]])
    return count, state


@compiled
def _pull_escapes(words: Words, count: int, state: State, code: Ints, tables: tuple[Words, Words]) -> tuple[int, State]:
    frequency, start = tables
    lengths = np.empty(len(code), np.int64)
    for i in range(len(code)):
        quantile, entry = state & _MASK, 0
        while np.uint64(start[entry + 1]) <= quantile:
            entry += 1
        state = np.uint64(frequency[entry]) * (state >> _PRECISION) + quantile - np.uint64(start[entry])
        count, state = _refill(words, count, state)
        lengths[i] = entry
    for length in range(ESCAPE_CLASSES):
        chosen = np.flatnonzero(lengths == length)
        if len(chosen):
            low = np.empty(len(chosen), np.int64)
            count, state = _pull_raw(words, count, state, low, length)
            for j in range(len(chosen)):
                code[chosen[j]] = (1 << length) + low[j]
    return count, state


# ---- residuals with raw low bits


@compiled
def _split(residual: Ints, shift: Ints) -> tuple[Ints, Ints]:
    high, low = np.empty(len(residual), np.int64), np.empty(len(residual), np.int64)
    for i in range(len(residual)):
        half = (1 << shift[i]) >> 1
        high[i] = (residual[i] + half) >> shift[i]
        low[i] = residual[i] + half - (high[i] << shift[i])
    return high, low


@compiled
def _push_low(words: Words, count: int, state: State, low: Ints, shift: Ints) -> tuple[int, State]:
    for bits in range(shift.max(), 0, -1):
        chosen = low[shift == bits]
        if len(chosen):
            count, state = _push_raw(words, count, state, chosen, bits)
    return count, state


@compiled
def _pull_low(words: Words, count: int, state: State, residual: Ints, shift: Ints) -> tuple[int, State]:
    """Low bits below the high parts in `residual`, in place."""
    for bits in range(1, shift.max() + 1):
        chosen = np.flatnonzero(shift == bits)
        if len(chosen):
            low = np.empty(len(chosen), np.int64)
            count, state = _pull_raw(words, count, state, low, bits)
            for j in range(len(chosen)):
                place = chosen[j]
                residual[place] = (residual[place] << bits) + low[j] - (1 << (bits - 1))
    return count, state


# ---- blocks


@compiled
def _ends_by_table(table: Ints, tables: int) -> Ints:
    """Where each table's run ends once values are sorted by table."""
    ends = np.zeros(tables + 1, np.int64)
    for i in range(len(table)):
        ends[table[i] + 1] += 1
    return np.cumsum(ends)


@compiled
def _push_values(
    words: Words, count: int, state: State, bank: Any, escapes: Any, table: Ints, residual: Ints
) -> tuple[int, State]:
    first, radii, frequency, start, _, _ = bank
    place = _ends_by_table(table, len(radii))
    entries = np.empty(len(table), np.int32)
    excess = np.empty(len(table), np.int64)  # of escaped values at their places in order, else -1
    escaped = 0
    for i in range(len(table)):
        t, value = table[i], residual[i]
        radius = radii[t]
        entry = value + radius
        size = abs(value)
        if size > radius:
            escaped += 1
            entry = 2 * radius + 1
            excess[place[t]] = 2 * (np.int64(size) - radius - 1) + (1 if value < 0 else 0)
        entries[place[t]] = first[t] + entry
        place[t] += 1
    if escaped:
        code, found = np.empty(escaped, np.int64), 0
        for t in range(len(radii)):
            for i in range(place[t - 1] if t else 0, place[t]):
                if entries[i] == first[t] + 2 * radii[t] + 1:
                    code[found] = excess[i] + 1
                    found += 1
        count, state = _push_escapes(words, count, state, code, escapes)
    for i in range(len(entries) - 1, -1, -1):
        entry = entries[i]
        count, state = _push(words, count, state, frequency[entry], start[entry])
    return count, state


@compiled
def push_block(
    words: Words, count: int, state: State, bank: Any, escapes: Any, table: Ints, shift: Ints, residual: Ints
) -> tuple[int, State]:
    """Push a block's residuals, each under its table; `words` must have room. Returns the count and the state.

    `bank` is `fast.Lookup.arrays`; `shift`, the raw low bits of each residual, is empty where there are none.
    """
    if len(shift):
        high, low = _split(residual, shift)
        count, state = _push_low(words, count, state, low, shift)
        return _push_values(words, count, state, bank, escapes, table, high)
    return _push_values(words, count, state, bank, escapes, table, residual)


@compiled
def _order_by_table(table: Ints, ends: Ints) -> Ints:
    place, order = ends[:-1].copy(), np.empty(len(table), np.int32)
    for i in range(len(table)):
        t = table[i]
        order[place[t]] = i
        place[t] += 1
    return order


@compiled
def _refine(start: Words, first: int, buckets: Ints) -> None:
    """Where a table's search begins for a quantile's upper `FINE_BITS`, counted from its first entry."""
    entry = 0
    for i in range(len(buckets)):
        edge = np.uint64(i) << _FINE_SHIFT
        while np.uint64(start[first + entry + 1]) <= edge:
            entry += 1
        buckets[i] = entry


@compiled
def _pull_run(
    words: Words, count: int, state: State, bank: Any, table: int, order: Ints, residual: Ints, escaped: Ints,
    found: int, finer: Ints,
) -> tuple[int, State, int]:  # fmt: skip
    """One table's values, to their places; places of escapes go to `escaped`, which holds `found` already."""
    first, radii, frequency, start, bucket, likely = bank
    begin, guess = first[table], np.int64(likely[table])
    zero = begin + np.int64(radii[table])
    last = zero + np.int64(radii[table])
    f, c = np.uint64(frequency[guess]), np.uint64(start[guess])
    buckets, shift = bucket[table << BUCKET_BITS : (table + 1) << BUCKET_BITS], _BUCKET_SHIFT
    if len(order) > len(finer) and f < _DOMINANT:
        _refine(start, begin, finer)
        buckets, shift, f = finer, _FINE_SHIFT, np.uint64(0)  # no value is tried first
    for i in range(len(order)):
        quantile, entry = state & _MASK, guess
        if quantile - c < f:
            state = f * (state >> _PRECISION) + (quantile - c)
        else:
            entry = begin + np.int64(buckets[np.int64(quantile >> shift)])
            while np.uint64(start[entry + 1]) <= quantile:
                entry += 1
            state = np.uint64(frequency[entry]) * (state >> _PRECISION) + (quantile - np.uint64(start[entry]))
            if entry > last:
                escaped[found] = order[i]
                found += 1
        residual[order[i]] = entry - zero
        if state < _REFILL and count < len(words):
            state = (state << _WORD) | np.uint64(words[count])
            count += 1
    return count, state, found


@compiled
def pull_block(
    words: Words, count: int, state: State, bank: Any, escapes: Any, table: Ints, shift: Ints, residual: Ints
) -> tuple[int, State]:
    """Inverse of `push_block`, into `residual`. The count is `ESCAPE_TOO_LARGE` where the stream cannot be right."""
    radii = bank[1]
    ends = _ends_by_table(table, len(radii))
    order = _order_by_table(table, ends)
    escaped, found = np.empty(len(order), np.int32), 0
    finer = np.empty(1 << FINE_BITS, np.uint16)
    for t in range(len(radii)):
        run = order[ends[t] : ends[t + 1]]
        if len(run):
            count, state, found = _pull_run(words, count, state, bank, t, run, residual, escaped, found, finer)
    if found:
        code = np.empty(found, np.int64)
        count, state = _pull_escapes(words, count, state, code, escapes)
        if code.max() > MAX_ESCAPE:
            return ESCAPE_TOO_LARGE, state
        for i in range(found):
            excess = code[i] - 1
            size = (excess >> 1) + radii[table[escaped[i]]] + 1
            residual[escaped[i]] = -size if excess & 1 else size
    if len(shift):
        count, state = _pull_low(words, count, state, residual, shift)
    return count, state
