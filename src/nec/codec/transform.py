"""Affine transform and uniform quantiser: embeddings (..., d) to integers (..., k) and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nec.codec import pyramid
from nec.errors import InputError

Real = TypeVar("Real", np.float32, np.float64)
Rounding = Callable[[NDArray[np.floating], int], NDArray[np.int32]]
LEVELS_PER_OCTAVE = 8
MIN_LEVEL, MAX_LEVEL = -128, 127
MAX_SYMBOL_BITS = 24
_BATCH_VALUES, _DECODED_VALUES = 1 << 22, 1 << 19  # at once, to bound copies
_SINGLE = 1 << 10  # symbols below it are dequantised in single precision
_WORTH_POSITIONS = 0.03  # of the variance; below that, the means by position cost more than they save


def quality_level(quality: float) -> int:
    """Integer level of a quality: round(8 log2 q), clipped to -128..127 (qualities 2^-16 to 2^15.875).

    Level 0 is quality 1; 8 levels, a factor of 2 in quality, halve the quantiser's step.
    """
    if not isinstance(quality, int | float | np.number) or not math.isfinite(quality) or quality <= 0:
        raise InputError(f"quality must be a positive number (1 = an error of 3% of the variance), not {quality!r}")
    return min(max(round(LEVELS_PER_OCTAVE * math.log2(quality)), MIN_LEVEL), MAX_LEVEL)


def level_quality(level: int) -> float:
    """Quality that a level stands for."""
    return 2.0 ** (level / LEVELS_PER_OCTAVE)


Window = tuple[slice, slice, slice]
"""Rows, columns and channels of a batch; slices of step 1, cut where the batch ends."""
EVERYTHING: Window = (slice(None), slice(None), slice(None))


@dataclass(frozen=True)
class Transform:
    """y = (x - mean) pinv(basis), symbol = round(y / step); x = mean + step * symbol @ basis.

    With `gains` (octaves,), y then goes through the Haar pyramid of `nec.codec.pyramid`, and each coefficient is
    multiplied by the gain of its octave (the last one for all octaves beyond): a finer step where it is above 1.

    `mean` (d,) float32; `positions` (py, px, d) float16 or None: what is added to it at (y mod py, x mod px); `step`
    the quantiser's step at level 0; either `basis` (k, d) float16 (KLT) or `order` (k,), the channels that are kept.
    The forward matrix is the pseudo-inverse of the half-precision basis itself, so that a decoded batch encodes to the
    same symbols again.
    """

    mean: NDArray[np.float32]
    step: float
    basis: NDArray[np.float16] | None
    order: NDArray[np.int64] | None
    positions: NDArray[np.float16] | None = None
    gains: NDArray[np.float32] | None = None

    @property
    def dimensions(self) -> int:
        return len(self.mean)

    @property
    def rank(self) -> int:
        return len(self.basis if self.basis is not None else self.order)  # type: ignore[arg-type]

    @cached_property
    def _forward(self) -> NDArray[np.float64]:
        assert self.basis is not None
        return np.linalg.pinv(self.basis.astype(np.float64))

    def step_at(self, level: int) -> float:
        """Quantiser step at a level, in units of the embeddings."""
        return self.step * 2.0 ** (-level / LEVELS_PER_OCTAVE)

    def _mean_of(self, rows: int, columns: int) -> NDArray[np.float64]:
        """Mean of each token of a grid, (rows, columns, d), or (d,) where it is the same for all."""
        mean = self.mean.astype(np.float64)
        if self.positions is None:
            return mean
        repeats = [-(-size // period) for size, period in zip((rows, columns), self.positions.shape, strict=False)]
        return mean + np.tile(self.positions.astype(np.float64), (*repeats, 1))[:rows, :columns]

    def centred(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n, y, x, d) without the means."""
        return np.asarray(values, np.float64) - self._mean_of(*values.shape[1:3])

    def project(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n, y, x, d) -> (n, y, x, k) coefficients, before quantisation."""
        centred = self.centred(values)
        turned = _turned(centred, self._forward) if self.basis is not None else centred[..., self.order]
        if self.gains is None:
            return turned
        return pyramid.forward(turned) * self._gain_of(*values.shape[1:3])

    def _gain_of(self, rows: int, columns: int) -> NDArray[np.float64]:
        """Gain of each place of a grid (rows, columns, 1)."""
        assert self.gains is not None
        octaves = np.minimum(pyramid.octaves(rows, columns), len(self.gains) - 1)
        return self.gains.astype(np.float64)[octaves][..., None]

    def quantise(self, values: NDArray[np.floating], level: int, rounded: Rounding | None = None) -> NDArray[np.int32]:
        """(n, y, x, d) -> symbols (n, y, x, k).

        `rounded` gives the symbols of coefficients (y, x, n, k) in steps, at a level; by default the nearest integers.
        """
        n, rows, columns = values.shape[:3]
        out = np.empty((rows, columns, n, self.rank), np.int32).transpose(2, 0, 1, 3)  # in memory as it will be coded
        step, limit = self.step_at(level), 2.0**MAX_SYMBOL_BITS - 1
        for part in _parts(values.shape):
            scaled = self.project(values[part]) / step
            if rounded is None:
                scaled = np.rint(scaled)
            if scaled.size and max(scaled.max(), -scaled.min()) > limit:
                quality = level_quality(level)
                raise InputError(
                    f"quality {quality:.4g} is too high here: symbols pass {MAX_SYMBOL_BITS} bits; lower it"
                )
            out[part] = (
                scaled if rounded is None else rounded(scaled.transpose(1, 2, 0, 3), level).transpose(2, 0, 1, 3)
            )
        return out

    def _coarse(self, grid: tuple[int, int], spacing: int) -> tuple[NDArray[np.floating], NDArray[np.float64] | None]:
        """Means of a coarse grid's tokens, and gains where there is a pyramid, `spacing` 1 being the grid itself."""
        mean, gain = self._mean_of(*grid), None
        if self.gains is not None:
            gain = self._gain_of(*grid)[::spacing, ::spacing]
        if mean.ndim == 1:
            return mean, gain
        return mean[::spacing, ::spacing] if gain is None else pyramid.averaged(mean, spacing), gain

    def reconstruct(
        self,
        symbols: NDArray[np.integer],
        centroids: NDArray[np.int8] | None,
        level: int,
        grid: tuple[int, int] | None = None,
        spacing: int = 1,
        window: Window = EVERYTHING,
    ) -> NDArray[np.float32]:
        """Symbols (n, y, x, j) of the first j <= k channels (the others are zero) -> float32 (n, y, x, d).

        `centroids`, same shape, are added to the symbols in units of 1/256. At a `spacing` above 1, symbols are those
        at its multiples in the whole `grid` (rows, columns), and tokens the ones there, or of a pyramid the means of
        cells of spacing x spacing. `window` are the rows, columns and channels to return, all of them by default.
        """
        ends = (*symbols.shape[1:3], self.dimensions)
        place = tuple(slice(*wanted.indices(end)) for wanted, end in zip(window, ends, strict=True))
        out = np.empty(
            (len(symbols), *(len(range(end)[part]) for end, part in zip(ends, place, strict=True))), np.float32
        )
        rows, columns = grid or (symbols.shape[1], symbols.shape[2])
        mean, gain = self._coarse((rows, columns), spacing)
        steps = np.full((*symbols.shape[1:3], 1, 1), self.step_at(level))
        if gain is not None:
            unit = pyramid.weights(*symbols.shape[1:3]) / pyramid.scale(rows, columns, spacing)
            steps *= (unit[..., None] / gain)[..., None]
        if mean.ndim == 3:
            mean = mean[place[0], place[1]]
        for part in _parts((len(symbols), *ends), _DECODED_VALUES):
            # Grids lie (y, x, n, channels) in memory, as they were decoded: whole rows to add, one matrix to multiply.
            scaled = symbols[part].transpose(1, 2, 0, 3).astype(_exact_enough(symbols[part]))
            if centroids is not None:
                scaled += centroids[part].transpose(1, 2, 0, 3) * scaled.dtype.type(1 / 256)
            scaled *= steps.astype(scaled.dtype)
            if gain is not None:
                pyramid.add_up(scaled)
            out[part] = self._turned_back(scaled[place[0], place[1]], mean, place[2]).transpose(2, 0, 1, 3)
        return out

    def _turned_back(
        self, scaled: NDArray[np.floating], mean: NDArray[np.floating], channels: slice
    ) -> NDArray[np.floating]:
        """Coefficients (y, x, n, j) of the first axes -> `channels` of embeddings (y, x, n, d), with their means."""
        means = mean.astype(scaled.dtype)
        means = means if mean.ndim == 1 else means[:, :, None]
        kept = scaled.shape[3]
        if self.basis is not None:
            values = _turned(scaled, self.basis[:kept, channels].astype(scaled.dtype))
            values += means[..., channels]
            return values
        assert self.order is not None
        values = np.empty((*scaled.shape[:3], self.dimensions), scaled.dtype)
        values[...] = means
        values[..., self.order[:kept]] += scaled
        return values[..., channels]


def _turned(values: NDArray[Real], matrix: NDArray[Real]) -> NDArray[Real]:
    """values (..., a) @ matrix (a, b), as one product: NumPy makes one of each token row otherwise."""
    rows = values.reshape(math.prod(values.shape[:-1]), len(matrix))
    return (rows @ matrix).reshape(*values.shape[:-1], matrix.shape[1])


def _exact_enough(symbols: NDArray[np.integer]) -> type[np.floating]:
    """float32 where its errors are far below the distance of decoded values from the edges of their cells."""
    largest = max(int(symbols.max()), -int(symbols.min())) if symbols.size else 0
    return np.float32 if largest < _SINGLE else np.float64


def _parts(shape: tuple[int, ...], values: int = _BATCH_VALUES) -> list[slice]:
    """Slices of images that bound the float64 copies."""
    size = max(1, values // max(math.prod(shape[1:]), 1))
    return [slice(start, start + size) for start in range(0, shape[0], size)]


def check_batch(values: NDArray[np.floating], dimensions: int | None = None) -> NDArray[np.floating]:
    """Validate a batch (n, y, x, d) of any float dtype and byte order; returns a native float array.

    Raises `InputError` for other dtypes, other than four axes, a wrong d, NaN and infinity.
    """
    values = np.asarray(values)
    if values.dtype.kind not in "fiu":
        raise InputError(f"embeddings must be real numbers, got dtype {values.dtype}")
    if values.ndim != 4:
        raise InputError(f"embeddings must have four axes (n, y, x, d), got shape {values.shape}")
    if dimensions is not None and values.shape[3] != dimensions:
        raise InputError(f"embeddings have {values.shape[3]} dimensions where the codec was fitted on {dimensions}")
    dtype = values.dtype.newbyteorder("=") if values.dtype.kind == "f" else np.dtype(np.float64)
    values = values.astype(dtype, copy=False)
    for part in _parts(values.shape):
        finite = np.isfinite(values[part])
        if not finite.all():
            image = part.start + int(np.argwhere(~finite)[0][0])
            raise InputError(f"embeddings hold NaN or infinity (first in image {image}): fix or drop these images")
    return values


def fit_transform(
    sample: NDArray[np.floating],
    rank: int | None,
    klt: bool,
    step: float | None,
    positions: bool | None,
    gains: NDArray[np.float32] | None = None,
) -> Transform:
    """Fit means, basis and step to a sample (n, y, x, d).

    Of a pyramid's `gains` the ratios count: they are scaled so that fine steps err as one step for all would.

    With `step` None, rounding at quality 1 errs by 3% of the variance around the means. The error counts what `rank`
    leaves out; where that alone passes half of it, the quantiser's own error is 3% of the variance that is kept.
    """
    dimensions = sample.shape[3]
    rank = dimensions if rank is None else rank
    if not 1 <= rank <= dimensions:
        raise InputError(f"rank must be 1 to {dimensions} (the embeddings' dimensions), not {rank}")
    mean = sample.mean((0, 1, 2), dtype=np.float64).astype(np.float32)
    places = _fit_positions(sample, mean) if positions is None or positions else None
    if positions is None and places is not None and _share(places, sample, mean) < _WORTH_POSITIONS:
        places = None
    draft = Transform(mean, 1.0, None, np.arange(dimensions), places)
    centred = draft.project(sample).reshape(-1, dimensions)
    basis = order = None
    if klt:
        basis = _principal_axes(centred, rank)
    else:
        order = np.argsort(-(centred**2).mean(0), kind="stable")[:rank]
    if step is not None and not (math.isfinite(step) and step > 0):
        raise InputError(f"step must be a positive number, not {step!r}")
    draft = Transform(mean, 1.0 if step is None else float(step), basis, order)
    step = float(step) if step is not None else _fit_step(draft, centred + mean)
    fitted = Transform(mean, step, basis, order, places, gains)
    if gains is None:
        return fitted
    excess = float((fitted._gain_of(*sample.shape[1:3]) ** -2.0).mean())
    return replace(fitted, gains=(gains * np.sqrt(excess)).astype(np.float32))


def _fit_positions(sample: NDArray[np.floating], mean: NDArray[np.float32]) -> NDArray[np.float16]:
    """What each place of the grid adds to the mean (y, x, d), the same in every image."""
    with np.errstate(over="ignore"):
        places = (sample.mean(0, dtype=np.float64) - mean).astype(np.float16)
    if not np.isfinite(places).all():
        raise InputError("the embeddings' means by position pass half precision: rescale them, or fit positions=False")
    return places


def _share(places: NDArray[np.float16], sample: NDArray[np.floating], mean: NDArray[np.float32]) -> float:
    """Share of the sample's variance that the places explain, less what they would by chance."""
    count, total = len(sample), float(((sample - mean.astype(np.float64)) ** 2).mean((0, 1, 2)).sum())
    explained = float((places.astype(np.float64) ** 2).mean((0, 1)).sum()) / max(total, 1e-30)
    return (explained - 1 / count) / max(1 - 1 / count, 1e-30) if count > 1 else 0.0


def _principal_axes(centred: NDArray[np.float64], rank: int) -> NDArray[np.float16]:
    """Leading eigenvectors of the covariance as rows, largest first; each one's largest component is positive."""
    _, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    axes = vectors[:, ::-1][:, :rank].T
    signs = np.sign(axes[np.arange(rank), np.abs(axes).argmax(1)])
    return (axes * signs[:, None]).astype(np.float16)


def _fit_step(draft: Transform, tokens: NDArray[np.float64], target: float = 0.03) -> float:
    """Step whose squared error is `target` of the variance of tokens (t, d), by bisection."""
    coefficients = draft.project(tokens[:, None, None])
    variance = float(((tokens - draft.mean) ** 2).sum())
    kept = float((coefficients**2).sum())
    if kept <= 0:
        return 1.0
    lost = max(variance - kept, 0.0)
    goal = target * variance - lost if lost < 0.5 * target * variance else target * kept
    low, high = 0.0, 2.0 * float(np.abs(coefficients).max())
    for _ in range(26):
        step = (low + high) / 2
        error = float(((np.rint(coefficients / step) * step - coefficients) ** 2).sum())
        low, high = (step, high) if error < goal else (low, step)
    return float(np.float32(step))
