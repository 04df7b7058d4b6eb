"""Regression and multi-label heads end to end: they learn what is there, and what is not known leaves no trace."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nec.cli import main
from nec.errors import InputError
from nec.heads import HeadReport, HeadResult, HeadSettings, Targets, load_head, train_head

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="the attention head needs torch")
HEADS = ["linear", pytest.param("attention", marks=needs_torch)]
MakeStore = Callable[..., Any]


def fit_targets(
    store: Any, targets: Targets, task: str = "regression", epochs: int | None = None, **options: Any
) -> HeadResult:
    settings = HeadSettings(epochs=epochs)
    return train_head(store, task, targets=targets, settings=settings, **{"head": "attention", **options})


def _report(*arguments: Any, **options: Any) -> HeadReport:
    return fit_targets(*arguments, **options).report


def _targets(store: Any, task: str) -> Targets:
    """A number a class of very different size, and whether the class is 0 or 1; a third of the values is missing."""
    rng = np.random.default_rng(0)
    if task == "regression":
        values = np.stack([1000 + 50.0 * store.labels, 0.001 * (store.labels == 1)], axis=1)
    else:
        values = np.stack([store.labels == 0, store.labels != 1], axis=1).astype(float)
    values[rng.random(values.shape) < 1 / 3] = np.nan
    return Targets(values.astype(np.float32), ["first", "second"])


@pytest.mark.parametrize("head", HEADS)
def test_numbers_are_learnt(make_store: MakeStore, head: str) -> None:
    store = make_store(signal=2)
    report = _report(store, _targets(store, "regression"), head=head, epochs=100)
    assert report.figures["r2"] > 0.75
    per_target = report.figures["per_target"]
    for figures in per_target.values():
        assert figures["r2"] > 0.7
    assert per_target["first"]["rmse"] < 20 < 1000 * per_target["second"]["rmse"] * 1000
    assert report.test_images < 36  # some have no value at all
    json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.parametrize("head", HEADS)
def test_labels_are_learnt(make_store: MakeStore, head: str) -> None:
    store = make_store(signal=2)
    report = _report(store, _targets(store, "multilabel"), task="multilabel", head=head, epochs=60)
    assert report.figures["mean_average_precision"] > 0.95
    assert min(report.figures["micro_f1"], report.figures["macro_f1"]) > 0.9
    json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_images_without_a_target_leave_no_trace(make_store: MakeStore, head: str, task: str) -> None:
    clean, poisoned = make_store(), make_store()
    targets = _targets(clean, task)
    absent = np.isnan(targets.values).all(axis=1)
    assert absent.any()
    poisoned.embeddings[absent] = 1e4
    first, second = (_report(store, targets, task=task, head=head, epochs=2) for store in (clean, poisoned))
    assert first.figures == second.figures


@needs_torch
@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_losses_pass_over_unknown_targets(task: str) -> None:
    """Value and gradient against torch's own loss on the known entries."""
    import torch
    from torch.nn import functional as F

    from nec.heads.network import label_loss, squared_error

    outputs = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    targets = (torch.rand(6, 4, dtype=torch.float64) < 0.5).double()
    targets[torch.rand(6, 4) < 0.4] = torch.nan
    known = ~targets.isnan()
    plain = {"regression": F.mse_loss, "multilabel": F.binary_cross_entropy_with_logits}[task]
    expected = plain(outputs[known], targets[known])
    loss = {"regression": squared_error, "multilabel": label_loss}[task]
    found = loss(outputs, targets)
    torch.testing.assert_close(found, expected)
    gradient = torch.autograd.grad(found, outputs)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, outputs)[0])
    assert (gradient[~known] == 0).all()
    nothing = loss(outputs, torch.full_like(targets, torch.nan))
    assert float(nothing.detach()) == 0


@needs_torch
def test_seeds_and_decoder_stage(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    stage = torch.nn.Linear(16, 8)
    monkeypatch.setattr("nec.heads.train.decoder_stage", lambda store, model: stage)
    store = make_store()
    targets = _targets(store, "regression")
    result = fit_targets(store, targets, with_decoder=True, epochs=2, seeds=2)
    figures = result.report.figures
    singles = [fit_targets(store, targets, with_decoder=True, epochs=2, seed=seed).report.figures for seed in (0, 1)]
    assert result.report.seeds == [0, 1]
    assert set(figures["std"]) == {"mae", "rmse", "r2"}
    assert figures["mae"] == pytest.approx(np.mean([one["mae"] for one in singles]))
    assert result.head.module.pool.latent.shape[-1] == 8


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_a_saved_head_gives_what_was_measured(make_store: MakeStore, tmp_path: Path, head: str, task: str) -> None:
    """The report's figures from the predictions of the head that was read back."""
    pytest.importorskip("safetensors")
    store = make_store(signal=2)
    targets = _targets(store, task)
    report = _report(store, targets, task=task, head=head, epochs=3, save=tmp_path / "head")
    loaded = load_head(tmp_path / "head")
    assert (loaded.task, loaded.class_names) == (task, targets.names)
    test = np.flatnonzero((store.split == "test") & ~np.isnan(targets.values).all(axis=1))
    found, truth = loaded.outputs(store.embeddings[test]), targets.values[test]
    for i, name in enumerate(targets.names):
        known = ~np.isnan(truth[:, i])
        figures = report.figures["per_target"][name]
        if task == "regression":
            assert figures["mae"] == pytest.approx(np.abs(found - truth)[known, i].mean(), rel=1e-3)
        else:
            taken, holds = found[known, i] > 0.5, truth[known, i] == 1
            assert figures["f1"] == pytest.approx(2 * (taken & holds).sum() / (taken.sum() + holds.sum()))
            np.testing.assert_array_equal(loaded.predict(store.embeddings[test])[known, i], taken)


def test_bad_requests(make_store: MakeStore) -> None:
    store = make_store()
    targets = _targets(store, "regression")
    with pytest.raises(InputError, match="unknown head"):
        fit_targets(store, targets, head="forest")
    with pytest.raises(InputError, match="attention"):
        fit_targets(store, targets, head="linear", with_decoder=True)
    targets.values[store.split == "train", 1] = np.nan
    with pytest.raises(InputError, match="'second'"):
        fit_targets(store, targets, head="linear")


@pytest.mark.parametrize("command", ["regress", "multilabel"])
def test_commands(
    make_store: MakeStore,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    command: str,
) -> None:
    store = make_store()
    store.masks = np.repeat(store.labels[:, None, None], 4, axis=1).astype(np.uint8) * np.ones((1, 4, 4), np.uint8)
    store.mask_classes = ["a", "b", "c"]
    monkeypatch.setattr("nec.store.open", lambda location: store)
    arguments = [command, "fake.zarr", "--targets", "fractions", "--head", "linear"]
    assert main([*arguments, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    keys = {"regress": {"mae", "rmse", "r2"}, "multilabel": {"mean_average_precision", "micro_f1", "macro_f1"}}
    assert keys[command] | {"per_target", "bytes_per_image", "train_images", "seconds"} <= values.keys()
    assert list(values["per_target"]) == ["a", "b", "c"]
    assert main(arguments) == 0
    table = capsys.readouterr().out
    assert "100.0 stored bytes an image" in table
    assert {"regress": "RMSE", "multilabel": "macro F1"}[command] in table
    assert main([command, "fake.zarr", "--targets", str(tmp_path / "no.csv"), "--head", "linear"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("nec: error: ")
    assert "no.csv" in error
