"""A benchmark's data: the images that it uses, their tokens on disk, and the cache of what is finished."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from nec.bench.recipe import DatasetPlan
from nec.datasets import Dataset, open_dataset
from nec.encoding import Reading
from nec.encoding.images import Inputs, Stream, plan_inputs
from nec.errors import InputError
from nec.files import atomic_path, make_folder, write_json

if TYPE_CHECKING:
    from nec.models import NecModel

PARTS = ("train", "val", "test")
HELD_OUT = 8  # one of so many training images (or groups) validates, where a dataset has no part for that
KEPT, SEARCHED = 6, 100  # test images whose class maps are kept, of the first hundred
BATCH = 128  # images that are coded together, as in a chunk of a store

Tokens = dict[str, NDArray[np.float32]]  # part -> (n, y, x, d)
CACHE_VERSION = 1  # raised when what the benchmark computes from the same recipe changes


def key_of(identity: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of the SHA-256 of JSON-able facts and the cache's version."""
    text = json.dumps({"cache": CACHE_VERSION, **identity}, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Cache:
    """JSON documents `<kind>-<key>.json`, arrays `<kind>-<key>.npz` and folders of arrays in one folder.

    A document or array that is damaged counts as absent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_folder(folder)

    def path(self, kind: str, key: str, suffix: str = ".json") -> Path:
        """Where a document or an array folder (suffix "") of that key lies."""
        return self.folder / f"{kind}-{key}{suffix}"

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        """The document, or None where there is none."""
        try:
            document = json.loads(self.path(kind, key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return document if isinstance(document, dict) else None

    def put(self, kind: str, key: str, document: dict[str, Any]) -> None:
        """Write a document; it is there whole or not at all."""
        write_json(self.path(kind, key), document)

    def get_array(self, kind: str, key: str) -> NDArray[Any] | None:
        """The array of that kind and key, or None where there is none."""
        try:
            with np.load(self.path(kind, key, ".npz")) as held:
                array, shape = held["array"], tuple(held["shape"])
                return np.unpackbits(array, count=int(np.prod(shape))).reshape(shape) > 0 if shape else array
        except (OSError, ValueError, KeyError, BadZipFile):
            return None

    def put_array(self, kind: str, key: str, array: NDArray[Any]) -> None:
        """Write an array of whole numbers or truths, packed; it is there whole or not at all."""
        bits = array.dtype == np.bool_
        packed = np.packbits(array) if bits else array.astype(np.min_scalar_type(int(array.max(initial=0))))
        save_npz(self.path(kind, key, ".npz"), array=packed, shape=array.shape if bits else ())

    def drop(self, kind: str) -> None:
        """Remove every array folder of a kind, and what an interrupted run left of them."""
        for folder in self.folder.glob(f"{kind}-*"):
            if folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)


def save_npz(path: Path, **arrays: Any) -> None:
    """Write a compressed .npz, whole or not at all."""
    with atomic_path(path, overwrite=True) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


# -- the images -------------------------------------------------------------------------------------------------------


class Subset:
    """The chosen images of a dataset's train, val and test parts, and their labels or masks.

    Raises:
        InputError: no split, an empty part, no labels (masks) for the task, scenes of unequal size.
    """

    def __init__(self, plan: DatasetPlan) -> None:
        self.plan, options = plan, plan.options
        self.dataset = open_plan(plan, options.tile)
        if self.dataset.split is None:
            raise InputError(
                f"{plan.spec} cannot be benchmarked: it needs images in classes or with masks, split into "
                "train, val and test"
            )
        has_masks = bool(getattr(self.dataset, "has_masks", False))
        self.task = options.task or ("segmentation" if has_masks else "classification")
        if (self.task == "segmentation" and not has_masks) or (
            self.task == "classification" and self.dataset.labels is None
        ):
            raise InputError(f"{plan.spec} has no {'masks' if self.task == 'segmentation' else 'labels'} to train on")
        split = with_validation(self.dataset, options.seed)
        self.indices = {part: self._choose(part, np.flatnonzero(split == part)) for part in PARTS}

    def _choose(self, part: str, members: NDArray[np.int64]) -> NDArray[np.int64]:
        """A seeded choice of a part's images, permuted, so that the first few hold every class."""
        if not len(members):
            raise InputError(f"{self.plan.spec} cannot be benchmarked: no image is in the part {part!r} of its split")
        order = np.random.default_rng([self.plan.options.seed, PARTS.index(part)]).permutation(len(members))
        return members[order[: getattr(self.plan.limits, part)]]

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of labels or mask values."""
        names = self.dataset.mask_classes if self.task == "segmentation" else self.dataset.class_names
        assert names is not None
        return list(names)

    def identity(self) -> dict[str, Any]:
        """What decides the images and their truth."""
        digest = hashlib.sha256(b"".join(self.indices[part].astype("<i8").tobytes() for part in PARTS)).hexdigest()
        options = self.plan.options
        window = [options.tile, options.downscale, options.image_size]
        return {"data": self.dataset.description, "window": window, "task": self.task, "images": digest}

    def images(self, part: str, start: int, stop: int, size: tuple[int, int] | None) -> NDArray[Any]:
        """Images (n, h, w, bands) of a part."""
        return self.dataset.load(self.indices[part][start:stop], size)

    def truth(self, part: str) -> NDArray[Any]:
        """Labels (n,) int64 or masks (n, h, w) uint8 of a part."""
        if self.task == "segmentation":
            return self.dataset.masks(self.indices[part])
        assert self.dataset.labels is not None
        return self.dataset.labels[self.indices[part]]

    def panel_places(self) -> tuple[int, ...]:
        """Places in the test part of the images that panels show: of the first hundred those with most classes."""
        masks = self.dataset.masks(self.indices["test"][:SEARCHED])
        classes = np.array([len(np.unique(mask[mask < len(self.classes)])) for mask in masks])
        return tuple(sorted(np.argsort(-classes, kind="stable")[:KEPT].tolist()))

    def file_bytes(self) -> float:
        """Mean bytes of a test image's file."""
        sizes = np.asarray(self.dataset.file_sizes, dtype=np.float64)
        return float(sizes[self.indices["test"]].mean())

    def describe(self) -> dict[str, Any]:
        """The entry of `Results.datasets`."""
        first = self.dataset.load(self.indices["test"][:1], self.plan.options.image_size)
        colors = self.dataset.mask_colors if self.task == "segmentation" else None
        return {
            "task": self.task,
            "kind": self.dataset.kind,
            "images": len(self.dataset),
            **{part: len(self.indices[part]) for part in PARTS},
            "raw_file_bytes_per_image": self.file_bytes(),
            "raw_pixel_bytes_per_image": float(first[0].nbytes),
            "class_names": self.classes,
            "class_colors": None if colors is None else [list(map(int, color)) for color in colors],
            "split": self.dataset.description.get("split"),
        }


def with_validation(dataset: Dataset, seed: int) -> NDArray[np.str_]:
    """The dataset's split; one without a val part gives an eighth of its training images, by whole groups, for that."""
    assert dataset.split is not None
    split = dataset.split.copy()
    if (split == "val").any():
        return split
    train = np.flatnonzero(split == "train")
    units = np.asarray(dataset.names if dataset.groups is None else dataset.groups)[train]
    names = np.random.default_rng(seed).permutation(np.unique(units))
    split[train[np.isin(units, names[: -(-len(names) // HELD_OUT)])]] = "val"
    return split


def open_plan(plan: DatasetPlan, tile: int | None) -> Dataset:
    """The dataset of a plan; images with masks cut into windows of `tile` pixels."""
    options = plan.options
    cut: dict[str, Any] = {}
    if tile is not None or options.downscale != 1:
        cut = {"tile": tile, "downscale": options.downscale}
    return open_dataset([plan.spec], seed=options.seed, **cut)


def model_inputs(model: NecModel, subset: Subset) -> Inputs:
    """How a model sees the images of a subset."""
    order = np.concatenate([subset.indices[part] for part in PARTS])
    return plan_inputs(model, subset.dataset, order, Reading(image_size=subset.plan.options.image_size))


def batches(count: int, size: int = BATCH) -> list[tuple[int, int]]:
    """[start, stop) of the batches of `count` images."""
    return [(start, min(start + size, count)) for start in range(0, count, size)]


def embedded(cache: Cache, kind: str, model: NecModel, subset: Subset) -> tuple[str, Tokens]:
    """Key and unquantised tokens of a model on a subset, from the cache or computed into it."""
    key = key_of({"tokens": model.fingerprint, **subset.identity()})
    folder = cache.path(kind, key, "")
    if not folder.is_dir():
        inputs = model_inputs(model, subset)
        shape = (*inputs.grid, model.config.embed_dim)
        with writing(folder, {part: len(subset.indices[part]) for part in PARTS}, shape) as arrays:
            for part in PARTS:
                stream = Stream(model, subset.dataset, subset.indices[part], inputs, batch_size=BATCH)
                ranges = stream.batches(0, len(stream))
                for batch, tokens in zip(ranges, stream.embed(ranges), strict=True):
                    arrays[part][batch.start : batch.stop] = tokens
    return key, read_tokens(folder)


@contextmanager
def writing(folder: Path, counts: dict[str, int], shape: tuple[int, ...]) -> Iterator[Tokens]:
    """Empty arrays (n, *shape) on disk by part; the folder appears when the block ends well."""
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        arrays: Tokens = {
            part: np.lib.format.open_memmap(temporary / f"{part}.npy", "w+", np.float32, (count, *shape))
            for part, count in counts.items()
        }
        yield dict(arrays)
        for array in arrays.values():
            array.flush()  # type: ignore[attr-defined]
        arrays.clear()


def read_tokens(folder: Path) -> Tokens:
    """Arrays of a folder that `writing` made; copy-on-write, since torch takes no read-only memory."""
    return {path.stem: np.load(path, mmap_mode="c") for path in sorted(folder.glob("*.npy"))}


def save_truth(cache: Cache, subset: Subset) -> Path:
    """Labels or masks of a subset as `<part>.npy` in a folder of the cache, for the processes that train heads."""
    return _saved(cache.path("truth", key_of({"truth": subset.identity()}), ""), subset.truth)


def save_images(cache: Cache, subset: Subset, size: tuple[int, int] | None) -> Path:
    """Images of a subset as `<part>.npy`, where fine-tuning reads them."""
    folder = cache.path("images", key_of({"images": subset.identity(), "size": size}), "")
    return _saved(folder, lambda part: subset.dataset.load(subset.indices[part], size))


def _saved(folder: Path, make: Callable[[str], NDArray[Any]]) -> Path:
    """The folder with an array of every part, made if it is not there."""
    if not folder.is_dir():
        with atomic_path(folder) as temporary:
            temporary.mkdir(parents=True)
            for part in PARTS:
                np.save(temporary / f"{part}.npy", make(part))
    return folder
