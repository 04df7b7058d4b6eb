"""One head of a benchmark, trained in a process of its own: a head on small tokens uses one core well and not two.

Everything goes through files, and every head runs on one thread, so figures do not depend on how many run at once.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.heads.train import TASKS, HeadSettings, train_once
from nec.labels import IGNORE

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class HeadJob:
    """What a worker needs to train one head.

    Attributes:
        inputs, truth: folders of `<part>.npy`; inputs are tokens, for fine-tuning images.
        work: "classification" or "segmentation" on tokens, or "fine_tune": the model with a head, on images.
        class_names: in the order of the labels.
        model: folder or name of the model whose decoder stage is trained with the head (None: no stage), or which is
            fine-tuned.
        options: `HeadSettings` that differ from the default.
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


def recipe_for(work: str, images: int, decoder: bool, options: dict[str, Any]) -> dict[str, Any]:
    """How heads are trained: the work's defaults for so many images, with the recipe's own values."""
    task = "online" if work == "fine_tune" else work
    return _settings(options).resolve(task, images, decoder).of(task)


def _settings(options: dict[str, Any]) -> HeadSettings:
    # In a recipe the width null is half the tokens' dimensions.
    given: dict[str, Any] = {key: 0 if (key, value) == ("width", None) else value for key, value in options.items()}
    return HeadSettings(**given)


def train_head(job: HeadJob) -> HeadResult:
    """Train the head of a job on its train part, epochs chosen on val, and evaluate it once on test."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _train(job)
    finally:
        torch.set_num_threads(threads)


def _train(job: HeadJob) -> HeadResult:
    from nec.heads.online import Part, TokenSource
    from nec.models import load_model

    arrays, truth = (
        [np.load(folder / f"{part}.npy", mmap_mode="c") for part in PARTS] for folder in (job.inputs, job.truth)
    )
    fine_tune = job.work == "fine_tune"
    task, settings = ("classification" if fine_tune else job.work), _settings(job.options)
    began = time.perf_counter()
    model = None if job.model is None else load_model(job.model)
    if fine_tune:
        assert model is not None
        options: dict[str, Any] = {"images": TokenSource(model, None, True)}
        inputs: list[Any] = [Part(images.__getitem__, labels) for images, labels in zip(arrays, truth, strict=True)]
        settings = settings.resolve("online", len(truth[0]), False)
    else:
        grid = (arrays[0].shape[1], arrays[0].shape[2])
        options, inputs = {"stage": None if model is None else model.decoder_stage().on_grid(grid)}, arrays
        settings = settings.resolve(task, len(truth[0]), model is not None)
    found = train_once(inputs, truth, task, job.class_names, settings, job.seed, **options)
    metrics = {name: float(found.figures[name]) for name in TASKS[task]}
    confusion, seconds = found.figures["confusion"].tolist(), time.perf_counter() - began
    if task == "segmentation":
        cells = image_confusions(found.predicted, truth[2], len(job.class_names))
        return HeadResult(metrics, confusion, seconds, found.predicted[list(job.panels)], cells)
    right = None if fine_tune else found.predicted.argmax(axis=1) == truth[2]
    return HeadResult(metrics, confusion, seconds, outcome=right)


def _load(folder: Path) -> list[NDArray[Any]]:
    return [np.load(folder / f"{part}.npy", mmap_mode="c") for part in PARTS]


def image_confusions(predicted: NDArray[Any], truth: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Confusion (n, k, k) [truth, predicted] of the labelled pixels of each image of (n, h, w)."""
    images = np.arange(len(truth)).repeat(truth[0].size).reshape(truth.shape)
    known = truth != IGNORE
    cells = (images[known] * classes + truth[known]) * classes + predicted[known]
    return np.bincount(cells, minlength=len(truth) * classes**2).reshape(-1, classes, classes)
