"""Arrays of a store whose first axis counts images: NumPy indexing that reads chunk by chunk, each once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import numpy as np

from nec.errors import InputError
from nec.store.layout import Tiling


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
        for _, block in self.batches(self.tiling.per_chunk):
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
        """Decode the chunks that `indices` touch, each once, runs of neighbours in a shard together.

        `kept` holds the last chunk of the call before, which a batch in order begins with; this call's replaces it.
        """
        out = np.empty((len(indices), *self.shape[1:]), self.dtype)
        order = np.argsort(indices, kind="stable")
        ordered = indices[order]
        last = int(indices[-1]) // self.tiling.per_chunk if len(indices) else -1
        last_block: dict[int, np.ndarray] = {}
        for first, block in self._blocks(np.unique(ordered // self.tiling.per_chunk).tolist(), kept):
            offset = first * self.tiling.per_chunk
            part = slice(*np.searchsorted(ordered, [offset, offset + len(block)]))
            out[order[part]] = block[ordered[part] - offset]
            if offset <= last * self.tiling.per_chunk < offset + len(block):
                start, stop = self.tiling.chunk_images(last)
                last_block[last] = block[start - offset : stop - offset]
        kept.clear()
        kept.update(last_block)
        return out

    def _blocks(self, chunks: list[int], kept: dict[int, np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (first chunk, decoded images) for runs of neighbouring chunks in one shard."""
        for chunk in [chunk for chunk in chunks if chunk in kept]:
            yield chunk, kept[chunk]
        for run in _runs([chunk for chunk in chunks if chunk not in kept], self.tiling.chunks_per_shard):
            start, stop = self.tiling.chunk_images(run[0])[0], self.tiling.chunk_images(run[-1])[1]
            yield run[0], self.read(start, stop)


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
