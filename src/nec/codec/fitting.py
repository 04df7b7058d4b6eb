"""Fitting a codec's integers to sample embeddings. Floats are allowed here, and only here: what comes out is integers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nec.codec.prior import UNIT_BITS, WEIGHTS, Context, Parameters, Prior, Scales, parameter_classes
from nec.codec.tables import TOTAL, Bank
from nec.codec.transform import Transform
from nec.codec.waves import Neighbours, Wave, spacing_levels

FIRST_LEVEL, SPACING, ANCHORS = -32, 8, 7
_TABLE_LEVELS = range(FIRST_LEVEL - 8, FIRST_LEVEL + SPACING * (ANCHORS - 1) + 9, 6)
_TOKENS_A_CLASS = 6000
_ITERATIONS = 40
_START = (0.35, 0.15, 0.3)
_PULL = 2.0
_MAX_RADIUS = 400

Floats = NDArray[np.float64]


def default_scales() -> Scales:
    """Magnitudes from 2^-13 to 2^5 symbols, four scales an octave; nine offset bins below 4 symbols."""
    offset_of = ((np.arange(65) * 64 >> 8) + 1 >> 1).astype(np.uint8)
    low = 4
    split = 4 * (UNIT_BITS + 2) - low
    return Scales(low=low, split=split, wide=4 * (UNIT_BITS + 5) - low - split, offset_of=offset_of)


def fit_prior(embeddings: NDArray[np.floating], transform: Transform, hierarchical: bool, seed: int) -> Prior:
    """Fit contexts, then tables, to a sample (n, y, x, d)."""
    rng = np.random.default_rng(seed)
    coefficients = transform.project(embeddings).transpose(1, 2, 0, 3) / transform.step
    parameters = _fit_parameters(coefficients, hierarchical, rng)
    scales = default_scales()
    return Prior(hierarchical, parameters, scales, _fit_bank(coefficients, hierarchical, parameters, scales))


# ---- parameters


def _fit_parameters(coefficients: Floats, hierarchical: bool, rng: np.random.Generator) -> Parameters:
    rows, columns, images, channels = coefficients.shape
    classes = parameter_classes(hierarchical)
    base = np.zeros((ANCHORS, classes, channels), np.int16)
    weights = np.zeros((len(WEIGHTS), ANCHORS, classes, channels), np.int16)
    groups = _waves_by_class(spacing_levels(rows, columns, hierarchical))
    for anchor in range(ANCHORS):
        level = FIRST_LEVEL + SPACING * anchor
        symbols = np.rint(coefficients * 2 ** (level / 8))
        for kind, waves in groups.items():
            chosen = _choose_images(waves, rows, columns, images, rng)
            b0, fitted = _fit_class(waves, symbols[:, :, chosen])
            base[anchor, kind] = np.rint(8 * np.log2(b0 * 2.0**UNIT_BITS)) - level
            weights[:, anchor, kind] = fitted
    for kind in range(classes):
        source = _stand_in(kind, groups)
        base[:, kind], weights[:, :, kind] = base[:, source], weights[:, :, source]
    return Parameters(FIRST_LEVEL, SPACING, base, weights)


def _waves_by_class(levels: list[list[Wave]]) -> dict[int, list[Wave]]:
    groups: dict[int, list[Wave]] = {}
    for waves in levels:
        for wave in waves:
            groups.setdefault(wave.parameter_class, []).append(wave)
    return groups


def _stand_in(kind: int, groups: dict[int, list[Wave]]) -> int:
    """The fitted class that a class absent from the sample's grid borrows from: nearest octave, nearest kind."""
    if kind in groups or kind == 0:
        return kind
    octave, place = divmod(kind - 1, 3)
    fitted = [k for k in groups if k > 0]
    return min(fitted, key=lambda k: (abs((k - 1) // 3 - octave) * 3 + abs((k - 1) % 3 - place), k)) if fitted else 0


def _choose_images(
    waves: list[Wave], rows: int, columns: int, images: int, rng: np.random.Generator
) -> NDArray[np.intp]:
    tokens = sum(int(np.prod(wave.shape(rows, columns))) for wave in waves)
    count = min(images, max(1, _TOKENS_A_CLASS // tokens))
    return np.sort(rng.choice(images, count, replace=False))


def _fit_class(waves: list[Wave], symbols: Floats) -> tuple[Floats, NDArray[np.int16]]:
    """b0 (channels,) in symbols and integer weights (5, channels) of one wave class at one level."""
    gathered = [_features(wave, symbols) for wave in waves]
    target, *means = (np.concatenate(parts) for parts in zip(*gathered, strict=True))
    if not means:
        b0, _ = _fit_magnitude(np.abs(target), [])
        return b0, np.zeros((len(WEIGHTS), target.shape[1]), np.int16)
    near, far, near_size, far_size = means
    wn, wf = _fit_prediction(target, near, far)
    prediction = (near * wn + far * wf) / 128
    b0, slopes = _fit_magnitude(np.abs(target - np.rint(prediction)), [near_size, far_size, np.abs(prediction)])
    quantised = np.clip(np.rint(slopes * 256), 0, 255)
    return b0, np.concatenate([wn[None], wf[None], quantised]).astype(np.int16)


def _features(wave: Wave, symbols: Floats) -> tuple[Floats, ...]:
    """Symbols of a wave, and for waves with neighbours their means and the means of their sizes; (tokens, channels) each."""
    channels = symbols.shape[3]
    arrays = [symbols[wave.row :: wave.step, wave.column :: wave.step]]
    if wave.kind != "root":
        neighbours = Neighbours(wave, *symbols.shape[:2])
        sizes = np.abs(symbols)
        arrays += [neighbours.near_mean(symbols) / 64, neighbours.far_mean(symbols) / 64]
        arrays += [neighbours.near_mean(sizes) / 64, neighbours.far_mean(sizes) / 64]
    return tuple(array.reshape(-1, channels) for array in arrays)


def _fit_prediction(target: Floats, near: Floats, far: Floats) -> tuple[Floats, Floats]:
    """Ridge regression of each channel on two means; integer weights in 1/128."""
    ridge = 3.0
    nn, nf, ff = (near**2).sum(0) + ridge, (near * far).sum(0), (far**2).sum(0) + ridge
    nt, ft = (near * target).sum(0), (far * target).sum(0)
    scale = nn * ff - nf**2
    solved = (ff * nt - nf * ft) / scale, (nn * ft - nf * nt) / scale
    wn, wf = (np.clip(np.rint(w * 128), -128, 127) for w in solved)
    return wn, wf


def _fit_magnitude(size: Floats, features: list[Floats]) -> tuple[Floats, Floats]:
    """Non-negative b0 (channels,) and slopes (features, channels) of E|e| = b0 + slopes . features.

    Maximum likelihood of geometric |e| by multiplicative updates; a few pseudo-counts pull rare channels to fixed slopes.
    """
    b0 = 0.5 * size.mean(0) + 1.0 / (2 * len(size) + 8)
    if not features:
        return 2 * b0, np.zeros((0, size.shape[1]))
    start = b0.copy()
    slopes = np.repeat(np.array(_START)[:, None], size.shape[1], 1)
    first = slopes.copy()
    for _ in range(_ITERATIONS):
        mean = b0 + sum(s * f for s, f in zip(slopes, features, strict=True))
        down = 1 / (1 + mean)
        up = size / mean * down
        b0 = (b0 * up.sum(0) + 0.2 * start) / (down.sum(0) + 0.2)
        for index, feature in enumerate(features):
            gain = slopes[index] * (up * feature).sum(0) + _PULL * first[index]
            slopes[index] = gain / ((down * feature).sum(0) + _PULL)
    return b0, slopes


# ---- tables


def _fit_bank(coefficients: Floats, hierarchical: bool, parameters: Parameters, scales: Scales) -> Bank:
    """Histograms of residuals by table over many levels, smoothed with neighbouring scales and a geometric law."""
    draft = Prior(hierarchical, parameters, scales, _placeholder(scales))
    counts = np.zeros((scales.tables, 2 * _MAX_RADIUS + 1))
    rows, columns = coefficients.shape[:2]
    for level in _TABLE_LEVELS:
        grid = np.rint(coefficients * 2 ** (level / 8)).astype(np.int64)
        for waves in draft.levels(rows, columns):
            for wave in waves:
                context = draft.context(wave, grid, Neighbours(wave, rows, columns), level)
                _count(counts, grid[wave.row :: wave.step, wave.column :: wave.step], context)
    return _bank_from(counts, scales)


def _count(counts: Floats, symbols: NDArray[np.int64], context: Context) -> None:
    residual = symbols if context.base is None else (symbols - context.base) * context.mirror
    inside = np.abs(residual) <= _MAX_RADIUS
    if context.shift is not None:
        inside &= context.shift == 0
    flat = context.table[inside].astype(np.int64) * counts.shape[1] + residual[inside] + _MAX_RADIUS
    counts += np.bincount(flat, minlength=counts.size).reshape(counts.shape)


def _placeholder(scales: Scales) -> Bank:
    return Bank(np.zeros(scales.tables, np.int32), np.tile([TOTAL - 1, 1], scales.tables))


def _bank_from(counts: Floats, scales: Scales) -> Bank:
    magnitude = 2.0 ** ((scales.low + np.arange(scales.split + scales.wide) + 0.5) / 4 - UNIT_BITS)
    split = counts[: scales.split * scales.offsets].reshape(scales.split, scales.offsets, -1)
    tables = [*_smoothed(split, magnitude[: scales.split])]
    tables += [*_smoothed(counts[len(tables) * scales.offsets :, None], magnitude[scales.split :])]
    integers = [_integer_table(table) for group in tables for table in group]
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


def _integer_table(probabilities: Floats) -> NDArray[np.int64]:
    """Frequencies of -R..R and escape, R the smallest radius that holds all but about 2^-13 of the mass."""
    tails = probabilities[:_MAX_RADIUS][::-1] + probabilities[_MAX_RADIUS + 1 :]
    beyond = np.concatenate([[tails.sum()], tails.sum() - np.cumsum(tails)])
    radius = max(1, int(np.argmax(beyond < 2.0**-13)))
    inside = probabilities[_MAX_RADIUS - radius : _MAX_RADIUS + radius + 1]
    mass = np.append(inside, max(beyond[radius], 2.0**-16))
    frequencies = np.maximum(np.floor(mass / mass.sum() * TOTAL), 1).astype(np.int64)
    frequencies[np.argmax(frequencies)] += TOTAL - frequencies.sum()
    return frequencies
