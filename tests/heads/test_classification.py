"""Classification end to end: it learns what is there, nothing that is not, and never looks at the test part."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from nec.errors import InputError
from nec.heads import HeadResult, HeadSettings, pooled_features, train_head

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="the attention head needs torch")
HEADS = ["linear", pytest.param("attention", marks=needs_torch)]
MakeStore = Callable[..., Any]


def classify(store: Any, epochs: int | None = None, **options: Any) -> HeadResult:
    return train_head(store, settings=HeadSettings(epochs=epochs), **{"head": "attention", **options})


def _weights(result: HeadResult) -> list[np.ndarray]:
    module = result.head.module
    if result.report.head == "linear":
        return [module.weight, module.bias]
    return [value.numpy() for value in module.state_dict().values()]


@pytest.mark.parametrize("head", HEADS)
def test_separable_classes_are_learnt(make_store: MakeStore, head: str) -> None:
    report = classify(make_store(signal=2), head=head, epochs=80).report
    assert report.figures["accuracy"] > 0.97
    assert (report.train_images, report.val_images, report.test_images) == (126, 18, 36)
    assert np.sum(report.figures["confusion"]) == 36


@pytest.mark.parametrize("head", HEADS)
def test_shuffled_labels_give_chance(make_store: MakeStore, head: str) -> None:
    store = make_store(per_class=100)
    store.labels = np.random.default_rng(1).permutation(store.labels)
    assert classify(store, head=head, epochs=5).report.figures["accuracy"] == pytest.approx(1 / 3, abs=0.17)


@pytest.mark.parametrize("head", HEADS)
def test_test_part_never_reaches_the_fit(make_store: MakeStore, head: str) -> None:
    clean, poisoned = make_store(), make_store()
    test = poisoned.split == "test"
    poisoned.embeddings[test] = 1e4
    poisoned.labels[test] = (poisoned.labels[test] + 1) % 3
    first, second = (classify(store, head=head, epochs=3) for store in (clean, poisoned))
    for a, b in zip(_weights(first), _weights(second), strict=True):
        np.testing.assert_array_equal(a, b)
    assert first.report.figures["accuracy"] != second.report.figures["accuracy"]


@needs_torch
def test_validation_part_chooses_only(make_store: MakeStore) -> None:
    """Validation images decide which epoch is kept, but leave no trace in that epoch's weights."""
    clean, poisoned = make_store(), make_store()
    poisoned.embeddings[poisoned.split == "val"] = 1e4
    first, second = (classify(store, epochs=1) for store in (clean, poisoned))
    for a, b in zip(_weights(first), _weights(second), strict=True):
        np.testing.assert_array_equal(a, b)


@needs_torch
def test_seeds(make_store: MakeStore) -> None:
    store = make_store(signal=0.6)
    both = classify(store, seeds=2, epochs=4)
    again = classify(store, seed=1, epochs=4)
    figures = both.report.figures
    assert both.report.seeds == [0, 1]
    assert figures["accuracies"][1] == again.report.figures["accuracies"][0]
    assert np.sum(figures["confusion"]) == 2 * both.report.test_images
    assert figures["accuracy_std"] == pytest.approx(np.std(figures["accuracies"], ddof=1))
    different = [np.abs(a - b).max() for a, b in zip(_weights(both), _weights(again), strict=True)]
    assert max(different) > 0


@pytest.mark.parametrize("head", HEADS)
def test_top_five_of_eight_classes(make_store: MakeStore, head: str) -> None:
    """Against the ranks of the scores of the head that comes with the result."""
    store = make_store(per_class=40, classes=8, signal=0.3)
    result = classify(store, head=head, epochs=3)
    test = store.split == "test"
    inputs = pooled_features(store.embeddings[test]) if head == "linear" else store.embeddings[test]
    best = np.argsort(-result.head.module.scores(inputs), axis=1)[:, :5]
    hits = [label in row for label, row in zip(store.labels[test], best, strict=True)]
    assert result.report.figures["top5"] == pytest.approx(np.mean(hits))
    assert result.report.figures["accuracy"] < result.report.figures["top5"] < 1


@needs_torch
def test_global_random_state_is_left_alone(make_store: MakeStore) -> None:
    import torch

    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    classify(make_store(), epochs=1)
    torch.testing.assert_close(torch.rand(3), expected)


@needs_torch
def test_decoder_stage_is_trained_and_checked(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    class Stage(torch.nn.Linear):
        def on_grid(self, grid: tuple[int, int]) -> torch.nn.Module:
            assert grid == (4, 4)
            return self

    class Model:
        name, sha256 = "tiny", "abc"

        def decoder_stage(self) -> torch.nn.Module:
            torch.manual_seed(3)
            return Stage(16, 8)

    monkeypatch.setattr("nec.models.load_model", lambda name: Model(), raising=False)
    store = make_store()
    store.attrs = {"model": {"name": "tiny", "sha256": "abc"}}
    result = classify(store, with_decoder=True, epochs=3)
    assert not torch.equal(result.head.module.stage.weight, Model().decoder_stage().weight)
    assert result.head.module.pool.latent.shape[-1] == 8
    store.attrs = {"model": {"name": "tiny", "sha256": "other"}}
    with pytest.raises(InputError, match="not the one that made the store"):
        classify(store, with_decoder=True)
    store.attrs = {}
    with pytest.raises(InputError, match="--model"):
        classify(store, with_decoder=True)


def test_result_is_json(make_store: MakeStore) -> None:
    report = classify(make_store(), head="linear").report
    values = json.loads(report.to_json())
    assert {"accuracy", "per_class", "train_images", "test_images", "bytes_per_image", "seconds"} <= values.keys()
    assert values["accuracy"] == report.figures["accuracy"]
    assert list(values["per_class"]) == ["class 0", "class 1", "class 2"]
    assert values["top5"] == 1  # of three classes
    total = sum(share * 12 for share in values["per_class"].values())
    assert total / 36 == pytest.approx(values["accuracy"])


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"labels": None}, {}, "no labels"),
        ({"class_names": ["only"], "labels": np.zeros(180, np.int64)}, {}, "at least two"),
        ({}, {"head": "forest"}, "unknown head"),
        ({}, {"head": "linear", "with_decoder": True}, "attention"),
        ({}, {"seeds": 0}, "at least 1"),
    ],
)
def test_bad_requests(make_store: MakeStore, change: dict, options: dict, message: str) -> None:
    store = make_store()
    for name, value in change.items():
        setattr(store, name, value)
    with pytest.raises(InputError, match=message):
        classify(store, **options)


@needs_torch
def test_extreme_values_are_refused(make_store: MakeStore) -> None:
    store = make_store()
    store.embeddings[store.split == "train"] *= 1e30
    with pytest.raises(InputError, match="half precision"):
        classify(store, epochs=1)
