"""Fitting a codec's integers to sample embeddings. Floats are allowed here, and only here; integers come out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nec.codec import pyramid
from nec.codec.prior import (
    MAX_CENTROID,
    UNIT_BITS,
    Context,
    Parameters,
    Prior,
    Scales,
    parameter_classes,
    weight_names,
)
from nec.codec.tables import TOTAL, Bank, integer_table
from nec.codec.transform import Transform
from nec.codec.waves import Neighbours, Wave, resolutions_of

FIRST_LEVEL, LAST_LEVEL = -32, 16
_SPACING = {True: 8, False: 4}  # of anchors, for the hierarchical and the factorised prior
_TABLE_LEVELS = (*range(-40, 24, 6), 29, 36, 44, 52)
_TOKENS_A_CLASS = 6000
_BANK_VALUES = 1 << 22
_ITERATIONS = 20
_OFFSET_EDGES = (2, 6, 12, 20, 30, 40, 52)  # of |fraction| in 1/128: finer where the sign is nearly even
_START = (0.35, 0.15, 0.3)
_PYRAMID_START = (0.15, 0.1, 0.15, 0.05)
_DRAFT_THRESHOLD = 0.6  # of rounding up, before tables tell what symbols cost
_PULL = 2.0
_MAX_RADIUS = 400
_SLOPE_GRAIN, _WEIGHT_GRAIN, _BASE_GRAIN = 16, 8, 2  # coarser integers pack smaller; the loss is under 0.1%
_NARROW = 256  # channels: up to these many, none shares its parameters with another
_ALONE, _GROUPS_AN_OCTAVE = {False: 16, True: 96}, {False: 6, True: 16}  # in wider codecs, without and with a pyramid

Floats = NDArray[np.floating]
Groups = NDArray[np.int64] | None


def default_scales(spatial: bool = False) -> Scales:
    """Magnitudes from 2^-13 to 2^5 symbols, four scales an octave; eight offset bins below 4 symbols, or one."""
    edges = () if spatial else _OFFSET_EDGES
    offset_of = np.searchsorted(np.array(edges), np.arange(65), side="right").astype(np.uint8)
    low = 4
    split = 4 * (UNIT_BITS + 2) - low
    return Scales(low=low, split=split, wide=4 * (UNIT_BITS + 5) - low - split, offset_of=offset_of)


def fit_prior(embeddings: NDArray[np.floating], transform: Transform, hierarchical: bool, seed: int) -> Prior:
    """Fit contexts, then tables, to a sample (n, y, x, d)."""
    rng = np.random.default_rng(seed)
    coefficients = transform.project(embeddings).transpose(1, 2, 0, 3) / transform.step
    spatial = transform.gains is not None
    parameters = _fit_parameters(coefficients, hierarchical, spatial, rng)
    draft = _placeholder(hierarchical, parameters, default_scales(spatial), spatial)
    fitted = _fit_tables(coefficients, draft)
    # Tables decide how a pyramid's encoder rounds, and rounding what the tables count.
    return _fit_tables(coefficients, draft, fitted) if spatial else fitted


# ---- parameters


def _fit_parameters(coefficients: Floats, hierarchical: bool, spatial: bool, rng: np.random.Generator) -> Parameters:
    rows, columns, images, channels = coefficients.shape
    classes = parameter_classes(hierarchical)
    spacing = _SPACING[hierarchical]
    anchors = (LAST_LEVEL - FIRST_LEVEL) // spacing + 1
    base = np.zeros((anchors, classes, channels), np.int16)
    weights = np.zeros((len(weight_names(spatial)), anchors, classes, channels), np.int16)
    kinds, groups = _waves_by_class(resolutions_of(rows, columns, hierarchical)), _groups(channels, spatial)
    fit_class, round_ = (_fit_details, _draft_round) if spatial else (_fit_class, np.rint)
    start = np.repeat(np.array(_PYRAMID_START if spatial else _START, np.float32)[:, None], channels, 1)
    for kind, waves in kinds.items():
        chosen = _choose_images(waves, rows, columns, images, rng)
        sample, slopes = coefficients[:, :, chosen].astype(np.float32), start
        for anchor in reversed(range(anchors)):
            level = FIRST_LEVEL + spacing * anchor
            b0, weights[:, anchor, kind], slopes = fit_class(waves, round_(sample * 2 ** (level / 8)), slopes, groups)
            grain = _BASE_GRAIN if hierarchical else 1
            eighths = np.rint(8 / grain * np.log2(b0 * 2.0**UNIT_BITS)) * grain
            base[anchor, kind] = eighths - level
    for kind in range(classes):
        source = _stand_in(kind, kinds)
        base[:, kind], weights[:, :, kind] = base[:, source], weights[:, :, source]
    return Parameters(FIRST_LEVEL, spacing, base, weights)


def _groups(channels: int, spatial: bool) -> Groups:
    """The group of each channel, None where each is its own.

    Channels are ordered by variance, so neighbours behave alike, the more so the farther back. In a wide codec the
    first ones have parameters of their own and the others share them in groups of growing size: few enough tables
    of numbers to travel with a store.
    """
    if channels <= _NARROW:
        return None
    place = np.arange(channels)
    alone = _ALONE[spatial]
    octaves = np.log2(np.maximum(place, alone) / alone)
    return np.where(place < alone, place, alone + (octaves * _GROUPS_AN_OCTAVE[spatial]).astype(np.int64))


def _shared(sums: Floats, groups: Groups) -> Floats:
    """Means of (..., channels) over the groups of channels, given to each channel of a group."""
    if groups is None:
        return sums
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    sizes = np.diff(starts, append=len(groups))
    return np.repeat(np.add.reduceat(sums, starts, axis=-1) / sizes, sizes, axis=-1)


def _waves_by_class(levels: list[list[Wave]]) -> dict[int, list[Wave]]:
    kinds: dict[int, list[Wave]] = {}
    for waves in levels:
        for wave in waves:
            kinds.setdefault(wave.parameter_class, []).append(wave)
    return kinds


def _stand_in(kind: int, kinds: dict[int, list[Wave]]) -> int:
    """The fitted class that a class absent from the sample's grid borrows from: nearest octave, nearest kind."""
    if kind in kinds or kind == 0:
        return kind
    octave, place = divmod(kind - 1, 3)
    fitted = [k for k in kinds if k > 0]
    return min(fitted, key=lambda k: (abs((k - 1) // 3 - octave) * 3 + abs((k - 1) % 3 - place), k)) if fitted else 0


def _choose_images(
    waves: list[Wave], rows: int, columns: int, images: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    if waves[0].kind == "root":
        return np.arange(images)
    tokens = sum(int(np.prod(wave.shape(rows, columns))) for wave in waves)
    count = min(images, max(1, _TOKENS_A_CLASS // tokens))
    return np.sort(rng.choice(images, count, replace=False))


def _fit_class(
    waves: list[Wave], symbols: Floats, start: Floats, groups: Groups
) -> tuple[Floats, NDArray[np.int16], Floats]:
    """b0 (channels,) in symbols, integer weights (5, channels) and slopes (3, channels) of a class at one level."""
    gathered = [_features(wave, symbols) for wave in waves]
    target, *means = (np.concatenate(parts) for parts in zip(*gathered, strict=True))
    if not means:
        b0, _ = _fit_magnitude(np.abs(target), [], start, groups)
        return b0, np.zeros((len(weight_names(False)), target.shape[1]), np.int16), start
    near, far, near_size, far_size = means
    wn, wf = _fit_prediction(target, near, far, groups)
    prediction = (near * wn + far * wf) / 128
    features = [near_size, far_size, np.abs(prediction)]
    b0, slopes = _fit_magnitude(np.abs(target - np.rint(prediction)), features, start, groups, _START)
    return b0, np.concatenate([wn[None], wf[None], _whole_slopes(slopes)]).astype(np.int16), slopes


def _whole_slopes(slopes: Floats) -> Floats:
    return np.clip(np.rint(slopes * 256 / _SLOPE_GRAIN) * _SLOPE_GRAIN, 0, 255)


def _draft_round(values: Floats) -> Floats:
    return np.copysign(np.floor(np.abs(values) + (1 - _DRAFT_THRESHOLD)), values)


def _fit_details(
    waves: list[Wave], symbols: Floats, start: Floats, groups: Groups
) -> tuple[Floats, NDArray[np.int16], Floats]:
    """As `_fit_class` for the coefficients of a pyramid: weights (4, channels), slopes (4, channels)."""
    channels, sizes = symbols.shape[3], np.abs(symbols)
    target = np.concatenate([sizes[w.row :: w.step, w.column :: w.step].reshape(-1, channels) for w in waves])
    if waves[0].kind == "root":
        b0, _ = _fit_magnitude(target, [], start, groups)
        return b0, np.zeros((len(start), channels), np.int16), start
    gathered = [pyramid.Relatives(wave, *symbols.shape[:2]).features(sizes) for wave in waves]
    features = [
        np.concatenate([feature.reshape(-1, channels) for feature in parts]).astype(np.float32) / 64
        for parts in zip(*gathered, strict=True)
    ]
    b0, slopes = _fit_magnitude(target, features, start, groups, _PYRAMID_START)
    return b0, _whole_slopes(slopes).astype(np.int16), slopes


def _features(wave: Wave, symbols: Floats) -> tuple[Floats, ...]:
    """Symbols of a wave, then means of near and far neighbours and of their sizes; (tokens, channels) each."""
    channels = symbols.shape[3]
    arrays = [symbols[wave.row :: wave.step, wave.column :: wave.step]]
    if wave.kind != "root":
        neighbours = Neighbours(wave, *symbols.shape[:2])
        sizes = np.abs(symbols)
        arrays += [neighbours.near_mean(symbols) / 64, neighbours.far_mean(symbols) / 64]
        arrays += [neighbours.near_mean(sizes) / 64, neighbours.far_mean(sizes) / 64]
    return tuple(array.reshape(-1, channels).astype(np.float32) for array in arrays)


def _fit_prediction(target: Floats, near: Floats, far: Floats, groups: Groups) -> tuple[Floats, Floats]:
    """Ridge regression of each channel on two means; integer weights in 1/128."""
    ridge = 3.0
    products = (near**2, near * far, far**2, near * target, far * target)
    nn, nf, ff, nt, ft = (_shared(product.sum(0), groups) for product in products)
    nn, ff = nn + ridge, ff + ridge
    scale = nn * ff - nf**2
    solved = (ff * nt - nf * ft) / scale, (nn * ft - nf * nt) / scale
    wn, wf = (np.clip(np.rint(w * 128 / _WEIGHT_GRAIN) * _WEIGHT_GRAIN, -128, 127) for w in solved)
    return wn, wf


def _fit_magnitude(
    size: Floats, features: Sequence[Floats], start: Floats, groups: Groups, common: Sequence[float] = ()
) -> tuple[Floats, Floats]:
    """Non-negative b0 (channels,) and slopes (features, channels) of E|e| = b0 + slopes . features.

    Maximum likelihood of geometric |e| by multiplicative updates from the slopes `start`; a few pseudo-counts pull
    channels with little data to the slopes `common` (features,). Channels without any non-zero residual are left at
    `start`.
    """
    floor, mean_size = 1.0 / (2 * len(size) + 8), _shared(size.mean(0), groups)
    if not features:
        return mean_size + 2 * floor, start[:0]
    b0, slopes = 0.5 * mean_size + floor, start.copy()
    alive = np.flatnonzero(mean_size)
    groups = None if groups is None else groups[alive]
    size, stack = size[:, alive], np.stack([feature[:, alive] for feature in features])
    first, pull = b0[alive], np.array(common, np.float32)[:, None] * _PULL
    level, slope = first.copy(), slopes[:, alive]
    for _ in range(_ITERATIONS):
        mean = np.einsum("ftc,fc->tc", stack, slope) + level
        down = 1 / (1 + mean)
        up = size * down / mean
        ups, downs = _shared(up.sum(0), groups), _shared(down.sum(0), groups)
        level = (level * ups + 0.2 * first) / (downs + 0.2)
        ups, downs = (_shared(np.einsum("tc,ftc->fc", change, stack), groups) for change in (up, down))
        slope = (slope * ups + pull) / (downs + _PULL)
    b0[alive], slopes[:, alive] = level, slope
    return b0, slopes


# ---- tables


def _fit_tables(coefficients: Floats, draft: Prior, rounding: Prior | None = None) -> Prior:
    """Histograms of residuals by table over many levels become tables; means within the cells become centroids.

    `draft` has the contexts; a pyramid's symbols are rounded as the prior `rounding` does.
    """
    scales, spatial = draft.scales, draft.spatial
    counts = np.zeros((scales.tables, 2 * _MAX_RADIUS + 1))
    inside = np.zeros((2, scales.tables, 5))
    rows, columns = coefficients.shape[:2]
    coefficients = coefficients[:, :, :: 1 + coefficients.size // _BANK_VALUES]
    for level in _TABLE_LEVELS:
        scaled = coefficients * 2 ** (level / 8)
        if not spatial:
            grid = np.rint(scaled).astype(np.int64)
        else:
            grid = (_draft_round(scaled) if rounding is None else rounding.quantise(scaled, level)[0]).astype(np.int64)
        for waves in draft.resolutions(rows, columns):
            for wave in waves:
                tokens = slice(wave.row, None, wave.step), slice(wave.column, None, wave.step)
                context = draft.context(wave, grid, draft.relatives(wave, rows, columns), level)
                residual = context.fold(grid[tokens])
                within = scaled[tokens] - grid[tokens]
                _count(counts, residual, context)
                _count_centroids(
                    inside, residual, within if context.mirror is None else within * context.mirror, context
                )
    if spatial:  # nothing tells signs apart
        counts, inside = counts + counts[:, ::-1], inside + inside[..., ::-1] * np.array([1, -1])[:, None, None]
    bank = _bank_from(counts, scales)
    return Prior(draft.hierarchical, draft.parameters, scales, bank, _centroids_from(inside), spatial)


def _count(counts: Floats, residual: NDArray[np.integer], context: Context) -> None:
    kept = np.abs(residual) <= _MAX_RADIUS
    if context.shift is not None:
        kept &= context.shift == 0
    flat = context.table[kept].astype(np.int64) * counts.shape[1] + residual[kept] + _MAX_RADIUS
    counts += np.bincount(flat, minlength=counts.size).reshape(counts.shape)


def _count_centroids(inside: Floats, residual: NDArray[np.integer], within: Floats, context: Context) -> None:
    flat = (context.table.astype(np.int64) * 5 + np.clip(residual, -2, 2) + 2).reshape(-1)
    for total, weight in zip(inside, (None, within.reshape(-1)), strict=True):
        total += np.bincount(flat, weight, minlength=total.size).reshape(total.shape)


def _centroids_from(inside: Floats) -> NDArray[np.int8]:
    """Shrunk means in 1/256. None for the four widest tables, which also serve residuals with raw low bits."""
    mean = inside[1] / (inside[0] + 8)
    mean[-4:] = 0
    return np.clip(np.rint(mean * 256), -MAX_CENTROID, MAX_CENTROID).astype(np.int8)


def _placeholder(hierarchical: bool, parameters: Parameters, scales: Scales, spatial: bool) -> Prior:
    """A prior with contexts and no tables yet."""
    bank = Bank(np.zeros(scales.tables, np.int32), np.tile([TOTAL - 1, 1], scales.tables))
    return Prior(hierarchical, parameters, scales, bank, np.zeros((scales.tables, 5), np.int8), spatial)


def _bank_from(counts: Floats, scales: Scales) -> Bank:
    magnitude = 2.0 ** ((scales.low + np.arange(scales.split + scales.wide) + 0.5) / 4 - UNIT_BITS)
    split = counts[: scales.split * scales.offsets].reshape(scales.split, scales.offsets, -1)
    tables = [*_smoothed(split, magnitude[: scales.split])]
    tables += [*_smoothed(counts[len(tables) * scales.offsets :, None], magnitude[scales.split :])]
    integers = [integer_table(table) for group in tables for table in group]
    radii = np.array([(len(table) - 2) // 2 for table in integers])
    return Bank(radii, np.concatenate(integers))


def _smoothed(counts: Floats, magnitude: Floats) -> Floats:
    """(scales, offsets, values) probabilities."""
    residual = np.abs(np.arange(-_MAX_RADIUS, _MAX_RADIUS + 1))
    law = (magnitude / (1 + magnitude))[:, None] ** residual * np.where(residual == 0, 1, 0.5)
    law /= law.sum(-1, keepdims=True)
    pooled = counts.copy()
    for distance in (1, 2, 3):
        pooled[distance:] += counts[:-distance] * 0.5**distance
        pooled[:-distance] += counts[distance:] * 0.5**distance
    pooled += 4 * law[:, None]
    pooled /= pooled.sum(-1, keepdims=True)
    mixed = counts + 20 * pooled
    return mixed / mixed.sum(-1, keepdims=True)
