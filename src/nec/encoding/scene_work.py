"""The shards of a product: tiles of a scene through a model, kept token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import gcd, prod
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nec.encoding.engine import read_ahead
from nec.encoding.reports import FailedTile
from nec.errors import InputError, NecError
from nec.models.backbone import Backbone
from nec.scenes.rasters import retry, transient
from nec.scenes.scene import Scene
from nec.scenes.tiles import Normalization, Tile, TileGrid, TokenWindow, read_tile

if TYPE_CHECKING:
    from nec.store.shards import EncodedChunks, ShardEncoder

Shard = tuple[int, int]
_Read = tuple[Tile, NDArray[np.float32], NDArray[np.bool_]]  # a tile, its pixels, and which of them are valid


class Part(NamedTuple):
    """The unit of work: chunks of a shard, [start, stop) of its rows and of its columns of chunks."""

    shard: Shard
    rows: tuple[int, int]
    columns: tuple[int, int]

    def __str__(self) -> str:
        rows, columns = (f"{start}..{stop - 1}" for start, stop in self[1:])
        return f"{self.shard}, rows {rows} and columns {columns} of its chunks"

    @property
    def chunks(self) -> tuple[slice, slice]:
        """The same as slices."""
        return slice(*self.rows), slice(*self.columns)


@dataclass(frozen=True)
class Tokens:
    """What the model made of a window of a scene's tokens.

    Attributes:
        values: float32 (y, x, d), NaN where not valid.
        valid: bool (y, x).
        failed: tiles that could not be read, whose tokens are not valid.
    """

    values: NDArray[np.float32]
    valid: NDArray[np.bool_]
    failed: tuple[FailedTile, ...]


@dataclass(frozen=True)
class CodedPart:
    """What is written of a part; `data` is None where a tile failed that must not be skipped."""

    data: EncodedChunks | None
    failed: tuple[FailedTile, ...]


@dataclass(frozen=True)
class _Batch:
    """Tiles as they were read: `pixels` (n, bands, side, side) and `valid` (n, y, x), kept tokens or not."""

    tiles: Sequence[Tile]
    pixels: NDArray[np.float32]
    valid: NDArray[np.bool_]
    failed: tuple[FailedTile, ...]


@dataclass(frozen=True)
class SceneWork:
    """A `nec.encoding.engine.Work` whose tasks are parts of a product's shards, see `parts`.

    Attributes:
        scene: with the bands of the model, in its order.
        encoder: of the product.
        places: (tile, tile, d), what is taken off a tile's tokens, see `nec.scenes.tiles.split_positions`, or None.
        batch_size: tiles that go through the model at once; batches begin at each part's first tile.
        readers: threads that read.
        skip_failed: mark the tokens of tiles that cannot be read as not valid, instead of leaving their shard out.
    """

    backbone: Backbone
    scene: Scene
    tiling: TileGrid
    normalization: Normalization
    encoder: ShardEncoder
    places: NDArray[np.float32] | None = None
    batch_size: int = 32
    readers: int = 2
    skip_failed: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.readers < 1:
            raise InputError(f"batch size and workers must be at least 1, not {self.batch_size} and {self.readers}")

    # -- what an engine asks for

    def block(self, task: Part, done: Callable[[int], None]) -> Callable[[], Tokens]:
        """Tokens of a part; batches of tiles are read ahead."""
        return partial(next, self.windows([self.window(task)], done))

    def code(self, task: Part, block: Tokens) -> CodedPart:
        """The part's chunks."""
        if block.failed and not self.skip_failed:
            return CodedPart(None, block.failed)
        chunks = self.encoder.encode_chunks(task.shard, task.chunks, block.values, block.valid)
        return CodedPart(chunks, block.failed)

    def size(self, task: Part) -> int:
        """Tiles of a part."""
        return len(self.tiling.tiles(self.window(task)))

    # -- how it is done

    def parts(self, shard: Shard) -> list[Part]:
        """The parts of a shard, row by row: a function of the product and of `batch_size`, as are their batches.

        A part is as few chunks as fill a batch, for it is held in memory as floats and keeps a worker busy while
        others may wait; and parts share no tiles with each other that shards would not share.
        """
        rows, columns = self.encoder.tiling.chunks_of(*shard)
        height, width = self._part_chunks
        return [
            Part(shard, (top, min(top + height, rows)), (left, min(left + width, columns)))
            for top in range(0, rows, height)
            for left in range(0, columns, width)
        ]

    @property
    def _part_chunks(self) -> tuple[int, int]:
        """(rows, columns) of chunks a part."""
        raster, step = self.encoder.tiling, self.tiling.step
        least = [_aligned(chunk, slots, step) for chunk, slots in zip(raster.chunk, raster.slots, strict=True)]
        rows, columns = least
        while prod(raster.chunk) * rows * columns < self.batch_size * step**2 and (rows, columns) != raster.slots:
            if columns < raster.slots[1]:
                columns = min(columns + least[1], raster.slots[1])
            else:
                rows = min(rows + least[0], raster.slots[0])
        return rows, columns

    def window(self, part: Part) -> TokenWindow:
        """The tokens of a part."""
        rows, columns = self.encoder.tiling.window_of_chunks(part.shard, part.chunks)
        return rows.start, rows.stop, columns.start, columns.stop

    def windows(
        self, windows: Sequence[TokenWindow], done: Callable[[int], None] = lambda tiles: None
    ) -> Iterator[Tokens]:
        """Tokens of each window of the scene's grid; reading begins at once."""
        # Planned as they are needed: the tiles of a large scene would take as much memory as its shards.
        read = read_ahead(self._read, (batch for window in windows for batch in self._batches(window)), self.readers)
        return (self._window(window, read, done) for window in windows)

    def _window(self, window: TokenWindow, read: Iterator[_Batch], done: Callable[[int], None]) -> Tokens:
        shape = (window[1] - window[0], window[3] - window[2])
        values = np.full((*shape, self.backbone.dimensions), np.nan, np.float32)
        valid = np.zeros(shape, bool)
        failed: list[FailedTile] = []
        for _ in self._batches(window):
            batch = next(read)
            self._embed(batch, window, values, valid)
            failed.extend(batch.failed)
            done(len(batch.tiles) + len(batch.failed))
        return Tokens(values, valid, tuple(failed))

    def _batches(self, window: TokenWindow) -> list[Sequence[Tile]]:
        tiles = self.tiling.tiles(window)
        return [tiles[first : first + self.batch_size] for first in range(0, len(tiles), self.batch_size)]

    def _embed(self, batch: _Batch, window: TokenWindow, values: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
        """Run the model on a batch and put what is kept of it in its place; tiles without data are left out."""
        some = [i for i, tile in enumerate(batch.tiles) if batch.valid[i][tile.inner].any()]
        if not some:
            return
        whole = len(some) == len(batch.tiles)  # as a rule; choosing would copy
        tokens = self.backbone.embed(batch.pixels if whole else batch.pixels[some])
        if self.places is not None:
            tokens -= self.places
        for i, made in zip(some, tokens, strict=True):
            tile, place = batch.tiles[i], batch.tiles[i].within(window)
            valid[place] = batch.valid[i][tile.inner]
            values[place] = np.where(valid[place][..., None], made[tile.inner], np.float32("nan"))

    # -- reading

    def _read(self, tiles: Sequence[Tile]) -> _Batch:
        read, failed = self._pixels(tiles)
        side = self.tiling.tile_px
        pixels = np.empty((len(read), len(self.scene.bands), side, side), np.float32)
        valid = np.empty((len(read), self.tiling.tile_tokens, self.tiling.tile_tokens), bool)
        for i, (_, values, inside) in enumerate(read):
            pixels[i] = self.normalization(values)
            valid[i] = self.tiling.valid_tokens(inside)
        return _Batch([tile for tile, _, _ in read], pixels, valid, tuple(failed))

    def _pixels(self, tiles: Sequence[Tile]) -> tuple[list[_Read], list[FailedTile]]:
        """Read a batch in one go, since its tiles overlap; one by one where that fails."""
        try:
            scene = _Excerpt(self.scene, tiles)
        except InputError as error:
            _raise_transient(error)
            return self._one_by_one(tiles)
        return [(tile, *read_tile(scene, tile)) for tile in tiles], []  # type: ignore[arg-type]

    def _one_by_one(self, tiles: Sequence[Tile]) -> tuple[list[_Read], list[FailedTile]]:
        read: list[_Read] = []
        failed: list[FailedTile] = []
        for tile in tiles:
            try:
                read.append((tile, *retry(lambda tile=tile: read_tile(self.scene, tile))))  # type: ignore[misc]
            except InputError as reason:
                _raise_transient(reason)
                failed.append(FailedTile(tile.row, tile.column, tile.side, str(reason)))
        return read, failed


def _aligned(chunk: int, slots: int, step: int) -> int:
    """Chunks along a side of the least part that ends where a tile's tokens do; all `slots` where no shard does."""
    chunks = step // gcd(chunk, step)
    return chunks if slots % chunks == 0 else slots


def _span(tiles: Sequence[Tile]) -> tuple[slice, slice]:
    """Rows and columns of pixels that tiles lie in; they may reach beyond the scene's end."""
    rows, columns = [tile.row for tile in tiles], [tile.column for tile in tiles]
    side = tiles[0].side
    return slice(min(rows), max(rows) + side), slice(min(columns), max(columns) + side)


class _Excerpt:
    """Pixels of the window that neighbouring tiles fill, in memory, read like the scene that they come from."""

    def __init__(self, scene: Scene, tiles: Sequence[Tile]) -> None:
        self.shape = scene.shape
        window = _span(tiles)
        self._row, self._column = (side.start for side in window)
        rows, columns = (min(s.stop, end) - s.start for s, end in zip(window, scene.shape, strict=True))
        self._pixels, self._valid = retry(lambda: scene.read(self._row, self._column, rows, columns))

    def read(self, row: int, column: int, rows: int, columns: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        part = np.s_[row - self._row : row - self._row + rows, column - self._column : column - self._column + columns]
        return self._pixels[part], self._valid[part]


def _raise_transient(error: InputError) -> None:
    """A source that cannot be reached is no damaged tile: the run ends, and is resumed when the source is back."""
    if transient(error):
        raise NecError(f"{error}; it was tried several times: try again later") from error
