"""The lazily decoded embeddings of a store: NumPy indexing that never returns what was not stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, NoReturn

import numpy as np
import zarr

from nec.errors import CorruptError, InputError, NecError
from nec.store.files import DAMAGE, reachable
from nec.store.layout import Tiling


class Embeddings:
    """Array-like (n, y, x, d) float32, decoded when indexed.

    The first axis takes an integer, a slice, a boolean mask or a list of indices in any order (grouped by chunk, each
    decoded once); the others take integers and slices. `np.asarray` decodes everything.

    Every read checks what it decoded: a damaged or missing chunk raises `CorruptError`. (Plain Zarr would return the
    fill value, NaN, for a missing file.)
    """

    def __init__(self, array: zarr.Array, tiling: Tiling, where: str) -> None:
        self._array = array
        self._where = where
        self.tiling = tiling
        self.shape: tuple[int, int, int, int] = tuple(array.shape)  # type: ignore[assignment]
        self.dtype = np.dtype(np.float32)
        self.ndim = 4

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<Embeddings {self.shape} float32 of {self._where}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("embeddings are decoded from compressed bytes: they cannot be had without a copy")
        values = self.read(0, len(self))
        return values if dtype is None else values.astype(dtype, copy=False)

    def __iter__(self) -> Iterator[np.ndarray]:
        for _, block in self.batches(self.tiling.per_chunk):
            yield from block

    def __getitem__(self, key: Any) -> np.ndarray:
        first, *rest = _expand(key)
        if any(not isinstance(part, int | np.integer | slice) for part in rest):
            raise InputError(f"embeddings[{key!r}]: only the first axis takes a list of indices")
        if isinstance(first, int | np.integer):
            index = _check_index(int(first), len(self))
            return self.read(index, index + 1)[0][tuple(rest)]
        block = self._slice(first) if isinstance(first, slice) else self.take(first)
        return block[(slice(None), *rest)]

    def read(self, start: int, stop: int) -> np.ndarray:
        """Images [start, stop) as float32 (stop - start, y, x, d).

        Raises:
            CorruptError: a chunk among them is damaged or missing; the message names it.
        """
        if stop <= start:
            return np.empty((0, *self.shape[1:]), np.float32)
        try:
            block = self._decode(start, stop)
        except DAMAGE as error:
            self._raise_fault(start, stop, error)
        if np.isnan(block[:, 0, 0, 0]).any():  # the codec stores no NaN: this is the fill value of a missing chunk
            self._raise_fault(start, stop, None)
        return block

    def take(self, indices: Any) -> np.ndarray:
        """Images at `indices` (m,), in that order, repeats allowed, as float32 (m, y, x, d)."""
        return self._gather(_check_indices(indices, len(self)), {})

    def batches(self, size: int, indices: Any = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (indices (m,), embeddings (m, y, x, d)) of at most `size` images, in order or in that of `indices`.

        Memory stays at about one batch and one shard. In order, each chunk is decoded once.
        """
        if size < 1:
            raise InputError(f"batch size {size}: it must be at least 1")
        chosen = np.arange(len(self)) if indices is None else _check_indices(indices, len(self))
        kept: dict[int, np.ndarray] = {}
        for start in range(0, len(chosen), size):
            part = chosen[start : start + size]
            yield part, self._gather(part, kept)

    def fault(self, chunk: int) -> str | None:
        """Why a chunk cannot be read, or None if it can."""
        try:
            block = self._decode(*self.tiling.chunk_images(chunk))
        except DAMAGE as error:
            return str(error) or type(error).__name__
        return "missing" if np.isnan(block[:, 0, 0, 0]).any() else None

    def _decode(self, start: int, stop: int) -> np.ndarray:
        with reachable(self._where):
            return np.asarray(self._array[start:stop])

    def _slice(self, part: slice) -> np.ndarray:
        start, stop, step = part.indices(len(self))
        if step == 1:
            return self.read(start, stop)
        return self.take(np.arange(start, stop, step))

    def _gather(self, indices: np.ndarray, kept: dict[int, np.ndarray]) -> np.ndarray:
        """Decode the chunks that `indices` touch, each once, runs of neighbours in a shard together.

        `kept` holds the last chunk of the call before, which a batch in order begins with; this call's replaces it.
        """
        out = np.empty((len(indices), *self.shape[1:]), np.float32)
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

    def _raise_fault(self, start: int, stop: int, error: Exception | None) -> NoReturn:
        """Name the first chunk at fault among images [start, stop)."""
        for chunk in range(start // self.tiling.per_chunk, (stop - 1) // self.tiling.per_chunk + 1):
            reason = self.fault(chunk)
            if reason is not None:
                raise CorruptError(
                    f"{self._where}: {self.tiling.describe_chunk(chunk)} is damaged: {reason};"
                    " `nec verify` lists all damage, copy the store again from its origin"
                ) from error
        if error is None or isinstance(error, NecError):
            raise CorruptError(f"{self._where}: images {start} to {stop - 1} did not read the same twice") from error
        raise error


def _expand(key: Any) -> tuple[Any, ...]:
    """Index as a tuple with one entry an axis at most, `...` written out."""
    parts = key if isinstance(key, tuple) else (key,)
    places = [i for i, part in enumerate(parts) if part is Ellipsis]
    if len(parts) - len(places) > 4 or len(places) > 1:
        raise InputError(f"embeddings[{key!r}]: too many indices for (n, y, x, d)")
    if places:
        at = places[0]
        parts = (*parts[:at], *[slice(None)] * (5 - len(parts)), *parts[at + 1 :])
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
