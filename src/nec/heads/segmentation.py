"""Semantic segmentation from a compressed store with masks: read, train a head, report the test part once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError
from nec.heads.metrics import confusion_matrix, segmentation_metrics
from nec.heads.reading import decoder_stage, half_grids, opened, read_parts
from nec.heads.splits import Split, choose_split
from nec.progress import Progress

if TYPE_CHECKING:
    from nec.heads.segmenter import Segmenter
    from nec.store import Store
    from nec.store.masks import Masks

SIZES = ("width", "blocks", "upscale", "epochs")


@dataclass(frozen=True)
class SegmentationResult:
    """What `segment` measured on the labelled pixels of the test images.

    `runs` has the figures of each seed: overall_accuracy, mean_iou, mean_f1, val_mean_iou, epoch (the one kept).
    `confusion[i, j]` counts pixels of class i taken for class j, summed over the seeds, and `per_class` {name: {iou,
    f1, accuracy}} is computed from it. `model` is the head trained with the first seed, a `Segmenter`.
    """

    with_decoder: bool
    runs: list[dict[str, Any]]
    confusion: NDArray[np.int64]
    class_names: list[str]
    class_colors: list[tuple[int, int, int]] | None
    train_images: int
    val_images: int
    test_images: int
    split: str
    seeds: list[int]
    head_parameters: int
    recipe: dict[str, Any]
    bytes_per_image: float
    seconds: float
    warning: str | None = None
    model: Any = field(default=None, repr=False, compare=False)

    def mean(self, figure: str) -> float:
        """Mean over the seeds of "overall_accuracy", "mean_iou" or "mean_f1"."""
        return float(np.mean([run[figure] for run in self.runs]))

    def std(self, figure: str) -> float | None:
        """Its sample standard deviation over the seeds, None for one seed."""
        return float(np.std([run[figure] for run in self.runs], ddof=1)) if len(self.runs) > 1 else None

    @property
    def per_class(self) -> dict[str, dict[str, float | None]]:
        """IoU, F1 and accuracy of each class; None where the test part has no pixel of it."""
        return segmentation_metrics(self.confusion, self.class_names)["per_class"]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able figures, without the head itself."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("model", "confusion")}
        figures: dict[str, Any] = {}
        for name in ("overall_accuracy", "mean_iou", "mean_f1"):
            figures |= {name: self.mean(name), f"{name}_std": self.std(name)}
        return figures | {"per_class": self.per_class} | own | {"confusion": self.confusion.tolist()}


def segment(
    store: Store | str | Path,
    *,
    with_decoder: bool = False,
    split: Sequence[str] | None = None,
    test_fraction: float | None = None,
    resplit: bool = False,
    seed: int = 0,
    seeds: int = 1,
    model: str | Path | None = None,
    quiet: bool = True,
    **sizes: int | None,
) -> SegmentationResult:
    """Train a segmentation head on a store's training images and report how well it does on its test images.

    Args:
        store: an open store with masks, or what `nec.open_store` takes.
        with_decoder: put the model's first decoder stage in front of the head and train both (needs the model).
        split, test_fraction, resplit: which images train and test; see `nec.heads.splits.choose_split`. By default the
            store's own. A part that is drawn here takes whole groups (tiles, scenes), where the store names them.
        seed: seeds the head's training, and the split where it is drawn here.
        seeds: number of heads to train, with seeds from `seed` on.
        model: folder or name of the model for `with_decoder`; the name that the store records by default.
        quiet: print no progress.
        sizes: `epochs`, `width`, `blocks` and `upscale` of `SegmentationRecipe`; None, or left out: chosen by the
            amount of data. The paper's head on 768 dimensions is width 384, blocks 6, upscale 4.

    Raises:
        InputError: no masks, a part without images or labelled pixels, a model that is not the store's.
        MissingExtraError: torch is not there.
    """
    began = time.perf_counter()
    if seeds < 1 or set(sizes) - set(SIZES):
        raise InputError(f"at least one seed is needed, and sizes are {', '.join(SIZES)}, not {', '.join(sizes)}")
    store = opened(store)
    masks, names = _masks(store)
    parts = choose_split(
        np.zeros(len(store), np.int64), store.split, ["with a mask"],
        names=split, test_fraction=test_fraction, seed=seed, resplit=resplit, groups=store.groups,
    )  # fmt: skip
    runs, confusion, heads = _train(
        store, parts, masks, names, decoder_stage(store, model) if with_decoder else None, range(seed, seed + seeds),
        {name: value for name, value in sizes.items() if value is not None}, quiet,
    )  # fmt: skip
    first, recipe = heads
    return SegmentationResult(
        with_decoder=with_decoder,
        runs=runs,
        confusion=confusion,
        class_names=names,
        class_colors=store.mask_colors,
        train_images=len(parts.train),
        val_images=len(parts.val),
        test_images=len(parts.test),
        split=parts.description,
        seeds=list(range(seed, seed + seeds)),
        head_parameters=sum(parameter.numel() for parameter in first.parameters()),
        recipe=recipe,
        bytes_per_image=float(store.bytes_per_image),
        seconds=time.perf_counter() - began,
        warning=parts.warning,
        model=first,
    )


def _masks(store: Store) -> tuple[Masks, list[str]]:
    if store.masks is None or store.mask_classes is None:
        raise InputError(f"{store.path} has no masks: encode a dataset with masks (dubai:, potsdam:, images+masks:)")
    if len(store.mask_classes) < 2:
        raise InputError(f"{store.path} has masks of {len(store.mask_classes)} class: segmentation needs at least two")
    return store.masks, list(store.mask_classes)


def _train(
    store: Store,
    parts: Split,
    masks: Masks,
    names: list[str],
    stage: Any,
    seeds: Sequence[int],
    sizes: dict[str, Any],
    quiet: bool,
) -> tuple[list[dict[str, Any]], NDArray[np.int64], tuple[Segmenter, dict[str, Any]]]:
    """A head for each seed: the figures of each, their confusions summed, and the first head with its recipe."""
    from nec.heads.segmentation_training import default_segmentation_recipe, train_segmenter

    train, val, test = read_parts(store, (parts.train, parts.val, parts.test), half_grids, quiet)
    recipe = replace(default_segmentation_recipe(len(train), with_stage=stage is not None), **sizes)
    truth = {part: masks[getattr(parts, part)] for part in ("train", "val", "test")}
    runs, confusion, first = [], np.zeros((len(names), len(names)), np.int64), None
    for seed in seeds:
        with Progress(recipe.epochs, "training", "epochs", quiet=quiet) as progress:
            head, fit = train_segmenter(
                (train, truth["train"]), (val, truth["val"]), len(names), stage, recipe, seed, progress.update
            )
        counts = confusion_matrix(head.predict(test), truth["test"], len(names))
        figures = segmentation_metrics(counts, names)
        runs.append({name: figures[name] for name in ("overall_accuracy", "mean_iou", "mean_f1")})
        runs[-1] |= {"val_mean_iou": fit.val_accuracy, "epoch": fit.epoch}
        confusion += counts
        first = first or head
    assert first is not None
    return runs, confusion, (first, vars(recipe))
