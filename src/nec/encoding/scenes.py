"""Scenes -> tiles -> backbone -> codec -> raster store, a date a scene."""

from __future__ import annotations

import math
import time as clock
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nec.encoding.codecs import codec_for, quality_for_bytes
from nec.encoding.engine import Stored, read_ahead, resumable
from nec.encoding.options import Encoding, Job, SceneOptions
from nec.encoding.reports import FailedTile, ScenesReport, software, store_info
from nec.errors import InputError, NecError
from nec.models.backbone import Backbone
from nec.progress import Progress
from nec.scenes.rasters import retry, transient
from nec.scenes.scene import Scene
from nec.scenes.tiles import (
    Normalization,
    Tile,
    TileGrid,
    TokenWindow,
    default_halo,
    match,
    read_tile,
    split_positions,
    token_transform,
)
from nec.store import RasterSpec, RasterWriter, ShardEncoder
from nec.store.georeference import metres
from nec.store.rasters import date as date_of

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec
    from nec.store.shards import EncodedChunks

CHUNK_TOKENS = 64  # along a side of a chunk, or the next multiple below of what a tile contributes
SHARD_CHUNKS = 4  # along a side of a shard, if its tokens take no more than SHARD_BYTES as floats
SHARD_BYTES = 64 * 2**20
SAMPLE_CHUNKS = 4  # that a wanted size is measured on
SAMPLE_TILES = 1000  # that a codec is fitted on where there is none


def encode_scenes(scenes: Sequence[Scene], encoding: Encoding, options: SceneOptions) -> ScenesReport:
    """Encode each scene as a date of one raster store; see `nec.encode`. Ends with the first that is incomplete."""
    times: list[str | None] = [None] * len(scenes) if options.time is None else [*options.time]
    if len(times) != len(scenes):
        raise InputError(f"{len(times)} --time for {len(scenes)} scene(s): give one for each, in the same order")
    for scene in scenes[1:]:  # the dates of a store lie on one pixel grid: refused before any of them is encoded
        for what in ("crs", "shape", "transform"):
            found, wanted = getattr(scene, what), getattr(scenes[0], what)
            if found != wanted:
                raise InputError(
                    f"{scene.name} is not on the pixel grid of {scenes[0].name}: {what} {found} and {wanted}; "
                    "write a product for each, or resample one to the other first"
                )
    report: ScenesReport | None = None
    for scene, time in zip(scenes, times, strict=True):
        made = _encode_scene(scene, time, encoding, options)
        report = made if report is None else report.followed_by(made)
        if not report.complete:
            break
        encoding = replace(encoding, mode="resume-append" if "resume" in encoding.mode else "append")
    assert report is not None
    return report


def _encode_scene(scene: Scene, time: Any, encoding: Encoding, options: SceneOptions) -> ScenesReport:
    """Encode a scene as a date of a raster store.

    Tiles that overlap by `halo` tokens go through the backbone, and only their inner tokens are kept. The unit of work
    is some chunks of a shard, that of resuming a shard. The same scene, backbone and arguments on as many threads give
    the same bytes, on any engine, interrupted or not.
    """
    began, backbone, job, mode = clock.monotonic(), encoding.backbone, encoding.job, encoding.mode
    time = scene.datetime if time is None else time
    if time is None:
        raise InputError(f"{scene.name} does not say when it was taken: give --time DATE (time= in Python)")
    scene, normalization = match(scene, backbone.pixels, bands=encoding.reading.chosen_bands)
    (tile, width), (patch, across) = backbone.input_size, backbone.patch
    if tile != width or patch != across:
        raise InputError(f"{backbone.name} takes {width}x{tile} px in patches of {across}x{patch}: tiles are squares")
    halo = default_halo(tile // patch) if options.halo is None else options.halo
    tiling = TileGrid(scene.shape, tile, patch, halo)
    # Without means by position: a store keeps its codec, but not the means that its tiles are levelled by.
    chosen, fitted_on = codec_for(
        encoding,
        None if mode in ("create", "overwrite") else encoding.out,
        lambda: sample_tiles(scene, backbone, tiling, normalization, job),
        positions=False,
    )
    places, codec = split_positions(chosen, tiling.tile_tokens)
    seen = {"batch_size": job.batch_size, "levelled": places is not None, **_plain(normalization)}
    spec = _spec(scene, backbone, tiling, codec, seen, encoding.quality, options)
    work = SceneWork(
        backbone, scene, tiling, normalization, _encoder(spec), places, job.batch_size, job.engine.readers,
        skip_failed=options.skip_failed,
    )  # fmt: skip
    if encoding.target_bytes is not None:
        spec = replace(spec, quality=_quality(work, encoding.target_bytes, job.seed))
        work = replace(work, encoder=_encoder(spec))
    resume, append = mode in ("resume", "resume-append"), mode in ("append", "resume-append")
    if resume or append:
        writer = RasterWriter.resume(encoding.out, spec)
    else:
        writer = RasterWriter.create(encoding.out, spec, overwrite=mode == "overwrite")
    with resumable(encoding.out, None if resume or append else writer.destroy) as state, writer:
        source = {"name": scene.name, "links": [link["href"] for link in scene.source_links]}
        date = writer.append_time(_date(writer, time, resume, append), source=source)
        run = _Run(work, writer, date, state)
        run.go(job)
    return run.report(encoding.out, fitted_on, clock.monotonic() - began)


def sample_tiles(
    scene: Scene, backbone: Backbone, tiling: TileGrid, normalization: Normalization, job: Job
) -> NDArray[np.float32]:
    """Embeddings (n, y, x, d) of a seeded sample of a scene's tiles that are valid throughout."""
    tiles = tiling.tiles((0, tiling.grid[0], 0, tiling.grid[1]))
    order = np.random.default_rng(job.seed).permutation(len(tiles))
    made: list[NDArray[np.float32]] = []
    for first in range(0, len(order), job.batch_size):
        read = [read_tile(scene, tiles[i]) for i in order[first : first + job.batch_size]]
        whole = [pixels for pixels, valid in read if tiling.valid_tokens(valid).all()]
        if whole:
            made += list(backbone.embed(np.stack([normalization(pixels) for pixels in whole])))
        if len(made) >= SAMPLE_TILES:
            break
    if not made:
        raise InputError(f"{scene.name} has no tile that is valid throughout to fit a codec on: give one, --codec")
    return np.stack(made[:SAMPLE_TILES])


def _spec(
    scene: Scene,
    backbone: Backbone,
    tiling: TileGrid,
    codec: EmbeddingCodec,
    seen: dict[str, Any],
    quality: float,
    options: SceneOptions,
) -> RasterSpec:
    """What the product says of itself; `seen`: how pixels become the model's input, beside the tiles."""
    side = max(tiling.step, CHUNK_TOKENS // tiling.step * tiling.step)
    chunk, chunks = options.chunk or (side, side), SHARD_CHUNKS
    # As many chunks a shard as memory allows, so that a date has few files.
    while chunks > 1 and chunks * chunks * chunk[0] * chunk[1] * backbone.dimensions * 4 > SHARD_BYTES:
        chunks -= 1
    tiles = {"tile_px": tiling.tile_px, "halo_tokens": tiling.halo_tokens}
    return RasterSpec(
        grid=tiling.grid,
        dimensions=backbone.dimensions,
        codec=codec,
        quality=quality,
        crs=scene.crs,
        transform=token_transform(scene.transform, tiling.patch_px),
        patch_px=tiling.patch_px,
        chunk=chunk,
        shard=options.shard or (chunks, chunks),
        model={**backbone.identity, "input": {**tiles, **seen}},
        bands=[band.name for band in scene.bands],
        title=scene.name,
    )


def _encoder(spec: RasterSpec) -> ShardEncoder:
    return ShardEncoder(spec.codec, spec.quality, spec.tiling, (spec.dimensions,))


def _plain(normalization: Normalization) -> dict[str, Any]:
    """As JSON has it, where lists stand for tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(normalization).items()}


def _quality(work: SceneWork, target: float, seed: int) -> float:
    """Quality at which an input of the model takes `target` bytes, measured on chunks that are valid throughout."""
    rows, columns = work.encoder.tiling.chunk
    grid = work.tiling.grid
    corners = [(y, x) for y in range(0, grid[0] - rows + 1, rows) for x in range(0, grid[1] - columns + 1, columns)]
    order = np.random.default_rng(seed).permutation(len(corners))
    windows = [(corners[i][0], corners[i][0] + rows, corners[i][1], corners[i][1] + columns) for i in order]
    blocks: list[NDArray[np.float32]] = []
    for window in windows:
        (tokens,) = work.windows([window])
        if tokens.valid.all():
            blocks.append(tokens.values[None])
        if len(blocks) == SAMPLE_CHUNKS:
            break
    if not blocks:
        raise InputError(
            f"{work.scene.name} has no chunk that is valid throughout to measure a size on: give a quality"
        )
    return quality_for_bytes(work.encoder.codec, blocks, target * rows * columns / work.tiling.tile_tokens**2)


def _date(writer: RasterWriter, time: Any, resume: bool, append: bool) -> np.datetime64:
    """The date to write; `InputError` where the product has it already and is not to be resumed, or the other way."""
    when, known = date_of(time), writer.times
    if append and not resume and when in known:
        raise InputError(f"{writer.path} has the date {when} already: give another --time, or --resume")
    if resume and not append and len(known) and when not in known:
        raise InputError(f"{writer.path} has no date {when} to go on with: give --append to add it")
    return when


class _Run:
    """One date on its way into a product."""

    def __init__(self, work: SceneWork, writer: RasterWriter, date: int, state: Stored) -> None:
        self.work, self.writer, self.date, self.state = work, writer, date, state
        self.parts = {shard[1:]: work.parts((shard[1], shard[2])) for shard in writer.missing(date)}
        self.tasks = [part for parts in self.parts.values() for part in parts]
        self.coded: defaultdict[Shard, list[CodedPart]] = defaultdict(list)
        self.failed: list[FailedTile] = []
        self.left_out = 0
        self.tiles = 0

    def go(self, job: Job) -> None:
        """Write every missing shard; finish the date if none had to be left out."""
        total = sum(map(self.work.size, self.tasks))
        with Progress(total, "encoding", "tiles", quiet=not job.progress) as bar:

            def done(tiles: int) -> None:
                self.tiles += tiles
                bar.update(tiles)

            job.engine.run(self.work, self.tasks, self._put, done)
        if not self.left_out:  # nothing in it may differ from run to run
            failed = [list(tile) for tile in self.writer.failed(self.date)]
            self.writer.finish(self.date, run={"software": software(), "failed_tiles": failed})

    def _put(self, task: Part, coded: CodedPart) -> None:
        """Keep a part, or write its shard if it is the last of it: coded, the parts that wait are small."""
        self.failed.extend(coded.failed)
        self.coded[task.shard].append(coded)
        if len(self.coded[task.shard]) == len(self.parts[task.shard]):
            self._write(task.shard, self.coded.pop(task.shard))

    def _write(self, shard: Shard, parts: list[CodedPart]) -> None:
        chunks = [part.data for part in parts if part.data is not None]
        if len(chunks) < len(parts):
            self.left_out += 1
            return
        failed = [(tile.row, tile.column, tile.side) for part in parts for tile in part.failed]
        self.writer.write_encoded((self.date, *shard), self.work.encoder.join(chunks), failed)
        self.state.shards += 1

    def report(self, out: str | Path, fitted_on: int | None, seconds: float) -> ScenesReport:
        windows = [self.work.window(task) for task in self.tasks]
        tokens = sum((y1 - y0) * (x1 - x0) for y0, y1, x0, x1 in windows)
        whole = square_km(self.work.scene)
        return ScenesReport(
            out=str(out),
            store=store_info(self.writer.path) if not self.left_out else {},
            fitted_on=fitted_on,
            seconds=seconds,
            dates_complete=not self.left_out,
            time=str(self.writer.times[self.date]),
            failed_tiles=self.failed,
            shards_left_out=self.left_out,
            tiles=self.tiles,
            tokens=tokens,
            square_km=None if whole is None else whole * tokens / math.prod(self.work.tiling.grid),
        )


def square_km(scene: Scene) -> float | None:
    """Area of a scene; None where its CRS does not tell it (degrees, or none)."""
    unit = metres(scene.crs)
    if unit is None:
        return None
    a, b, _, d, e, _ = scene.transform
    return abs(a * e - b * d) * unit**2 * math.prod(scene.shape) / 1e6


# -- the shards: tiles through the model, kept token by token ------------------------------------------------------


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
        while math.prod(raster.chunk) * rows * columns < self.batch_size * step**2 and (rows, columns) != raster.slots:
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
    chunks = step // math.gcd(chunk, step)
    return chunks if slots % chunks == 0 else slots


class _Excerpt:
    """Pixels of the window that neighbouring tiles fill, in memory, read like the scene that they come from."""

    def __init__(self, scene: Scene, tiles: Sequence[Tile]) -> None:
        self.shape = scene.shape
        self._row, self._column = min(tile.row for tile in tiles), min(tile.column for tile in tiles)
        last = max(tile.row for tile in tiles) + tiles[0].side, max(tile.column for tile in tiles) + tiles[0].side
        rows, columns = min(last[0], scene.shape[0]) - self._row, min(last[1], scene.shape[1]) - self._column
        self._pixels, self._valid = retry(lambda: scene.read(self._row, self._column, rows, columns))

    def read(self, row: int, column: int, rows: int, columns: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        part = np.s_[row - self._row : row - self._row + rows, column - self._column : column - self._column + columns]
        return self._pixels[part], self._valid[part]


def _raise_transient(error: InputError) -> None:
    """A source that cannot be reached is no damaged tile: the run ends, and is resumed when the source is back."""
    if transient(error):
        raise NecError(f"{error}; it was tried several times: try again later") from error
