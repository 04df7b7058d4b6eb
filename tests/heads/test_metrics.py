"""Metrics against scikit-learn and torchmetrics, and the rule that what has no label never enters one."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nec.errors import InputError
from nec.heads import metrics
from nec.heads.metrics import (
    classification_metrics,
    confusion_matrix,
    multilabel_metrics,
    regression_metrics,
    segmentation_metrics,
    top_k_accuracy,
)

NAMES = ["a", "b", "c", "d", "e", "f", "g"]
K = len(NAMES)
seeds = st.integers(0, 2**32 - 1)


def _same(left: Any, right: Any) -> bool:
    """Equal JSON documents, arrays as lists."""
    return json.dumps(left, default=np.ndarray.tolist) == json.dumps(right, default=np.ndarray.tolist)


def _masks(rng: np.random.Generator, shape: tuple[int, ...] = (3, 8, 8)) -> tuple[np.ndarray, np.ndarray]:
    truth = rng.integers(0, K, shape).astype(np.uint8)
    return np.where(rng.random(shape) < 0.6, truth, rng.integers(0, K, shape)).astype(np.uint8), truth


def test_counts_against_scikit_learn_and_torchmetrics() -> None:
    reference = pytest.importorskip("sklearn.metrics")
    pytest.importorskip("torchmetrics")
    predicted, truth = _masks(np.random.default_rng(0))
    expected = reference.confusion_matrix(truth.reshape(-1), predicted.reshape(-1), labels=range(K))
    found = confusion_matrix(predicted, truth, K)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, expected)


def test_blocks_of_a_large_mask_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    predicted, truth = _masks(np.random.default_rng(1))
    truth[0, :3] = 255
    whole = confusion_matrix(predicted, truth, K)
    monkeypatch.setattr(metrics, "_BLOCK", 7)
    np.testing.assert_array_equal(confusion_matrix(predicted, truth, K), whole)


def test_segmentation_against_scikit_learn_and_torchmetrics() -> None:
    reference = pytest.importorskip("sklearn.metrics")
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.classification")
    predicted, truth = _masks(np.random.default_rng(2), (5, 16, 16))
    truth[:, :4] = 255
    found = segmentation_metrics(confusion_matrix(predicted, truth, K), NAMES)
    labelled = truth != 255
    pair = truth[labelled], predicted[labelled]
    assert found["overall_accuracy"] == pytest.approx(reference.accuracy_score(*pair))
    assert found["mean_iou"] == pytest.approx(reference.jaccard_score(*pair, average="macro"))
    assert found["mean_f1"] == pytest.approx(reference.f1_score(*pair, average="macro"))
    recall = reference.recall_score(*pair, average=None)
    assert [one["accuracy"] for one in found["per_class"].values()] == pytest.approx(list(recall))
    tensors = [torch.from_numpy(array.astype(np.int64)) for array in (predicted, truth)]
    iou = functional.multiclass_jaccard_index(*tensors, K, ignore_index=255, average="none")
    assert [one["iou"] for one in found["per_class"].values()] == pytest.approx(iou.tolist(), rel=1e-6)


def test_classification_against_scikit_learn_and_torchmetrics() -> None:
    reference = pytest.importorskip("sklearn.metrics")
    torch = pytest.importorskip("torch")
    functional = pytest.importorskip("torchmetrics.functional.classification")
    rng = np.random.default_rng(3)
    truth = rng.integers(-1, K, 200)
    scores = rng.normal(size=(200, K)) + 2 * (np.arange(K) == truth[:, None])
    found = classification_metrics(scores, truth, NAMES)
    some = truth >= 0
    assert found["top5"] == pytest.approx(reference.top_k_accuracy_score(truth[some], scores[some], k=5))
    assert found["accuracy"] == pytest.approx(np.mean(scores[some].argmax(axis=1) == truth[some]))
    top5 = functional.multiclass_accuracy(
        torch.from_numpy(scores), torch.from_numpy(truth), K, average="micro", top_k=5, ignore_index=-1
    )
    assert found["top5"] == pytest.approx(float(top5))
    recall = reference.recall_score(truth[some], scores[some].argmax(axis=1), average=None)
    assert list(found["per_class"].values()) == pytest.approx(list(recall))


def test_top_k_of_equal_scores_and_few_classes() -> None:
    flat = np.zeros((K, K))
    assert top_k_accuracy(flat, np.arange(K), 1) == pytest.approx(1 / K)  # as argmax: the first class
    assert top_k_accuracy(flat, np.arange(K), 5) == pytest.approx(5 / K)
    assert top_k_accuracy(np.random.default_rng(0).normal(size=(9, 3)), np.zeros(9, int), 5) == 1
    with pytest.raises(InputError, match="NaN"):
        top_k_accuracy(np.full((2, 3), np.nan), np.zeros(2, int))


@given(seeds, st.sampled_from([255, -1, 3]))
@settings(max_examples=60, deadline=None)
def test_ignored_labels_never_enter_a_confusion(seed: int, ignore: int) -> None:
    """Whatever is predicted where the label is ignored or absent, even no class at all; and as if not there."""
    rng = np.random.default_rng(seed)
    predicted, truth = (array.astype(np.int64) for array in _masks(rng))
    hidden = rng.random(truth.shape) < rng.random()
    truth[hidden] = rng.choice([ignore, -1, -7], hidden.sum())
    left = (truth >= 0) & (truth != ignore)
    found = confusion_matrix(predicted, truth, K, ignore)
    np.testing.assert_array_equal(found, confusion_matrix(predicted[left], truth[left], K, ignore))
    assert found.sum() == left.sum()
    predicted[~left] = rng.integers(-1000, 1000, (~left).sum())
    np.testing.assert_array_equal(found, confusion_matrix(predicted, truth, K, ignore))


@given(seeds)
@settings(max_examples=40, deadline=None)
def test_absent_labels_never_enter_a_figure(seed: int) -> None:
    """Classification, regression, multi-label: garbage in the place of absent truths changes nothing at all."""
    rng = np.random.default_rng(seed)
    scores, junk = rng.normal(size=(40, K)), rng.choice([np.nan, np.inf, 1e300, 0.0], (40, K))
    labels = rng.integers(-1, K, 40)
    labels[0] = 2
    changed = np.where(labels[:, None] < 0, junk, scores)
    assert _same(classification_metrics(scores, labels, NAMES), classification_metrics(changed, labels, NAMES))
    values = np.where(rng.random((40, K)) < 0.5, np.nan, rng.normal(size=(40, K)))
    changed = np.where(np.isnan(values), junk, scores)
    assert _same(regression_metrics(scores, values, NAMES), regression_metrics(changed, values, NAMES))
    flags = rng.choice([0, 1, np.nan, -1, 255], (40, K))
    changed = np.where((flags == 0) | (flags == 1), scores, junk)
    assert _same(multilabel_metrics(scores, flags, NAMES, 0), multilabel_metrics(changed, flags, NAMES, 0))


def test_classes_without_a_true_pixel_are_left_out_of_means() -> None:
    truth, predicted = np.array([0, 0, 1, 1, 255, -1]), np.array([0, 2, 1, 1, 2, 2])
    found = segmentation_metrics(confusion_matrix(predicted, truth.astype(np.int64), 4), NAMES[:4])
    assert found["per_class"]["c"] == found["per_class"]["d"] == {"iou": None, "f1": None, "accuracy": None}
    assert found["mean_iou"] == pytest.approx((1 / 2 + 1) / 2)  # the pixel taken for c is an error of a
    assert found["mean_f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert found["overall_accuracy"] == 0.75
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: confusion_matrix([0, 1], [0, 1, 1], 2), "differ in shape"),
        (lambda: confusion_matrix([0, 1], [0, 2], 2), "true label 2"),
        (lambda: confusion_matrix([0, 255], [0, 1], 2), "prediction 255"),
        (lambda: confusion_matrix([0, 1], [0, 255], 2, ignore=-1), "true label 255"),
        (lambda: segmentation_metrics(np.zeros((2, 2), int), ["a", "b"]), "no pixel"),
        (lambda: segmentation_metrics(np.zeros((2, 2), int), ["a"]), "1 classes"),
        (lambda: classification_metrics(np.zeros((2, 2)), [-1, -1], ["a", "b"]), "no image has a label"),
        (lambda: regression_metrics([[np.nan]], [[1.0]], ["a"]), "NaN"),
        (lambda: regression_metrics([[1.0, 2.0]], [[1.0]], ["a"]), "one column a target"),
        (lambda: multilabel_metrics([[0.5]], [[2]], ["a"]), "0 or 1"),
    ],
)
def test_bad_input(call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call()


def test_regression_against_scikit_learn() -> None:
    reference = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(4)
    truth = rng.normal(size=(50, 3))
    predicted = truth + rng.normal(size=(50, 3)) * [0.1, 1, 3]
    found = regression_metrics(predicted, truth, ["a", "b", "c"])
    for key, function in (
        ("mae", reference.mean_absolute_error),
        ("rmse", lambda *pair, **more: reference.mean_squared_error(*pair, **more) ** 0.5),
        ("r2", reference.r2_score),
    ):
        expected = function(truth, predicted, multioutput="raw_values")
        assert [one[key] for one in found["per_target"].values()] == pytest.approx(list(expected))
        assert found[key] == pytest.approx(np.mean(expected))
    constant = regression_metrics(predicted, np.full((50, 3), 0.1), ["a", "b", "c"])
    assert constant["r2"] is None
    assert constant["mae"] > 0
    json.dumps(regression_metrics(predicted, np.full((50, 3), np.nan), ["a", "b", "c"]), allow_nan=False)


@given(seeds)
@settings(max_examples=30, deadline=None)
def test_multilabel_against_scikit_learn(seed: int) -> None:
    """With ties among the scores; labels that hold nowhere are left out on both sides."""
    reference = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(seed)
    truth = (rng.random((30, 4)) < [0.5, 0.2, 0.05, 0.0]).astype(float)
    truth[0, 0] = 1
    scores = np.round(rng.random((30, 4)) * 0.6 + truth * 0.3, 1)
    found = multilabel_metrics(scores, truth, ["a", "b", "c", "d"])
    some = truth.any(axis=0)
    taken = scores > 0.5
    assert found["mean_average_precision"] == pytest.approx(
        reference.average_precision_score(truth[:, some], scores[:, some], average="macro")
    )
    assert found["micro_f1"] == pytest.approx(reference.f1_score(truth, taken, average="micro", zero_division=0))
    assert found["macro_f1"] == pytest.approx(
        reference.f1_score(truth[:, some], taken[:, some], average="macro", zero_division=0)
    )
    assert found["per_target"]["d"]["average_precision"] is None
