"""What every dataset offers: named images with optional labels, classes and a split, recorded or made here."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nec.datasets.images import check_finite, resize
from nec.datasets.masks import IGNORE, Color, resize_mask
from nec.errors import InputError


class Dataset(ABC):
    """Images in a fixed order that depends on their names only, never on the file system.

    Attributes:
        kind: what `KIND:PATH` named, for example "eurosat".
        names: unique, path relative to the dataset's root with "/" between the parts.
        labels: int64 (n,) positions in `class_names`, or None.
        class_names: in the order of the labels, or None.
        split: str (n,) of "train", "val", "test" or "" (in no part), or None where no split is defined.
        file_sizes: bytes of each image file, as a user would store it (array images: their memory).
        image_size: published side of the images in pixels where some files differ from it by a few, else None.
        groups: str (n,) the whole tile or scene that an item comes from, which a split must not cut; None without.
        bands: names of the pixels' bands where files or a sensor tell them, else None.
        mask_classes: names of the classes in the order of the indices in masks; None for a dataset without masks.
        mask_colors: (red, green, blue) of each class of the masks, or None.
        description: JSON-able facts that identify the dataset: kind, file name, count, hash of the listing, split seed.
    """

    kind: str
    names: list[str]
    labels: NDArray[np.int64] | None = None
    class_names: list[str] | None = None
    split: NDArray[np.str_] | None = None
    file_sizes: list[int]
    image_size: int | None = None
    groups: NDArray[np.str_] | None = None
    mask_classes: list[str] | None = None
    mask_colors: list[Color] | None = None
    description: dict[str, Any]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def raw_bytes(self) -> int:
        """Sum of `file_sizes`."""
        return sum(self.file_sizes)

    @property
    def has_masks(self) -> bool:
        """Whether each image has a mask of class indices."""
        return self.mask_classes is not None

    @property
    def bands(self) -> list[str] | None:
        return None

    @property
    def physical(self) -> bool:
        """Whether pixels are physical values (reflectance), rather than the files' numbers."""
        return False

    @abstractmethod
    def read(self, index: int) -> NDArray[Any]:
        """Image `index` as (height, width, bands), in the dtype of the file. Raises `InputError` naming a bad file."""

    def read_mask(self, index: int) -> NDArray[np.uint8]:
        """Mask of image `index`: class indices (height, width), `nec.datasets.IGNORE` where there is no label."""
        raise InputError(f"{self.kind} dataset has no masks; a dataset with masks is needed, for example dubai:PATH")

    def georeference(self, index: int) -> dict[str, Any] | None:
        """`{"crs": str | None, "transform": [a, b, c, d, e, f]}` of image `index` in CRS units, or None."""
        return None

    def shape(self, index: int) -> tuple[int, int, int]:
        """(height, width, bands) of image `index`."""
        return self.read(index).shape

    def indices(self, parts: str | Sequence[str]) -> NDArray[np.int64]:
        """Positions of the images in one or several parts of the split, in order. `InputError` where none are."""
        wanted = [parts] if isinstance(parts, str) else list(parts)
        if self.split is None:
            raise InputError(f"{self.kind} dataset has no split, so there is no part {'/'.join(wanted)!r} to select")
        chosen = np.flatnonzero(np.isin(self.split, wanted))
        if not chosen.size:
            known = sorted({str(part) for part in self.split} - {""})
            raise InputError(f"no image is in the part {'/'.join(wanted)!r} of the split; parts are {', '.join(known)}")
        return chosen

    def load(self, indices: ArrayLike, size: int | tuple[int, int] | None = None, workers: int = 2) -> NDArray[Any]:
        """Images stacked to (n, height, width, bands), read by `workers` threads.

        Args:
            indices: positions of the images.
            size: side, or (height, width), in pixels; each image is cropped centrally to that shape's aspect ratio
                and resized (bicubic, antialiased). None keeps the files' size, which must then be the same for all.
            workers: number of reading threads.

        Raises:
            InputError: an unreadable file, or images of unequal size or band count; the message names the file.
        """
        return self._gather(indices, lambda index: self._sized(index, size), workers)

    def masks(
        self, indices: ArrayLike, size: int | tuple[int, int] | None = None, workers: int = 2
    ) -> NDArray[np.uint8]:
        """Masks stacked to (n, height, width) uint8: class indices, `nec.datasets.IGNORE` where there is no label.

        `size` crops as in `load` and takes the nearest pixel. Raises `InputError` for a dataset without masks, a mask
        that is unreadable, of another size than its image, or has a colour or number that is no class.
        """

        def sized(index: int) -> NDArray[np.uint8]:
            mask = self.read_mask(index)
            return mask if size is None else resize_mask(mask, size)

        return self._gather(indices, sized, workers)

    def _gather(self, indices: ArrayLike, get: Callable[[int], NDArray[Any]], workers: int) -> NDArray[Any]:
        order = np.asarray(indices, dtype=np.int64).reshape(-1)
        if not order.size:
            raise InputError("no images were asked for")
        first = get(int(order[0]))
        out = np.empty((len(order), *first.shape), first.dtype)

        def fill(positions: Iterable[int]) -> None:
            for position in positions:
                image = get(int(order[position]))
                self.check_alike(first, int(order[0]), image, int(order[position]))
                out[position] = image

        sequence = self._reading_order(order)
        if workers <= 1 or len(order) < 3:
            fill(sequence)
        else:
            # Several slices a thread: images differ in cost, and one task an image would cost more than a small JPEG.
            slices = np.array_split(sequence, min(len(order), workers * 4))
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(fill, slices))
        return out

    def _reading_order(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """In which order to read the items `order`, as positions in it: those that share a file together."""
        return np.arange(len(order))

    def _sized(self, index: int, size: int | tuple[int, int] | None) -> NDArray[Any]:
        image = self.read(index)
        return image if size is None else resize(image, size)

    def check_alike(self, first: NDArray[Any], first_index: int, image: NDArray[Any], index: int) -> None:
        """`InputError` that names both images where size, bands or dtype of image `index` differ from the first's."""
        if image.shape == first.shape and image.dtype == first.dtype:
            return
        ours, theirs = self.names[index], self.names[first_index]
        if image.shape[:2] != first.shape[:2]:
            raise InputError(
                f"images differ in size: {ours} is {image.shape[1]}x{image.shape[0]} px, {theirs} is "
                f"{first.shape[1]}x{first.shape[0]} px; give them one size with --image-size N"
                + (", or cut them with --tile N" if self.has_masks else "")
            )
        raise InputError(
            f"images differ in bands or type: {ours} has {image.shape[2]} band(s) of {image.dtype}, "
            f"{theirs} has {first.shape[2]} of {first.dtype}; convert them to one form"
        )


class ArrayDataset(Dataset):
    """Images already in memory, (n, height, width, bands), with optional labels, masks (n, height, width) and split.

    Raises:
        InputError: not four-dimensional, empty, NaN or infinite values, names, labels or masks that do not fit.
    """

    kind = "array"

    def __init__(
        self,
        images: NDArray[Any],
        names: Sequence[str] | None = None,
        labels: ArrayLike | None = None,
        class_names: Sequence[str] | None = None,
        *,
        masks: NDArray[np.uint8] | None = None,
        mask_classes: Sequence[str] | None = None,
        mask_colors: Sequence[Color] | None = None,
        split: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> None:
        images = np.asarray(images)
        if images.ndim != 4 or not images.size:
            raise InputError(f"images must be (n, height, width, bands) with at least one image, not {images.shape}")
        self.images = images
        self.names = [f"{i:06d}" for i in range(len(images))] if names is None else [str(name) for name in names]
        if len(self.names) != len(images) or len(set(self.names)) != len(images):
            raise InputError(f"{len(images)} images need as many different names, got {len(set(self.names))}")
        if labels is not None:
            self.labels = np.asarray(labels, dtype=np.int64)
            if self.labels.shape != (len(images),):
                raise InputError(f"{len(images)} images need as many labels, got shape {self.labels.shape}")
        self.class_names = None if class_names is None else list(class_names)
        self.split = None if split is None else np.asarray(split, dtype=np.str_)
        self.groups = None if groups is None else np.asarray(groups, dtype=np.str_)
        for values, what in ((self.split, "parts of the split"), (self.groups, "groups")):
            if values is not None and values.shape != (len(images),):
                raise InputError(f"{len(images)} images need as many {what}, got shape {values.shape}")
        self._set_masks(masks, mask_classes, mask_colors)
        self.file_sizes = [images[0].nbytes] * len(images)
        self.description = {"kind": self.kind, **describe_listing(self.names, self.file_sizes)}

    def _set_masks(
        self, masks: NDArray[np.uint8] | None, classes: Sequence[str] | None, colors: Sequence[Color] | None
    ) -> None:
        if (masks is None) != (classes is None):
            raise InputError("masks and mask_classes are given together, or neither")
        if masks is None or classes is None:
            return
        if masks.shape != self.images.shape[:3] or masks.dtype != np.uint8:
            raise InputError(f"masks of {self.images.shape[:3]} uint8 are needed, not {masks.shape} {masks.dtype}")
        foreign = masks[(masks >= len(classes)) & (masks != IGNORE)]
        if foreign.size:
            raise InputError(
                f"masks hold {foreign[0]}; the {len(classes)} classes are counted from 0, {IGNORE} is none"
            )
        self._masks, self.mask_classes = masks, list(classes)
        self.mask_colors = None if colors is None else list(colors)

    def read_mask(self, index: int) -> NDArray[np.uint8]:
        return self._masks[index] if self.has_masks else super().read_mask(index)

    def read(self, index: int) -> NDArray[Any]:
        image = self.images[index]
        check_finite(image, self.names[index])
        return image


def describe_listing(names: Sequence[str], sizes: Sequence[int]) -> dict[str, Any]:
    """Count and SHA-256 of the listing "name<TAB>size<LF>": the same for a folder and for the zip of that folder."""
    digest = hashlib.sha256()
    for name, size in zip(names, sizes, strict=True):
        digest.update(f"{name}\t{size}\n".encode())
    return {"images": len(names), "listing_sha256": digest.hexdigest()}


PARTS = ("train", "val", "test")


def seeded_split(
    names: Sequence[str], labels: NDArray[np.int64], percent: tuple[int, int, int], seed: int = 0
) -> NDArray[np.str_]:
    """Split by a seeded permutation within each class -> str (n,) of "train", "val", "test".

    The permutation orders a class by SHA-256 of "seed:name": it depends on nothing but the names and the seed, while
    a generator of random numbers may change between versions of its library.

    Args:
        names: unique names of the images.
        labels: (n,) class of each.
        percent: shares of train, val and test; they add up to 100.
        seed: any integer; recorded with the dataset.
    """
    keys = [hashlib.sha256(f"{seed}:{name}".encode()).digest() for name in names]
    split = np.full(len(names), "test", dtype="<U5")
    for label in np.unique(labels):
        members = sorted(np.flatnonzero(labels == label), key=lambda i: keys[i])
        train_end = (percent[0] * len(members) + 50) // 100
        val_end = ((percent[0] + percent[1]) * len(members) + 50) // 100
        split[members[:train_end]] = "train"
        split[members[train_end:val_end]] = "val"
    return split


def group_folds(groups: NDArray[np.str_], folds: int, seed: int = 0) -> list[NDArray[np.str_]]:
    """Cross-validation that never cuts a group -> `folds` splits, str (n,) of "train", "val", "test" each.

    Each group is tested in exactly one fold. The first group of the next fold's test groups is the validation part.
    Set `dataset.split` to one of them to work on that fold.

    Args:
        groups: (n,) the whole tile or scene of each item, `Dataset.groups`.
        folds: how many; at least 2 and at most as many as there are groups, and groups must be at least 3.
        seed: of the groups' order, by hashes as in `seeded_split`.
    """
    names = sorted(set(map(str, groups)), key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    if len(names) < 3 or not 2 <= folds <= len(names):
        raise InputError(f"{len(names)} groups cannot be held out in {folds} folds with one for validation beside them")
    tested = [[names[i] for i in part] for part in np.array_split(np.arange(len(names)), folds)]
    splits = []
    for fold, test in enumerate(tested):
        split = np.full(len(groups), "train", dtype="<U5")
        split[np.asarray(groups) == tested[(fold + 1) % folds][0]] = "val"
        split[np.isin(groups, test)] = "test"
        splits.append(split)
    return splits


def listed_split(
    names: Sequence[str], lists: Mapping[str, str | Path], groups: Sequence[str] | None = None
) -> NDArray[np.str_]:
    """Split by list files, one image a line (its path in the dataset, or its file name); images in no list get "".

    A line may also be one of the `groups` (n,), which then goes to the part whole, or have the form "file class
    number", as in the lists of Remote-Sensing-RVSA.

    Raises:
        InputError: an unreadable list, a name that the dataset lacks or has twice, an image in two lists.
    """
    where = _places(names, groups)
    split = np.full(len(names), "", dtype="<U5")
    for part, path in lists.items():
        if part not in PARTS:
            raise InputError(f"split list {part!r} is unknown; parts are {', '.join(PARTS)}")
        for line in list_lines(Path(path)):
            places = where.get(line) or where.get(list_fields(line)[0])
            if not places:
                raise InputError(f"{path} lists {line!r}, which the dataset does not hold")
            if places == _TWICE:
                raise InputError(f"{path} lists {line!r}, a file name that occurs twice; give the path in the dataset")
            if any(split[place] not in ("", part) for place in places):
                raise InputError(f"{line!r} is in the lists of both {split[places[0]]} and {part}")
            split[places] = part
    return split


_TWICE = [-1]


def _places(names: Sequence[str], groups: Sequence[str] | None) -> dict[str, list[int]]:
    """Positions of what a line of a list may name: paths, file names, groups; `_TWICE` for an ambiguous file name."""
    where: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        base = name.rsplit("/", 1)[-1]
        where[base] = _TWICE if base in where else [i]
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups or ()):
        members.setdefault(group, []).append(i)
    return where | members | {name: [i] for i, name in enumerate(names)}


def list_fields(line: str) -> list[str]:
    """Parts of a line "file class number" of a list, between blanks or commas."""
    return re.split(r"[\s,]+", line)


def list_lines(path: Path) -> list[str]:
    """Lines of a text file without those that are blank; `InputError` where it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"split list {path} cannot be read: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
