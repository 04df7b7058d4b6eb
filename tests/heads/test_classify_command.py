"""`nec classify` as scripts and people call it."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest

from nec.cli import main

MakeStore = Callable[..., Any]


@pytest.fixture
def store(make_store: MakeStore, monkeypatch: pytest.MonkeyPatch) -> Any:
    fake = make_store()
    monkeypatch.setattr("nec.store.open", lambda location: fake)
    return fake


def test_json_keys(store: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", "fake.zarr", "--head", "linear", "--json"]) == 0
    out = capsys.readouterr()
    values = json.loads(out.out)
    assert {"accuracy", "per_class", "train_images", "test_images", "bytes_per_image", "seconds"} <= values.keys()
    assert out.err == ""


def test_table(store: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", "fake.zarr", "--head", "linear", "--split", "train/val"]) == 0
    out = capsys.readouterr().out
    assert "accuracy" in out
    assert "100.0 stored bytes an image" in out
    assert all(name in out for name in store.class_names)


@pytest.mark.skipif(find_spec("torch") is None, reason="the attention head needs torch")
def test_attention_is_the_default(store: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", "fake.zarr", "--epochs", "2", "--seeds", "2", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["head"] == "attention"
    assert len(values["accuracies"]) == 2
    assert values["accuracy_std"] is not None


def test_falls_back_without_torch(
    store: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nec.heads.train.find_spec", lambda name: None)
    assert main(["classify", "fake.zarr", "--json"]) == 0
    out = capsys.readouterr()
    assert json.loads(out.out)["head"] == "linear"
    assert len(out.err.splitlines()) == 1
    assert "torch" in out.err


def test_resplit_warns(store: Any, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["classify", "fake.zarr", "--head", "linear", "--json", "--test-fraction", "0.3"]
    assert main(arguments) == 2
    assert "--resplit" in capsys.readouterr().err
    assert main([*arguments, "--resplit"]) == 0
    out = capsys.readouterr()
    assert "warning" in out.err
    assert json.loads(out.out)["warning"]


@pytest.mark.parametrize("arguments", [["nowhere/at/all"], ["no-such-name"]])
def test_wrong_paths(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", *arguments, "--head", "linear"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("nec: error: ")
    assert len(error.splitlines()) == 1


def test_store_without_labels(store: Any, capsys: pytest.CaptureFixture[str]) -> None:
    store.labels = None
    assert main(["classify", "fake.zarr", "--json"]) == 2
    assert "no labels" in capsys.readouterr().err
