"""State dicts: read safely from files, and put into modules with one clear error where they do not fit."""

from __future__ import annotations

import argparse
import hashlib
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from nec.errors import InputError


def read_state(path: Path) -> dict[str, Tensor]:
    """State dict of a `.safetensors` file or a torch checkpoint."""
    return read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """State dict of a `.safetensors` file."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a readable safetensors file: {error}") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    """State dict of a torch checkpoint. Training scripts save their options beside it; that one class is allowed."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            document = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is not a checkpoint that can be read safely: {reason}") from error
    state = document.get("model", document.get("state_dict", document)) if isinstance(document, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} holds no state dict of tensors")
    return state


def fill(module: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    """Give `module` these weights and set evaluation mode; InputError that names the first few differences."""
    own = module.state_dict()
    wrong = [f"{key} is missing" for key in own if key not in state]
    wrong += [f"{key} is unknown" for key in state if key not in own]
    wrong += [
        f"{key} is {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise InputError(f"{source} does not fit its configuration: {'; '.join(wrong[:3])}{more}")
    module.load_state_dict({key: value.to(own[key].dtype) for key, value in state.items()})
    module.eval()


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
