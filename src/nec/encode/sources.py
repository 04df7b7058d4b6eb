"""What a source is: a dataset of images, or scenes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nec.datasets import ArrayDataset, Dataset, open_dataset
from nec.encode.options import Reading
from nec.errors import InputError

if TYPE_CHECKING:
    from nec.scenes import Scene

Source = Any
"""A path, `KIND:PATH` or `scene:PATH`, or several; a `Dataset`; a `Scene`, or several; images (n, h, w, bands)."""

_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt", ".safe", ".json")
_PREFIX = "scene:"


def open_source(source: Source, reading: Reading, seed: int = 0) -> Dataset | list[Scene]:
    """The dataset or the scenes that a source is.

    Raises:
        InputError: nothing there, a mixture, or options that do not fit what it is.
    """
    if isinstance(source, np.ndarray):
        source = ArrayDataset(source)
    if isinstance(source, Dataset):
        reading.check_images()
        return source
    scenes = _scenes(source)
    if scenes is not None:
        reading.check_scenes()
        return scenes
    paths = [str(item) for item in ([source] if isinstance(source, str | Path) else source)]
    rasters = [text for text in paths if _is_scene(text)]
    if rasters and len(rasters) != len(paths):
        other = next(text for text in paths if text not in rasters)
        raise InputError(f"{rasters[0]} is a scene and {other} is not: encode them one by one")
    if not rasters:
        return open_images(paths, reading, seed)
    reading.check_scenes()
    return [_open_scene(text.removeprefix(_PREFIX), reading) for text in rasters]


def open_images(source: Source, reading: Reading, seed: int = 0) -> Dataset:
    """The dataset that a source is; `InputError` where it is none."""
    reading.check_images()
    if isinstance(source, np.ndarray):
        source = ArrayDataset(source)
    if isinstance(source, Dataset):
        return source
    return open_dataset(
        source, seed=seed, split_lists=reading.split_files, tile=reading.tile, downscale=reading.downscale
    )


def _scenes(source: Source) -> list[Scene] | None:
    """Scenes that are open already, or None."""
    if hasattr(source, "bands") and hasattr(source, "transform"):
        return [source]
    opened = isinstance(source, Sequence) and not isinstance(source, str) and len(source) > 0
    return list(source) if opened and all(hasattr(item, "transform") for item in source) else None


def _is_scene(text: str) -> bool:
    path = text.partition("?")[0].partition("#")[0]
    return text.startswith(_PREFIX) or "://" in text or path.lower().endswith(_SUFFIXES)


def _open_scene(path: str, reading: Reading) -> Scene:
    from nec.scenes import open_scene

    if not path:
        raise InputError("scene: lacks a path: scene:PATH")
    names = ("mask", "nodata", "resolution", "crs", "sensor", "scale")
    given = {name: getattr(reading, name) for name in names if getattr(reading, name) is not None}
    if reading.offset:
        given["offset"] = reading.offset
    parts = path.split(",")
    return open_scene(parts if len(parts) > 1 and not Path(path).exists() else path, **given)
