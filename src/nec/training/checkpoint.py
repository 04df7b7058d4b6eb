"""Checkpoints of a training: a safetensors file, whose header holds as JSON what is no tensor. No code is read."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from nec.errors import InputError
from nec.files import atomic_path

CHECKPOINT = "last.safetensors"
_PICKLED = "last.ckpt"  # what versions up to 0.1 left
_HEADER = "checkpoint"


def checkpoint_of(out: Path) -> Path:
    """Where the run that makes the model folder `out` keeps its checkpoint, in a folder beside it."""
    return out.with_name(out.name + ".run") / CHECKPOINT


def check_start(out: Path, resume: bool, overwrite: bool) -> None:
    """Refuse to begin where a model or an interrupted run is in the way, or to go on where there is none."""
    checkpoint = checkpoint_of(out)
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists: choose another name, or give --overwrite")
    old = checkpoint.with_name(_PICKLED)
    if old.is_file() and not checkpoint.is_file() and (resume or not overwrite):
        raise InputError(f"{old} is of an older version, whose checkpoints are not read: start again with --overwrite")
    if resume and not checkpoint.is_file():
        raise InputError(f"nothing to resume: {checkpoint} does not exist")
    if not resume and checkpoint.is_file() and not overwrite:
        raise InputError(f"{checkpoint.parent} holds an interrupted run: go on with --resume, or give --overwrite")


def check_identity(checkpoint: Path, identity: dict[str, Any]) -> None:
    """Refuse to go on with a run that had other settings, before any process is started."""
    try:
        kept = _read_header(checkpoint)["callbacks"][Checkpoints.__qualname__]
    except (LookupError, TypeError) as error:
        raise _damaged(checkpoint, error) from error
    if kept != _plain(identity):
        raise InputError("the interrupted run had other settings or data: give the same, or --overwrite")


class Checkpoints(Callback):
    """Saves a checkpoint, whole or not at all, after the first step that ends so many minutes after the last one.

    Lightning's own callback saves by time with automatic optimisation only. `identity`, the run's settings, goes into
    the checkpoint. Unless `keep`, a checkpoint of an earlier run is removed when training starts.
    """

    def __init__(self, path: Path, minutes: float, identity: dict[str, Any], keep: bool) -> None:
        self.path, self.seconds, self.identity, self.keep = path, 60 * minutes, _plain(identity), keep
        self.saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return self.identity

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.is_global_zero and not self.keep:
            self.path.unlink(missing_ok=True)
            self.path.with_name(_PICKLED).unlink(missing_ok=True)

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        due = time.monotonic() - self.saved >= self.seconds
        if trainer.strategy.broadcast(due):  # the first process decides for all
            trainer.save_checkpoint(self.path)
            self.saved = time.monotonic()


class SafeCheckpoints(CheckpointIO):
    """How Lightning writes and reads a checkpoint: weights, optimiser, schedule and place in the data, to the bit."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        tensors: dict[str, Tensor] = {}
        header = json.dumps(_pack(checkpoint, "", tensors))
        with atomic_path(path, overwrite=True) as temporary:
            save_file(tensors, temporary, {_HEADER: header})

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        header, tensors = _read_header(Path(path)), load_file(path)
        return {key: _unpack(value, tensors) for key, value in header.items()}

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def _read_header(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:
            return dict(json.loads(file.metadata()[_HEADER]))
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} is damaged ({type(error).__name__}): start again with --overwrite")


def _plain(document: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(document))


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON; its tensors go to `tensors`, under the keys that lead to them."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().cpu().contiguous()
        return {"tensor": name}
    if isinstance(value, dict):
        packed = {key: _pack(item, f"{name}/{key}", tensors) for key, item in value.items()}
        plain = all(isinstance(key, str) for key in packed) and not packed.keys() & {"tensor", "tuple", "pairs"}
        return packed if plain else {"pairs": list(packed.items())}  # keys that are numbers stay numbers
    if isinstance(value, list | tuple):
        packed_items = [_pack(item, f"{name}/{i}", tensors) for i, item in enumerate(value)]
        return {"tuple": packed_items} if isinstance(value, tuple) else packed_items
    return value


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_unpack(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "tuple" in value:
        return tuple(_unpack(item, tensors) for item in value["tuple"])
    if "pairs" in value:
        return {key: _unpack(item, tensors) for key, item in value["pairs"]}
    return {key: _unpack(item, tensors) for key, item in value.items()}
