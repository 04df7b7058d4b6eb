"""Checkpoints: what goes in comes out, and nothing of a file that someone else made is run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import nec
from nec.training import Run, TrainingSettings, pretrain
from nec.training.checkpoint import SafeCheckpoints, check_identity, check_start

SETTINGS = TrainingSettings(epochs=1, batch_size=16)


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    state = {
        "weights": {"a": torch.randn(3, 2).T, "b": torch.tensor(3), "c": torch.randn(2).bfloat16()},
        "optimizer": [
            {"state": {0: {"step": torch.tensor(7.0)}, 12: {}}, "groups": [{"betas": (0.9, 0.95), "lr": 0.1}]}
        ],
        "odd names": {"tensor": 1, "tuple": [2.5, None, True], "pairs": {"x": (), "y": []}},
        "rate": 1 / 3,
    }
    SafeCheckpoints().save_checkpoint(state, tmp_path / "c.safetensors")
    again = SafeCheckpoints().load_checkpoint(tmp_path / "c.safetensors")
    assert again.keys() == state.keys()
    for key, value in state["weights"].items():
        assert again["weights"][key].dtype == value.dtype
        assert torch.equal(again["weights"][key], value)
    (optimizer,) = again["optimizer"]
    assert (optimizer["state"].keys(), optimizer["groups"]) == ({0, 12}, state["optimizer"][0]["groups"])
    assert optimizer["state"][0]["step"] == 7
    assert (again["odd names"], again["rate"]) == (state["odd names"], 1 / 3)
    with safe_open(tmp_path / "c.safetensors", "pt") as file:  # any other reader of safetensors finds the weights
        assert torch.equal(file.get_tensor("/weights/a"), state["weights"]["a"])
        assert json.loads(file.metadata()["checkpoint"])["rate"] == 1 / 3


class Runs:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", ["last.ckpt", "last.safetensors"])
def test_a_pickle_in_the_folder_of_a_run_is_not_opened(name: str, config, dataset, tmp_path: Path) -> None:
    """Case 08 of the reliability review: `--resume` ran the code of whoever could write that folder."""
    mark = tmp_path / "ran"
    (tmp_path / "out.run").mkdir()
    torch.save({"callbacks": Runs(mark)}, tmp_path / "out.run" / name)
    with pytest.raises(nec.InputError, match="start again with --overwrite"):
        pretrain(dataset, tmp_path / "out", config=config, settings=SETTINGS, run=Run(resume=True), progress=False)
    assert not mark.exists()
    run = Run(overwrite=True, accelerator="cpu", devices=1)
    assert pretrain(dataset, tmp_path / "out", config=config, settings=SETTINGS, run=run, progress=False) is not None
    assert not mark.exists()
    assert not (tmp_path / "out.run" / name).exists()


def test_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "last.safetensors"
    SafeCheckpoints().save_checkpoint({"callbacks": {"Checkpoints": {"seed": 1}}, "w": torch.zeros(99)}, file)
    whole = file.read_bytes()
    check_identity(file, {"seed": 1})
    with pytest.raises(nec.InputError, match="other settings"):
        check_identity(file, {"seed": 2})
    damaged = [b"", b"PK no checkpoint", whole[:40], whole[:-1], whole.replace(b"Checkpoints", b"Checkpoint!")]
    for data in damaged:
        file.write_bytes(data)
        with pytest.raises(nec.InputError, match="damaged"):
            check_identity(file, {"seed": 1})
    for metadata in (None, {"checkpoint": "[1]"}, {"checkpoint": "[" * 100_000}, {"other": "{}"}):
        save_file({"w": torch.zeros(2)}, file, metadata)
        with pytest.raises(nec.InputError, match="damaged"):
            check_identity(file, {"seed": 1})


def test_what_is_in_the_way_is_named(tmp_path: Path) -> None:
    out = tmp_path / "m"
    check_start(out, resume=False, overwrite=False)
    with pytest.raises(nec.InputError, match="nothing to resume"):
        check_start(out, resume=True, overwrite=False)
    (tmp_path / "m.run").mkdir()
    (tmp_path / "m.run" / "last.ckpt").touch()
    for resume in (False, True):
        with pytest.raises(nec.InputError, match="older version"):
            check_start(out, resume, overwrite=False)
    check_start(out, resume=False, overwrite=True)
    (tmp_path / "m.run" / "last.safetensors").touch()
    check_start(out, resume=True, overwrite=False)
    with pytest.raises(nec.InputError, match="interrupted run"):
        check_start(out, resume=False, overwrite=False)
