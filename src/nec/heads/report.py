"""What training heads found: figures over the seeds, and the table that a person reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.heads.metrics import class_accuracies, mean_of_known, segmentation_metrics
from nec.report import Report

#: Figures of each task: means over the seeds, from what `nec.heads.metrics` gives.
TASKS: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "top5"),
    "segmentation": ("overall_accuracy", "mean_iou", "mean_f1"),
    "regression": ("mae", "rmse", "r2"),
    "multilabel": ("mean_average_precision", "micro_f1", "macro_f1"),
}


@dataclass(frozen=True)
class Trained:
    """One head.

    Attributes:
        module: a `LinearProbe` of pooled features, an `AttentionHead`, a `Segmenter`, or an `OnlineClassifier`.
        epoch: the one kept, from 1; None for a linear probe.
        val_score: accuracy or mean IoU on the validation part; of targets minus the loss, None for a linear probe.
        parameters: those trained.
        figures: of the test part, as `nec.heads.metrics` gives them, with the `confusion` of classes.
        predicted: of the test part: scores (n, k), or class maps (n, rows, columns).
    """

    module: Any
    epoch: int | None
    val_score: float | None
    parameters: int
    figures: dict[str, Any]
    predicted: NDArray[Any]


@dataclass(frozen=True)
class HeadReport(Report):
    """What training heads found on the test part.

    Attributes:
        store: what was learnt from, as it was named.
        task: "classification", "segmentation", "regression" or "multilabel".
        head: "attention", "linear" or "convolutions".
        with_decoder: whether the decoder stage was trained with the head.
        source: "store", "raster", "online" (images through a frozen model) or "fine-tune".
        figures: the task's figures, keys of their own in the JSON: means over the seeds, their deviations, and figures
            of each class or target. `confusion[i][j]` counts what is of class i and was taken for j, over all seeds.
        train_images, val_images, test_images: how many; of a raster store, tokens.
        split: how the parts were chosen, in words.
        seeds: one a head.
        head_parameters: those trained.
        recipe: the settings, all of them.
        bytes_per_image: stored bytes; of images those of their files.
        seconds: for all of it.
        warning: what a reader of the figures must know, or None.
    """

    store: str
    task: str
    head: str
    with_decoder: bool
    source: str
    figures: dict[str, Any]
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

    @property
    def notes(self) -> list[str]:
        """The warning."""
        return [f"warning: {self.warning}"] if self.warning else []

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, the figures among them."""
        values = super().to_dict()
        return {"store": values.pop("store"), **values.pop("figures"), **values}

    def __str__(self) -> str:
        return _table(self)


def figures_of(
    task: str, runs: Sequence[Trained], names: list[str], colors: list[tuple[int, int, int]] | None
) -> dict[str, Any]:
    """Means over the seeds with their sample deviations, and what each seed, class and target reached."""
    columns = {key: [run.figures[key] for run in runs] for key in TASKS[task]}
    means = {key: mean_of_known(column) for key, column in columns.items()}
    spread = {
        key: float(np.std(column, ddof=1)) if len(runs) > 1 and None not in column else None
        for key, column in columns.items()
    }
    epochs = [run.epoch for run in runs if run.epoch is not None]
    if task in ("regression", "multilabel"):
        first = runs[0].figures["per_target"]
        per_target = {
            name: {key: mean_of_known([run.figures["per_target"][name][key] for run in runs]) for key in first[name]}
            for name in names
        }
        std = {key: value for key, value in spread.items() if value is not None} if len(runs) > 1 else None
        return means | {"std": std, "per_target": per_target, "target_names": names, "epochs": epochs}
    confusion = sum(run.figures["confusion"] for run in runs)
    if task == "classification":
        return {
            **means,
            "accuracy_std": spread["accuracy"],
            "per_class": class_accuracies(confusion, names),
            "accuracies": columns["accuracy"],
            "top5_accuracies": columns["top5"],
            "val_accuracies": [run.val_score for run in runs],
            "epochs": epochs,
            "class_names": names,
            "confusion": confusion.tolist(),
        }
    return {
        **means,
        **{f"{key}_std": value for key, value in spread.items()},
        "per_class": segmentation_metrics(confusion, names)["per_class"],
        "runs": [
            {key: run.figures[key] for key in TASKS[task]} | {"val_mean_iou": run.val_score, "epoch": run.epoch}
            for run in runs
        ],
        "class_names": names,
        "class_colors": colors,
        "confusion": confusion.tolist(),
    }


_WORDS = {"mae": "MAE", "rmse": "RMSE", "r2": "R²", "f1": "F1", "iou": "IoU", "top5": "among the five likeliest"}
_BYTES = {
    "store": "stored bytes an image (side information apart)",
    "raster": "stored bytes a token",
    "online": "bytes an image file; the images went through a frozen model",
    "fine-tune": "bytes an image file; the images trained the model",
}


def _table(report: HeadReport) -> str:
    figures, percent = report.figures, report.task in ("classification", "segmentation")
    head = {"attention": "attention pooling", "linear": "linear probe"}.get(report.head, report.head)
    head += " after the decoder stage" if report.with_decoder else ""
    head += " and the model, fine-tuned" if report.source == "fine-tune" else ""
    what = "tokens" if report.source == "raster" else "images"
    lines = [
        f"{report.store}: {report.bytes_per_image:.1f} {_BYTES[report.source]}",
        f"split: {report.split}",
        f"{what}: {report.train_images} train, {report.val_images} val, {report.test_images} test",
        f"head: {head}, {report.head_parameters:,} parameters, {report.seconds:.0f} s",
        "",
    ]
    spreads = figures.get("std") or {key: figures.get(f"{key}_std") for key in TASKS[report.task]}
    for key in TASKS[report.task]:
        spread = spreads.get(key)
        more = "" if spread is None else f" ± {_number(spread, percent)} over {len(report.seeds)} seeds"
        lines.append(f"{_words(key)} {_number(figures[key], percent)}{more}")
    rows: Mapping[str, Any] = figures.get("per_class", figures.get("per_target", {}))
    rows = {name: row if isinstance(row, dict) else {"accuracy": row} for name, row in rows.items()}
    keys = list(next(iter(rows.values())))
    counts = [sum(row) // len(report.seeds) for row in figures.get("confusion", [])]
    width = max(map(len, (*rows, "target")))
    lines += ["", f"  {'class' if percent else 'target':<{width}}" + "".join(f"{_words(key):>20}" for key in keys)]
    for i, (name, row) in enumerate(rows.items()):
        of = f"  of {counts[i]:,}" if counts else ""
        lines.append(f"  {name:<{width}}" + "".join(f"{_number(row[key], percent):>20}" for key in keys) + of)
    return "\n".join(lines)


def _words(key: str) -> str:
    return _WORDS.get(key, key.replace("_", " ").replace("f1", "F1").replace("iou", "IoU"))


def _number(value: float | None, percent: bool) -> str:
    return "-" if value is None else f"{value:.2%}" if percent else f"{value:.4g}"
