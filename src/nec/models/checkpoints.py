"""Models on disk: our folders (config.json, model.safetensors, codec.json) and other people's checkpoints."""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from nec.codec import EmbeddingCodec
from nec.errors import InputError
from nec.models.config import ModelConfig
from nec.models.mae import NecModel
from nec.store.assets import resolve
from nec.store.files import atomic_path

FORMAT = 1
WEIGHTS_FILE, CONFIG_FILE, CODEC_FILE, CARD_FILE = "model.safetensors", "config.json", "codec.json", "README.md"

# CompressAI's tables and constants: rebuilt from the parameters, or not needed because the codec makes the bytes.
_DERIVED = re.compile(r"bottleneck\.(_offset|_quantized_cdf|_cdf_length|target|likelihood_lower_bound\.bound)$")
_OLDER_PRIOR = re.compile(r"bottleneck\._(matrix|bias|factor)(\d+)$")
_NEWER_PRIOR = {"matrix": "matrices", "bias": "biases", "factor": "factors"}
# Heads of classifiers that other checkpoints carry; our heads live in nec.tasks.
_HEADS = ("head.", "fc_norm.", "head_dist.")


def load_model(path: str | Path, config: dict[str, Any] | str | Path | None = None) -> NecModel:
    """A model in evaluation mode, on the CPU.

    Args:
        path: one of our model folders, the name of a shipped model, or (with `config`) a checkpoint file of MAE, timm
            or the published NEC code: `.pt`/`.pth`, read with `weights_only=True`, or `.safetensors`.
        config: sizes of a foreign checkpoint, as a dict or a JSON file (keys of `ModelConfig`, or MAE's `img_size`,
            `in_chans`). What it leaves out is ViT-B/16.

    Raises:
        InputError: nothing there, not readable, or weights of another architecture than the configuration says.
    """
    if config is not None:
        return _load_foreign(Path(path), _read_config(config))
    folder = resolve(path, "models")
    if folder.is_file():
        raise InputError(f"{folder} is a file: pass its sizes as config=..., or give a model folder")
    document = _read_json(folder / CONFIG_FILE)
    if document.get("format") != FORMAT or not isinstance(document.get("model"), dict):
        raise InputError(f"{folder / CONFIG_FILE} is not a model configuration of format {FORMAT}")
    weights = folder / WEIGHTS_FILE
    model = _build(ModelConfig.from_dict(document["model"]), _read_safetensors(weights), weights)
    model.name, model.sha256 = folder.resolve().name, _sha256(weights)  # a copy under another name is another model
    if (folder / CODEC_FILE).is_file():
        model.codec = EmbeddingCodec.load(folder / CODEC_FILE)
    return model


def save_model(
    model: NecModel,
    folder: str | Path,
    *,
    recipe: dict[str, Any] | None = None,
    half: bool = True,
    overwrite: bool = False,
) -> None:
    """Write a model folder: config.json, model.safetensors, a model card, and codec.json if the model has a codec.

    Args:
        recipe: how it was made (data, seeds, versions, settings), JSON-able; goes into config.json and the card.
        half: weights as float16, but for the bottleneck's, whose densities would suffer.
    """
    folder = Path(folder)
    if folder.exists() and not (overwrite and (folder / CONFIG_FILE).is_file()):
        what = (
            "exists: choose another name, or give --overwrite" if not overwrite else "is no model folder to overwrite"
        )
        raise InputError(f"{folder} {what}")
    with atomic_path(folder.with_name(f".{folder.name}.new")) as temporary:
        temporary.mkdir(parents=True)
        _write_model(model, temporary, recipe or {}, half)
        if folder.exists():
            shutil.rmtree(folder)
    folder.with_name(f".{folder.name}.new").rename(folder)


def _write_model(model: NecModel, folder: Path, recipe: dict[str, Any], half: bool) -> None:
    weights = {
        key: (value.half() if half and value.is_floating_point() and not key.startswith("bottleneck.") else value)
        for key, value in model.state_dict().items()
    }
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / WEIGHTS_FILE)
    document = {"format": FORMAT, "model": model.config.to_dict(), "recipe": recipe}
    (folder / CONFIG_FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (folder / CARD_FILE).write_text(_card(model, recipe), encoding="utf-8")
    if model.codec is not None:
        model.codec.save(folder / CODEC_FILE)


def _card(model: NecModel, recipe: dict[str, Any]) -> str:
    c = model.config
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    lines = [
        "# Model card",
        "",
        f"Masked autoencoder, ViT with {c.depth} blocks of width {c.embed_dim} on {c.patch_size} px patches, "
        f"{c.in_channels} bands at {c.image_size} px, {parameters:.2f} M parameters with the decoder. "
        f"Bottleneck: {c.kind if c.kind != 'mae' else 'none'}.",
        "",
        "Load it with `nec.load_model`. How it was made:",
        "",
        *(f"- {key}: {json.dumps(value)}" for key, value in recipe.items()),
    ]
    return "\n".join(lines) + "\n"


def _load_foreign(path: Path, values: dict[str, Any]) -> NecModel:
    if not path.is_file():
        raise InputError(f"no checkpoint file at {path}")
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    state = {_newer_name(key): value for key, value in state.items()}
    state = {key: value for key, value in state.items() if not _DERIVED.search(key) and not key.startswith(_HEADS)}
    config = ModelConfig.from_dict(values)
    if any(key.startswith("bottleneck.") for key in state):
        config = replace(config, kind="factorized")
    if "decoder_embed.weight" not in state:  # an encoder alone, as timm's checkpoints are
        config = replace(config, decoder_depth=0)
    model = _build(config, state, path)
    model.name, model.sha256 = path.stem, _sha256(path)
    return model


def _newer_name(key: str) -> str:
    """Prior's parameter under CompressAI's newer name: `_matrix0` became `matrices.0`."""
    return _OLDER_PRIOR.sub(lambda m: f"bottleneck.{_NEWER_PRIOR[m[1]]}.{m[2]}", key)


def _build(config: ModelConfig, state: dict[str, Tensor], source: Path) -> NecModel:
    """The model with these weights; InputError that names the first few differences where they do not fit."""
    model = NecModel(config)
    own = model.state_dict()
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
    model.load_state_dict({key: value.to(own[key].dtype) for key, value in state.items()})
    return model.eval()


def _read_config(config: dict[str, Any] | str | Path) -> dict[str, Any]:
    return config if isinstance(config, dict) else _read_json(Path(config))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: a model folder holds {CONFIG_FILE} and {WEIGHTS_FILE}") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} holds no JSON object")
    return document


def _read_safetensors(path: Path) -> dict[str, Tensor]:
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


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
