"""What `nec.encode`, `nec.fit` and `nec.measure` are told beside source, backbone and codec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nec.encode.engine import Engine
from nec.errors import InputError

Mode = Literal["create", "resume", "overwrite", "append", "resume-append"]
MODES = ("create", "resume", "overwrite", "append", "resume-append")


@dataclass(frozen=True)
class Reading:
    """How a source is read, and becomes the input of a backbone.

    Attributes:
        scale, offset: pixel * scale + offset lies in 0..1; for types other than bytes whose scale nothing tells.
        image_size: images: side in pixels that they are resized to.
        tile: images with masks: side of the windows that they are cut into.
        downscale: images with masks: average over so many by so many pixels first.
        split: images: take these parts of the dataset's split only.
        split_list: images: part -> file that lists its images, one a line.
        bands: scenes: in the backbone's order, names, common names or positions from 1.
        mask: scenes: "scl" (Sentinel-2's clouds), or a raster that is 0 where hidden.
        nodata: scenes: number of invalid pixels, if the file does not say.
        resolution: scenes: resample to pixels of so many units of the CRS.
        crs: scenes: resample to this CRS, for example EPSG:32633.
        sensor: scenes: names the bands by their order, for example sentinel-2-l2a.
    """

    scale: float | None = None
    offset: float = 0.0
    image_size: int | None = None
    tile: int | None = None
    downscale: int = 1
    split: Sequence[str] | None = None
    split_list: dict[str, str | Path] = field(default_factory=dict)
    bands: Sequence[str | int] | None = None
    mask: str | None = None
    nodata: float | None = None
    resolution: float | None = None
    crs: str | None = None
    sensor: str | None = None

    def of_images(self) -> Reading:
        """This, where the source is images; `InputError` for what only scenes take."""
        names = ("bands", "mask", "resolution", "crs", "sensor")
        return self._without(names, "belongs to scenes (scene:PATH), and the input is a dataset of images")

    def of_scenes(self) -> Reading:
        """This, where the source is scenes; `InputError` for what only images take."""
        return self._without(
            ("image_size", "split", "split_list", "tile"),
            "belongs to images, and a scene is cut into tiles: leave it out",
        )

    def _without(self, names: Sequence[str], why: str) -> Reading:
        for name in names:
            if getattr(self, name):
                raise InputError(f"--{name.replace('_', '-')} {why}")
        return self

    def pixels(self) -> dict[str, Any]:
        """Keywords of `nec.encode.embed.plan_inputs`."""
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

    time: Sequence[Any] | None = None
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
    """How a run is done; nothing of it but `batch_size` and the engine's `threads` may change a byte.

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
