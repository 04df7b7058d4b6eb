"""What `nec.encode`, `nec.fit` and `nec.measure` are told beside source, backbone and codec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nec.encoding.engine import Engine, EngineName
from nec.errors import InputError

Mode = Literal["create", "resume", "overwrite", "append", "resume-append"]
MODES = ("create", "resume", "overwrite", "append", "resume-append")


@dataclass(frozen=True)
class Reading:
    """How a source is read, and becomes the input of a backbone.

    Attributes:
        scale: pixel * scale + offset lies in 0..1; for types other than bytes whose scale nothing tells.
        offset: see scale.
        image_size: images: side in pixels that they are resized to.
        tile: images with masks: side of the windows that they are cut into.
        downscale: images with masks: average over so many by so many pixels first.
        split: images: take these parts of the dataset's split only; "all" are all.
        split_list: images: PART=FILE, the file lists the images of that part, one a line.
        bands: in the backbone's order, names, common names or positions from 1.
        mask: scenes: "scl" (Sentinel-2's clouds), or a raster that is 0 where hidden.
        nodata: number of invalid pixels, if the file does not say.
        resolution: scenes: resample to pixels of so many units of the CRS.
        crs: scenes: resample to this CRS, for example EPSG:32633.
        sensor: names the bands by their order, for example sentinel-2-l2a.
    """

    scale: float | None = None
    offset: float = 0.0
    image_size: int | None = None
    tile: int | None = None
    downscale: int = 1
    split: list[str] | None = None
    split_list: list[str] = field(default_factory=list)
    bands: list[str] | None = None
    mask: str | None = None
    nodata: float | None = None
    resolution: float | None = None
    crs: str | None = None
    sensor: str | None = None

    def check_images(self) -> None:
        """`InputError` for what only scenes take."""
        names = ("mask", "resolution", "crs")
        self._refuse(names, "belongs to scenes (scene:PATH), and the input is a dataset of images")

    def check_scenes(self) -> None:
        """`InputError` for what only images take."""
        names = ("image_size", "split", "split_list", "tile")
        self._refuse(names, "belongs to images, and a scene is cut into tiles: leave it out")

    def _refuse(self, names: Sequence[str], why: str) -> None:
        for name in names:
            if getattr(self, name):
                raise InputError(f"--{name.replace('_', '-')} {why}")

    @property
    def parts(self) -> list[str] | None:
        """The parts of the split that are meant; None: all images."""
        return None if self.split in (None, ["all"]) else self.split

    @property
    def split_files(self) -> dict[str, str]:
        """Part -> file, of `split_list`; `InputError` for another form."""
        files = {}
        for text in self.split_list:
            part, equals, file = text.partition("=")
            if not equals or not file:
                raise InputError(f"--split-list {text}: give PART=FILE, for example train=uc_merced-train.txt")
            files[part] = file
        return files

    @property
    def chosen_bands(self) -> list[str | int] | None:
        """Names of bands, and their positions as numbers."""
        return None if self.bands is None else [int(name) if str(name).isdigit() else name for name in self.bands]

    def pixels(self) -> dict[str, Any]:
        """Keywords of `nec.encoding.embed.plan_inputs`."""
        return {"image_size": self.image_size, "scale": self.scale, "offset": self.offset}


@dataclass(frozen=True)
class SceneOptions:
    """How scenes become the dates of a raster store.

    Attributes:
        time: date in UTC of each scene, in their order, where the scenes do not tell it.
        halo: tokens dropped along each side of a tile; a quarter of the tile by default.
        chunk: (rows, columns) of tokens a chunk; about 64 by default.
        shard: (rows, columns) of chunks a shard.
        skip_failed: mark the tokens of tiles that cannot be read as not valid and go on. Otherwise their shards are
            left out, all others are written, and the date stays open for `resume`.
    """

    time: list[str] | None = None
    halo: int | None = None
    chunk: tuple[int, int] | None = None
    shard: tuple[int, int] | None = None
    skip_failed: bool = False


@dataclass(frozen=True)
class Coding:
    """With what precision a run codes.

    Attributes:
        quality: what to code with; larger = finer.
        target_bytes: choose the quality such that an image (of scenes: an input of the backbone) takes about so many
            bytes, instead of `quality`.
    """

    quality: float = 1.0
    target_bytes: float | None = None


@dataclass(frozen=True)
class Running:
    """How a run is done. Of this, batch_size, threads, device and precision may change embeddings in their last digits.

    Attributes:
        workers: threads that read; with the engine dask, processes that are started here.
        threads: threads on which each model computes; PyTorch's own number if None.
        scheduler: address of a Dask cluster, for the engine dask.
        batch_size: images (256 by default) or tiles (32) that go through the backbone at once.
        seed: of the dataset's split and of samples.
        device: "auto" (the best there is), "cpu", "cuda" or "mps", for a backbone that is given by name.
        precision: "fp32", "bf16" or "fp16", likewise; the latter change some symbols.
    """

    workers: int = 2
    threads: int | None = None
    scheduler: str | None = None
    batch_size: int | None = None
    seed: int = 0
    device: str = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"

    def job(self, engine: EngineName, batch_size: int, progress: bool) -> Job:
        """The same, settled; `batch_size`: if none was given."""
        runner = Engine(engine, self.scheduler, self.workers, self.threads)
        return Job(runner, batch_size if self.batch_size is None else self.batch_size, self.seed, progress)


@dataclass(frozen=True)
class Job:
    """A run, settled.

    Attributes:
        engine: where shards are made.
        batch_size: images or tiles that go through the backbone at once.
        seed: of samples.
        progress: report on stderr.
    """

    engine: Engine
    batch_size: int
    seed: int = 0
    progress: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch size and workers must be at least 1, not {self.batch_size}")
