"""How a store's grid is cut: chunks are decoded together, shards are files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from nec.errors import InputError

Shard = tuple[int, ...]
Window = tuple[slice, ...]


@dataclass(frozen=True)
class Tiling:
    """A grid in chunks of `chunk` items and shards of `shard` items along each axis.

    A store of images has one axis (images), a raster two (rows and columns of tokens). A shard is a whole number of
    chunks. Shards and chunks at the grid's end may hold fewer items.
    """

    grid: tuple[int, ...]
    chunk: tuple[int, ...]
    shard: tuple[int, ...]

    @classmethod
    def fit(cls, grid: tuple[int, ...], chunk: tuple[int, ...], slots: tuple[int, ...]) -> Tiling:
        """Chunks and `slots` chunks a shard as asked for; fewer where the grid is smaller, so that it is not padded."""
        chunk = tuple(min(int(size), whole) for size, whole in zip(chunk, grid, strict=True))
        most = (math.ceil(whole / size) for whole, size in zip(grid, chunk, strict=True))
        shard = tuple(size * min(int(count), end) for size, count, end in zip(chunk, slots, most, strict=True))
        return cls(tuple(grid), chunk, shard)

    @classmethod
    def of(cls, metadata: dict[str, Any], axes: slice) -> Tiling:
        """What the metadata document of a sharded array say of some of its axes."""
        shard = metadata["chunk_grid"]["configuration"]["chunk_shape"][axes]
        chunk = metadata["codecs"][0]["configuration"]["chunk_shape"][axes]
        return cls(tuple(metadata["shape"][axes]), tuple(chunk), tuple(shard))

    @property
    def shards(self) -> tuple[int, ...]:
        """Shards along each axis."""
        return tuple(math.ceil(whole / size) for whole, size in zip(self.grid, self.shard, strict=True))

    @property
    def slots(self) -> tuple[int, ...]:
        """Chunks in a whole shard along each axis."""
        return tuple(whole // size for whole, size in zip(self.shard, self.chunk, strict=True))

    @property
    def chunks(self) -> int:
        """Chunks in all."""
        return math.prod(math.ceil(whole / size) for whole, size in zip(self.grid, self.chunk, strict=True))

    def all_shards(self) -> list[Shard]:
        """Every shard, the last axis fastest."""
        return list(product(*map(range, self.shards)))

    def check_shard(self, *shard: int) -> None:
        """Raise `InputError` where there is no such shard."""
        if len(shard) != len(self.grid) or not all(0 <= at < end for at, end in zip(shard, self.shards, strict=True)):
            raise InputError(f"no shard {shard}: there are {' x '.join(map(str, self.shards))}")

    def shard_window(self, *shard: int) -> Window:
        """The items of a shard, as slices of the grid."""
        return tuple(map(_extent, shard, self.shard, self.grid))

    def chunks_of(self, *shard: int) -> tuple[int, ...]:
        """Chunks of a shard along each axis that lie in the grid, at least in part."""
        inside = self.shard_window(*shard)
        return tuple(math.ceil((axis.stop - axis.start) / size) for axis, size in zip(inside, self.chunk, strict=True))

    def chunk_windows(self, *shard: int) -> list[Window | None]:
        """The items of each chunk of a shard, as slices of the grid; None for one that lies outside.

        In the order in which the shard's index counts its chunks.
        """
        return [self._chunk_window(shard, chunk) for chunk in product(*map(range, self.slots))]

    def _chunk_window(self, shard: Shard, chunk: tuple[int, ...]) -> Window | None:
        whole = [at * slots + i for at, slots, i in zip(shard, self.slots, chunk, strict=True)]
        window = tuple(map(_extent, whole, self.chunk, self.grid))
        return window if all(axis.start < axis.stop for axis in window) else None

    def window_of_chunks(self, shard: Shard, chunks: Window) -> Window:
        """The items of some chunks of a shard, slices of its chunks, as slices of the grid."""
        return tuple(
            slice(whole.start + some.start * size, min(whole.start + some.stop * size, whole.stop))
            for whole, some, size in zip(self.shard_window(*shard), chunks, self.chunk, strict=True)
        )

    def shards_in(self, window: Window) -> Iterator[Shard]:
        """The shards that a window of the grid touches."""
        return product(
            *(
                range(axis.start // size, math.ceil(axis.stop / size)) if axis.start < axis.stop else range(0)
                for axis, size in zip(window, self.shard, strict=True)
            )
        )


def _extent(index: int, size: int, whole: int) -> slice:
    return slice(index * size, min((index + 1) * size, whole))


def overlap(one: Window, other: Window) -> Window | None:
    """What two windows share; None where they share nothing."""
    both = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
    return both if all(axis.start < axis.stop for axis in both) else None


def within(window: Window, whole: Window) -> Window:
    """A window as slices of `whole`, which holds it."""
    return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(window, whole, strict=True))
