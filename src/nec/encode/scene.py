"""Scene -> tiles -> model -> codec -> product: one date of a raster of embeddings."""

from __future__ import annotations

import math
import time as clock
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nec.encode.encode import CLUSTER_READERS, codec_of, software
from nec.encode.engine import Engine, Stored, resumable
from nec.encode.scene_work import CodedPart, FailedTile, Part, SceneWork, Shard
from nec.encode.target import quality_for_bytes
from nec.errors import InputError
from nec.progress import Progress
from nec.scenes.normalization import Normalization, match
from nec.scenes.places import split_places
from nec.scenes.scene import Scene
from nec.scenes.tiling import Tiling, default_halo, token_transform
from nec.store import ProductSpec, ProductWriter, create_product, info
from nec.store.georeference import metres
from nec.store.raster_reader import date as date_of
from nec.store.raster_shard import ShardEncoder

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec
    from nec.models.mae import NecModel

CHUNK_TOKENS = 64  # along a side of a chunk, or the next multiple below of what a tile contributes
SHARD_CHUNKS = 4  # along a side of a shard, if its tokens take no more than SHARD_BYTES as floats
SHARD_BYTES = 64 * 2**20
BATCH_TILES = 32
SAMPLE_CHUNKS = 4  # that a wanted size is measured on
#: What stands for the date of a scene that has none.
NO_DATE = np.datetime64("1970-01-01T00:00:00", "s")


def encode_scene(
    scene: Scene,
    model: NecModel,
    out: str | Path,
    *,
    quality: float = 1.0,
    target_bytes: float | None = None,
    bands: Sequence[str | int] | None = None,
    time: Any = None,
    engine: str = "threads",
    scheduler: str | None = None,
    workers: int = 2,
    threads: int | None = None,
    batch_size: int = BATCH_TILES,
    halo: int | None = None,
    chunk: tuple[int, int] | None = None,
    shard: tuple[int, int] | None = None,
    resume: bool = False,
    append: bool = False,
    overwrite: bool = False,
    skip_failed: bool = False,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Encode a scene into a product, as its first date or a further one.

    Tiles that overlap by `halo` tokens go through the model, and only their inner tokens are kept. The unit of work is
    some chunks of a shard, that of resuming a shard. The same scene, model and arguments on as many `threads` give the
    same bytes, on any engine, interrupted or not.

    Args:
        scene: what `nec.scenes.open_scene` returns.
        model: what `nec.load_model` returns, with a codec.
        out: folder of the product, or the URL of a bucket (`s3://bucket/product.zarr`), through fsspec.
        quality: what to code with; larger = finer.
        target_bytes: choose the quality such that the tokens of one input of the model (`image_size` pixels squared)
            take about so many bytes, instead of `quality`.
        bands: bands of the scene in the model's order, by name or position from 1, where the model does not name them.
        time: date of the scene, in UTC, where the scene does not tell it. 1970-01-01 stands for an unknown one.
        engine: "threads" (this process) or "dask".
        scheduler: address of a Dask cluster; without one, "dask" starts `workers` processes here.
        workers: threads that read the scene; with "dask" processes, each with a model of its own.
        threads: threads on which each model computes.
        batch_size: tiles that go through the model at once.
        halo: tokens dropped along each side of a tile; a quarter of the tile by default.
        chunk, shard: (rows, columns) of tokens a chunk, of chunks a shard.
        resume: go on with a date that was begun by the same arguments.
        append: add a date to the product at `out`, which has the same grid, model and quality.
        overwrite: replace a product at `out`.
        skip_failed: mark the tokens of tiles that cannot be read as not valid and go on. Otherwise their shards are
            left out, all others are written, and the date stays open for `resume`.
        seed: of the sample that `target_bytes` is measured on.
        progress: report on stderr.

    Returns:
        What `nec.store.info` gives, and `complete`, `time`, and of this run `failed_tiles` (row, column and side in
        pixels, error), `shards_left_out`, `tiles`, `tokens`, `seconds`, `tiles_per_second`, and `square_km` and
        `square_km_per_second`, None where the CRS does not tell.

    Raises:
        InputError: the model has no codec; the scene does not fit it; `out` is in the way.
        NecError: the source, the bucket or the cluster cannot be reached, or the disk is full; `resume` goes on.
    """
    began = clock.monotonic()
    runner = Engine(engine, scheduler, workers if engine == "dask" else 1, threads)
    readers = workers if engine == "threads" else CLUSTER_READERS
    scene, normalization = match(scene, model.config, bands=bands)
    tiling = _tiling(scene, model, halo)
    places, codec = split_places(codec_of(model), tiling.tile_tokens)
    seen = {"batch_size": batch_size, "levelled": places is not None, **_plain(normalization)}
    spec = _spec(scene, model, tiling, codec, seen, quality, chunk, shard)
    work = SceneWork(
        model, scene, tiling, normalization, _encoder(spec), places, batch_size, readers, skip_failed=skip_failed
    )
    if target_bytes is not None:
        spec = replace(spec, quality=_quality(work, target_bytes, seed))
        work = replace(work, encoder=_encoder(spec))
    writer = _open(out, spec, resume, append, overwrite)
    with resumable(out, None if resume or append else writer.destroy) as state, writer:
        date = writer.append_time(_date(writer, scene, time, resume, append), source=_source(scene))
        run = _Run(work, writer, date, state)
        run.go(runner, progress)
    return run.report(clock.monotonic() - began)


def _tiling(scene: Scene, model: NecModel, halo: int | None) -> Tiling:
    tile, patch = model.config.image_size, model.config.patch_size
    return Tiling(scene.shape, tile, patch, default_halo(tile // patch) if halo is None else halo)


def _spec(
    scene: Scene,
    model: NecModel,
    tiling: Tiling,
    codec: EmbeddingCodec,
    seen: dict[str, Any],
    quality: float,
    chunk: tuple[int, int] | None,
    shard: tuple[int, int] | None,
) -> ProductSpec:
    """What the product says of itself; `seen`: how pixels become the model's input, beside the tiles."""
    tiles = {"tile_px": tiling.tile_px, "halo_tokens": tiling.halo_tokens}
    side = max(tiling.step, CHUNK_TOKENS // tiling.step * tiling.step)
    chunk = chunk or (side, side)
    return ProductSpec(
        grid=tiling.grid,
        dimensions=model.config.embed_dim,
        codec=codec,
        quality=quality,
        crs=scene.crs,
        transform=token_transform(scene.transform, tiling.patch_px),
        patch_px=tiling.patch_px,
        chunk=chunk,
        shard=shard or _shard(chunk, model.config.embed_dim),
        model={**model.identity, "input": {**tiles, **seen}},
        bands=[band.name for band in scene.bands],
        title=scene.name,
    )


def _encoder(spec: ProductSpec) -> ShardEncoder:
    return ShardEncoder(spec.codec, spec.quality, spec.tiling)


def _shard(chunk: tuple[int, int], dimensions: int) -> tuple[int, int]:
    """As many chunks a shard as memory allows, so that a date has few files."""
    side = SHARD_CHUNKS
    while side > 1 and side * side * chunk[0] * chunk[1] * dimensions * 4 > SHARD_BYTES:
        side -= 1
    return side, side


def _plain(normalization: Normalization) -> dict[str, Any]:
    """As JSON has it, where lists stand for tuples."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(normalization).items()}


def _source(scene: Scene) -> dict[str, Any]:
    return {"name": scene.name, "links": [link["href"] for link in scene.source_links]}


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


def _open(out: str | Path, spec: ProductSpec, resume: bool, append: bool, overwrite: bool) -> ProductWriter:
    if overwrite and (resume or append):
        raise InputError("--resume and --append go on with a product and --overwrite replaces it: give one of them")
    if not (resume or append):
        create_product(out, spec, overwrite=overwrite)
    return ProductWriter(out, spec)


def _date(writer: ProductWriter, scene: Scene, time: Any, resume: bool, append: bool) -> np.datetime64:
    """The date to write; `InputError` where the product has it already and is not to be resumed, or the other way."""
    given = time if time is not None else scene.datetime if scene.datetime is not None else NO_DATE
    when, known = date_of(given), writer.times
    if append and not resume and when in known:
        raise InputError(f"{writer.path} has the date {when} already: give another --time, or --resume")
    if resume and not append and len(known) and when not in known:
        raise InputError(f"{writer.path} has no date {when} to go on with: give --append to add it")
    return when


class _Run:
    """One date on its way into a product."""

    def __init__(self, work: SceneWork, writer: ProductWriter, date: int, state: Stored) -> None:
        self.work, self.writer, self.date, self.state = work, writer, date, state
        self.parts = {shard: work.parts(shard) for shard in writer.missing(date)}
        self.tasks = [part for parts in self.parts.values() for part in parts]
        self.coded: defaultdict[Shard, list[CodedPart]] = defaultdict(list)
        self.failed: list[FailedTile] = []
        self.left_out = 0
        self.tiles = 0

    def go(self, runner: Engine, progress: bool) -> None:
        """Write every missing shard; finish the date if none had to be left out."""
        total = sum(map(self.work.size, self.tasks))
        with Progress(total, "encoding", "tiles", quiet=not progress) as bar:

            def done(tiles: int) -> None:
                self.tiles += tiles
                bar.update(tiles)

            runner.run(self.work, self.tasks, self._put, done)
        if not self.left_out:
            self.writer.finish(self.date, run=self._facts())

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
        self.writer.write_encoded(self.date, *shard, self.work.encoder.join(chunks), failed)
        self.state.shards += 1

    def _facts(self) -> dict[str, Any]:
        """What the product says of this date; nothing that differs from run to run."""
        return {"software": software(), "failed_tiles": [list(tile) for tile in self.writer.failed(self.date)]}

    def report(self, seconds: float) -> dict[str, Any]:
        windows = [self.work.window(task) for task in self.tasks]
        tokens = sum((y1 - y0) * (x1 - x0) for y0, y1, x0, x1 in windows)
        whole = square_km(self.work.scene)
        area = None if whole is None else whole * tokens / math.prod(self.work.tiling.grid)
        return {
            **(info(self.writer.path) if not self.left_out else {}),
            "complete": not self.left_out,
            "time": str(self.writer.times[self.date]),
            "failed_tiles": [asdict(tile) for tile in self.failed],
            "shards_left_out": self.left_out,
            "tiles": self.tiles,
            "tokens": tokens,
            "square_km": area,
            "seconds": seconds,
            "tiles_per_second": self.tiles / seconds,
            "square_km_per_second": None if area is None else area / seconds,
        }


def square_km(scene: Scene) -> float | None:
    """Area of a scene; None where its CRS does not tell it (degrees, or none)."""
    unit = metres(scene.crs)
    if unit is None:
        return None
    a, b, _, d, e, _ = scene.transform
    return abs(a * e - b * d) * unit**2 * math.prod(scene.shape) / 1e6
