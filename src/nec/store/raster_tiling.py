"""How a raster of tokens is cut: chunks are decoded together, shards are files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nec.errors import InputError

EMBEDDINGS, VALID, TIME, X, Y, SPATIAL_REF = "embeddings", "valid", "time", "x", "y", "spatial_ref"
Window = tuple[slice, slice]


@dataclass(frozen=True)
class RasterTiling:
    """A grid of (rows, columns) tokens in chunks of `chunk` tokens and shards of `shard` tokens, both (rows, columns).

    A shard is a whole number of chunks. Shards and chunks at the grid's lower and right edge may hold fewer tokens.
    """

    grid: tuple[int, int]
    chunk: tuple[int, int]
    shard: tuple[int, int]

    @property
    def shards(self) -> tuple[int, int]:
        """(rows, columns) of shards."""
        return math.ceil(self.grid[0] / self.shard[0]), math.ceil(self.grid[1] / self.shard[1])

    @property
    def slots(self) -> tuple[int, int]:
        """(rows, columns) of chunks in a whole shard."""
        return self.shard[0] // self.chunk[0], self.shard[1] // self.chunk[1]

    def all_shards(self) -> list[tuple[int, int]]:
        """(row, column) of every shard, row by row."""
        rows, columns = self.shards
        return [(row, column) for row in range(rows) for column in range(columns)]

    def check_shard(self, row: int, column: int) -> None:
        """Raise `InputError` where there is no such shard."""
        rows, columns = self.shards
        if not (0 <= row < rows and 0 <= column < columns):
            raise InputError(f"no shard ({row}, {column}): the product has {rows} rows of {columns} shards")

    def shard_window(self, row: int, column: int) -> Window:
        """The tokens of a shard, as slices of the grid."""
        return _part(row, self.shard[0], self.grid[0]), _part(column, self.shard[1], self.grid[1])

    def chunks_of(self, row: int, column: int) -> tuple[int, int]:
        """(rows, columns) of the chunks of a shard that lie in the grid, at least in part."""
        rows, columns = self.shard_window(row, column)
        return math.ceil((rows.stop - rows.start) / self.chunk[0]), math.ceil(
            (columns.stop - columns.start) / self.chunk[1]
        )

    def part_window(self, row: int, column: int, part: Window) -> Window:
        """The tokens of some chunks of a shard, as slices of the grid; `part`: slices of the shard's chunks."""
        rows, columns = self.shard_window(row, column)
        return _within(rows, part[0], self.chunk[0]), _within(columns, part[1], self.chunk[1])

    def chunk_windows(self, row: int, column: int) -> list[Window | None]:
        """The tokens of each chunk of a shard, counted within the shard; None for one that lies outside the grid.

        In the order in which the shard's index counts its chunks.
        """
        rows, columns = self.shard_window(row, column)
        height, width = rows.stop - rows.start, columns.stop - columns.start
        return [
            (_part(i, self.chunk[0], height), _part(j, self.chunk[1], width))
            if i * self.chunk[0] < height and j * self.chunk[1] < width
            else None
            for i in range(self.slots[0])
            for j in range(self.slots[1])
        ]

    def shards_of(self, rows: slice, columns: slice) -> Iterator[tuple[int, int]]:
        """(row, column) of the shards that a window of the grid touches."""
        for row in range(rows.start // self.shard[0], math.ceil(rows.stop / self.shard[0])):
            for column in range(columns.start // self.shard[1], math.ceil(columns.stop / self.shard[1])):
                yield row, column


def tiling_of(metadata: dict[str, Any]) -> RasterTiling:
    """Tiling written in the metadata document of the embeddings array (time, embedding, y, x)."""
    shard = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    chunk = metadata["codecs"][0]["configuration"]["chunk_shape"]
    return RasterTiling(tuple(metadata["shape"][2:]), tuple(chunk[2:]), tuple(shard[2:]))


def embeddings_key(time: int, row: int, column: int) -> str:
    """Path of a shard of embeddings in the product."""
    return f"{EMBEDDINGS}/c.{time}.0.{row}.{column}"


def valid_key(time: int, row: int, column: int) -> str:
    """Path of the validity of a shard's tokens."""
    return f"{VALID}/c.{time}.{row}.{column}"


def list_key(time: int) -> str:
    """Path of the list of a date's files with their checksums."""
    return f"shards/{time}.json"


def _within(whole: slice, part: slice, size: int) -> slice:
    return slice(whole.start + part.start * size, min(whole.start + part.stop * size, whole.stop))


def _part(index: int, size: int, whole: int) -> slice:
    return slice(index * size, min((index + 1) * size, whole))
