"""The reader's core: frames out of shards, fetched together, checked, decoded in threads straight into the result."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from zarr.abc.store import RangeByteRequest, SuffixByteRequest

from nec.errors import CorruptError, InputError
from nec.store.location import DAMAGE, ZarrStore, read_key, read_keys
from nec.store.shards import Mark, Shard, Tiling, Window, index_bytes, mark, overlap, shard_index, within

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec

_TOGETHER = 16  # shards that are fetched at once
_START = 512
"""Bytes of a frame asked for first by `coarse`; they hold its header, and all of a coarse grid where rates are low."""
ADVICE = "`nec verify` lists all damage, copy the store again from its origin"


_Extent = tuple[int, int] | CorruptError  # (offset, length) in a file, or why there is none


@dataclass(frozen=True)
class _Chunk:
    """What is wanted of a chunk.

    Attributes:
        window: the chunk, in the grid.
        inside: the wanted items, within the chunk.
        target: their place in the result.
    """

    shard: Shard
    slot: int
    window: Window
    inside: Window
    target: Window


@dataclass(frozen=True)
class Frames:
    """The embeddings of a store of images, or of a date of a raster.

    Every read checks what it decoded, so a damaged, cut or missing chunk raises; plain Zarr would return NaN for a
    missing one. Where a whole shard is read, it must also be the one that was written.

    Attributes:
        where: what messages call the store.
        item: shape of what stands at a place of the grid: (y, x, d) of an image, (d,) of a token.
        key: path of a shard.
        written: size and checksum of a shard as its writer noted them, None where it is not known.
    """

    store: ZarrStore
    where: str
    codec: EmbeddingCodec
    tiling: Tiling
    item: tuple[int, ...]
    key: Callable[[Shard], str]
    written: Callable[[Shard], Mark | None]

    def read(self, window: Window, item: Window | None = None, wanted: np.ndarray | None = None) -> np.ndarray:
        """A window of the grid, of each item the part `item`, as float32.

        Args:
            window: slices of the grid with start and stop.
            item: slices of an item, with start and stop; None for all of it.
            wanted: bool of the window's shape; chunks without a wanted item are not read. What is not wanted is NaN.

        Raises:
            CorruptError: a chunk is damaged or missing; the message names it.
            InputError: the window does not fit into memory.
        """
        shape = _sizes((*window, *(item or self._whole_item)))
        try:
            out = np.empty(shape, np.float32)
        except (MemoryError, ValueError) as error:
            raise InputError(f"{self.where}: values of shape {shape} do not fit into memory: read fewer") from error
        if wanted is not None:
            out[~wanted] = np.nan
        chunks = [chunk for chunk in self._chunks(window) if wanted is None or wanted[chunk.target].any()]
        for shards in _groups(chunks, _TOGETHER):
            self._read_shards(shards, window, item, wanted, out)
        return out

    def faults(self, shard: Shard, slots: Sequence[int]) -> list[tuple[int, str]]:
        """(slot, reason) of those chunks of a shard that cannot be read."""
        windows = self.tiling.chunk_windows(*shard)
        chunks = [
            _Chunk(shard, slot, window, within(window, window), within(window, window))
            for slot in slots
            if (window := windows[slot]) is not None
        ]
        faults: dict[int, str] = {}

        def decode(pair: tuple[_Chunk, bytes | CorruptError]) -> None:
            try:
                self._decode(*pair, None)
            except DAMAGE as error:
                faults[pair[0].slot] = str(error) or type(error).__name__

        _in_threads(decode, list(zip(chunks, self._fetch_parts(shard, chunks), strict=True)) if chunks else [])
        return sorted(faults.items())

    def coded(self) -> list[bytes]:
        """The frame of each chunk as it is stored, for counting and comparing."""
        found: list[bytes] = []
        for chunks in _groups(self._chunks(tuple(slice(0, size) for size in self.tiling.grid)), 1):
            for frame in self._fetch_parts(chunks[0][0].shard, chunks[0]):
                if isinstance(frame, CorruptError):
                    raise frame
                found.append(frame)
        return found

    def name(self, chunk: _Chunk) -> str:
        """The words that error messages use for a chunk."""
        key, starts = self.key(chunk.shard), [axis.start for axis in chunk.window]
        if len(starts) == 1:
            number, last = starts[0] // self.tiling.chunk[0], chunk.window[0].stop - 1
            return f"chunk {number} (images {starts[0]} to {last}, in {key})"
        return f"the chunk of tokens from row {starts[0]}, column {starts[1]} (in {key})"

    # ---- which chunks

    def _chunks(self, window: Window) -> list[_Chunk]:
        """The chunks that a window touches, shard by shard."""
        chunks = []
        for shard in self.tiling.shards_in(window):
            for slot, whole in enumerate(self.tiling.chunk_windows(*shard)):
                both = None if whole is None else overlap(whole, window)
                if whole is not None and both is not None:
                    chunks.append(_Chunk(shard, slot, whole, within(both, whole), within(both, window)))
        return chunks

    # ---- whole chunks and windows of them

    def _read_shards(
        self,
        shards: Sequence[list[_Chunk]],
        window: Window,
        item: Window | None,
        wanted: np.ndarray | None,
        out: np.ndarray,
    ) -> None:
        whole = [chunks for chunks in shards if self._is_whole(chunks[0].shard, window)]
        files = read_keys(self.store, [(self.key(chunks[0].shard), None) for chunks in whole]) if whole else []
        frames: list[tuple[_Chunk, bytes | CorruptError]] = []
        for chunks, file in zip(whole, files, strict=True):
            frames += zip(chunks, self._cut(file, chunks), strict=True)
        for chunks in shards:
            if chunks not in whole:
                frames += zip(chunks, self._fetch_parts(chunks[0].shard, chunks), strict=True)

        def decode(pair: tuple[_Chunk, bytes | CorruptError]) -> None:
            chunk, frame = pair
            try:
                block = self._decode(chunk, frame, item)
            except DAMAGE as error:
                raise CorruptError(f"{self.where}: {self.name(chunk)} is damaged: {error}; {ADVICE}") from error
            if wanted is None:
                out[chunk.target] = block
            else:
                np.copyto(out[chunk.target], block, where=wanted[chunk.target][..., None])

        _in_threads(decode, frames)
        for chunks, file in zip(whole, files, strict=True):
            self._check_written(chunks[0].shard, file)

    def _is_whole(self, shard: Shard, window: Window) -> bool:
        inside = self.tiling.shard_window(*shard)
        return overlap(inside, window) == inside

    def _check_written(self, shard: Shard, file: bytes | None) -> None:
        noted = self.written(shard)
        if noted is not None and mark(file or b"") != noted:
            raise CorruptError(
                f"{self.where}: {self.key(shard)} decodes, but is not the shard that was written (size or CRC-32C"
                f" differs); {ADVICE}"
            )

    def _cut(self, file: bytes | None, chunks: list[_Chunk]) -> list[bytes | CorruptError]:
        """The frames of chunks out of their shard's file; an error where there is none."""
        whole = memoryview(file or b"")
        extents = self._listed(file, chunks)
        return [extent if isinstance(extent, CorruptError) else _piece(whole, 0, extent) for extent in extents]

    def _fetch_parts(self, shard: Shard, chunks: list[_Chunk]) -> list[bytes | CorruptError]:
        """The frames of some chunks of a shard: its index first, then their bytes."""
        return self._ranges(self.key(shard), self._extents(shard, chunks))

    def _extents(self, shard: Shard, chunks: list[_Chunk]) -> list[_Extent]:
        """Where the frames of chunks lie in their shard's file, by its index."""
        size = index_bytes(math.prod(self.tiling.slots))
        return self._listed(read_key(self.store, self.key(shard), SuffixByteRequest(size)), chunks)

    def _listed(self, index: bytes | None, chunks: list[_Chunk]) -> list[_Extent]:
        """The same out of a file, or the end of it."""
        if index is None:
            return [CorruptError("missing")] * len(chunks)
        try:
            listed = shard_index(index, math.prod(self.tiling.slots))
        except CorruptError as error:
            return [error] * len(chunks)
        return [listed[chunk.slot] or CorruptError("missing") for chunk in chunks]

    def _ranges(self, key: str, extents: Sequence[_Extent]) -> list[bytes | CorruptError]:
        """Bytes of a file at several extents, fetched at once, neighbours in one request; errors stay."""
        runs: list[list[int]] = []
        for offset, length in sorted({extent for extent in extents if isinstance(extent, tuple) and extent[1]}):
            if runs and runs[-1][1] == offset:
                runs[-1][1] += length
            else:
                runs.append([offset, offset + length])
        blocks = read_keys(self.store, [(key, RangeByteRequest(*run)) for run in runs]) if runs else []

        def piece(extent: tuple[int, int]) -> bytes | CorruptError:
            if not extent[1]:
                return b""
            at = max(i for i, run in enumerate(runs) if run[0] <= extent[0])
            return _piece(memoryview(blocks[at] or b""), runs[at][0], extent)

        return [extent if isinstance(extent, CorruptError) else piece(extent) for extent in extents]

    def _decode(self, chunk: _Chunk, frame: bytes | CorruptError, item: Window | None) -> np.ndarray:
        """The wanted items of a chunk; raises one of `DAMAGE`."""
        if isinstance(frame, CorruptError):
            raise frame
        # A frame has four axes (images, rows, columns, channels); a chunk of a raster is one image.
        lead = () if len(self.tiling.grid) == 1 else (slice(0, 1),)
        whole = (*lead, *within(chunk.window, chunk.window), *self._whole_item)
        part = (*lead, *chunk.inside, *(item or self._whole_item))
        limit = (*(1 for _ in lead), *self.tiling.chunk, *self.item)[:3]
        block = self.codec.decode(frame, limit, None if part == whole else part)
        if block.shape != _sizes(part):
            raise CorruptError(f"its frame holds values of shape {block.shape} where {_sizes(part)} belong")
        return block[0] if lead else block

    @property
    def _whole_item(self) -> Window:
        return tuple(slice(0, size) for size in self.item)

    # ---- coarse grids

    def coarse(self, images: slice, spacing: int) -> np.ndarray:
        """Tokens (m, ceil(y / spacing), ceil(x / spacing), d) of images, from the beginnings of their frames.

        Reads the index of each shard, then of each frame its start.

        Raises:
            CorruptError: a frame is damaged, cut or missing; the message names it.
            InputError: the frames have no such spacing.
        """
        chunks = self._chunks((images,))
        blocks = []
        for (shard,), group in groupby(chunks, key=lambda chunk: chunk.shard):
            some = list(group)
            for chunk, start in zip(some, self._starts((shard,), some, spacing), strict=True):
                size = chunk.window[0].stop - chunk.window[0].start
                try:
                    if isinstance(start, CorruptError):
                        raise start
                    block = self.codec.decode_coarse(start, spacing, (*self.tiling.chunk, *self.item[:2]))
                    grid = tuple(-(-side // spacing) for side in self.item[:2])
                    if block.shape[:3] != (size, *grid):
                        raise CorruptError(f"it holds {block.shape[:3]} images, rows, columns: {(size, *grid)} belong")
                except CorruptError as error:
                    raise CorruptError(f"{self.where}: {self.name(chunk)} is damaged: {error}; {ADVICE}") from error
                blocks.append(block[chunk.inside])
        return np.concatenate(blocks)

    def _starts(self, shard: Shard, chunks: list[_Chunk], spacing: int) -> list[bytes | CorruptError]:
        """What of each frame `decode_coarse` needs, in one or two reads."""
        key, extents = self.key(shard), self._extents(shard, chunks)
        starts = self._ranges(key, [_part(extent, 0, _START) for extent in extents])
        rest: list[_Extent] = []
        for extent, start in zip(extents, starts, strict=True):
            try:
                needed = 0 if isinstance(start, CorruptError) else self.codec.coarse_size(start, spacing)
                rest.append(_part(extent, _START, max(needed, _START)))
            except CorruptError as error:
                rest.append(error)
        return [
            more if isinstance(more, CorruptError) else start if isinstance(start, CorruptError) else start + more
            for start, more in zip(starts, self._ranges(key, rest), strict=True)
        ]


def _sizes(window: Window) -> tuple[int, ...]:
    return tuple(axis.stop - axis.start for axis in window)


def _part(extent: _Extent, start: int, stop: int) -> _Extent:
    """Bytes start to stop of a frame, as far as it reaches."""
    if isinstance(extent, CorruptError):
        return extent
    offset, length = extent
    return offset + min(start, length), min(stop, length) - min(start, length)


def _piece(block: memoryview, start: int, extent: tuple[int, int]) -> bytes | CorruptError:
    """The bytes at (offset, length) of a file, out of a block that begins at `start`."""
    offset, length = extent
    piece = bytes(block[offset - start : offset - start + length])
    return piece if len(piece) == length else CorruptError(f"cut short: its index lists bytes up to {offset + length}")


def _groups(chunks: list[_Chunk], count: int) -> Iterable[list[list[_Chunk]]]:
    """Chunks by their shards, so many shards at a time."""
    shards = [list(group) for _, group in groupby(chunks, key=lambda chunk: chunk.shard)]
    return (shards[first : first + count] for first in range(0, len(shards), count))


def _in_threads(work: Callable[[tuple[_Chunk, bytes | CorruptError]], None], tasks: Sequence) -> None:
    """Run `work` on each task; the first error, in their order, is raised."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if min(len(tasks), processors) < 2:
        for task in tasks:
            work(task)
        return
    with ThreadPoolExecutor(min(len(tasks), processors, 8)) as threads:
        for _ in threads.map(work, tasks):
            pass
