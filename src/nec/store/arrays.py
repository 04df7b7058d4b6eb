"""Arrays of a store whose first axis counts images: NumPy indexing that reads chunk by chunk, each once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import zarr

from nec.errors import CorruptError, InputError
from nec.files import checksum
from nec.store.document import mask_tiling
from nec.store.frames import Frames
from nec.store.location import DAMAGE, reachable
from nec.store.tiling import Tiling


class ImageArray(ABC):
    """Array-like (n, ...), read when indexed.

    The first axis takes an integer, a slice, a boolean mask or a list of indices in any order (grouped by chunk, each
    read once); the others take integers and slices. `np.asarray` reads everything.
    """

    def __init__(self, shape: tuple[int, ...], dtype: type[np.generic], tiling: Tiling, where: str) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.ndim = len(shape)
        self.tiling = tiling
        self._where = where

    @abstractmethod
    def read(self, start: int, stop: int) -> np.ndarray:
        """Images [start, stop) as (stop - start, ...). Raises `CorruptError` where they are damaged or missing."""

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.shape} {self.dtype} of {self._where}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("it is decoded from compressed bytes and cannot be had without a copy")
        values = self.read(0, len(self))
        return values if dtype is None else values.astype(dtype, copy=False)

    def __iter__(self) -> Iterator[np.ndarray]:
        for _, block in self.batches(self.tiling.chunk[0]):
            yield from block

    def __getitem__(self, key: Any) -> np.ndarray:
        first, *rest = _expand(key, self.ndim)
        if any(not isinstance(part, int | np.integer | slice) for part in rest):
            raise InputError(f"index {key!r}: only the first axis takes a list of indices")
        if isinstance(first, int | np.integer):
            index = _check_index(int(first), len(self))
            return self.read(index, index + 1)[0][tuple(rest)]
        block = self._slice(first) if isinstance(first, slice) else self.take(first)
        return block[(slice(None), *rest)]

    def take(self, indices: Any) -> np.ndarray:
        """Images at `indices` (m,), in that order, repeats allowed, as (m, ...)."""
        return self._gather(_check_indices(indices, len(self)), {})

    def batches(self, size: int, indices: Any = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (indices (m,), images (m, ...)) of at most `size` images, in order or in that of `indices`.

        Memory stays at about one batch and one shard. In order, each chunk is decoded once.
        """
        if size < 1:
            raise InputError(f"batch size {size}: it must be at least 1")
        chosen = np.arange(len(self)) if indices is None else _check_indices(indices, len(self))
        kept: dict[int, np.ndarray] = {}
        for start in range(0, len(chosen), size):
            part = chosen[start : start + size]
            yield part, self._gather(part, kept)

    def _slice(self, part: slice) -> np.ndarray:
        start, stop, step = part.indices(len(self))
        if step == 1:
            return self.read(start, stop)
        return self.take(np.arange(start, stop, step))

    def _gather(self, indices: np.ndarray, kept: dict[int, np.ndarray]) -> np.ndarray:
        """Images at `indices`; each chunk that they touch is decoded once.

        `kept` holds the images of the last chunk of the batch before, with which a batch in order begins; the last
        chunk of this one replaces it.
        """
        out = np.empty((len(indices), *self.shape[1:]), self.dtype)
        if not len(indices):
            return out
        chunk_of = indices // self.tiling.chunk[0]
        order = np.argsort(chunk_of, kind="stable")
        chunks, starts = np.unique(chunk_of[order], return_index=True)
        wanted = dict(zip(chunks.tolist(), np.split(order, starts[1:]), strict=True))  # chunk: places in `indices`
        last: dict[int, np.ndarray] = {}
        for chunk, images in self._decoded(list(wanted), kept):
            places = wanted[chunk]
            out[places] = images[indices[places] - chunk * self.tiling.chunk[0]]
            if chunk == chunk_of[-1]:
                last[chunk] = images.copy()  # it may be a view of a whole shard
        kept.clear()
        kept.update(last)
        return out

    def _decoded(self, chunks: list[int], kept: dict[int, np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
        """(chunk, its images), those in `kept` first; neighbours in one shard are read together."""
        for chunk in chunks:
            if chunk in kept:
                yield chunk, kept[chunk]
        size = self.tiling.chunk[0]
        for run in _runs([chunk for chunk in chunks if chunk not in kept], self.tiling.slots[0]):
            block = self.read(run[0] * size, min((run[-1] + 1) * size, len(self)))
            for i, chunk in enumerate(run):
                yield chunk, block[i * size : (i + 1) * size]


class Embeddings(ImageArray):
    """Array-like (n, y, x, d) float32, decoded when indexed, see `ImageArray`.

    Every read checks what it decoded: a damaged, missing or exchanged chunk raises `CorruptError`.
    """

    def __init__(self, frames: Frames) -> None:
        super().__init__((*frames.tiling.grid, *frames.item), np.float32, frames.tiling, frames.where)
        self.frames = frames

    def read(self, start: int, stop: int, window: tuple[slice, slice, slice] | None = None) -> np.ndarray:
        """Images [start, stop) as float32 (stop - start, y, x, d), or a `window` (rows, columns, channels) of each.

        Embeddings are computed for the window alone (slices of step 1); chunks are read whole.

        Raises:
            CorruptError: a chunk among them is damaged or missing; the message names it.
            InputError: the window has nothing in it, or another step.
        """
        if window is None:
            return self.frames.read((slice(start, max(start, stop)),))
        item = [slice(*axis.indices(size)[:2]) for axis, size in zip(window, self.shape[1:], strict=True)]
        if any(axis.start >= axis.stop for axis in item) or any(axis.step not in (None, 1) for axis in window):
            raise InputError(f"a window is three slices of step 1 with something in them, not {window!r}")
        return self.frames.read((slice(start, max(start, stop)),), tuple(item))


class Masks(ImageArray):
    """Array-like (n, h, w) uint8 of class indices, 255 (`nec.store.IGNORE`) where there is no label; see `ImageArray`.

    Each chunk read is compared with its CRC-32C in the store's checked attributes, so a damaged, lost or exchanged
    chunk raises `CorruptError`.
    """

    def __init__(self, array: zarr.Array, checksums: Sequence[str], where: str) -> None:
        super().__init__(tuple(array.shape), np.uint8, mask_tiling(array.shape), where)
        self._array = array
        self._checksums = checksums

    def read(self, start: int, stop: int) -> np.ndarray:
        """Images [start, stop) as uint8 (stop - start, h, w).

        Raises:
            CorruptError: a chunk among them is damaged or missing; the message names it.
        """
        if stop <= start:
            return np.empty((0, *self.shape[1:]), np.uint8)
        size = self.tiling.chunk[0]
        chunks = range(start // size, (stop - 1) // size + 1)
        values = np.concatenate([self._chunk(chunk) for chunk in chunks])
        return values[start - chunks[0] * size :][: stop - start]

    def fault(self, chunk: int) -> str | None:
        """Why a chunk cannot be read, or None if it can."""
        try:
            self._chunk(chunk)
        except CorruptError as error:
            return str(error)
        return None

    def _chunk(self, chunk: int) -> np.ndarray:
        (images,) = self.tiling.shard_window(chunk)
        place = f"{self._where}: the masks of images {images.start} to {images.stop - 1}"
        try:
            with reachable(self._where):
                values = np.asarray(self._array[images])
        except DAMAGE as error:
            raise CorruptError(f"{place} are damaged ({error}); copy the store again from its origin") from error
        if checksum(values.tobytes()) != self._checksums[chunk]:
            raise CorruptError(f"{place} are damaged or missing; copy the store again from its origin")
        return values


def _expand(key: Any, ndim: int) -> tuple[Any, ...]:
    """Index as a tuple with one entry an axis at most, `...` written out."""
    parts = key if isinstance(key, tuple) else (key,)
    places = [i for i, part in enumerate(parts) if part is Ellipsis]
    if len(parts) - len(places) > ndim or len(places) > 1:
        raise InputError(f"index {key!r}: too many indices for {ndim} axes")
    if places:
        at = places[0]
        parts = (*parts[:at], *[slice(None)] * (ndim + 1 - len(parts)), *parts[at + 1 :])
    return parts or (slice(None),)


def _check_index(index: int, length: int) -> int:
    if not -length <= index < length:
        raise IndexError(f"image {index} is outside the store's {length} images")
    return index % length


def _check_indices(indices: Any, length: int) -> np.ndarray:
    values = np.asarray(indices)
    if values.dtype == bool and values.shape == (length,):
        return np.flatnonzero(values)
    if values.size == 0:
        return np.empty(0, np.int64)
    if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
        raise InputError(
            f"indices have shape {values.shape} and dtype {values.dtype}: give a list of integers, or a mask"
        )
    wrong = values[(values < -length) | (values >= length)]
    if len(wrong):
        raise IndexError(f"image {wrong[0]} is outside the store's {length} images")
    return values.astype(np.int64) % length


def _runs(chunks: Iterable[int], chunks_per_shard: int) -> Iterator[list[int]]:
    """Cut a sorted list of chunks into runs of neighbours that lie in one shard."""
    for _, run in groupby(enumerate(chunks), key=lambda pair: (pair[1] - pair[0], pair[1] // chunks_per_shard)):
        yield [chunk for _, chunk in run]
