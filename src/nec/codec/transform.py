"""Affine transform and uniform quantiser: embeddings (..., d) to integers (..., k) and back."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nec.codec import coder, pyramid
from nec.errors import InputError, shown

Real = TypeVar("Real", np.float32, np.float64)
LEVELS_PER_OCTAVE = 8
MIN_LEVEL, MAX_LEVEL = -128, 127
MAX_SYMBOL_BITS = 24
MAX_SIZE = 2.0**100
"""Largest absolute value of embeddings: sums over channels stay far inside single precision."""
_BATCH_VALUES, _DECODED_VALUES = 1 << 22, 1 << 18  # at once, to bound copies
WORKING_BYTES = 16 << 20
"""About what `reconstruct` takes beside its result."""
_SINGLE = 1 << 10  # symbols below it are dequantised in single precision
_WORTH_POSITIONS = 0.03  # of the variance; below that, the means by position cost more than they save


def quality_level(quality: float) -> int:
    """Integer level of a quality: round(8 log2 q), clipped to -128..127 (qualities 2^-16 to 2^15.875).

    Level 0 is quality 1; 8 levels, a factor of 2 in quality, halve the quantiser's step.
    """
    try:
        value = float(quality) if isinstance(quality, int | float | np.number) else math.nan
    except OverflowError:
        value = math.inf
    if not 0 < value < math.inf:
        given = shown(quality)
        raise InputError(f"quality must be a positive number (1 = an error of 3% of the variance), not {given}")
    return min(max(round(LEVELS_PER_OCTAVE * math.log2(value)), MIN_LEVEL), MAX_LEVEL)


def level_quality(level: int) -> float:
    """Quality that a level stands for."""
    return 2.0 ** (level / LEVELS_PER_OCTAVE)


Window = tuple[slice, slice, slice, slice]
"""Images, rows, columns and channels of a batch; slices of step 1, cut where the batch ends."""
EVERYTHING: Window = (slice(None),) * 4


@dataclass(frozen=True)
class Rotation:
    """To principal axes (KLT) and back: `basis` (k, d) float16, its rows are axes, not quite orthonormal.

    The way there is the pseudo-inverse of the half-precision basis itself, so that a decoded batch encodes to the same
    symbols again.
    """

    basis: NDArray[np.float16]

    @cached_property
    def _forward(self) -> NDArray[np.float64]:
        return np.linalg.pinv(self.basis.astype(np.float64))

    @cached_property
    def _single(self) -> NDArray[np.float32]:
        return self.basis.astype(np.float32)

    @property
    def rank(self) -> int:
        return len(self.basis)

    def turn(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(..., d) -> (..., k)."""
        return _turned(values, self._forward)

    def turn_back(
        self, values: NDArray[Real], channels: slice, out: NDArray[np.floating] | None = None
    ) -> NDArray[Real]:
        """(..., j) of the first axes -> `channels` of (..., d); into `out` where it is of the same type."""
        basis = self._single if values.dtype == np.float32 else self.basis.astype(values.dtype)
        return _turned(values, basis[: values.shape[-1], channels], out)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Selection:
    """Some channels as they are: `order` (k,), those of `dimensions` that are kept, each once."""

    order: NDArray[np.int64]
    dimensions: int

    @property
    def rank(self) -> int:
        return len(self.order)

    def turn(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(..., d) -> (..., k)."""
        return values[..., self.order]

    def turn_back(
        self, values: NDArray[Real], channels: slice, out: NDArray[np.floating] | None = None
    ) -> NDArray[Real]:
        """(..., j) of the first kept channels -> `channels` of (..., d)."""
        found = np.zeros((*values.shape[:-1], self.dimensions), values.dtype)
        found[..., self.order[: values.shape[-1]]] = values
        return found[..., channels]


@dataclass(frozen=True)
class Coefficients:
    """What is decoded of a frame, whole or coarse.

    Attributes:
        symbols: (n, y, x, j) of the first j <= k channels; the others are zero.
        centroids: the same shape; added to the symbols in units of 1/256.
        level: of the quality.
        live: channels of the root and of each spacing, coarse first, from where on all is zero; None if of any.
        grid: rows and columns of the whole grid, which has a symbol at multiples of `spacing` here.
        narrow: whether symbols stay below 2^10; found out if None.
    """

    symbols: NDArray[np.integer] | NDArray[np.floating]
    centroids: NDArray[np.int8] | None
    level: int
    live: tuple[int, ...] | None = None
    grid: tuple[int, int] | None = None
    spacing: int = 1
    narrow: bool | None = None

    @cached_property
    def precision(self) -> type[np.floating]:
        """float32 where its errors are far below the distance of decoded values from the edges of their cells."""
        narrow = self.narrow
        if narrow is None:
            narrow = max(self.symbols.max(initial=0), -self.symbols.min(initial=0)) < _SINGLE
        return np.float32 if narrow else np.float64

    def at(self, images: slice, rows: slice, columns: slice, live: int, step: float) -> NDArray[np.floating]:
        """Values (n, rows, columns, live) of some places, in units of the embeddings."""
        place = images, rows, columns, slice(live)
        kind = self.precision
        if coder.KERNEL is not None and self.symbols.dtype == np.int32:
            symbols, centroids = self.symbols[place], None if self.centroids is None else self.centroids[place]
            found = np.empty(symbols.shape, kind)
            coder.KERNEL.dequantise(symbols, centroids, step, found)
            return found
        scaled = self.symbols[place].astype(kind, order="C")
        if self.centroids is not None:
            scaled += self.centroids[place] * kind(1 / 256)
        scaled *= kind(step)
        return scaled


@dataclass(frozen=True)
class Transform:
    """y = (x - mean) to `axes`, symbol = round(y / step); x = mean + step * symbol from `axes`.

    With `gains` (octaves,), y then goes through the Haar pyramid of `nec.codec.pyramid`, and each coefficient is
    multiplied by the gain of its octave (the last one for all octaves beyond): a finer step where it is above 1.

    `mean` (d,) float32; `positions` (py, px, d) float16 or None: what is added to it at (y mod py, x mod px); `step`
    the quantiser's step at level 0.
    """

    mean: NDArray[np.float32]
    step: float
    axes: Rotation | Selection
    positions: NDArray[np.float16] | None = None
    gains: NDArray[np.float32] | None = None

    @property
    def dimensions(self) -> int:
        return len(self.mean)

    @property
    def rank(self) -> int:
        return self.axes.rank

    @property
    def basis(self) -> NDArray[np.float16] | None:
        """Principal axes (k, d), None where channels are kept as they are."""
        return self.axes.basis if isinstance(self.axes, Rotation) else None

    def step_at(self, level: int) -> float:
        """Quantiser step at a level, in units of the embeddings."""
        return self.step * 2.0 ** (-level / LEVELS_PER_OCTAVE)

    def _means(
        self, grid: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int], spacing: int = 1
    ) -> NDArray[np.float64]:
        """Means of tokens [rows) x [columns), (rows, columns, d), or (d,) where they are the same for all.

        At a `spacing` above 1 those of a coarse grid: of a pyramid over cells, else at multiples of the spacing.
        """
        mean = self.mean.astype(np.float64)
        if self.positions is None:
            return mean
        period_y, period_x, _ = self.positions.shape
        place = np.arange(*rows) * spacing % period_y, np.arange(*columns) * spacing % period_x
        if self.gains is None or spacing == 1:
            return mean + self.positions[np.ix_(*place)].astype(np.float64)
        by_row = pyramid.cell_weights(grid[0], spacing, rows, period_y)
        by_column = pyramid.cell_weights(grid[1], spacing, columns, period_x)
        return mean + np.einsum("ap,pqd,bq->abd", by_row, self.positions.astype(np.float64), by_column, optimize=True)

    def centred(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n, y, x, d) without the means."""
        rows, columns = values.shape[1:3]
        return np.asarray(values, np.float64) - self._means((rows, columns), (0, rows), (0, columns))

    def project(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """(n, y, x, d) -> (n, y, x, k) coefficients, before quantisation."""
        turned = self.axes.turn(self.centred(values))
        if self.gains is None:
            return turned
        octaves = np.minimum(pyramid.octaves(*values.shape[1:3]), len(self.gains) - 1)
        return pyramid.forward(turned) * self.gains.astype(np.float64)[octaves][..., None]

    def scaled(self, values: NDArray[np.floating], level: int) -> Iterator[tuple[slice, NDArray[np.float64]]]:
        """Coefficients in steps (y, x, n, k), for some images at a time; `InputError` where symbols pass 24 bits."""
        step, limit = self.step_at(level), 2.0**MAX_SYMBOL_BITS - 1
        for images in _parts(values.shape):
            found = self.project(values[images]).transpose(1, 2, 0, 3)
            found = np.divide(found, step, out=np.empty(found.shape))
            if found.size and not max(found.max(), -found.min()) <= limit:
                quality = level_quality(level)
                raise InputError(
                    f"quality {quality:.4g} is too high here: symbols pass {MAX_SYMBOL_BITS} bits; lower it"
                )
            yield images, found

    def reconstruct(
        self, coded: Coefficients, window: Window = EVERYTHING, out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Embeddings (n, y, x, d) of what was decoded, or a window of them, a few tokens at a time.

        Of a pyramid's coarse coefficients they are the means of cells. `out` is where they go, a new array by default.
        """
        ends = (*coded.symbols.shape[:3], self.dimensions)
        place = tuple(slice(*wanted.indices(end)) for wanted, end in zip(window, ends, strict=True))
        shape = tuple(max(axis.stop - axis.start, 0) for axis in place)
        if out is None:
            out = np.empty(shape, np.float32)
        elif out.shape != shape or out.dtype != np.float32:
            raise InputError(f"out must be float32 of shape {shape}, not {out.dtype} {out.shape}")
        for tile in _tiles(shape, aligned=self.gains is not None):
            images, rows, columns = (
                slice(axis.start + some.start, axis.start + some.stop)
                for axis, some in zip(place[:3], tile, strict=True)
            )
            self._fill(out[tile], coded, (images, rows, columns, place[3]))
        return out

    def _fill(self, out: NDArray[np.float32], coded: Coefficients, window: Window) -> None:
        """`reconstruct` of a window that is small."""
        images, rows, columns, channels = window
        lattice = coded.symbols.shape[1:3]
        grid, step = coded.grid or lattice, self.step_at(coded.level)
        means = self._means(grid, (rows.start, rows.stop), (columns.start, columns.stop), coded.spacing)[..., channels]
        direct = out if out.dtype == coded.precision and out.flags.c_contiguous else None
        if self.gains is None:
            values = coded.at(images, rows, columns, coded.symbols.shape[3], step)
            found = self.axes.turn_back(values, channels, direct)
        else:
            coarse, unit = pyramid.scale(grid[0], grid[1], coded.spacing), pyramid.weights(lattice[0], lattice[1])
            first = coded.spacing.bit_length() - 1  # of the octaves
            gains = [float(self.gains[min(first + octave, len(self.gains) - 1)]) for octave in range(len(unit))]
            live = coded.live or (coded.symbols.shape[3],) * len(unit)

            def band(octave: int, row: slice, column: slice) -> NDArray[np.floating]:
                size = step * unit[octave] / coarse / gains[octave]
                return self.axes.turn_back(coded.at(images, row, column, live[-1 - octave], size), channels)

            found = pyramid.assemble(band, lattice, (rows.start, rows.stop), (columns.start, columns.stop), direct)
        np.add(found, means.astype(found.dtype), out=out, casting="same_kind")


def _tiles(shape: tuple[int, ...], aligned: bool) -> Iterator[tuple[slice, slice, slice]]:
    """Images, rows and columns of a window (n, y, x, d) that are decoded together: about `_DECODED_VALUES`.

    Whole images where several fit, else rows, or squares of a pyramid.
    """
    n, y, x, d = shape
    if not all(shape):
        return
    together, tokens = max(1, _DECODED_VALUES // (y * x * d)), max(_DECODED_VALUES // d, 1)
    rows, columns = y, x
    if y * x > tokens:
        side = max(1 << (tokens.bit_length() - 1) // 2, 1)
        rows, columns = (side, side) if aligned else (max(tokens // x, 1), min(tokens, x))
    for image in range(0, n, together):
        for row in range(0, y, rows):
            for column in range(0, x, columns):
                yield (
                    slice(image, min(image + together, n)),
                    slice(row, min(row + rows, y)),
                    slice(column, min(column + columns, x)),
                )


def _turned(values: NDArray[Real], matrix: NDArray[Real], out: NDArray[np.floating] | None = None) -> NDArray[Real]:
    """values (..., a) @ matrix (a, b), as one product: NumPy makes one of each token row otherwise."""
    rows = values.reshape(math.prod(values.shape[:-1]), len(matrix))
    into = None if out is None else out.reshape(len(rows), matrix.shape[1])  # C-ordered: no copy
    return np.matmul(rows, matrix, out=into).reshape(*values.shape[:-1], matrix.shape[1])


def _parts(shape: tuple[int, ...], values: int = _BATCH_VALUES) -> list[slice]:
    """Slices of images that bound the float64 copies."""
    size = max(1, values // max(math.prod(shape[1:]), 1))
    return [slice(start, start + size) for start in range(0, shape[0], size)]


def check_batch(values: NDArray[np.floating], dimensions: int | None = None) -> NDArray[np.floating]:
    """Validate a batch (n, y, x, d) of any float dtype and byte order; returns a native float array.

    Raises `InputError` for other dtypes, other than four axes, a wrong d, NaN, infinity, and values beyond 2^100.
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
        inside = np.abs(values[part]) <= min(MAX_SIZE, float(np.finfo(values.dtype).max))
        if not inside.all():
            image = part.start + int(np.argwhere(~inside)[0][0])
            what = "values beyond 2^100" if np.isfinite(values[part]).all() else "NaN or infinity"
            raise InputError(f"embeddings hold {what} (first in image {image}): fix or drop these images")
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
    everything = Selection(np.arange(dimensions), dimensions)
    draft = Transform(mean, 1.0, everything, places)
    centred = draft.project(sample).reshape(-1, dimensions)
    axes: Rotation | Selection
    if klt:
        axes = Rotation(_principal_axes(centred, rank))
    else:
        axes = Selection(np.argsort(-(centred**2).mean(0), kind="stable")[:rank], dimensions)
    if step is not None and not (math.isfinite(step) and step > 0):
        raise InputError(f"step must be a positive number, not {step!r}")
    draft = Transform(mean, 1.0 if step is None else float(step), axes)
    step = float(step) if step is not None else _fit_step(draft, centred + mean)
    fitted = Transform(mean, step, axes, places, gains)
    if gains is None:
        return fitted
    octaves = np.minimum(pyramid.octaves(*sample.shape[1:3]), len(gains) - 1)
    excess = float((gains.astype(np.float64)[octaves] ** -2.0).mean())
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
