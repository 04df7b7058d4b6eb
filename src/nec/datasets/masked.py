"""Images with label masks, whole or cut into windows: Dubai, ISPRS Potsdam, any `images/` and `masks/` folders."""

from __future__ import annotations

import json
import posixpath
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.datasets.base import Dataset, describe_listing, listed_split, seeded_split
from nec.datasets.images import decode_image, image_size
from nec.datasets.masks import IGNORE, Color, MaskCoding, check_coding, downscale_image, downscale_mask, read_numbers
from nec.datasets.sources import Source, open_source
from nec.errors import InputError

# Decoded images and masks that are kept, so that the windows of an image cost one decoding. Dubai fits in half scale.
_CACHE_BYTES = 2**29


@dataclass(frozen=True)
class MaskedFile:
    """An image file with its mask file.

    Attributes:
        image, mask: paths in the source.
        name: of the image in the dataset: the same for a folder and for a zip of it.
        group: what is never cut by a split: the tile or scene the image comes from.
        part: published part of the split, or "".
        repeated: (rows, columns) at the image's top and left that another image of the group shows as well.
    """

    image: str
    mask: str
    name: str
    group: str
    part: str = ""
    repeated: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Cut:
    """Part of an image: first row and column, and how many of its first rows and columns an earlier window has too."""

    file: int
    top: int = 0
    left: int = 0
    repeated: tuple[int, int] = (0, 0)


class MaskedImages(Dataset):
    """Image files with masks, `downscale`d and, with `tile`, cut into windows of tile x tile pixels.

    Windows do not overlap, but for the last row and column, which are shifted inwards to end with the image. What a
    shifted window repeats is `IGNORE` in its mask, so each pixel of an image counts once, in training and in metrics.
    A window is named `<image>#<row>,<column>` by its first pixel in the downscaled image. Its file size is the share,
    by area that counts, of its image's: the sizes of an image's windows add up to the size of its file.

    Raises:
        InputError: no images; an image smaller than the tile; a split list that does not fit.
    """

    def __init__(
        self,
        source: Source,
        scenes: Sequence[MaskedFile],
        coding: MaskCoding,
        kind: str,
        *,
        tile: int | None = None,
        downscale: int = 1,
        percent: tuple[int, int, int] = (60, 20, 20),
        seed: int = 0,
        split_lists: Mapping[str, str | Path] | None = None,
    ) -> None:
        if downscale < 1 or (tile is not None and tile < 1):
            raise InputError(f"--tile and --downscale are positive numbers of pixels, not {tile} and {downscale}")
        self.kind, self.source, self.files, self.coding = kind, source, list(scenes), coding
        self.tile, self.downscale = tile, downscale
        self.mask_classes = list(coding.classes)
        self.mask_colors = None if coding.colors is None else list(coding.colors)
        self._cache = _Cache(_CACHE_BYTES)
        self.cuts: list[Cut] = []
        self.names, self.file_sizes = [], []
        for number, scene in enumerate(self.files):
            self._add_windows(number, scene)
        self.groups = np.array([self.files[window.file].group for window in self.cuts])
        listing = {file.name: source.sizes[file.image] for file in self.files}
        listing |= {f"mask of {file.name}": source.sizes[file.mask] for file in self.files}
        self.description = {
            "kind": kind,
            "file": source.path.resolve().name,
            **describe_listing(list(listing), list(listing.values())),
            "images": len(self.names),
            "files": len(self.files),
            "downscale": downscale,
        }
        if tile is not None:
            self.description["tile"] = tile
        self._set_split(percent, seed, split_lists)

    def _add_windows(self, number: int, scene: MaskedFile) -> None:
        size = self.source.sizes[scene.image]
        if self.tile is None:
            self.cuts.append(Cut(number))
            self.names.append(scene.name)
            self.file_sizes.append(size)
            return
        height, width = self._full_size(scene.image)
        height, width = height // self.downscale, width // self.downscale
        if min(height, width) < self.tile:
            scale = f" after --downscale {self.downscale}" if self.downscale > 1 else ""
            raise InputError(
                f"{scene.image} is {width}x{height} px{scale}, less than --tile {self.tile}: give a smaller tile"
            )
        counted, total = 0, height * width
        for top, rows in _cut(height, self.tile):
            for left, columns in _cut(width, self.tile):
                before = counted
                counted += (self.tile - rows) * (self.tile - columns)
                self.cuts.append(Cut(number, top, left, (rows, columns)))
                self.names.append(f"{scene.name}#{top},{left}")
                self.file_sizes.append(size * counted // total - size * before // total)

    def _set_split(
        self, percent: tuple[int, int, int], seed: int, split_lists: Mapping[str, str | Path] | None
    ) -> None:
        groups = [file.group for file in self.files]
        if split_lists:
            parts = listed_split([file.name for file in self.files], split_lists, groups)
            files = {part: Path(path).name for part, path in split_lists.items()}
            self.description["split"] = {"method": "lists", "files": files}
        elif any(file.part for file in self.files):
            parts = np.array([file.part for file in self.files])
            self.description["split"] = {"method": "published"}
        else:
            names = sorted(set(groups))
            of_group = dict(zip(names, seeded_split(names, np.zeros(len(names), np.int64), percent, seed), strict=True))
            parts = np.array([of_group[group] for group in groups])
            self.description["split"] = {"method": "seeded, by group", "percent": list(percent), "seed": seed}
        self.split = parts[[window.file for window in self.cuts]]

    def read(self, index: int) -> NDArray[Any]:
        """Item `index` as (height, width, bands)."""
        window = self.cuts[index]
        return self._cut_out(self._cache.get((window.file, "image"), lambda: self._image(window.file)), window)

    def read_mask(self, index: int) -> NDArray[np.uint8]:
        """Class indices (height, width) of item `index`; `IGNORE` without a label and where a window repeats pixels."""
        window = self.cuts[index]
        mask = self._cut_out(self._cache.get((window.file, "mask"), lambda: self._mask(window.file)), window)
        _ignore_repeated(mask, window.repeated)
        return mask

    def _cut_out(self, whole: NDArray[Any], window: Cut) -> NDArray[Any]:
        if self.tile is None:
            return whole.copy()
        return whole[window.top : window.top + self.tile, window.left : window.left + self.tile].copy()

    def _image(self, number: int) -> NDArray[Any]:
        file = self.files[number].image
        return downscale_image(decode_image(self.source.read(file), f"{self.source.path}/{file}"), self.downscale)

    def _mask(self, number: int) -> NDArray[np.uint8]:
        scene = self.files[number]
        mask = self.coding.decode(self.source.read(scene.mask), f"{self.source.path}/{scene.mask}")
        height, width = self._full_size(scene.image)
        if mask.shape != (height, width):
            raise InputError(
                f"{scene.mask} is {mask.shape[1]}x{mask.shape[0]} px, its image {scene.image} is {width}x{height}: "
                "an image and its mask must be of one size"
            )
        _ignore_repeated(mask, scene.repeated)
        return downscale_mask(mask, self.downscale)

    def _full_size(self, file: str) -> tuple[int, int]:
        with self.source.stream(file) as stream:
            return image_size(stream, f"{self.source.path}/{file}")

    def _reading_order(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        scenes = np.array([self.cuts[index].file for index in order])
        return np.argsort((scenes - scenes[0]) % len(self.files), kind="stable")  # the first's is decoded already


def _cut(length: int, tile: int) -> list[tuple[int, int]]:
    """(first pixel, how many pixels are repeated) of the windows along an axis."""
    starts = [(start, 0) for start in range(0, length - tile + 1, tile)]
    left = length % tile
    return [*starts, (length - tile, tile - left)] if left else starts


def _ignore_repeated(mask: NDArray[np.uint8], repeated: tuple[int, int]) -> None:
    mask[: repeated[0]] = IGNORE
    mask[:, : repeated[1]] = IGNORE


class _Cache:
    """The last used arrays, up to `budget` bytes; of several threads that need one, one makes it."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self._held: OrderedDict[Any, NDArray[Any]] = OrderedDict()
        self._making: dict[Any, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: Any, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        with self._lock:
            turn = self._making.setdefault(key, threading.Lock())
        with turn:
            with self._lock:
                if key in self._held:
                    self._held.move_to_end(key)
                    return self._held[key]
            made = make()
            with self._lock:
                self._held[key] = made
                while len(self._held) > 1 and sum(held.nbytes for held in self._held.values()) > self.budget:
                    self._held.popitem(last=False)
            return made

    def __getstate__(self) -> dict[str, Any]:
        return {"budget": self.budget}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["budget"])  # type: ignore[misc]


@dataclass(frozen=True)
class MaskLayout:
    """A kind of dataset with masks. `percent`: shares of the groups in train, val and test where none are published."""

    kind: str
    about: str
    percent: tuple[int, int, int] = (60, 20, 20)


DUBAI = MaskLayout(
    "dubai",
    about="Semantic segmentation of aerial imagery (Dubai), folder or zip",
    percent=(60, 15, 25),  # of 8 tiles: 5, 1 and 2
)
POTSDAM = MaskLayout(
    "potsdam",
    about="ISPRS Potsdam: 2_Ortho_RGB and 5_Labels_all as folders or zips in one folder, or img_dir and ann_dir",
)
IMAGES_MASKS = MaskLayout("images+masks", about="folder or zip with images/ and masks/, and classes.json beside them")

# Humans in the Loop 2020, `Tile <n>/images/image_part_00<k>.jpg` and `Tile <n>/masks/image_part_00<k>.png`, 8 tiles of
# 9 images. The colours of the masks; the classes.json beside them names others. "Unlabeled" is no class.
DUBAI_CODING = MaskCoding(
    classes=("Building", "Land (unpaved area)", "Road", "Vegetation", "Water"),
    colors=((0x3C, 0x10, 0x98), (0x84, 0x29, 0xF6), (0x6E, 0xC1, 0xE4), (0xFE, 0xDD, 0x3A), (0xE2, 0xA9, 0x29)),
    ignored=((0x9B, 0x9B, 0x9B), (0, 0, 0)),
)

_POTSDAM_CLASSES = ("impervious surface", "building", "low vegetation", "tree", "car", "clutter")
_POTSDAM_COLORS = ((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0))
# The labels as published: colours; black only in the variant without boundaries. The label of tile 4_12 is blurred
# by lossy compression, in that of 6_7 some cars are (252, 255, 0).
POTSDAM_CODING = MaskCoding(
    classes=_POTSDAM_CLASSES,
    colors=_POTSDAM_COLORS,
    ignored=((0, 0, 0),),
    faulty=("top_potsdam_4_12_label", "top_potsdam_6_7_label"),
)
# As mmsegmentation prepares them: 0 is ignored, 1 to 6 are the classes.
POTSDAM_PREPARED_CODING = MaskCoding(classes=_POTSDAM_CLASSES, colors=_POTSDAM_COLORS, values="numbers", first=1)

# The benchmark's own division of its 38 tiles.
POTSDAM_TRAIN = (
    "2_10", "2_11", "2_12", "3_10", "3_11", "3_12", "4_10", "4_11", "4_12", "5_10", "5_11", "5_12",
    "6_7", "6_8", "6_9", "6_10", "6_11", "6_12", "7_7", "7_8", "7_9", "7_10", "7_11", "7_12",
)  # fmt: skip
POTSDAM_TEST = (
    "2_13", "2_14", "3_13", "3_14", "4_13", "4_14", "4_15", "5_13", "5_14", "5_15", "6_13", "6_14", "6_15", "7_13",
)  # fmt: skip
POTSDAM_TILE = 512


def open_masked(
    path: Path,
    layout: MaskLayout,
    *,
    seed: int = 0,
    split_lists: Mapping[str, str | Path] | None = None,
    tile: int | None = None,
    downscale: int = 1,
) -> MaskedImages:
    """Open a dataset with masks. `InputError` for another layout than the kind's, or an image without its mask."""
    source = open_source(path, nested=layout is POTSDAM)
    if layout is DUBAI:
        scenes, coding = paired_folders(source, layout.kind), DUBAI_CODING
    elif layout is POTSDAM and any("/img_dir/" in f"/{file}" for file in source.sizes):
        scenes, coding = prepared_potsdam(source), POTSDAM_PREPARED_CODING
    elif layout is POTSDAM:
        scenes, coding, tile = published_potsdam(source), POTSDAM_CODING, tile or POTSDAM_TILE
    else:
        scenes = paired_folders(source, layout.kind)
        coding = described_coding(source, scenes)
    return MaskedImages(
        source,
        scenes,
        coding,
        layout.kind,
        tile=tile,
        downscale=downscale,
        percent=layout.percent,
        seed=seed,
        split_lists=split_lists,
    )


def paired_folders(source: Source, kind: str) -> list[MaskedFile]:
    """Pair [<group>/]images/<stem>.* with [<group>/]masks/<stem>.*; without groups each image is its own."""
    images, masks = _by_stem(source, "images"), _by_stem(source, "masks")
    if not images or not masks:
        missing = "images" if not images else "masks"
        raise InputError(f"{source.path} has no images in a folder {missing!r}, so it is not {kind}: a mask lies in "
                         "masks/ under the name that its image has in images/")  # fmt: skip
    _match(images, masks, source)
    root = _common_folder([parent for parent, _ in images])
    keys = sorted(images, key=lambda key: images[key])
    groups = {key: key[0][len(root) :] for key in keys}
    if kind == DUBAI.kind:  # a single tile is one as well
        groups = {key: key[0].rsplit("/", 1)[-1] for key in keys}
    return [MaskedFile(images[key], masks[key], images[key][len(root) :], groups[key] or key[1]) for key in keys]


def _common_folder(folders: Sequence[str]) -> str:
    """Leading folders that all share, "" or with a slash at the end: what is around a dataset in a zip of it."""
    shared = posixpath.commonpath(folders)
    return f"{shared}/" if shared else ""


def _by_stem(source: Source, folder: str) -> dict[tuple[str, str], str]:
    """(path before the folder, path in it without suffix) -> file, for the image files in folders of that name."""
    found: dict[tuple[str, str], str] = {}
    for file in source.sizes:
        parts = file.split("/")
        if folder not in parts[:-1]:
            continue
        at = parts.index(folder)
        key = ("/".join(parts[:at]), "/".join(parts[at + 1 :]).rsplit(".", 1)[0])
        if key in found:
            raise InputError(f"{source.path} holds both {found[key]} and {file}: stems must be unique in a folder")
        found[key] = file
    return found


def _match(images: Mapping[Any, str], masks: Mapping[Any, str], source: Source) -> None:
    for ours, theirs, what in ((images, masks, "mask"), (masks, images, "image")):
        alone = sorted(ours[key] for key in set(ours) - set(theirs))
        if alone:
            raise InputError(
                f"{source.path} has no {what} for {alone[0]} ({len(alone)} such file(s)); add or remove it"
            )


_TILE_FILE = re.compile(r"top_potsdam_(\d+)_(\d+)_(RGB|label|label_noBoundary)\.tiff?$")


def published_potsdam(source: Source) -> list[MaskedFile]:
    """Scenes of the published tiles: top_potsdam_<row>_<column>_RGB.tif with ..._label[_noBoundary].tif."""
    found: dict[str, dict[str, str]] = {"RGB": {}, "label": {}, "label_noBoundary": {}}
    for file in source.sizes:
        match = _TILE_FILE.search(file)
        if match:
            tile = f"{int(match[1])}_{int(match[2])}"
            if tile in found[match[3]]:
                raise InputError(f"{source.path} holds both {found[match[3]][tile]} and {file}; remove one")
            found[match[3]][tile] = file
    images, masks = found["RGB"], found["label"] or found["label_noBoundary"]
    if not images or not masks:
        raise InputError(
            f"{source.path} lacks top_potsdam_*_{'RGB' if not images else 'label'}.tif: put 2_Ortho_RGB(.zip) and "
            "5_Labels_all(.zip) into one folder and give that, or give the folder around img_dir and ann_dir"
        )
    _match(images, masks, source)
    return [
        MaskedFile(images[tile], masks[tile], images[tile].rsplit("/", 1)[-1], tile, _potsdam_part(tile, images[tile]))
        for tile in sorted(images, key=lambda tile: [int(part) for part in tile.split("_")])
    ]


def _potsdam_part(tile: str, file: str) -> str:
    if tile in POTSDAM_TRAIN:
        return "train"
    if tile in POTSDAM_TEST:
        return "test"
    raise InputError(f"{file} is none of the 38 labelled tiles of Potsdam; remove it, or read it as images+masks")


_CROP_FILE = re.compile(r"(\d+_\d+)_(\d+)_(\d+)_(\d+)_(\d+)\.[a-z]+$")


def prepared_potsdam(source: Source) -> list[MaskedFile]:
    """Scenes of img_dir/{train,val}/<tile>_<left>_<top>_<right>_<bottom>.png with the same names in ann_dir.

    `val` holds the benchmark's test tiles, and is the part "test" here. The last crops of a row and column begin
    inside their neighbours; what they repeat is ignored, as in windows cut by us.
    """
    images, masks = _by_stem(source, "img_dir"), _by_stem(source, "ann_dir")
    if not masks:
        raise InputError(f"{source.path} has img_dir without ann_dir: give the folder around both")
    _match(images, masks, source)
    root = _common_folder([parent for parent, _ in images])
    scenes = []
    for (parent, stem), file in sorted(images.items(), key=lambda item: item[1]):
        match = _CROP_FILE.search(file)
        if not match:
            raise InputError(f"{file} is not named <row>_<column>_<left>_<top>_<right>_<bottom>.png as Potsdam's crops")
        left, top, right, bottom = (int(match[group]) for group in (2, 3, 4, 5))
        repeated = (-top % (bottom - top), -left % (right - left)) if bottom > top and right > left else (0, 0)
        part = _potsdam_part(match[1], file)
        scenes.append(MaskedFile(file, masks[parent, stem], file[len(root) :], match[1], part, repeated))
    return scenes


def described_coding(source: Source, scenes: Sequence[MaskedFile]) -> MaskCoding:
    """Coding of an images+masks dataset: by its classes.json, or class numbers up to the largest that occurs."""
    documents = [name for name in source.documents if name.rsplit("/", 1)[-1] == "classes.json"]
    if documents:
        name = min(documents, key=lambda name: (name.count("/"), name))
        return read_classes(source.read(name), f"{source.path}/{name}")
    largest = -1
    for scene in scenes:
        numbers = read_numbers(
            source.read(scene.mask), f"{source.path}/{scene.mask}, without a classes.json beside it,"
        )
        largest = max(largest, int(numbers[numbers != 255].max(initial=-1)))
    classes = tuple(str(number) for number in range(largest + 1))
    check_coding(classes, None, f"{source.path}, by the numbers in its masks,")
    return MaskCoding(classes, values="numbers")


def read_classes(data: bytes, where: str) -> MaskCoding:
    """classes.json -> coding. A list, or {"classes": list}, of {"name", "color": "#RRGGBB" or [r, g, b], "ignore"}.

    Colours are given for all classes or for none; without them masks hold the position in the list.
    """
    try:
        content = json.loads(data)
        entries = content["classes"] if isinstance(content, dict) else content
        names = [str(entry["name"]) for entry in entries]
        given = [entry.get("color") for entry in entries]
        ignored = [bool(entry.get("ignore", False)) for entry in entries]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f'{where} is no list of {{"name": ..., "color": "#RRGGBB"}}: {error!r}') from error
    if any(color is None for color in given) and any(color is not None for color in given):
        raise InputError(f"{where} gives a colour to some classes only: give all of them one, or none")
    colors = None if not given or given[0] is None else [_color(color, where) for color in given]
    check_coding(names, colors, where)
    if colors is None:
        if any(ignored):
            raise InputError(
                f"{where} ignores a class without a colour: write 255 where masks of numbers have no label"
            )
        return MaskCoding(tuple(names), values="numbers")
    kept = [index for index, skip in enumerate(ignored) if not skip]
    return MaskCoding(
        tuple(names[index] for index in kept),
        tuple(colors[index] for index in kept),
        tuple(color for color, skip in zip(colors, ignored, strict=True) if skip),
        values="either",
    )


def _color(value: Any, where: str) -> Color:
    if isinstance(value, str) and re.fullmatch(r"#?[0-9a-fA-F]{6}", value):
        red, green, blue = bytes.fromhex(value.removeprefix("#"))
        return red, green, blue
    if isinstance(value, list) and len(value) == 3 and all(type(v) is int and 0 <= v < 256 for v in value):
        return value[0], value[1], value[2]
    raise InputError(f'{where} has the colour {value!r}: give "#RRGGBB" or [red, green, blue]')
