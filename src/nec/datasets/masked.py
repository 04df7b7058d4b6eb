"""Images with label masks, whole or cut into windows."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.datasets.base import Dataset, describe_listing
from nec.datasets.images import decode_image, image_size
from nec.datasets.masks import IGNORE, MaskCoding, downscale_image, downscale_mask
from nec.datasets.sources import Source
from nec.datasets.splits import listed_split, seeded_split
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
