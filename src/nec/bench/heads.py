"""Train and judge one head; runs in processes of its own, since a head on small tokens uses one core well and not two.

Everything goes through files, and every head runs on one thread, so figures do not depend on how many run at once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nec.bench.recipe import head_recipe_class
from nec.store import IGNORE

if TYPE_CHECKING:
    from torch import nn

    from nec.models import NecModel


@dataclass(frozen=True)
class HeadJob:
    """What a worker needs to train one head.

    Attributes:
        inputs, truth: folders of `<part>.npy`; inputs are tokens, for fine-tuning images.
        work: "classification" or "segmentation" on tokens, or "fine_tune": the model with a head, on images.
        class_names: in the order of the labels.
        model: folder or name of the model whose decoder stage is trained with the head (None: no stage), or which is
            fine-tuned.
        options: fields of the task's head recipe that differ from its default.
        seed: of the head.
        panels: places of test images whose predicted class maps are wanted (segmentation).
    """

    inputs: Path
    truth: Path
    work: str
    class_names: tuple[str, ...]
    model: str | None
    options: dict[str, Any]
    seed: int
    panels: tuple[int, ...] = ()


@dataclass(frozen=True)
class HeadResult:
    """What a head reached on the test part.

    Attributes:
        panels: class maps (m, h, w) uint8, or None.
        outcome: of each test image, for the bootstrap: whether it is right (n,) bool, or its pixels' confusion
            (n, k, k) [truth, predicted]; None where it was not kept.
    """

    metrics: dict[str, float]
    confusion: list[list[int]]
    seconds: float
    panels: NDArray[np.uint8] | None = None
    outcome: NDArray[Any] | None = None

    def document(self) -> dict[str, Any]:
        """JSON-able form, without the arrays."""
        return {"metrics": self.metrics, "confusion": self.confusion, "seconds": self.seconds}


def recipe_for(work: str, images: int, decoder: bool, options: dict[str, Any]) -> Any:
    """How heads are trained: the work's default for so many images, with the recipe's own values."""
    if work == "fine_tune":
        return head_recipe_class(work)(**options)
    if work == "classification":
        from nec.heads.training import default_recipe

        return replace(default_recipe(images, decoder), **options)
    from nec.heads.segmentation_training import default_segmentation_recipe

    return replace(default_segmentation_recipe(images, decoder), **options)


def train_head(job: HeadJob) -> HeadResult:
    """Train the head of a job on its train part, epochs chosen on val, and evaluate it once on test."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {"classification": _classify, "segmentation": _segment, "fine_tune": _fine_tune}[job.work](job)
    finally:
        torch.set_num_threads(threads)


def _classify(job: HeadJob) -> HeadResult:
    import torch

    from nec.heads.metrics import classification_metrics
    from nec.heads.training import train_classifier

    tokens, truth = _load(job.inputs), _load(job.truth)
    grids = {part: grid.reshape(len(grid), -1, grid.shape[-1]) for part, grid in tokens.items()}
    began = time.perf_counter()
    head, _ = train_classifier(
        (grids["train"], truth["train"]),
        (grids["val"], truth["val"]),
        len(job.class_names),
        _stage(job.model, tokens["train"]),
        recipe_for(job.work, len(truth["train"]), job.model is not None, job.options),
        job.seed,
    )
    seconds = time.perf_counter() - began
    logits = head.logits(torch.from_numpy(grids["test"])).numpy()
    found = classification_metrics(logits, truth["test"], job.class_names)
    metrics = {name: float(found[name]) for name in ("accuracy", "top5")}
    right = logits.argmax(axis=1) == truth["test"]
    return HeadResult(metrics, found["confusion"].tolist(), seconds, outcome=right)


def _segment(job: HeadJob) -> HeadResult:
    from nec.heads.metrics import confusion_matrix, segmentation_metrics
    from nec.heads.segmentation_training import train_segmenter

    tokens, truth = _load(job.inputs), _load(job.truth)
    began = time.perf_counter()
    head, _ = train_segmenter(
        (tokens["train"], truth["train"]),
        (tokens["val"], truth["val"]),
        len(job.class_names),
        _stage(job.model, tokens["train"]),
        recipe_for(job.work, len(truth["train"]), job.model is not None, job.options),
        job.seed,
    )
    seconds = time.perf_counter() - began
    predicted = head.predict(tokens["test"])
    confusion = confusion_matrix(predicted, truth["test"], len(job.class_names))
    found = segmentation_metrics(confusion, job.class_names)
    metrics = {name: float(found[name]) for name in ("overall_accuracy", "mean_iou", "mean_f1")}
    return HeadResult(
        metrics,
        confusion.tolist(),
        seconds,
        predicted[list(job.panels)].astype(np.uint8),
        image_confusions(predicted, truth["test"], len(job.class_names)),
    )


def image_confusions(predicted: NDArray[Any], truth: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Confusion (n, k, k) [truth, predicted] of the labelled pixels of each image of (n, h, w)."""
    images = np.arange(len(truth)).repeat(truth[0].size).reshape(truth.shape)
    known = truth != IGNORE
    cells = (images[known] * classes + truth[known]) * classes + predicted[known]
    return np.bincount(cells, minlength=len(truth) * classes**2).reshape(-1, classes, classes)


def _fine_tune(job: HeadJob) -> HeadResult:
    from nec.heads.online import fine_tune
    from nec.models import load_model

    images, truth = _load(job.inputs), _load(job.truth)
    train, val, test = ((images[part], truth[part]) for part in ("train", "val", "test"))
    assert job.model is not None
    settings = recipe_for(job.work, len(truth["train"]), False, job.options)
    found = fine_tune(load_model(job.model), train, val, test, len(job.class_names), settings, job.seed)
    metrics = {name: float(found[name]) for name in ("accuracy", "top5")}
    return HeadResult(metrics, np.asarray(found["confusion"]).tolist(), float(found["seconds"]))


def _load(folder: Path) -> dict[str, NDArray[Any]]:
    return {path.stem: np.load(path, mmap_mode="c") for path in folder.glob("*.npy")}


def _stage(model: str | None, tokens: NDArray[np.float32]) -> nn.Module | None:
    if model is None:
        return None
    from nec.models import load_model

    return stage_on(load_model(model), (tokens.shape[1], tokens.shape[2]))


def stage_on(model: NecModel, grid: tuple[int, int]) -> nn.Module:
    """The model's first decoder stage for a token grid (y, x), its positions interpolated where that is not its own."""
    from nec.models.vit import resize_positions

    stage = model.decoder_stage()
    if grid != model.config.grid:
        stage.positions = resize_positions(model.decoder_pos_embed, model.config.grid, grid)[:, 1:].detach()
    return stage
