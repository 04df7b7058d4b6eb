"""The Zarr v3 array-to-bytes codec `nec.embedding`: `zarr.open(...)` decodes embeddings like any array.

It is found through the entry point `zarr.codecs` once nec is installed. Its configuration is self-contained.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from zarr.abc.codec import ArrayBytesCodec, ArrayBytesCodecPartialDecodeMixin
from zarr.registry import register_codec

from nec.codec.embedding_codec import EmbeddingCodec
from nec.codec.transform import quality_level
from nec.errors import CorruptError, InputError, shown

if TYPE_CHECKING:
    from zarr.abc.store import ByteGetter
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer

NAME = "nec.embedding"
AXES = ("n", "y", "x", "c")
INSTALL = "pip install neural-embedding-compression"
"""In the metadata for people: a reader without this package names the codec that it misses, not where it is."""


@dataclass(frozen=True, init=False)
class NecEmbeddingCodec(ArrayBytesCodec, ArrayBytesCodecPartialDecodeMixin):
    """Stores chunks of token embeddings as nec frames.

    `axes` names the array's axes, any order of n (images), y, x (token grid) and c (embedding channels). Each chunk
    holds all channels. Zarr pads chunks that reach over the array's edge with the fill value (give the array NaN); only
    the images, rows and columns before the padding are coded. NaN elsewhere raises `InputError`.
    """

    is_fixed_size = False

    codec: EmbeddingCodec
    quality: float
    axes: tuple[str, ...]

    def __init__(self, codec: EmbeddingCodec, quality: float, axes: Iterable[str] = AXES) -> None:
        axes = tuple(axes)
        if len(axes) != len(AXES) or any(axis not in axes for axis in AXES):
            raise InputError(f"axes must be {', '.join(AXES)} in any order, not {shown(list(axes))}")
        quality_level(quality)
        object.__setattr__(self, "codec", codec)
        object.__setattr__(self, "quality", float(quality))
        object.__setattr__(self, "axes", axes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NecEmbeddingCodec) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[str, float, tuple[str, ...]]:
        return self.codec.id, self.quality, self.axes

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> NecEmbeddingCodec:
        """From Zarr metadata {"name", "configuration": {"codec", "quality", "axes"}}; `InputError` if malformed."""
        name, config = (data.get("name"), data.get("configuration")) if isinstance(data, dict) else (data, None)
        if name != NAME or not isinstance(config, dict):
            raise InputError(f"Zarr metadata names codec {name!r} without a configuration that {NAME} can read")
        missing = {"codec", "quality", "axes"} - config.keys()
        if missing or not isinstance(config["axes"], list | tuple):
            raise InputError(
                f"Zarr metadata: {NAME} needs codec, quality and axes; missing or malformed: {sorted(missing)}"
            )
        return cls(EmbeddingCodec.from_dict(config["codec"]), config["quality"], config["axes"])

    def to_dict(self) -> dict[str, Any]:
        """Zarr metadata; `from_dict` reads it."""
        config = {"codec": self.codec.to_dict(), "quality": self.quality, "axes": list(self.axes), "install": INSTALL}
        return {"name": NAME, "configuration": config}

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        """Zarr calls this when an array is made: four axes, a float dtype, all channels in one chunk."""
        if len(shape) != 4:
            raise InputError(f"{NAME} stores arrays of four axes {self.axes}, not of shape {shape}")
        if np.dtype(dtype.to_native_dtype()).kind != "f":
            raise InputError(f"{NAME} stores floats (float32), not {dtype}")
        channel = self.axes.index("c")
        chunks = getattr(chunk_grid, "chunk_shape", shape)
        if shape[channel] != self.codec.dimensions or chunks[channel] != self.codec.dimensions:
            raise InputError(
                f"axis c must be {self.codec.dimensions} channels in one chunk: array {shape}, chunks {tuple(chunks)}"
            )

    # ---- one chunk

    def encode_chunk(self, chunk: NDArray[np.floating]) -> bytes:
        """One frame of a chunk in the array's axis order."""
        batch = chunk.transpose([self.axes.index(axis) for axis in AXES])
        return self.codec.encode(batch[_valid_extent(batch)], self.quality)

    def decode_chunk(
        self,
        blob: bytes,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        fill: Any,
        selection: tuple[slice, ...] | None = None,
    ) -> NDArray[np.floating]:
        """The chunk of that shape, or a selection of it (slices of step 1 in the array's axis order).

        What lies beyond the frame's extent is `fill`.
        """
        if self.codec.dimensions != shape[self.axes.index("c")]:
            raise CorruptError(f"frame holds {self.codec.dimensions} channels for a chunk of shape {shape}")
        part, wanted = None, tuple(shape)
        if selection is not None:
            bounds = [slice(*axis.indices(size)[:2]) for axis, size in zip(selection, shape, strict=True)]
            wanted = tuple(max(0, axis.stop - axis.start) for axis in bounds)
            images, rows, columns, channels = (bounds[self.axes.index(axis)] for axis in AXES)
            part = images, rows, columns, channels
        batch = self.codec.decode(blob, tuple(shape[self.axes.index(axis)] for axis in AXES[:3]), part)
        ordered = batch.transpose([AXES.index(axis) for axis in self.axes])
        if ordered.shape == wanted:
            return np.ascontiguousarray(ordered, dtype)
        chunk = np.full(wanted, fill, dtype)
        chunk[tuple(slice(size) for size in ordered.shape)] = ordered
        return chunk

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        blob = await asyncio.to_thread(self.encode_chunk, np.asarray(chunk_data.as_ndarray_like()))
        return chunk_spec.prototype.buffer.from_bytes(blob)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        dtype = chunk_spec.dtype.to_native_dtype()
        fill = chunk_spec.fill_value
        chunk = await asyncio.to_thread(self.decode_chunk, chunk_data.to_bytes(), chunk_spec.shape, dtype, fill)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(chunk)

    async def _decode_partial_single(
        self, byte_getter: ByteGetter, selection: Any, chunk_spec: ArraySpec
    ) -> NDBuffer | None:
        blob = await byte_getter.get(prototype=chunk_spec.prototype)
        if blob is None:
            return None
        dtype, fill = chunk_spec.dtype.to_native_dtype(), chunk_spec.fill_value
        values = await asyncio.to_thread(self._select, blob.to_bytes(), chunk_spec.shape, dtype, fill, selection)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(values)

    def _select(
        self, blob: bytes, shape: tuple[int, ...], dtype: np.dtype[Any], fill: Any, selection: Any
    ) -> NDArray[np.floating]:
        """What `decode_chunk(...)[selection]` gives, decoded alone where the selection is of numbers and ranges."""
        axes = selection if isinstance(selection, tuple) else (selection,)
        simple = len(axes) == len(shape) and all(
            isinstance(axis, int | np.integer) or (isinstance(axis, slice) and axis.step in (None, 1)) for axis in axes
        )
        if not simple:
            return self.decode_chunk(blob, shape, dtype, fill)[selection]
        ranges = tuple(axis if isinstance(axis, slice) else slice(int(axis), int(axis) + 1) for axis in axes)
        chunk = self.decode_chunk(blob, shape, dtype, fill, ranges)
        return chunk[tuple(slice(None) if isinstance(axis, slice) else 0 for axis in axes)]

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        # What Zarr asks of a codec whose output has no fixed size.
        raise NotImplementedError("embeddings are coded at variable length")


def _valid_extent(batch: NDArray[np.floating]) -> tuple[slice, slice, slice]:
    """Images, rows and columns before the trailing ones that are NaN throughout."""
    some = ~np.isnan(batch).all(axis=3)
    ends = []
    for axis in range(3):
        filled = np.flatnonzero(some.any(axis=tuple({0, 1, 2} - {axis})))
        ends.append(int(filled[-1]) + 1 if len(filled) else 0)
    return slice(ends[0]), slice(ends[1]), slice(ends[2])


register_codec(NAME, NecEmbeddingCodec)
