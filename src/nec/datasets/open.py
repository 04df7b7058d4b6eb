"""From a path, `KIND:PATH`, a URL or arrays to a dataset or scenes: the one place that decides what an input is."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nec.datasets.base import ArrayDataset, Dataset
from nec.datasets.folders import (
    AID,
    EUROSAT,
    FOLDER,
    MILLIONAID,
    RESISC45,
    UCMERCED,
    FolderLayout,
    ImageFiles,
    ImageFolder,
)
from nec.datasets.images import IMAGE_SUFFIXES, PixelOptions
from nec.datasets.masked import DUBAI, IMAGES_MASKS, POTSDAM, MaskLayout, open_masked
from nec.datasets.sources import open_source
from nec.errors import InputError
from nec.scenes import Scene, open_scene
from nec.scenes.opening import is_safe, rasters_in
from nec.scenes.rasters import RASTER_SUFFIXES, existing, local_path

KINDS: dict[str, FolderLayout | MaskLayout] = {
    layout.kind: layout
    for layout in (FOLDER, EUROSAT, UCMERCED, MILLIONAID, AID, RESISC45, POTSDAM, DUBAI, IMAGES_MASKS)
}
_SCENE = "scene:"


def open_input(
    source: Any,
    *,
    seed: int = 0,
    split_lists: Mapping[str, str | Path] | None = None,
    tile: int | None = None,
    downscale: int = 1,
    bands: Sequence[str | int] | None = None,
    sensor: str | None = None,
    scale: float | Sequence[float] | None = None,
    offset: float | Sequence[float] | None = None,
    nodata: float | None = None,
    mask: str | Path | Sequence[str] | None = None,
    resolution: float | None = None,
    crs: str | None = None,
    align: Any = None,
) -> Dataset | list[Scene]:
    """Open whatever can be encoded: a dataset of images, or scenes, each of which is a date of its own.

    What an input is, lies on the disk: a raster (GeoTIFF, JPEG 2000, VRT, .SAFE, STAC Item) is a scene; a folder that
    holds rasters is one scene of their bands where each has one band, else a scene for each; folders of images in
    sub-folders and zips are datasets. `KIND:PATH` and `scene:PATH` ask for one of them.

    Args:
        source: a path or URL, or several; images in memory (n, height, width, bands); a STAC Item; what was opened
            already (a dataset, a scene, a list of scenes).
        seed, split_lists, tile, downscale: of datasets, see `open_dataset`.
        bands, sensor, scale, offset, nodata: of both, see `nec.scenes.open_scene`.
        mask, resolution, crs, align: of scenes, see `nec.scenes.open_scene`.

    Raises:
        InputError: nothing there, nothing that is known, scenes and images together, arguments of the other kind.
    """
    found = what_is(source)
    pixels: dict[str, Any] = {"bands": bands, "sensor": sensor, "scale": scale, "offset": offset, "nodata": nodata}
    of_scenes: dict[str, Any] = {"mask": mask, "resolution": resolution, "crs": crs, "align": align}
    of_images = {"split_lists": split_lists or None, "tile": tile, "downscale": None if downscale == 1 else downscale}
    if found is not None:
        _refuse(of_images, "belongs to images, and a scene is cut into tiles: leave it out")
        return [item if isinstance(item, Scene) else open_scene(item, **pixels, **of_scenes) for item in found]
    _refuse(of_scenes, "belongs to scenes (scene:PATH), and the input is a dataset of images")
    if isinstance(source, Dataset):
        return source
    if isinstance(source, np.ndarray):
        return ArrayDataset(source)
    return open_dataset(source, seed=seed, split_lists=split_lists, tile=tile, downscale=downscale, **pixels)


def what_is(source: Any) -> list[Any] | None:
    """What `open_scene` takes of a source, or scenes that are open; None where the source is a dataset of images.

    Raises `InputError` where nothing is there, or where scenes and images are given together.
    """
    if isinstance(source, Dataset | np.ndarray):
        return None
    several = isinstance(source, Sequence) and not isinstance(source, str)
    inputs: list[Any] = list(source) if several else [source]
    if not inputs:
        raise InputError("no input was given: name a dataset (KIND:PATH) or a raster")
    try:
        found = [_scenes_of(item) for item in inputs]
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error
    if all(scenes is None for scenes in found):
        return None
    if any(scenes is None for scenes in found):
        scene, other = (
            next(i for i, s in zip(inputs, found, strict=True) if (s is None) is no) for no in (False, True)
        )
        raise InputError(f"{scene} is a scene and {other} is not: take them one by one")
    return [scene for scenes in found for scene in scenes or ()]


def _refuse(given: Mapping[str, Any], why: str) -> None:
    for name, value in given.items():
        if value is not None:
            raise InputError(f"--{name.replace('_', '-').removesuffix('s')} {why}")


def _scenes_of(item: Any) -> list[Any] | None:
    """What `open_scene` takes of an input, or None where it is a dataset of images."""
    if not isinstance(item, str | Path):
        return [item]
    item = local_path(item)
    path = existing(item)
    if path is not None:
        return _scenes_in(path) if path.is_dir() else [path] if _is_scene(path) else None
    text = str(item)
    if text.startswith(_SCENE):
        if text == _SCENE:
            raise InputError("scene: lacks a path: scene:PATH")
        return [text.removeprefix(_SCENE)]
    if _kind(text) is not None:
        return None
    if "://" in text or text.startswith("/vsi") or "," in text or existing(text.partition("#")[0]):
        return [text]
    if Path(text).suffix.lower() in RASTER_SUFFIXES:  # opening it says that it does not exist
        return [text]
    raise InputError(f"{text} does not exist")


def _kind(text: str) -> FolderLayout | MaskLayout | None:
    """The kind that KIND:PATH names, None for a path; `InputError` for an unknown one."""
    kind, colon, rest = text.partition(":")
    if colon and len(kind) > 1 and "/" not in kind and not rest.startswith("//") and kind not in KINDS:
        raise InputError(f"{kind!r} in {text!r} is no known kind of dataset; known are {', '.join(KINDS)}")
    return KINDS.get(kind) if colon else None


def _scenes_in(folder: Path) -> list[Path] | None:
    if (folder / "zarr.json").exists() or (folder / ".zgroup").exists():
        raise InputError(f"{folder} is a store, and images or rasters are encoded: give what it was made of")
    if is_safe(folder):
        return [folder]
    visible = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    if visible and all(path.is_dir() and is_safe(path) for path in visible):
        return visible
    rasters = rasters_in(folder)
    if not rasters or any(path.suffix.lower() in IMAGE_SUFFIXES for path in visible if path not in rasters):
        return None
    below = (file for path in visible if path.is_dir() for file in path.rglob("*"))
    if any(file.suffix.lower() in IMAGE_SUFFIXES for file in below):
        return None
    from nec.scenes.scene import read_headers

    headers = read_headers([str(path.absolute()) for path in rasters])
    return [folder] if all(len(header.dtypes) == 1 for header in headers.values()) else rasters


def _is_scene(path: Path) -> bool:
    """Whether a file is a raster of a scene: by its name, else by its first bytes."""
    suffix = path.suffix.lower()
    if suffix in (*RASTER_SUFFIXES, ".json", ".geojson"):
        return True
    # Else it is GDAL's: it reads many formats, and says what it does not read.
    return suffix not in IMAGE_SUFFIXES and not zipfile.is_zipfile(path)


def open_dataset(
    spec: str | Path | Sequence[str | Path],
    *,
    seed: int = 0,
    split_lists: Mapping[str, str | Path] | None = None,
    tile: int | None = None,
    downscale: int = 1,
    bands: Sequence[str | int] | None = None,
    sensor: str | None = None,
    scale: float | Sequence[float] | None = None,
    offset: float | Sequence[float] | None = None,
    nodata: float | None = None,
) -> Dataset:
    """Open a dataset. `docs/datasets.md` has a table of the kinds.

    Args:
        spec: "KIND:PATH" with PATH a folder or the published zip, KIND one of `KINDS`; or one or several image files.
            A folder or zip without KIND is recognised by its folders.
        seed: of the split, for kinds without a published one.
        split_lists: part ("train", "val", "test") -> file that lists its images, one a line.
        tile: side in pixels of the windows that images with masks are cut into (Potsdam's tiles: 512 if None).
        downscale: images with masks are averaged over so many by so many pixels first.
        bands, sensor, scale, offset, nodata: which bands of the images are taken, and what their numbers mean, see
            `nec.datasets.images.PixelOptions`.

    Raises:
        InputError: unknown kind, missing path, no images, another layout than the kind's.
    """
    specs = [spec] if isinstance(spec, str | Path) else list(spec)
    if not specs:
        raise InputError("no input was given: name a dataset (KIND:PATH) or image files")
    pixels = PixelOptions(bands, sensor, scale, offset, nodata)
    parsed = [parse(item) for item in specs]
    layout, path = parsed[0]
    if len(parsed) == 1 and isinstance(layout, MaskLayout):
        if pixels != PixelOptions():
            raise InputError(f"images with masks are read as they are, and {specs[0]} has masks: leave bands out")
        return open_masked(path, layout, seed=seed, split_lists=split_lists, tile=tile, downscale=downscale)
    if tile is not None or downscale != 1:
        raise InputError(f"--tile and --downscale cut images with masks, and {specs[0]} has none: leave them out")
    if len(parsed) == 1 and isinstance(layout, FolderLayout):
        return ImageFolder(path, layout, seed=seed, split_lists=split_lists, pixels=pixels)
    for item, (layout, _) in zip(specs, parsed, strict=True):
        if layout is not None:
            raise InputError(f"several inputs must all be image files, and {item} is not; take datasets one by one")
    if split_lists:
        raise InputError("split lists belong to datasets of images (KIND:PATH), not to single files")
    return ImageFiles([path for _, path in parsed], pixels)


def parse(spec: str | Path) -> tuple[FolderLayout | MaskLayout | None, Path]:
    """KIND:PATH or a bare path -> its layout and path; the layout is None for a file that is no zip.

    Raises `InputError` for an unknown kind, a URL, and a path that does not exist.
    """
    spec = local_path(spec)
    bare = existing(spec)
    layout = None if bare is not None or isinstance(spec, Path) else _kind(spec)
    if layout is not None:
        path = str(spec).partition(":")[2]
        if not path:
            raise InputError(f"{spec} lacks a path: {layout.kind}:PATH, {layout.about}")
        return layout, Path(path).expanduser()
    if bare is None and "://" in str(spec):
        raise InputError(f"{spec}: URLs are not read yet as datasets; download the file and give its path")
    if bare is None:
        raise InputError(f"{spec} does not exist")
    if bare.is_dir() or zipfile.is_zipfile(bare):
        return recognise(bare), bare
    if bare.suffix.lower() in IMAGE_SUFFIXES:
        return None, bare
    raise InputError(f"{spec} is no dataset: give KIND:PATH ({', '.join(KINDS)}) or image files")


def recognise(path: Path) -> FolderLayout | MaskLayout:
    """Layout of a folder or zip, from the names of its folders; `folder` where no published one fits."""
    names = list(open_source(path).sizes)
    above = {part for name in names for part in name.split("/")[:-1]}
    if {"img_dir", "ann_dir"} <= above:
        return POTSDAM
    if {"images", "masks"} <= above:
        return DUBAI if {f"Tile {number}" for number in range(1, 9)} <= above else IMAGES_MASKS
    folders = {name.split("/")[-2] for name in names if "/" in name}
    for layout in KINDS.values():
        if not isinstance(layout, FolderLayout) or layout.classes is None:
            continue
        if folders == set(layout.classes) or (layout.tree and folders >= set(layout.classes)):
            return layout
    return FOLDER
