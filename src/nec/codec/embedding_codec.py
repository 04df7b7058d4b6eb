"""`EmbeddingCodec`: transform, quantiser, prior and coder as one object that travels as one JSON file."""

from __future__ import annotations

import hashlib
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

from nec.codec import frame as framing
from nec.codec.fitting import fit_prior
from nec.codec.packing import pack_array, unpack_array, whole
from nec.codec.prior import MAX_CENTROID, Parameters, Prior, Scales, parameter_classes, weight_names
from nec.codec.tables import Bank
from nec.codec.transform import (
    MAX_SYMBOL_BITS,
    Transform,
    check_batch,
    fit_transform,
    level_quality,
    quality_level,
)
from nec.errors import CorruptError, InputError

PriorName = Literal["hierarchical", "factorized"]
SpatialName = Literal["haar"]
FORMAT = "nec.embedding-codec"
VERSIONS = {None: 1, "haar": 2}
"""Codec version by spatial transform."""
DEFAULT_GAINS = (0.5**0.5, 1.0, 2**0.5, 2.0)
"""Of details at spacing 2, 4, 8, and of all coarser coefficients, relative; docs/method.md says why."""
_MAX_GAINS = 16
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
        relative = None if spatial is None else _check_gains(gains)
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
        return VERSIONS[self.spatial]

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
        transform, prior = self._transform, self._prior
        header = [FORMAT, self.version, self.prior, transform.step.hex(), prior.parameters.first_level]
        header += [prior.parameters.spacing, prior.scales.low, prior.scales.split, prior.scales.wide]
        digest = hashlib.sha256(json.dumps(header).encode())
        for name, (array, dtype) in self._arrays().items():
            digest.update(f"{name}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array, dtype).tobytes())
        return digest.hexdigest()[:16]

    def _arrays(self) -> dict[str, tuple[NDArray[Any], str]]:
        transform, prior = self._transform, self._prior
        arrays: dict[str, tuple[NDArray[Any], str]] = {"mean": (transform.mean, "<f4")}
        if transform.positions is not None:
            arrays["positions"] = (transform.positions, "<f2")
        if transform.gains is not None:
            arrays["gains"] = (transform.gains, "<f4")
        if transform.basis is not None:
            arrays["basis"] = (transform.basis, "<f2")
        else:
            assert transform.order is not None
            arrays["order"] = (transform.order, "<u2")
        arrays["base"] = (prior.parameters.base, "<i2")
        arrays["weights"] = (prior.parameters.weights, "<i2")
        arrays["offset_of"] = (prior.scales.offset_of, "<u1")
        arrays["radii"] = (prior.bank.radii, "<u2")
        arrays["frequencies"] = (prior.bank.frequencies, "<u2")
        arrays["centroids"] = (prior.centroids, "<i1")
        return arrays

    # ---- as JSON

    def to_dict(self) -> dict[str, Any]:
        """Self-contained JSON-able form; see docs/format.md."""
        prior = self._prior
        return {
            "format": FORMAT,
            "version": self.version,
            "id": self.id,
            "prior": self.prior,
            "dimensions": self.dimensions,
            "rank": self.rank,
            "step": self._transform.step,
            "first_level": prior.parameters.first_level,
            "spacing": prior.parameters.spacing,
            "scale_low": prior.scales.low,
            "scale_split": prior.scales.split,
            "scale_wide": prior.scales.wide,
            **{name: pack_array(np.asarray(array, dtype)) for name, (array, dtype) in self._arrays().items()},
        }

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> EmbeddingCodec:
        """Inverse of `to_dict`. Raises `InputError` that names the field which is missing, malformed or altered."""
        if not isinstance(config, Mapping) or config.get("format") != FORMAT:
            raise InputError(f'not a codec: its config must be an object with "format": "{FORMAT}"')
        if config.get("version") not in VERSIONS.values():
            raise InputError(f"codec version {config.get('version')!r} is not known to this nec: upgrade nec")
        if config.get("prior") not in ("hierarchical", "factorized"):
            raise InputError(f"codec config: prior must be 'hierarchical' or 'factorized', not {config.get('prior')!r}")
        transform = _read_transform(config)
        codec = cls(transform, _read_prior(config, transform))
        if config.get("id") != codec.id:
            raise InputError(
                f"codec config: its content has id {codec.id}, not {config.get('id')!r}: it was altered or damaged"
            )
        return codec

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
            config = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"cannot read a codec from {os.fspath(path)}: {error}") from error
        try:
            return cls.from_dict(config)
        except InputError as error:
            raise InputError(f"{os.fspath(path)}: {error}") from error

    def side_information(self) -> dict[str, int]:
        """Bytes of the codec's JSON form by part: basis, mean, contexts, tables, other."""
        config = self.to_dict()

        def size(*names: str) -> int:
            return sum(len(json.dumps(config[name])) for name in names if name in config)

        parts = {
            "basis": size("basis"),
            "mean": size("mean", "order", "positions"),
            "contexts": size("base", "weights"),
            "tables": size("radii", "frequencies", "offset_of", "centroids"),
        }
        return {**parts, "other": len(json.dumps(config)) - sum(parts.values())}

    @property
    def nbytes(self) -> int:
        """Side information in all: bytes of the codec's JSON form."""
        return sum(self.side_information().values())

    # ---- coding

    def symbols(self, batch: NDArray[np.floating], quality: float = 1.0) -> NDArray[np.int32]:
        """Quantised coefficients (n, y, x, k) of a batch (n, y, x, d): what is entropy-coded.

        With `spatial` "haar" they are those of the pyramid, in place. Raises `InputError` as `encode`.
        """
        batch, level = check_batch(batch, self.dimensions), quality_level(quality)
        # A pyramid's encoder weighs errors against what symbols will cost in their contexts.
        return self._transform.quantise(batch, level, self._prior.quantise if self._prior.spatial else None)

    def encode(self, batch: NDArray[np.floating], quality: float = 1.0) -> bytes:
        """Compress a batch (n, y, x, d) into one frame.

        `quality` is any positive number; twice the quality halves the quantiser's step. It snaps to 8 levels a factor
        of 2 and is clipped to 2^-16..2^15.875. Raises `InputError` for NaN, infinity, other shapes, or symbols beyond
        24 bits.
        """
        return self.encode_symbols(self.symbols(batch, quality), quality)

    def decode(
        self,
        blob: bytes,
        limit: tuple[int, ...] | None = None,
        part: tuple[slice, slice, slice, slice] | None = None,
    ) -> NDArray[np.float32]:
        """Embeddings (n, y, x, d) float32 of a frame, or the `part` (images, rows, columns, channels) of them.

        A frame is one code, so its symbols are all read; what follows (most of the time at low rates) is done for the
        part alone, and memory for embeddings is taken for it alone. Its values are those of the whole up to the
        rounding of float32 sums. Slices have step 1 and are cut where the frame ends.

        Raises `CorruptError` if any bit of it changed, if another codec wrote it, or if it holds more than `limit`
        images, rows or columns, `InputError` for slices of another step.
        """
        if part is None:
            symbols, centroids, level = self._decode(blob, limit, centred=True)
            return self._transform.reconstruct(symbols, centroids, level)
        if len(part) != 4 or any(axis.step not in (None, 1) for axis in part):
            raise InputError(f"a part is four slices of step 1 (images, rows, columns, channels), not {part!r}")
        images, window = part[0], part[1:]
        symbols, centroids, level = self._decode(blob, limit, centred=True)
        some = None if centroids is None else centroids[images]
        return self._transform.reconstruct(symbols[images], some, level, window=window)

    def coarse_size(self, start: bytes, spacing: int) -> int:
        """Bytes of a frame that `decode_coarse` needs at a spacing; `start` is its first 64 bytes or more.

        Raises `InputError` for a spacing that the frame has no level of: powers of 2 up to the larger side of the grid
        (rounded up to a power of 2) with the hierarchical prior, 1 alone with the factorised one.
        """
        header, begin = framing.unpack_prefix(bytes(start), self._layout)
        words = header.segments[: self._levels_at(header, spacing)]
        return begin + 4 * sum(words)

    def decode_coarse(self, blob: bytes, spacing: int, limit: tuple[int, ...] | None = None) -> NDArray[np.float32]:
        """A coarse grid (n, ceil(y / spacing), ceil(x / spacing), d) from the start of a frame.

        Its tokens are those at rows and columns 0, spacing, 2 spacing, ..., or with `spatial` "haar" the means of cells
        of spacing x spacing tokens (at odd borders the last ones count twice). Memory is taken for these alone.

        `blob` may be a prefix of the frame of `coarse_size` bytes or more, for spacings above 1; a prefix is not
        protected by the frame's CRC. Raises `CorruptError` as `decode` does (`limit` is of the whole grid), and
        `InputError` as `coarse_size`.
        """
        header, begin = framing.unpack_prefix(bytes(blob), self._layout)
        count = self._levels_at(header, spacing)
        if spacing == 1:
            return self.decode(blob, limit)
        self._check_header(header, limit)
        end = begin + 4 * sum(header.segments[:count])
        if len(blob) < end:
            raise CorruptError(f"frame is cut after {len(blob)} bytes: spacing {spacing} needs {end}; fetch them")
        symbols, centroids = self._symbols_of(header, memoryview(blob)[begin:end], True, spacing)
        return self._transform.reconstruct(symbols, centroids, header.level, header.extent[1:], spacing)

    @cached_property
    def _layout(self) -> framing.Layout:
        return framing.Layout(self.id, self._levels_of, self.dimensions, self._prior.spatial)

    def _levels_of(self, rows: int, columns: int) -> int:
        return len(self._prior.levels(rows, columns))

    def _levels_at(self, header: framing.Frame, spacing: int) -> int:
        """How many spacing levels hold the tokens at a spacing."""
        most = 1 << max(self._levels_of(*header.extent[1:]) - 1, 0)
        if not isinstance(spacing, int) or spacing < 1 or spacing & (spacing - 1) or spacing > most:
            raise InputError(f"spacing must be a power of 2 from 1 to {most} for this frame, not {spacing!r}")
        return (most // spacing).bit_length()

    def _check_header(self, header: framing.Frame, limit: tuple[int, ...] | None) -> None:
        if header.channels > self.rank:
            raise CorruptError(f"frame declares {header.channels} channels where the codec has {self.rank}")
        n, y, x = header.extent
        if limit is not None and any(size > most for size, most in zip(header.extent, limit, strict=True)):
            raise CorruptError(f"frame holds {n} images of {y}x{x} where at most {limit} was expected")

    def encode_symbols(self, symbols: NDArray[np.integer], quality: float = 1.0) -> bytes:
        """Entropy-code integers (n, y, x, k), absolute values below 2^24, as a frame of that quality."""
        symbols, level = np.asarray(symbols), quality_level(quality)
        sizes = _sizes(symbols, self.rank)
        n, y, x, _ = symbols.shape
        framing.check_extent(n, y, x, self.dimensions)
        live = self._prior.live(sizes > 0)
        channels, width = max(live, default=0), int(sizes.max(initial=0)).bit_length()
        words, segments = np.zeros(0, np.uint32), list[int]()
        if channels:
            grid = symbols[..., :channels].transpose(1, 2, 0, 3)
            words, segments = self._prior.encode(grid, level, width, live)
        header = framing.Frame(
            bytes.fromhex(self.id)[:4], level, (n, y, x), channels, width, live if channels else (), tuple(segments)
        )
        return framing.pack(header, words.astype("<u4").tobytes(), self._layout.by_level)

    def decode_symbols(self, blob: bytes) -> tuple[NDArray[np.int32], float]:
        """Symbols (n, y, x, k) and quality of a frame. Raises `CorruptError` as `decode`."""
        symbols, _, level = self._decode(blob, None, centred=False)
        n, y, x, live = symbols.shape
        full = np.zeros((y, x, n, self.rank), np.int32)  # as they were decoded: faster than a transposed copy
        full[..., :live] = symbols.transpose(1, 2, 0, 3)
        return full.transpose(2, 0, 1, 3), level_quality(level)

    def _decode(
        self, blob: bytes, limit: tuple[int, ...] | None, centred: bool
    ) -> tuple[NDArray[np.int32], NDArray[np.int8] | None, int]:
        """Symbols of the channels that are not all zero, their centroids in 1/256, and the level."""
        header, words = framing.unpack(bytes(blob), self._layout)
        self._check_header(header, limit)
        return *self._symbols_of(header, words, centred), header.level

    def _symbols_of(
        self, header: framing.Frame, words: memoryview, centred: bool, spacing: int = 1
    ) -> tuple[NDArray[np.int32], NDArray[np.int8] | None]:
        """Symbols (n, y, x, channels) at multiples of a spacing and, if `centred`, their centroids in 1/256."""
        n, y, x = header.extent
        if n * y * x * header.channels == 0:
            return np.zeros((n, -(-y // spacing), -(-x // spacing), 0), np.int32), None
        stream = np.frombuffer(words, "<u4").astype(np.uint32)
        shape = (y, x, n, header.channels)
        grid, centroids = self._prior.decode(stream, shape, header.level, header.width, header.live, centred, spacing)
        symbols = grid.transpose(2, 0, 1, 3)
        return symbols, None if centroids is None else centroids.transpose(2, 0, 1, 3)


def _sizes(symbols: NDArray[np.integer], rank: int) -> NDArray[np.int64]:
    """The largest absolute value at each place (y, x, rank) of symbols (n, y, x, rank); `InputError` if none."""
    if symbols.dtype.kind not in "iu" or symbols.ndim != 4 or symbols.shape[3] != rank:
        raise InputError(f"symbols must be integers (n, y, x, {rank}), got {symbols.dtype} {symbols.shape}")
    top, bottom = symbols.max(axis=0, initial=0), symbols.min(axis=0, initial=0)
    if symbols.size and max(int(top.max()), -int(bottom.min())) >= 1 << MAX_SYMBOL_BITS:
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


def _read_transform(config: Mapping[str, Any]) -> Transform:
    dimensions = whole(config, "dimensions", 1, 1 << 16)
    rank = whole(config, "rank", 1, dimensions)
    step = config.get("step")
    if not isinstance(step, float | int) or not math.isfinite(step) or step <= 0:
        raise InputError(f"codec config: step must be a positive number, not {step!r}")
    mean = unpack_array(config.get("mean"), "mean", "<f4", 1)
    basis = order = positions = None
    if "positions" in config:
        positions = unpack_array(config["positions"], "positions", "<f2", 3)
        if positions.shape[2] != dimensions or 0 in positions.shape or not np.isfinite(positions).all():
            raise InputError(
                f"codec config: positions {positions.shape} do not fit {dimensions} dimensions, or hold NaN"
            )
    if "basis" in config:
        basis = unpack_array(config["basis"], "basis", "<f2", 2)
    else:
        order = unpack_array(config.get("order"), "order", "<u2", 1).astype(np.int64)
    fits = basis.shape == (rank, dimensions) if basis is not None else order.shape == (rank,)  # type: ignore[union-attr]
    if mean.shape != (dimensions,) or not fits or (order is not None and np.any(order >= dimensions)):
        raise InputError(f"codec config: mean and basis (or order) do not fit {dimensions} dimensions and rank {rank}")
    if not np.isfinite(mean).all() or (basis is not None and not np.isfinite(basis).all()):
        raise InputError("codec config: mean or basis holds NaN or infinity")
    gains = None
    if config["version"] == VERSIONS["haar"]:
        if config["prior"] != "hierarchical":
            raise InputError("codec config: a pyramid needs the hierarchical prior")
        gains = _check_gains(unpack_array(config.get("gains"), "gains", "<f4", 1))  # type: ignore[arg-type]
    return Transform(mean, float(step), basis, order, positions, gains)


def _check_gains(gains: Sequence[float]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        found = np.asarray(gains, np.float32)
    if found.ndim != 1 or not 1 <= len(found) <= _MAX_GAINS or not np.isfinite(found).all() or found.min() <= 0:
        raise InputError(f"gains must be 1 to {_MAX_GAINS} positive numbers, fine octaves first, not {gains!r}")
    return found


def _read_prior(config: Mapping[str, Any], transform: Transform) -> Prior:
    rank, spatial = transform.rank, transform.gains is not None
    base = unpack_array(config.get("base"), "base", "<i2", 3)
    weights = unpack_array(config.get("weights"), "weights", "<i2", 4)
    hierarchical = config["prior"] == "hierarchical"
    classes = parameter_classes(hierarchical)
    anchors = base.shape[0]
    names = weight_names(spatial)
    if base.shape != (anchors, classes, rank) or weights.shape != (len(names), *base.shape) or anchors < 1:
        raise InputError(
            f"codec config: base {base.shape} and weights {weights.shape} do not fit {classes} classes of {rank}"
        )
    signed = np.array([name in ("wn", "wf") for name in names])[:, None, None, None]
    if np.any(weights < np.where(signed, -128, 0)) or np.any(weights > np.where(signed, 127, 255)):
        raise InputError("codec config: weights are out of range")
    offset_of = unpack_array(config.get("offset_of"), "offset_of", "<u1", 1)
    if offset_of.shape != (65,) or offset_of.max() > 32:
        raise InputError("codec config: offset_of must have 65 entries below 33")
    scales = Scales(
        whole(config, "scale_low", 0, 255),
        whole(config, "scale_split", 1, 255),
        whole(config, "scale_wide", 4, 255),
        offset_of,
    )
    radii = unpack_array(config.get("radii"), "radii", "<u2", 1)
    bank = Bank(radii, unpack_array(config.get("frequencies"), "frequencies", "<u2", 1))
    if len(bank) != scales.tables:
        raise InputError(f"codec config: {len(bank)} tables where the scales need {scales.tables}")
    centroids = unpack_array(config.get("centroids"), "centroids", "<i1", 2)
    if centroids.shape != (len(bank), 5) or np.abs(centroids.astype(np.int16)).max() > MAX_CENTROID:
        raise InputError(f"codec config: centroids must be {len(bank)} rows of 5 within +-{MAX_CENTROID}")
    parameters = Parameters(whole(config, "first_level", -128, 127), whole(config, "spacing", 1, 255), base, weights)
    return Prior(hierarchical, parameters, scales, bank, centroids, spatial)
