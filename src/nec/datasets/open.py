"""From `KIND:PATH` to a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nec.datasets.base import Dataset
from nec.datasets.folders import AID, EUROSAT, FOLDER, MILLIONAID, RESISC45, UCMERCED, ImageFolder, Layout
from nec.datasets.geotiff import GEOTIFF_SUFFIXES, GeoTiffDataset
from nec.datasets.mask_layouts import DUBAI, IMAGES_MASKS, POTSDAM, MaskLayout, open_masked
from nec.datasets.sources import open_source
from nec.errors import InputError

KINDS: dict[str, Layout | MaskLayout] = {
    layout.kind: layout
    for layout in (FOLDER, EUROSAT, UCMERCED, MILLIONAID, AID, RESISC45, POTSDAM, DUBAI, IMAGES_MASKS)
}


def open_dataset(
    spec: str | Path | Sequence[str | Path],
    *,
    seed: int = 0,
    split_lists: Mapping[str, str | Path] | None = None,
    tile: int | None = None,
    downscale: int = 1,
) -> Dataset:
    """Open a dataset. `docs/datasets.md` has a table of the kinds.

    Args:
        spec: "KIND:PATH" with PATH a folder or the published zip, KIND one of `KINDS`; or the path of a GeoTIFF,
            several of them, or a folder of GeoTIFFs. A folder or zip without KIND is recognised by its folders.
        seed: of the split, for kinds without a published one.
        split_lists: part ("train", "val", "test") -> file that lists its images, one a line.
        tile: side in pixels of the windows that images with masks are cut into (Potsdam's tiles: 512 if None).
        downscale: images with masks are averaged over so many by so many pixels first.

    Raises:
        InputError: unknown kind, missing path, no images, another layout than the kind's.
    """
    specs = [str(spec)] if isinstance(spec, str | Path) else [str(item) for item in spec]
    if not specs:
        raise InputError("no input was given: name a dataset (KIND:PATH) or a GeoTIFF")
    parsed = [parse(item) for item in specs]
    layout, path = parsed[0]
    if len(parsed) == 1 and isinstance(layout, MaskLayout):
        return open_masked(path, layout, seed=seed, split_lists=split_lists, tile=tile, downscale=downscale)
    if tile is not None or downscale != 1:
        raise InputError(f"--tile and --downscale cut images with masks, and {specs[0]} has none: leave them out")
    if len(parsed) == 1 and isinstance(layout, Layout):
        return ImageFolder(path, layout, seed=seed, split_lists=split_lists)
    for item, (layout, _) in zip(specs, parsed, strict=True):
        if layout is not None:
            raise InputError(f"several inputs must all be GeoTIFFs, and {item} is not; take datasets one by one")
    if split_lists:
        raise InputError("split lists belong to datasets of images (KIND:PATH), not to GeoTIFFs")
    return GeoTiffDataset([file for _, path in parsed for file in (_visible(path) if path.is_dir() else [path])])


def parse(spec: str) -> tuple[Layout | MaskLayout | None, Path]:
    """KIND:PATH or a bare path -> its layout and path; the layout is None for a GeoTIFF or a folder of them.

    Raises `InputError` for an unknown kind, a URL, and a bare path that is no dataset.
    """
    if "://" in spec:
        raise InputError(f"{spec}: URLs are not read yet; download the file and give its path")
    kind, colon, path = spec.partition(":")
    if colon and kind in KINDS:
        if not path:
            raise InputError(f"{spec} lacks a path: {kind}:PATH, {KINDS[kind].about}")
        return KINDS[kind], Path(path).expanduser()
    bare = Path(spec).expanduser()
    if not bare.exists():
        if colon and len(kind) > 1 and "/" not in kind:
            raise InputError(f"{kind!r} in {spec!r} is no known kind of dataset; known are {', '.join(KINDS)}")
        raise InputError(f"{spec} does not exist")
    if bare.is_dir() and _visible(bare) and all(file.suffix.lower() in GEOTIFF_SUFFIXES for file in _visible(bare)):
        return None, bare
    if bare.is_dir() or bare.suffix.lower() == ".zip":
        return recognise(bare), bare
    if bare.suffix.lower() in GEOTIFF_SUFFIXES:
        return None, bare
    raise InputError(f"{spec} is no dataset: give KIND:PATH ({', '.join(KINDS)}) or a GeoTIFF")


def recognise(path: Path) -> Layout | MaskLayout:
    """Layout of a folder or zip, from the names of its folders; `folder` where no published one fits."""
    names = list(open_source(path).sizes)
    above = {part for name in names for part in name.split("/")[:-1]}
    if {"img_dir", "ann_dir"} <= above:
        return POTSDAM
    if {"images", "masks"} <= above:
        return DUBAI if {f"Tile {number}" for number in range(1, 9)} <= above else IMAGES_MASKS
    folders = {name.split("/")[-2] for name in names if "/" in name}
    for layout in KINDS.values():
        if not isinstance(layout, Layout) or layout.classes is None:
            continue
        if folders == set(layout.classes) or (layout.tree and folders >= set(layout.classes)):
            return layout
    return FOLDER


def _visible(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if not file.name.startswith("."))
