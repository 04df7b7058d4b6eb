"""Scenes -> tiles -> backbone -> codec -> raster store, a date a scene."""

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

from nec.encoding.codecs import codec_for, quality_for_bytes
from nec.encoding.engine import Stored, resumable
from nec.encoding.options import Coding, Job, Mode, Reading, SceneOptions
from nec.encoding.provenance import software
from nec.encoding.reports import FailedTile, ScenesReport, store_info
from nec.encoding.scene_work import CodedPart, Part, SceneWork, Shard
from nec.errors import InputError
from nec.models.backbone import Backbone
from nec.progress import Progress
from nec.scenes.scene import Scene
from nec.scenes.tiles import Normalization, TileGrid, default_halo, match, read_tile, split_positions, token_transform
from nec.store import RasterSpec, RasterWriter, ShardEncoder
from nec.store.georeference import metres
from nec.store.rasters import date as date_of

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec

CHUNK_TOKENS = 64  # along a side of a chunk, or the next multiple below of what a tile contributes
SHARD_CHUNKS = 4  # along a side of a shard, if its tokens take no more than SHARD_BYTES as floats
SHARD_BYTES = 64 * 2**20
SAMPLE_CHUNKS = 4  # that a wanted size is measured on
SAMPLE_TILES = 1000  # that a codec is fitted on where there is none


def encode_scenes(
    scenes: Sequence[Scene],
    out: str | Path,
    backbone: Backbone,
    codec: EmbeddingCodec | str | Path | None,
    coding: Coding,
    mode: Mode,
    reading: Reading,
    options: SceneOptions,
    job: Job,
) -> ScenesReport:
    """Encode each scene as a date of one raster store; see `nec.encode`. Ends with the first that is incomplete."""
    times = list(options.time) if options.time is not None else [None] * len(scenes)
    if len(times) != len(scenes):
        raise InputError(f"{len(times)} --time for {len(scenes)} scene(s): give one for each, in the same order")
    for scene in scenes[1:]:
        _check_alike(scenes[0], scene)
    report: ScenesReport | None = None
    for scene, time in zip(scenes, times, strict=True):
        made = _encode_scene(
            scene,
            out,
            backbone,
            codec,
            coding,
            mode,
            reading,
            replace(options, time=None if time is None else [time]),
            job,
        )
        report = made if report is None else report.followed_by(made)
        if not report.complete:
            break
        mode = "resume-append" if mode in ("resume", "resume-append") else "append"
    assert report is not None
    return report


def _check_alike(reference: Scene, scene: Scene) -> None:
    """The dates of a store lie on one pixel grid; refused before any of them is encoded."""
    for what in ("crs", "shape", "transform"):
        if getattr(scene, what) != getattr(reference, what):
            raise InputError(
                f"{scene.name} is not on the pixel grid of {reference.name}: {what} {getattr(scene, what)} and "
                f"{getattr(reference, what)}; write a product for each, or resample one to the other first"
            )


def _encode_scene(
    scene: Scene,
    out: str | Path,
    backbone: Backbone,
    codec: EmbeddingCodec | str | Path | None,
    coding: Coding,
    mode: Mode,
    reading: Reading,
    options: SceneOptions,
    job: Job,
) -> ScenesReport:
    """Encode a scene as a date of a raster store.

    Tiles that overlap by `halo` tokens go through the backbone, and only their inner tokens are kept. The unit of work
    is some chunks of a shard, that of resuming a shard. The same scene, backbone and arguments on as many threads give
    the same bytes, on any engine, interrupted or not.
    """
    began = clock.monotonic()
    time = scene.datetime if options.time is None else options.time[0]
    if time is None:
        raise InputError(f"{scene.name} does not say when it was taken: give --time DATE (time= in Python)")
    scene, normalization = match(scene, backbone.pixels, bands=reading.chosen_bands)
    tiling = _tiling(scene, backbone, options.halo)

    def sample() -> NDArray[np.float32]:
        return sample_tiles(scene, backbone, tiling, normalization, job)

    # Without means by position: a store keeps its codec, but not the means that its tiles are levelled by.
    begun = None if mode in ("create", "overwrite") else out
    chosen, fitted_on = codec_for(backbone, codec, begun, sample, positions=False)
    places, chosen = split_positions(chosen, tiling.tile_tokens)
    seen = {"batch_size": job.batch_size, "levelled": places is not None, **_plain(normalization)}
    spec = _spec(scene, backbone, tiling, chosen, seen, coding.quality, options.chunk, options.shard)
    work = SceneWork(
        backbone, scene, tiling, normalization, _encoder(spec), places, job.batch_size, job.engine.readers,
        skip_failed=options.skip_failed,
    )  # fmt: skip
    if coding.target_bytes is not None:
        spec = replace(spec, quality=_quality(work, coding.target_bytes, job.seed))
        work = replace(work, encoder=_encoder(spec))
    resume, append = mode in ("resume", "resume-append"), mode in ("append", "resume-append")
    writer = _open(out, spec, mode)
    with resumable(out, None if resume or append else writer.destroy) as state, writer:
        date = writer.append_time(_date(writer, time, resume, append), source=_source(scene))
        run = _Run(work, writer, date, state)
        run.go(job)
    return run.report(out, fitted_on, clock.monotonic() - began)


def sample_tiles(
    scene: Scene, backbone: Backbone, tiling: TileGrid, normalization: Normalization, job: Job
) -> NDArray[np.float32]:
    """Embeddings (n, y, x, d) of a seeded sample of a scene's tiles that are valid throughout."""
    rows, columns = tiling.grid
    tiles = tiling.tiles((0, rows, 0, columns))
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


def _tiling(scene: Scene, backbone: Backbone, halo: int | None) -> TileGrid:
    (tile, width), (patch, across) = backbone.input_size, backbone.patch
    if tile != width or patch != across:
        raise InputError(f"{backbone.name} takes {width}x{tile} px in patches of {across}x{patch}: tiles are squares")
    return TileGrid(scene.shape, tile, patch, default_halo(tile // patch) if halo is None else halo)


def _spec(
    scene: Scene,
    backbone: Backbone,
    tiling: TileGrid,
    codec: EmbeddingCodec,
    seen: dict[str, Any],
    quality: float,
    chunk: tuple[int, int] | None,
    shard: tuple[int, int] | None,
) -> RasterSpec:
    """What the product says of itself; `seen`: how pixels become the model's input, beside the tiles."""
    tiles = {"tile_px": tiling.tile_px, "halo_tokens": tiling.halo_tokens}
    side = max(tiling.step, CHUNK_TOKENS // tiling.step * tiling.step)
    chunk = chunk or (side, side)
    return RasterSpec(
        grid=tiling.grid,
        dimensions=backbone.dimensions,
        codec=codec,
        quality=quality,
        crs=scene.crs,
        transform=token_transform(scene.transform, tiling.patch_px),
        patch_px=tiling.patch_px,
        chunk=chunk,
        shard=shard or _shard(chunk, backbone.dimensions),
        model={**backbone.identity, "input": {**tiles, **seen}},
        bands=[band.name for band in scene.bands],
        title=scene.name,
    )


def _encoder(spec: RasterSpec) -> ShardEncoder:
    return ShardEncoder(spec.codec, spec.quality, spec.tiling, (spec.dimensions,))


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


def _open(out: str | Path, spec: RasterSpec, mode: Mode) -> RasterWriter:
    if mode in ("create", "overwrite"):
        return RasterWriter.create(out, spec, overwrite=mode == "overwrite")
    return RasterWriter.resume(out, spec)


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
        self.writer.write_encoded((self.date, *shard), self.work.encoder.join(chunks), failed)
        self.state.shards += 1

    def _facts(self) -> dict[str, Any]:
        """What the product says of this date; nothing that differs from run to run."""
        return {"software": software(), "failed_tiles": [list(tile) for tile in self.writer.failed(self.date)]}

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
