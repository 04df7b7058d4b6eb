"""Metrics of classification, segmentation, regression and multi-label heads, over what has a true value only.

Conventions, the same for every metric here:

- A label that is absent or ignored (negative; 255 in masks and multi-label targets; NaN in targets) never enters any
  figure, whatever was predicted there.
- A class that does not occur in the truth has no figure (None) and is left out of means. What was wrongly taken for
  it still counts as an error of the classes that were there. (mmseg puts a 0 into the mean for such a class.)
- Means over classes or targets are unweighted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nec.errors import InputError
from nec.labels import IGNORE

_BLOCK = 1 << 22  # labels counted at once: masks of many images as int64 would take gigabytes

Figures = dict[str, float | None]


def confusion_matrix(
    predicted: ArrayLike, truth: ArrayLike, classes: int, ignore: int | None = IGNORE
) -> NDArray[np.int64]:
    """Counts (classes, classes) int64: `[i, j]` labels of class i taken for class j.

    Args:
        predicted, truth: class indices of any and the same shape.
        classes: how many there are.
        ignore: true label that is left out beside all negative ones; None or -1: no other.

    Raises:
        InputError: shapes that differ, a true label that is neither a class nor left out, a prediction that is no
            class where there is a true label.
    """
    guesses, labels = np.asarray(predicted).reshape(-1), np.asarray(truth).reshape(-1)
    if np.shape(predicted) != np.shape(truth):
        raise InputError(f"predictions {np.shape(predicted)} and labels {np.shape(truth)} differ in shape")
    total = np.zeros((classes, classes), dtype=np.int64)
    for start in range(0, len(labels), _BLOCK):
        part = labels[start : start + _BLOCK]
        counted = part >= 0 if ignore is None else (part >= 0) & (part != ignore)
        labelled = _class_indices(part[counted], classes, "true label")
        taken = _class_indices(guesses[start : start + _BLOCK][counted], classes, "prediction")
        total += np.bincount(labelled * classes + taken, minlength=classes**2).reshape(classes, classes)
    return total


def _class_indices(values: NDArray[Any], classes: int, what: str) -> NDArray[np.int64]:
    indices = values.astype(np.int64)
    if len(indices) and (indices.min() < 0 or indices.max() >= classes):
        wrong = indices[(indices < 0) | (indices >= classes)][0]
        raise InputError(f"{what} {wrong} is none of the {classes} classes 0..{classes - 1}")
    return indices


def top_k_accuracy(scores: ArrayLike, truth: ArrayLike, k: int = 5) -> float:
    """Share of the labelled rows of `scores` (n, classes) whose true class is among the `k` highest scores.

    Of equal scores the lower class comes first, as in argmax. With `k` classes or fewer it is 1. Negative labels are
    left out. Raises `InputError` for NaN scores and where no row has a label.
    """
    values, labels = _labelled_scores(scores, truth)
    rows = np.arange(len(labels))
    own = values[rows, labels][:, None]
    before = (values > own) | ((values == own) & (np.arange(values.shape[1]) < labels[:, None]))
    return float(np.mean(before.sum(axis=1) < k))


def _labelled_scores(scores: ArrayLike, truth: ArrayLike) -> tuple[NDArray[Any], NDArray[np.int64]]:
    values, labels = np.asarray(scores), np.asarray(truth)
    if values.ndim != 2 or labels.shape != values.shape[:1]:
        raise InputError(f"scores {values.shape} and labels {labels.shape} must be (n, classes) and (n,)")
    values, labels = values[labels >= 0], _class_indices(labels[labels >= 0], values.shape[1], "true label")
    if not len(labels):
        raise InputError("no image has a label: there is nothing to measure on")
    if np.isnan(values).any():  # NaN compares false: it would pass for a hit
        raise InputError("scores are NaN: the head's training diverged, or the embeddings are not finite")
    return values, labels


def class_accuracies(confusion: ArrayLike, class_names: Sequence[str]) -> Figures:
    """Share of each class's labels that was recognised, None for a class that does not occur."""
    counts = _square(confusion, class_names)
    return _named(class_names, _share(np.diag(counts), counts.sum(axis=1), counts.sum(axis=1) > 0))


def classification_metrics(scores: ArrayLike, truth: ArrayLike, class_names: Sequence[str]) -> dict[str, Any]:
    """Top-1 `accuracy`, `top5` (see `top_k_accuracy`), `per_class` accuracies and the `confusion` matrix.

    `scores` (n, classes) are logits or probabilities, `truth` (n,) class indices, negative where there is none.
    """
    values, labels = _labelled_scores(scores, truth)
    confusion = confusion_matrix(values.argmax(axis=1), labels, len(class_names), ignore=None)
    return {
        "accuracy": float(np.trace(confusion) / confusion.sum()),
        "top5": top_k_accuracy(values, labels),
        "per_class": class_accuracies(confusion, class_names),
        "confusion": confusion,
    }


def segmentation_metrics(confusion: ArrayLike, class_names: Sequence[str]) -> dict[str, Any]:
    """`overall_accuracy` of pixels, `mean_iou`, `mean_f1`, and `per_class` {name: {iou, f1, accuracy}}.

    `confusion` (k, k) counts the pixels of the whole test part, [truth, predicted], so the figures are of all pixels
    together and not means over images. Classes without a true pixel: see the module. Raises `InputError` where no
    pixel has a label.
    """
    counts = _square(confusion, class_names)
    if not counts.sum():
        raise InputError("no pixel has a label: there is nothing to measure on")
    hits, true, taken = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    present = true > 0
    columns = {
        "iou": _share(hits, true + taken - hits, present),
        "f1": _share(2 * hits, true + taken, present),
        "accuracy": _share(hits, true, present),
    }
    named = {key: _named(class_names, column) for key, column in columns.items()}
    return {
        "overall_accuracy": float(hits.sum() / counts.sum()),
        "mean_iou": float(np.nanmean(columns["iou"])),
        "mean_f1": float(np.nanmean(columns["f1"])),
        "per_class": {name: {key: named[key][name] for key in columns} for name in class_names},
    }


def regression_metrics(predicted: ArrayLike, truth: ArrayLike, target_names: Sequence[str]) -> dict[str, Any]:
    """`mae`, `rmse` and `r2`: means over the targets, and `per_target` {name: {mae, rmse, r2}} in the targets' units.

    Both arrays are (n, targets); `truth` is NaN where there is no value. A target without any value has no figures; R²
    (1 - squared error / squared deviation from the mean of the measured values) has none where they are all equal.
    """
    values, wanted = _targets(predicted, truth, target_names)
    known = ~np.isnan(wanted)
    _check_scores(values, known)
    per_target = {name: _errors(values[known[:, i], i], wanted[known[:, i], i]) for i, name in enumerate(target_names)}
    return {key: mean_of_known([one[key] for one in per_target.values()]) for key in ("mae", "rmse", "r2")} | {
        "per_target": per_target
    }


def _errors(predicted: NDArray[np.float64], truth: NDArray[np.float64]) -> Figures:
    if not len(truth):
        return {"mae": None, "rmse": None, "r2": None}
    error = predicted - truth
    spread = float(np.sum((truth - truth.mean()) ** 2))
    return {
        "mae": float(np.abs(error).mean()),
        "rmse": float(np.sqrt(np.mean(error**2))),
        "r2": 1 - float(np.sum(error**2)) / spread if np.ptp(truth) > 0 and spread > 0 else None,
    }


def multilabel_metrics(
    scores: ArrayLike, truth: ArrayLike, target_names: Sequence[str], threshold: float = 0.5
) -> dict[str, Any]:
    """`mean_average_precision`, `micro_f1`, `macro_f1`, and `per_target` {name: {average_precision, f1, positives}}.

    Args:
        scores: (n, targets), rising with the belief that the label holds.
        truth: (n, targets) of 0 and 1; NaN, negative or 255 where it is not known.
        target_names: one name a label.
        threshold: scores above it are taken for "holds" in the F1: 0.5 for probabilities, 0 for logits.

    Labels that hold for no image have no figures (see the module); their false alarms count in `micro_f1`.
    """
    values, wanted = _targets(scores, truth, target_names)
    known = known_labels(wanted)
    _check_scores(values, known)
    holds, taken = known & (wanted == 1), known & (values > threshold)
    hits, positives, alarms = (holds & taken).sum(axis=0), holds.sum(axis=0), taken.sum(axis=0)
    f1 = _share(2 * hits, positives + alarms, positives > 0)
    precision = [average_precision(values[known[:, i], i], holds[known[:, i], i]) for i in range(len(target_names))]
    columns = {"average_precision": precision, "f1": list(_named(target_names, f1).values())}
    return {
        "mean_average_precision": mean_of_known(precision),
        "micro_f1": float(2 * hits.sum() / (positives.sum() + alarms.sum())) if positives.sum() else None,
        "macro_f1": mean_of_known(columns["f1"]),
        "per_target": {
            name: {key: column[i] for key, column in columns.items()} | {"positives": int(positives[i])}
            for i, name in enumerate(target_names)
        },
    }


def known_labels(truth: NDArray[Any]) -> NDArray[np.bool_]:
    """Where multi-label targets are known. Raises `InputError` for values that are none of 0, 1, NaN, negative, 255."""
    known = ~(np.isnan(truth) | (truth < 0) | (truth == IGNORE))
    if not np.isin(truth[known], (0, 1)).all():
        wrong = truth[known][~np.isin(truth[known], (0, 1))][0]
        raise InputError(f"multi-label targets are 0 or 1 (NaN, negative or {IGNORE} where not known), not {wrong:g}")
    return known


def average_precision(scores: NDArray[Any], holds: NDArray[np.bool_]) -> float | None:
    """Area under the precision-recall steps, sum of (R_i - R_i-1) P_i over the distinct scores; None if nothing holds.

    `scores` and `holds` are (n,). Equal scores are one step, so their order does not matter.
    """
    if not holds.any():
        return None
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.diff(scores[order]) != 0, True)  # the last of equal scores
    hits, taken = np.cumsum(holds[order])[ends], np.flatnonzero(ends) + 1
    return float(np.sum(np.diff(hits, prepend=0) / holds.sum() * hits / taken))


def _square(confusion: ArrayLike, class_names: Sequence[str]) -> NDArray[np.int64]:
    counts = np.asarray(confusion)
    if counts.shape != (len(class_names), len(class_names)):
        raise InputError(f"a confusion matrix of {len(class_names)} classes cannot be {counts.shape}")
    return counts


def _share(part: NDArray[Any], whole: NDArray[Any], present: NDArray[np.bool_]) -> NDArray[np.float64]:
    """part / whole, NaN where not `present`."""
    return np.where(present, part / np.maximum(whole, 1), np.nan)


def _named(names: Sequence[str], values: NDArray[np.float64]) -> Figures:
    return {name: None if np.isnan(value) else float(value) for name, value in zip(names, values, strict=True)}


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """Mean of the figures that there are; None where there is none."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def _targets(
    predicted: ArrayLike, truth: ArrayLike, names: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    values, wanted = np.asarray(predicted, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if values.shape != wanted.shape or values.ndim != 2 or values.shape[1] != len(names):
        raise InputError(
            f"predictions {values.shape} and targets {wanted.shape} must both be (n, {len(names)}), one column a target"
        )
    return values, wanted


def _check_scores(values: NDArray[np.float64], known: NDArray[np.bool_]) -> None:
    if np.isnan(values[known]).any():
        raise InputError("predictions are NaN: the head's training diverged, or the embeddings are not finite")
