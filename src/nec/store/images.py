"""Stores of images: compressed embeddings with names, labels, splits, groups and masks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
import zarr

from nec.errors import CorruptError, InputError
from nec.files import checksum
from nec.labels import SPLITS
from nec.search import SearchableImages
from nec.store.document import (
    EMBEDDINGS,
    GROUPS,
    LABELS,
    MASKS,
    NAMES,
    SPLIT,
    Store,
    image_key,
    mask_tiling,
    member,
    side_arrays,
    side_keys,
    values_checksum,
)
from nec.store.frames import Frames
from nec.store.location import DAMAGE, Location, reachable, size_of_key
from nec.store.shards import Mark, Shard, Tiling


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
            (index,) = _check_indices([first], len(self))
            return self.read(index, index + 1)[0][tuple(rest)]
        if isinstance(first, slice):
            start, stop, step = first.indices(len(self))
            block = self.read(start, stop) if step == 1 else self.take(np.arange(start, stop, step))
        else:
            block = self.take(first)
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

    def _gather(self, indices: np.ndarray, kept: dict[int, np.ndarray]) -> np.ndarray:
        """Images at `indices`; each chunk that they touch is decoded once, neighbours in a shard together.

        `kept` holds the images of the last chunk of the batch before, with which a batch in order begins; the last
        chunk of this one replaces it.
        """
        out = np.empty((len(indices), *self.shape[1:]), self.dtype)
        if not len(indices):
            return out
        size = self.tiling.chunk[0]
        chunk_of = indices // size
        touched = np.unique(chunk_of).tolist()
        fresh = [chunk for chunk in touched if chunk not in kept]
        last: dict[int, np.ndarray] = {}
        for run in [*([chunk] for chunk in touched if chunk in kept), *_runs(fresh, self.tiling.slots[0])]:
            start = run[0] * size
            block = kept[run[0]] if run[0] in kept else self.read(start, min((run[-1] + 1) * size, len(self)))
            here = (chunk_of >= run[0]) & (chunk_of <= run[-1])
            out[here] = block[indices[here] - start]
            if here[-1]:
                first = int(chunk_of[-1]) * size - start
                last[int(chunk_of[-1])] = block[first : first + size].copy()  # it may be a view of a whole shard
        kept.clear()
        kept.update(last)
        return out


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

    def _chunk(self, chunk: int) -> np.ndarray:
        (images,) = self.tiling.shard_window(chunk)
        with _damage(f"{self._where}: the masks of images {images.start} to {images.stop - 1}"), reachable(self._where):
            values = np.asarray(self._array[images])
            if checksum(values.tobytes()) != self._checksums[chunk]:
                raise ValueError("their checksum differs")
        return values


@contextmanager
def _damage(what: str) -> Iterator[None]:
    """`CorruptError` that says what is damaged."""
    try:
        yield
    except DAMAGE as error:
        raise CorruptError(f"{what} are damaged or missing ({error}); copy the store again from its origin") from error


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


class ImageStore(SearchableImages, Store):
    """Compressed embeddings of `len(store)` images with what belongs to them. Made by `nec.open`.

    `store[i]` is `store.embeddings[i]`.

    Attributes:
        embeddings: float32 (n, y, x, d), decoded when indexed.
        grid: (y, x) tokens an image.
        dimensions: values a token (d).
    """

    kind: ClassVar[str] = "store"
    _unfinished: ClassVar[str] = "its writing was interrupted"

    def __init__(self, location: Location, *, allow_incomplete: bool = False) -> None:
        super().__init__(location, allow_incomplete=allow_incomplete)
        self.tiling = Tiling.of(self.metadata[EMBEDDINGS], slice(0, 1))
        rows, columns, self.dimensions = self.metadata[EMBEDDINGS]["shape"][1:]
        self.grid: tuple[int, int] = (rows, columns)
        item = (rows, columns, self.dimensions)
        frames = Frames(self.zarr_store, self.path, self.codec, self.tiling, item, image_key, self.written)
        self.embeddings = Embeddings(frames)

    def __len__(self) -> int:
        return self.tiling.grid[0]

    def __repr__(self) -> str:
        y, x = self.grid
        size = f"{self.bytes_per_image:.0f} bytes an image"
        return f"<ImageStore {self.path}: {len(self)} images, {y}x{x}x{self.dimensions}, {size}>"

    def __getitem__(self, key: Any) -> np.ndarray:
        return self.embeddings[key]

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.embeddings)

    @property
    def images_per_chunk(self) -> int:
        """Images that are decoded together."""
        return self.tiling.chunk[0]

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes that `labels` counts, or None."""
        return self.attrs["classes"]

    @cached_property
    def names(self) -> list[str]:
        """Name of each image."""
        return [str(name) for name in self._side(NAMES)]

    @cached_property
    def labels(self) -> np.ndarray | None:
        """Class of each image, int64 (n,), -1 where it has none; None for a store without labels."""
        return self._side(LABELS) if LABELS in self.metadata else None

    @cached_property
    def split(self) -> np.ndarray | None:
        """Split that each image belongs to, (n,) of "train", "val", "test" or ""; None for a store without a split."""
        return np.array(SPLITS)[self._side(SPLIT)] if SPLIT in self.metadata else None

    @cached_property
    def groups(self) -> np.ndarray | None:
        """Whole tile or scene that each image was cut from, (n,) of text; None for a store that names none."""
        return np.array(self._side(GROUPS).tolist()) if GROUPS in self.metadata else None

    @cached_property
    def masks(self) -> Masks | None:
        """Class of each pixel, uint8 (n, h, w), 255 where it has none, read when indexed; None without masks."""
        if MASKS not in self.metadata:
            return None
        return Masks(member(self.group, MASKS), self.attrs["checksums"][MASKS], self.path)

    @property
    def mask_classes(self) -> list[str] | None:
        """Names of the classes that `masks` counts, or None."""
        return (self.attrs.get(MASKS) or {}).get("classes")

    @property
    def mask_colors(self) -> list[tuple[int, int, int]] | None:
        """(red, green, blue) in bytes of each class of `masks`, or None."""
        colors = (self.attrs.get(MASKS) or {}).get("colors")
        return None if colors is None else [(red, green, blue) for red, green, blue in colors]

    def coarse(self, spacing: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Small grids of images [start, stop): float32 (m, ceil(y / spacing), ceil(x / spacing), d).

        Frames are progressive, so the beginnings of their bytes are read and no more: for the shipped store at the
        spacing of its whole grid one token an image. They are means of cells, or the tokens at multiples of
        `spacing`; see `EmbeddingCodec.decode_coarse`. A frame's checksum covers the whole frame, so damage is found
        here only where it breaks the code; `nec verify` finds it all.

        Raises:
            InputError: `spacing` is not a power of 2 from 1 to the larger side of the grid, rounded up to one.
            CorruptError: a frame is damaged, cut or missing; the message names it.
        """
        start, stop, _ = slice(start, stop).indices(len(self))
        if spacing == 1:
            return self.embeddings.read(start, stop)
        if stop <= start:
            return np.empty((0, *(-(-size // spacing) for size in self.grid), self.dimensions), np.float32)
        return self.embeddings.frames.coarse(slice(start, stop), spacing)

    def _side(self, name: str) -> np.ndarray:
        """Read labels, names, split or groups and check them against the checksum in the sealed attributes."""
        with _damage(f"{self.path}: {name}"), reachable(self.path):
            values = np.asarray(member(self.group, name)[:])
            text = [str(value) for value in values] if name in (NAMES, GROUPS) else values
            if values_checksum(text) != self.attrs["checksums"][name]:
                raise ValueError("their checksum differs")
        return values

    def batches(self, size: int, indices: Any = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (indices (m,), embeddings (m, y, x, d)) of at most `size` images; see `Embeddings.batches`."""
        return self.embeddings.batches(size, indices)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the embeddings' shards, indices included; of those written so far in an incomplete store."""
        if self.complete:
            return self.attrs["figures"]["stored_bytes"]
        return sum(size_of_key(self.zarr_store, image_key(shard)) for shard in self.tiling.all_shards())

    @property
    def bytes_per_image(self) -> float:
        """`stored_bytes` an image."""
        return self.stored_bytes / len(self)

    def written(self, shard: Shard) -> Mark | None:
        """(bytes, CRC-32C) of a shard's file as its writer noted them; None in an incomplete store."""
        noted = self.attrs.get("shards")
        return (noted["bytes"][shard[0]], noted["crc32c"][shard[0]]) if noted else None

    def _side_bytes(self) -> dict[str, int]:
        """Bytes of labels, names, split, groups and masks."""
        return {
            name: sum(size_of_key(self.zarr_store, key) for key in side_keys(name, self.metadata[name]))
            for name in side_arrays(self.metadata)
        }
