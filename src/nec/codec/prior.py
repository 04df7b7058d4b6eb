"""The prior: from symbols already known to a frequency table for each symbol, in integers only.

For a token of wave class w and a channel c, with N and F the means of its nearest and farther known neighbours:

    prediction  P = wn[w, c] N + wf[w, c] F                           (split into an integer and a fraction)
    magnitude   M = b0[w, c] + an[w, c] |N| + af[w, c] |F| + ap[w, c] |P|    (means of absolute values for |N| and |F|)

M, the expected absolute residual, chooses the scale of the table on a logarithmic grid, the fraction of P its offset
(mirrored, so that only fractions from 0 to 1/2 need tables). A root wave has no neighbours: M = b0, P = 0. The
factorised prior codes all tokens as one root wave.

Coefficients of a pyramid are symmetric and hardly predictable, their magnitudes are: there P = 0, and

    M = b0[w, c] + a1[w, c] F1 + a2[w, c] F2 + a3[w, c] F3 + a4[w, c] F4

with the sums F of known relatives' magnitudes that `nec.codec.pyramid.Relatives` gives.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.codec import coder, pyramid
from nec.codec.pyramid import Relatives
from nec.codec.tables import ESCAPE_FREQUENCIES, Bank, Reader, Writer, bad_escape, check_first_word, left_over
from nec.codec.waves import CLASSES, KINDS, Neighbours, Wave, resolutions_of
from nec.errors import CorruptError

UNIT_BITS = 14
"""Magnitudes M are in units of 2^-14 symbols."""
PREDICTION_BITS = 13
"""Predictions P are in units of 2^-13 symbols."""
MAX_CENTROID = 115
"""Bound of centroids, in 1/256 of a step: a decoded value stays well inside its symbol's cell."""
WEIGHTS = ("wn", "wf", "an", "af", "ap")
PYRAMID_WEIGHTS = ("a1", "a2", "a3", "a4")
DEAD_ZONE = 0.13
"""Squared error, in squared steps, that an encoder trades for a bit: about d(error)/d(rate) of coarse quantisers."""
_LARGEST_THRESHOLD = 0.9
_MANTISSAS = np.array([256, 279, 304, 332, 362, 395, 431, 470], np.int64)
_BLOCK_VALUES = 1 << 20
_NARROW_BITS, _NARROW_MAGNITUDE = {False: 13, True: 12}, 1 << 29  # of symbols without and with a pyramid, of b0

Ints = NDArray[np.integer]


def exp2_eighths(value: Ints) -> NDArray[np.int64]:
    """2^(value / 8) in integers: mantissas of 8 bits, rounded down; values are clipped to 0..8 * 44."""
    value = np.clip(np.asarray(value, np.int64), 0, 8 * 44)
    return (_MANTISSAS[value & 7] << (value >> 3)) >> 8


def scale_index(magnitude: Ints) -> NDArray[np.int32]:
    """4 floor(log2 M) + the two bits after the leading one, for 1 <= M < 2^52 (below 2^31 for int32)."""
    if magnitude.dtype == np.int32:
        exact = magnitude & ~(magnitude >> 24)  # the bit that would round up is 0 then
        return (exact.astype(np.float32).view(np.int32) >> 21) - (127 << 2)
    return ((magnitude.astype(np.float64).view(np.int64) >> 50) - (1023 << 2)).astype(np.int32)


@dataclass(frozen=True)
class Scales:
    """How magnitudes and fractions choose a table.

    Scale indices start at `low`. The first `split` of them have `offsets` tables each, the other `wide` one each;
    above them the residual's low bits are coded raw. `offset_of[|fraction| >> 6]` is the offset bin of a fraction.
    """

    low: int
    split: int
    wide: int
    offset_of: NDArray[np.uint8]

    @property
    def offsets(self) -> int:
        return int(self.offset_of.max()) + 1

    @property
    def tables(self) -> int:
        return self.split * self.offsets + self.wide


@dataclass(frozen=True)
class Parameters:
    """Fitted integers at anchor levels; between them they are interpolated.

    `base` (anchors, classes, channels) int16: log2 of b0 in eighths of an octave, less the level.
    `weights` (5, anchors, classes, channels): wn, wf in 1/128 (-128..127), an, af, ap in 1/256 (0..255); of a pyramid
    (4, ...): a1 to a4 in 1/256 (0..255).
    """

    first_level: int
    spacing: int
    base: NDArray[np.int16]
    weights: NDArray[np.int16]

    def at(self, level: int) -> LevelParameters:
        """Parameters of one quality level."""
        anchors = self.base.shape[0]
        place = min(max(level - self.first_level, 0), self.spacing * (anchors - 1))
        index, part = divmod(place, self.spacing)
        above = min(index + 1, anchors - 1)

        def blend(values: Ints, axis: int) -> NDArray[np.int64]:
            low, high = (np.take(values, i, axis).astype(np.int64) for i in (index, above))
            return ((self.spacing - part) * low + part * high + self.spacing // 2) // self.spacing

        return LevelParameters(exp2_eighths(blend(self.base, 0) + level), blend(self.weights, 1))


@dataclass(frozen=True)
class LevelParameters:
    """`b0` (classes, channels) in units of M and `weights` (5 or 4, classes, channels), for one level."""

    b0: NDArray[np.int64]
    weights: NDArray[np.int64]


@dataclass(frozen=True)
class Context:
    """What the prior says of a block of symbols: `base` + `mirror` * residual, the residual under `table`.

    `base` and `mirror` (1 or -1) are None in root waves, where the residual is the symbol. `shift` counts the
    residual's raw low bits, None where there are none.
    """

    base: Ints | None
    mirror: NDArray[np.int8] | None
    table: NDArray[np.uint16]
    shift: NDArray[np.int32] | None

    def fold(self, symbols: Ints) -> Ints:
        """Mirrored residuals of symbols."""
        if self.base is None or self.mirror is None:
            return symbols
        return (symbols - self.base) * self.mirror

    def unfold(self, residual: Ints) -> Ints:
        """Inverse of `fold`."""
        if self.base is None or self.mirror is None:
            return residual
        return residual * self.mirror + self.base


@dataclass(frozen=True)
class Step:
    """What is coded at once: a wave of some images, up to channel `live`; `resolution` counts, coarse first."""

    wave: Wave
    images: slice
    live: int
    resolution: int

    @property
    def tokens(self) -> tuple[slice, slice, slice, slice]:
        """Where it lies in a grid (y, x, n, k)."""
        wave = self.wave
        return slice(wave.row, None, wave.step), slice(wave.column, None, wave.step), self.images, slice(self.live)

    @property
    def numbers(self) -> tuple[int, ...]:
        """For the kernel."""
        wave, band = self.wave, pyramid.ORDER.index(self.wave.kind) if self.wave.kind in pyramid.ORDER else 0
        where = wave.row, wave.column, wave.step, wave.parameter_class
        return KINDS.index(wave.kind), band, *where, self.images.start, self.images.stop, self.live, self.resolution


@dataclass(frozen=True)
class Kept:
    """Contexts of a pyramid's symbols, taken while they were quantised: (y, x, n, k) tables and raw low bits."""

    tables: NDArray[np.uint16]
    shifts: NDArray[np.uint8]

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Kept:
        return cls(np.empty(shape, np.uint16), np.zeros(shape, np.uint8))

    def at(self, step: Step) -> Context:
        shifts = self.shifts[step.tokens]
        return Context(None, None, self.tables[step.tokens], shifts.astype(np.int32) if shifts.any() else None)


class Prior:
    """Codes integer symbols (y, x, n, k) with contexts; thread-safe, all state is immutable."""

    def __init__(
        self,
        hierarchical: bool,
        parameters: Parameters,
        scales: Scales,
        bank: Bank,
        centroids: NDArray[np.int8],
        spatial: bool = False,
    ) -> None:
        self.hierarchical, self.parameters, self.scales, self.bank = hierarchical, parameters, scales, bank
        self.spatial = spatial
        """Whether the symbols are a pyramid's coefficients in place."""
        self.centroids = centroids
        """(tables, 5): mean place of values within a cell in 1/256, for residuals <= -2, -1, 0, 1, >= 2."""
        self._table_of = self._make_table_of()
        self._at = lru_cache(maxsize=8)(parameters.at)

    def _make_table_of(self) -> NDArray[np.uint16]:
        scales, rows = self.scales, []
        for index in range(scales.split + scales.wide):
            first = index * scales.offsets if index < scales.split else scales.split * (scales.offsets - 1) + index
            rows.append(first + np.arange(scales.offsets) * (index < scales.split))
        return np.array(rows, np.uint16).reshape(-1)

    def resolutions(self, rows: int, columns: int) -> list[list[Wave]]:
        """Waves in coding order, one list a resolution."""
        if self.spatial:
            return resolutions_of(rows, columns, order=pyramid.ORDER)
        return resolutions_of(rows, columns, self.hierarchical)

    def live(self, active: NDArray[np.bool_]) -> tuple[int, ...]:
        """Channels of each resolution that are coded: up to the last one with a symbol (y, x, k) that is not 0.

        Those of a pyramid grow towards coarse resolutions; where symbols are tokens all code the same channels.
        """
        rows, columns, channels = active.shape
        after = np.where(active, np.arange(1, channels + 1), 0).max(axis=2, initial=0)
        found = [
            max((int(after[w.row :: w.step, w.column :: w.step].max()) for w in waves), default=0)
            for waves in self.resolutions(rows, columns)
        ]
        return tuple(found) if self.spatial else (max(found, default=0),) * len(found)

    def relatives(self, wave: Wave, rows: int, columns: int) -> Neighbours | Relatives:
        """What of a grid is known when a wave is coded."""
        return (Relatives if self.spatial else Neighbours)(wave, rows, columns)

    # ---- contexts

    def context(self, wave: Wave, grid: Ints, relatives: Neighbours | Relatives, level: int) -> Context:
        """Context of `wave`'s tokens for the images and channels in `grid` (y, x, n, k), int32 or int64.

        int32 serves where |symbol| < 2^13 (of a pyramid 2^12) and every b0 <= 2^29: all sums then stay below 2^31.
        """
        at = self._at(level)
        kind, channels = wave.parameter_class, grid.shape[3]
        b0 = at.b0[kind, :channels].astype(grid.dtype)
        if wave.kind == "root":
            shape = (*wave.shape(*grid.shape[:2]), grid.shape[2], channels)
            table, shift = self._tables(b0, self.scales.offset_of[:1])
            shift = None if shift is None else np.broadcast_to(shift, shape)
            return Context(None, None, np.broadcast_to(table, shape), shift)
        if isinstance(relatives, Relatives):
            magnitude = self._expected(at.weights[:, kind, :channels].astype(grid.dtype), relatives, np.abs(grid))
            magnitude += b0
            table, shift = self._tables(magnitude, self.scales.offset_of[:1])
            return Context(None, None, table, shift)
        wn, wf, an, af, ap = at.weights[:, kind, :channels].astype(grid.dtype)
        prediction = wn * relatives.near_mean(grid)
        prediction += wf * relatives.far_mean(grid)
        sizes = np.abs(grid)
        magnitude = an * relatives.near_mean(sizes)
        magnitude += af * relatives.far_mean(sizes)
        magnitude += ap * (np.abs(prediction) >> 7)
        magnitude += b0
        base = (prediction + (1 << PREDICTION_BITS - 1)) >> PREDICTION_BITS
        fraction = prediction - (base << PREDICTION_BITS)
        table, shift = self._tables(magnitude, self.scales.offset_of[np.abs(fraction) >> 6])
        return Context(base, (fraction >= 0).astype(np.int8) * 2 - 1, table, shift)

    @staticmethod
    def _expected(weights: Ints, relatives: Relatives, sizes: Ints) -> NDArray[Any]:
        features = relatives.features(sizes)
        total = weights[0] * features[0]
        for weight, feature in zip(weights[1:], features[1:], strict=True):
            total += weight * feature
        return total

    def _context_of(self, step: Step, grid: Ints, level: int, kind: type[np.integer]) -> Context:
        """`context` of a step's images and channels, computed in the integers `kind`, see `_arithmetic`."""
        some = grid[:, :, step.images, : step.live].astype(kind, copy=False)
        return self.context(step.wave, some, self.relatives(step.wave, *grid.shape[:2]), level)

    def _tables(
        self, magnitude: Ints, offset: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint16], NDArray[np.int32] | None]:
        index = scale_index(np.maximum(magnitude, 1)) - self.scales.low
        np.maximum(index, 0, out=index)
        top = self.scales.split + self.scales.wide - 1
        shift = None
        if index.max(initial=0) > top:
            shift = np.maximum((index - top + 3) >> 2, 0)
            index -= 4 * shift
        index *= self.scales.offsets
        index += offset
        return self._table_of[index], shift

    def _arithmetic(self, level: int, width: int) -> type[np.integer]:
        """The integers that contexts of symbols below 2^width are computed in."""
        narrow = width <= _NARROW_BITS[self.spatial] and self._at(level).b0.max(initial=0) <= _NARROW_MAGNITUDE
        return np.int32 if narrow else np.int64

    # ---- coding

    @cached_property
    def _model(self) -> Any:
        """The tables for the kernel."""
        scales, bank = self.scales, self.bank
        numbers = np.array([scales.low, scales.split, scales.wide, self.spatial], np.int64)
        radii, centroids = bank.radii.astype(np.int64), np.ascontiguousarray(self.centroids)
        return coder.KERNEL.Model(numbers, scales.offset_of, radii, bank.frequencies, centroids, ESCAPE_FREQUENCIES)

    def _plan(self, steps: list[Step], level: int, width: int) -> tuple[Any, ...]:
        """What the kernel takes of steps and a level."""
        at, numbers = self._at(level), np.array([step.numbers for step in steps], np.int64)
        return numbers.reshape(-1, 10), at.b0, at.weights, self._arithmetic(level, width) is np.int32

    def _blocks(self, shape: tuple[int, ...]) -> list[slice]:
        """Images of a grid (y, x, n, k) that are coded together, so that memory stays bounded; part of the format."""
        y, x, n, k = shape
        size = max(1, _BLOCK_VALUES // max(y * x * k, 1))
        return [slice(start, min(start + size, n)) for start in range(0, n, size)]

    def encode(
        self, symbols: NDArray[np.integer], level: int, width: int, live: tuple[int, ...], kept: Kept | None = None
    ) -> tuple[bytes, list[int]]:
        """Words in reading order, as bytes, and the words that each resolution adds.

        `symbols` (y, x, n, k), |s| < 2^width, are zero from channel `live` of their resolution on. Contexts that
        `quantise` kept are not taken again.
        """
        grid = symbols.astype(np.int32, order="C", copy=False)
        steps = self._steps((*grid.shape[:3], max(live)), live)
        if coder.KERNEL is not None:
            pair = None if kept is None else (kept.tables, kept.shifts)
            code, below = self._model.encode(self._plan(steps, level, width), grid, len(live), pair)
        else:
            kind, writer, below = self._arithmetic(level, width), Writer(), [0] * len(live)
            for number in reversed(range(len(live))):
                below[number] = writer.words_below
                for step in reversed([step for step in steps if step.resolution == number]):
                    context = self._context_of(step, grid, level, kind) if kept is None else kept.at(step)
                    writer.push_block(self.bank, context.table, context.fold(grid[step.tokens]), context.shift)
            code = writer.finish().astype("<u4").tobytes()
        ends = [len(code) // 4 - count for count in below]
        return code, np.diff(ends, prepend=0).tolist()

    def decode(
        self,
        words: NDArray[np.uint32],
        shape: tuple[int, int, int, int],
        level: int,
        width: int,
        live: tuple[int, ...],
        centred: bool,
        spacing: int = 1,
        channels: int | None = None,
    ) -> tuple[NDArray[np.int32], NDArray[np.int8] | None]:
        """Symbols (y, x, n, k) from all the words of a stream, and if `centred` each one's centroid in 1/256.

        They are of `shape`, or have `channels` channels, the last ones 0. At a `spacing` above 1, only those at its
        multiples, from the words which their resolutions add. Raises `CorruptError` if the stream does not end right.
        """
        check_first_word(words)
        lattice = -(-shape[0] // spacing), -(-shape[1] // spacing), shape[2], channels or shape[3]
        grid = np.zeros(lattice, np.int32)
        centroid = np.zeros(lattice, np.int8) if centred else None
        steps = self._steps(shape, live, spacing)
        if coder.KERNEL is not None:
            plan = self._plan(steps, level, width)
            wrong = self._model.decode(words, plan, grid, centroid, width, spacing == 1)
            if wrong:
                raise (bad_escape, _bad_width, left_over)[wrong - 1]()
            return grid, centroid
        reader, kind = Reader(words), self._arithmetic(level, width)
        for step in steps:
            context = self._context_of(step, grid, level, kind)
            residual = reader.pull_block(self.bank, context.table, context.shift)
            if centroid is not None:
                centroid[step.tokens] = self._centroids(context, residual)
            symbols = context.unfold(residual)
            if symbols.max() >> width > 0 or symbols.min() <= -(1 << width):
                raise _bad_width()
            grid[step.tokens] = symbols
        if spacing == 1:
            reader.check_finished()
        return grid, centroid

    def _centroids(self, context: Context, residual: Ints) -> NDArray[np.int8]:
        row = context.table.astype(np.int32)
        row *= 5
        row += np.clip(residual, -2, 2).astype(np.int32)
        row += 2
        inside = self.centroids.reshape(-1)[row]
        return inside if context.mirror is None else inside * context.mirror

    def _steps(self, shape: tuple[int, ...], live: tuple[int, ...], spacing: int = 1) -> list[Step]:
        """What of a grid (y, x, n, k), or of its lattice of a spacing, is coded at once, in coding order."""
        steps, blocks = [], self._blocks(shape)
        for resolution, (waves, channels) in enumerate(zip(self.resolutions(*shape[:2]), live, strict=True)):
            for wave in waves if channels else ():
                if wave.step > spacing or wave.kind == "root":
                    wave = wave if spacing == 1 else wave.within(spacing)
                    steps += [Step(wave, images, channels, resolution) for images in blocks]
        return steps

    def working_bytes(self, shape: tuple[int, int, int, int], tokens: int) -> int:
        """About the most memory that decoding (y, x, n, k) symbols takes, they included, of grids of so many tokens."""
        y, x, n, k = shape
        together = min(max(1, _BLOCK_VALUES // max(tokens * k, 1)), n) * y * x * k
        return 5 * y * x * n * k + (20 if coder.KERNEL is not None else 60) * together

    # ---- quantising

    @cached_property
    def thresholds(self) -> NDArray[np.float64]:
        """From which fraction of a step on an encoder rounds up, by table: what a larger symbol costs is counted in.

        They bind no decoder. A symbol's decoded value lies above its threshold, so that decoded batches encode to the
        same symbols; hence they depend on the centroids.
        """
        bank, found = self.bank, np.empty(len(self.bank))
        for index, radius in enumerate(bank.radii.tolist()):
            table = bank.table(index)
            cost = max(np.log2(table[radius]) - np.log2(table[radius + 1]), 0.0)
            stays = 0.95 + min(self.centroids[index, 3], -int(self.centroids[index, 1]), 0) / 256
            found[index] = np.clip(0.5 + DEAD_ZONE / 2 * cost, 0.5, max(min(stays, _LARGEST_THRESHOLD), 0.5))
        return found

    def quantise(self, scaled: NDArray[np.float64], level: int) -> tuple[NDArray[np.int32], Kept]:
        """Symbols of a pyramid's coefficients (y, x, n, k), given in steps: wave by wave, by what each will cost.

        Also the contexts in which that was found, of the channels that have a symbol other than 0.
        """
        scaled = np.ascontiguousarray(scaled, np.float64)
        grid, kept = np.zeros(scaled.shape, np.int32), Kept.empty(scaled.shape)
        sizes = np.maximum(scaled.max(axis=2, initial=0), -scaled.min(axis=2, initial=0))
        width = int(sizes.max(initial=0.0) + 1).bit_length()
        steps = self._steps(grid.shape, self.live(sizes >= self.thresholds.min()))
        if coder.KERNEL is not None:
            rise, pair = 1 - self.thresholds, (kept.tables, kept.shifts)
            self._model.quantise(self._plan(steps, level, width), scaled, grid, rise, pair)
            return grid, kept
        kind = self._arithmetic(level, width)
        for step in steps:
            context = self._context_of(step, grid, level, kind)
            kept.tables[step.tokens] = context.table
            if context.shift is not None:
                kept.shifts[step.tokens] = context.shift
            value = scaled[step.tokens]
            size = np.floor(np.abs(value) + (1 - self.thresholds[context.table]))
            grid[step.tokens] = np.copysign(size, value)
        return grid, kept


def _bad_width() -> CorruptError:
    return CorruptError("code stream is damaged: a symbol exceeds its declared width")


def weight_names(spatial: bool) -> tuple[str, ...]:
    """What the first axis of `Parameters.weights` holds."""
    return PYRAMID_WEIGHTS if spatial else WEIGHTS


def parameter_classes(hierarchical: bool) -> int:
    """Wave classes that a prior has parameters for."""
    return CLASSES if hierarchical else 1
