"""`EmbeddingCodec`: transform, quantiser, prior and coder as one object that travels as one JSON file."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nec.codec import config
from nec.codec import frame as framing
from nec.codec.fitting import fit_prior
from nec.codec.prior import Kept, Prior
from nec.codec.transform import (
    EVERYTHING,
    MAX_SYMBOL_BITS,
    WORKING_BYTES,
    Coefficients,
    Transform,
    Window,
    check_batch,
    fit_transform,
    level_quality,
    quality_level,
)
from nec.errors import CorruptError, InputError

PriorName = Literal["hierarchical", "factorized"]
SpatialName = Literal["haar"]
DEFAULT_GAINS = (0.5**0.5, 1.0, 2**0.5, 2.0)
"""Of details at spacing 2, 4, 8, and of all coarser coefficients, relative; docs/method.md says why."""
_FIT_TOKENS = 200_000
_FIT_VALUES = 1 << 24


class EmbeddingCodec:
    """Compresses grids of token embeddings (n, y, x, d) of any model.

    Decoding touches integers only until the final dequantisation, so every machine decodes every stream alike.

    Fit it on a sample of embeddings, or load a fitted one. Instances are immutable and safe to share between threads.

    >>> import numpy as np
    >>> from nec.codec import EmbeddingCodec
    >>> rng = np.random.default_rng(0)
    >>> embeddings = np.cumsum(rng.normal(size=(40, 8, 8, 16)), axis=1).astype(np.float32)
    >>> codec = EmbeddingCodec.fit(embeddings, prior="hierarchical")
    >>> blob = codec.encode(embeddings, quality=1.0)
    >>> decoded = codec.decode(blob)
    >>> decoded.shape, decoded.dtype
    ((40, 8, 8, 16), dtype('float32'))
    >>> bool(np.square(decoded - embeddings).sum() < 0.05 * np.square(embeddings - embeddings.mean((0, 1, 2))).sum())
    True
    >>> codec.encode(decoded, quality=1.0) == blob
    True
    """

    def __init__(self, transform: Transform, prior: Prior) -> None:
        self._transform, self._prior = transform, prior

    @classmethod
    def fit(
        cls,
        embeddings: NDArray[np.floating],
        prior: PriorName = "hierarchical",
        rank: int | None = None,
        klt: bool = True,
        seed: int = 0,
        step: float | None = None,
        positions: bool | None = False,
        spatial: SpatialName | None = None,
        gains: Sequence[float] = DEFAULT_GAINS,
    ) -> EmbeddingCodec:
        """Fit a codec to a sample of embeddings (n, y, x, d), n >= 1, any float dtype.

        `rank` keeps the first k principal axes (all when None); without `klt` the channels stay as they are, the k of
        largest variance are kept. `step` is the quantiser's step at quality 1; by default the step at which the squared
        error is 3% of the sample's variance. `positions` keeps a mean for each place of the grid, which transformers
        with position embeddings repeat in every image (other grids repeat the pattern); None: where that explains 3%
        of the variance or more. `spatial` "haar" codes a Haar pyramid over the grid instead of the tokens themselves
        (with the hierarchical prior): far fewer bytes at equal error where rates are low and neighbouring tokens are
        alike; `gains` are the relative precisions of its octaves, fine ones first. Large samples are subsampled with
        `seed`; the result is deterministic.
        Raises `InputError` for samples that are empty, not finite or not four-dimensional.
        """
        if prior not in ("hierarchical", "factorized"):
            raise InputError(f"prior must be 'hierarchical' or 'factorized', not {prior!r}")
        if spatial is not None and (spatial != "haar" or prior != "hierarchical"):
            raise InputError(
                f"spatial must be None or 'haar' with the hierarchical prior, not {spatial!r} with {prior}"
            )
        sample = _subsample(np.asarray(embeddings), seed)
        sample = check_batch(sample)
        relative = None if spatial is None else config.check_gains(gains)
        transform = fit_transform(sample, rank, klt, step, positions, relative)
        return cls(transform, fit_prior(sample, transform, prior == "hierarchical", seed))

    def __reduce__(self) -> tuple[Any, ...]:
        return EmbeddingCodec.from_dict, (self.to_dict(),)  # coder models cannot be pickled; dask sends codecs about

    # ---- what it is

    @property
    def dimensions(self) -> int:
        """d, the embeddings' channels."""
        return self._transform.dimensions

    @property
    def rank(self) -> int:
        """k, the channels that are coded."""
        return self._transform.rank

    @property
    def prior(self) -> PriorName:
        return "hierarchical" if self._prior.hierarchical else "factorized"

    @property
    def spatial(self) -> SpatialName | None:
        """The transform over the grid, "haar" or None."""
        return None if self._transform.gains is None else "haar"

    @property
    def version(self) -> int:
        """Version of the codec's format, which docs/format.md describes."""
        return 1 if self.spatial is None else 2

    @property
    def positions(self) -> NDArray[np.float16] | None:
        """What the place of a token adds to the mean, (py, px, d), or None; see `fit`."""
        return self._transform.positions

    def without_positions(self) -> EmbeddingCodec:
        """The same codec for embeddings that `positions` were subtracted from."""
        return EmbeddingCodec(replace(self._transform, positions=None), self._prior)

    @property
    def parts(self) -> tuple[Transform, Prior]:
        """Transform and prior, for what works on them directly, as training does."""
        return self._transform, self._prior

    def step(self, quality: float = 1.0) -> float:
        """Quantiser step at a quality, in units of the embeddings."""
        return self._transform.step_at(quality_level(quality))

    @cached_property
    def id(self) -> str:
        """Identity: 16 hex digits of the SHA-256 over all that decides bytes and values."""
        return config.identity(self._transform, self._prior)

    # ---- as JSON

    def to_dict(self) -> dict[str, Any]:
        """Self-contained JSON-able form; see docs/format.md."""
        return config.to_config(self._transform, self._prior)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> EmbeddingCodec:
        """Inverse of `to_dict`. Raises `InputError` that names the field which is missing, malformed or altered."""
        return cls(*config.from_config(data))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one JSON file (`codec.json` in a model folder), under a temporary name first."""
        path = Path(path)
        draft = path.with_name(path.name + ".tmp")
        try:
            draft.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
            draft.replace(path)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise InputError(f"cannot write a codec to {os.fspath(path)}: {error}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> EmbeddingCodec:
        """Read what `save` wrote. Raises `InputError` if the file is missing or not a codec."""
        try:
            return cls.from_dict(config.parse(Path(path).read_bytes()))
        except OSError as error:
            raise InputError(f"cannot read a codec from {os.fspath(path)}: {error}") from error
        except InputError as error:
            raise InputError(f"{os.fspath(path)}: {error}") from error

    def side_information(self) -> dict[str, int]:
        """Bytes of the codec's JSON form by part: basis, mean, contexts, tables, other."""
        return config.sizes(self.to_dict())

    @property
    def nbytes(self) -> int:
        """Side information in all: bytes of the codec's JSON form."""
        return sum(self.side_information().values())

    # ---- coding

    def symbols(self, batch: NDArray[np.floating], quality: float = 1.0) -> NDArray[np.int32]:
        """Quantised coefficients (n, y, x, k) of a batch (n, y, x, d): what is entropy-coded.

        With `spatial` "haar" they are those of the pyramid, in place. Raises `InputError` as `encode`.
        """
        return self._quantised(batch, quality_level(quality))[0]

    def _quantised(self, batch: NDArray[np.floating], level: int) -> tuple[NDArray[np.int32], Kept | None]:
        """Symbols (n, y, x, k), and the contexts in which a pyramid's were chosen, where they were taken at once."""
        batch = check_batch(batch, self.dimensions)
        n, rows, columns, _ = batch.shape
        out, kept = np.empty((rows, columns, n, self.rank), np.int32), list[Kept]()  # in memory as it will be coded
        for images, scaled in self._transform.scaled(batch, level):
            if self._prior.spatial:  # its encoder weighs errors against what symbols will cost in their contexts
                out[:, :, images], contexts = self._prior.quantise(scaled, level)
                kept = [*kept[:1], contexts]
            else:
                np.rint(scaled, out=out[:, :, images], casting="unsafe")
        return out.transpose(2, 0, 1, 3), kept[0] if len(kept) == 1 else None

    def encode(self, batch: NDArray[np.floating], quality: float = 1.0) -> bytes:
        """Compress a batch (n, y, x, d) into one frame.

        `quality` is any positive number; twice the quality halves the quantiser's step. It snaps to 8 levels a factor
        of 2 and is clipped to 2^-16..2^15.875. Raises `InputError` for NaN, infinity, other shapes, or symbols beyond
        24 bits.
        """
        level = quality_level(quality)
        return self._encoded(*self._quantised(batch, level), level)

    def decode(
        self,
        blob: bytes,
        limit: tuple[int, ...] | None = None,
        part: Window | None = None,
        *,
        extent: tuple[int, int, int] | None = None,
        max_bytes: int | None = None,
        out: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Embeddings (n, y, x, d) float32 of a frame, or the `part` (images, rows, columns, channels) of them.

        A frame is one code, so its symbols are all read; what follows (most of the time at low rates) is done for the
        part alone, and memory for embeddings is taken for it alone. Its values are those of the whole up to the
        rounding of float32 sums.

        Args:
            blob: the frame.
            limit: the most images, rows and columns that are expected.
            part: four slices of step 1, cut where the frame ends; everything by default.
            extent: how many images, rows and columns the frame must hold.
            max_bytes: the most memory that decoding may take, the result included; no frame takes more than some
                9 bytes a value and 4 MB without it (30 where the plain coder works).
            out: a float32 array of the result's shape, of any strides, to decode into.

        Raises:
            CorruptError: if any bit of the frame changed, if another codec wrote it, or if it does not hold what
                `limit` and `extent` say.
            InputError: for slices of another step, an `out` that does not fit, or a frame beyond `max_bytes`.
        """
        window = EVERYTHING if part is None else part
        if len(window) != 4 or any(axis.step not in (None, 1) for axis in window):
            raise InputError(f"a part is four slices of step 1 (images, rows, columns, channels), not {part!r}")
        header, words = framing.unpack(bytes(blob), self._layout)
        self._check_header(header, limit, extent)
        self._check_memory(header, window, max_bytes)
        return self._transform.reconstruct(self._coefficients(header, words), window, out)

    def coarse_size(self, start: bytes, spacing: int) -> int:
        """Bytes of a frame that `decode_coarse` needs at a spacing; `start` is its first `MAX_HEADER` bytes or more.

        Most headers are shorter than 64 bytes; `CorruptError` where `start` ends before the header does.

        Raises `InputError` for a spacing that the frame does not have: powers of 2 up to the larger side of the grid
        (rounded up to a power of 2) with the hierarchical prior, 1 alone with the factorised one.
        """
        header, begin = framing.unpack_prefix(bytes(start), self._layout)
        words = header.segments[: self._resolutions_at(header, spacing)]
        return begin + 4 * sum(words)

    def decode_coarse(
        self, blob: bytes, spacing: int, limit: tuple[int, ...] | None = None, *, max_bytes: int | None = None
    ) -> NDArray[np.float32]:
        """A coarse grid (n, ceil(y / spacing), ceil(x / spacing), d) from the start of a frame.

        Its tokens are those at rows and columns 0, spacing, 2 spacing, ..., or with `spatial` "haar" the means of cells
        of spacing x spacing tokens (at odd borders the last ones count twice). Memory is taken for these alone.

        `blob` may be a prefix of the frame of `coarse_size` bytes or more, for spacings above 1; a prefix is not
        protected by the frame's CRC. Raises `CorruptError` as `decode` does (`limit` is of the whole grid), and
        `InputError` as `coarse_size`, or where it would take more memory than `max_bytes`.
        """
        header, begin = framing.unpack_prefix(bytes(blob), self._layout)
        count = self._resolutions_at(header, spacing)
        if spacing == 1:
            return self.decode(blob, limit, max_bytes=max_bytes)
        self._check_header(header, limit, None)
        self._check_memory(header, EVERYTHING, max_bytes, spacing)
        end = begin + 4 * sum(header.segments[:count])
        if len(blob) < end:
            raise CorruptError(f"frame is cut after {len(blob)} bytes: spacing {spacing} needs {end}; fetch them")
        return self._transform.reconstruct(self._coefficients(header, memoryview(blob)[begin:end], spacing))

    @cached_property
    def _layout(self) -> framing.Layout:
        return framing.Layout(self.id, self._resolutions_of, self.dimensions, self._prior.spatial)

    def _resolutions_of(self, rows: int, columns: int) -> int:
        return len(self._prior.resolutions(rows, columns))

    def _resolutions_at(self, header: framing.Frame, spacing: int) -> int:
        """How many resolutions hold the tokens at a spacing."""
        most = 1 << max(self._resolutions_of(*header.extent[1:]) - 1, 0)
        if not isinstance(spacing, int) or spacing < 1 or spacing & (spacing - 1) or spacing > most:
            raise InputError(f"spacing must be a power of 2 from 1 to {most} for this frame, not {spacing!r}")
        return (most // spacing).bit_length()

    def _check_header(
        self, header: framing.Frame, limit: tuple[int, ...] | None, extent: tuple[int, int, int] | None
    ) -> None:
        if header.channels > self.rank:
            raise CorruptError(f"frame declares {header.channels} channels where the codec has {self.rank}")
        n, y, x = header.extent
        if limit is not None and any(size > most for size, most in zip(header.extent, limit, strict=True)):
            raise CorruptError(f"frame holds {n} images of {y}x{x} where at most {limit} was expected")
        if extent is not None and header.extent != tuple(extent):
            raise CorruptError(f"frame holds {n} images of {y}x{x} where {tuple(extent)} was expected")

    def _check_memory(self, header: framing.Frame, window: Window, max_bytes: int | None, spacing: int = 1) -> None:
        n, y, x = header.extent
        rows, columns = -(-y // spacing), -(-x // spacing)
        sizes = n, rows, columns, self.dimensions
        wanted = math.prod(len(range(size)[axis]) for size, axis in zip(sizes, window, strict=True))
        needed = 4 * wanted + self._prior.working_bytes((rows, columns, n, header.channels), y * x)
        needed += WORKING_BYTES if wanted else 0
        if max_bytes is not None and needed > max_bytes:
            raise InputError(
                f"decoding {n} images of {y}x{x} takes {needed} bytes where max_bytes allows {max_bytes}: raise it"
            )

    def encode_symbols(self, symbols: NDArray[np.integer], quality: float = 1.0) -> bytes:
        """Entropy-code integers (n, y, x, k), absolute values below 2^24, as a frame of that quality."""
        return self._encoded(np.asarray(symbols), None, quality_level(quality))

    def _encoded(self, symbols: NDArray[np.integer], kept: Kept | None, level: int) -> bytes:
        sizes = _sizes(symbols, self.rank)
        n, y, x, _ = symbols.shape
        framing.check_extent(n, y, x, self.dimensions)
        live = self._prior.live(sizes > 0)
        channels, width = max(live, default=0), int(sizes.max(initial=0)).bit_length()
        words, segments = b"", list[int]()
        if channels:
            grid = symbols.transpose(1, 2, 0, 3)
            words, segments = self._prior.encode(grid, level, width, live, kept)
        header = framing.Frame(
            bytes.fromhex(self.id)[:4], level, (n, y, x), channels, width, live if channels else (), tuple(segments)
        )
        return framing.pack(header, words, self._layout.by_resolution)

    def decode_symbols(self, blob: bytes) -> tuple[NDArray[np.int32], float]:
        """Symbols (n, y, x, k) and quality of a frame. Raises `CorruptError` as `decode`."""
        header, words = framing.unpack(bytes(blob), self._layout)
        self._check_header(header, None, None)
        grid, _ = self._decoded(header, words, 1, False, self.rank)
        return grid.transpose(2, 0, 1, 3), level_quality(header.level)

    def _decoded(
        self, header: framing.Frame, words: memoryview, spacing: int, centred: bool, channels: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int8] | None]:
        """Symbols (y, x, n, channels) at multiples of a spacing, and centroids."""
        n, y, x = header.extent
        if n * y * x * header.channels == 0:
            return np.zeros((-(-y // spacing), -(-x // spacing), n, channels), np.int32), None
        stream, shape = np.frombuffer(words, "<u4").astype(np.uint32), (y, x, n, header.channels)
        return self._prior.decode(stream, shape, header.level, header.width, header.live, centred, spacing, channels)

    def _coefficients(self, header: framing.Frame, words: memoryview, spacing: int = 1) -> Coefficients:
        """What a frame holds at multiples of a spacing, of the channels that are not all zero."""
        grid, centroids = self._decoded(header, words, spacing, True, header.channels)
        inside = None if centroids is None else centroids.transpose(2, 0, 1, 3)
        known = header.live[: self._resolutions_at(header, spacing)] if grid.size else None
        narrow = header.width <= 10
        symbols, grid_size = grid.transpose(2, 0, 1, 3), header.extent[1:]
        return Coefficients(symbols, inside, header.level, known, grid_size, spacing, narrow)


def _sizes(symbols: NDArray[np.integer], rank: int) -> NDArray[np.int64]:
    """The largest absolute value at each place (y, x, rank) of symbols (n, y, x, rank), (0, 0, rank) of none."""
    if symbols.dtype.kind not in "iu" or symbols.ndim != 4 or symbols.shape[3] != rank:
        raise InputError(f"symbols must be integers (n, y, x, {rank}), got {symbols.dtype} {symbols.shape}")
    if not symbols.size:
        return np.zeros((0, 0, rank), np.int64)
    top, bottom = symbols.max(axis=0, initial=0), symbols.min(axis=0, initial=0)
    if max(int(top.max()), -int(bottom.min())) >= 1 << MAX_SYMBOL_BITS:
        raise InputError(f"symbols must lie below 2^{MAX_SYMBOL_BITS} in absolute value")
    return np.maximum(top.astype(np.int64), -bottom.astype(np.int64))


def _subsample(embeddings: NDArray[Any], seed: int) -> NDArray[Any]:
    """Whole images, at most about 200,000 tokens and 2^24 values, drawn without replacement."""
    if embeddings.ndim != 4:
        raise InputError(f"embeddings must have four axes (n, y, x, d), got shape {embeddings.shape}")
    if embeddings.size == 0:
        raise InputError(f"cannot fit a codec to no embeddings: got shape {embeddings.shape}")
    tokens = math.prod(embeddings.shape[1:3])
    limit = max(1, min(_FIT_TOKENS // tokens, _FIT_VALUES // (tokens * embeddings.shape[3])))
    if len(embeddings) <= limit:
        return embeddings
    chosen = np.random.default_rng(seed).choice(len(embeddings), limit, replace=False)
    return embeddings[np.sort(chosen)]
