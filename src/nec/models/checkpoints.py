"""Models on disk: our folders (config.json, model.safetensors, codec.json), and weights read safely from files."""

from __future__ import annotations

import argparse
import hashlib
import json
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nec.codec import EmbeddingCodec
from nec.errors import InputError
from nec.files import atomic_path, remove
from nec.models.config import ModelConfig
from nec.models.mae import NecModel

FORMAT = 1
WEIGHTS_FILE, CONFIG_FILE, CODEC_FILE, CARD_FILE = "model.safetensors", "config.json", "codec.json", "README.md"


def load_folder(folder: Path) -> NecModel:
    """The model in one of our folders, in evaluation mode, on the CPU.

    Raises `InputError`: not readable, or weights of another architecture than the configuration says.
    """
    document = read_json(folder / CONFIG_FILE)
    if document.get("format") != FORMAT or not isinstance(document.get("model"), dict):
        raise InputError(f"{folder / CONFIG_FILE} is not a model configuration of format {FORMAT}")
    weights, config = folder / WEIGHTS_FILE, ModelConfig.from_dict(document["model"])
    check_sizes(config, shapes(weights), weights)
    model = NecModel(config)
    fill(model, read_safetensors(weights), weights)
    model.name, model.sha256 = folder.resolve().name, file_sha256(weights)  # a copy under another name is another model
    if (folder / CODEC_FILE).is_file():
        model.codec = EmbeddingCodec.load(folder / CODEC_FILE)
    if model.config.kind == "hierarchical":
        if model.codec is None:
            raise InputError(f"{folder} lacks {CODEC_FILE}, through which the model was adapted: nec fit makes one")
        model.use_codec(model.codec)
        model.eval()
    return model


def save_fitted(
    folder: Path, out: Path, codec: EmbeddingCodec, *, symmetries: int | None = None, overwrite: bool = False
) -> None:
    """Give a model folder a codec: in the folder itself, or in a copy of it at `out` that appears when all went well.

    Args:
        folder: a model folder.
        out: the same folder, or one that does not exist yet.
        codec: fitted to the model's embeddings, which are means over `symmetries` where that is given.
        overwrite: replace the codec that the folder has.
    """
    if out.exists() and out.samefile(folder):
        with atomic_path(out / CODEC_FILE, overwrite=overwrite) as temporary:
            codec.save(temporary)
        return
    with atomic_path(out) as temporary:
        shutil.copytree(folder, temporary)
        (temporary / CODEC_FILE).unlink(missing_ok=True)
        codec.save(temporary / CODEC_FILE)
        if symmetries is not None:
            _set_symmetries(temporary, symmetries)


def _set_symmetries(folder: Path, symmetries: int) -> None:
    """Write into a model folder, and on its card, that embeddings are means over so many symmetries."""
    config, card = folder / CONFIG_FILE, folder / CARD_FILE
    document = read_json(config)
    document["model"]["symmetries"] = symmetries
    config.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if card.is_file():
        words = f"- embeddings: means over {symmetries} turns and flips of an image, see `nec.models.symmetry`\n"
        card.write_text(card.read_text(encoding="utf-8") + words, encoding="utf-8")


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
    fresh = folder.with_name(f".{folder.name}.new")
    remove(fresh)  # what a run that was killed between the two renames left
    with atomic_path(fresh) as temporary:
        temporary.mkdir(parents=True)
        _write_model(model, temporary, recipe or {}, half)
        if folder.exists():
            shutil.rmtree(folder)
    fresh.rename(folder)


def _write_model(model: NecModel, folder: Path, recipe: dict[str, Any], half: bool) -> None:
    weights = {
        key: (value.half() if half and value.is_floating_point() and not key.startswith("bottleneck.") else value)
        for key, value in model.state_dict().items()
        if not (model.config.kind == "hierarchical" and key.startswith("bottleneck."))  # which the codec makes
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


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model; `InputError` where there is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: a model folder holds {CONFIG_FILE} and {WEIGHTS_FILE}") from None
    except (OSError, ValueError, RecursionError) as error:  # ValueError: no UTF-8, no JSON, or endless numbers
        raise InputError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} holds no JSON object")
    return document


# -- weights ----------------------------------------------------------------------------------------------------------


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of the tensors in a `.safetensors` file, from its header, which the file's length bounds."""
    try:
        with safe_open(path, framework="pt") as file:
            return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118  no dict
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a readable safetensors file: {error}") from error


def check_sizes(config: ModelConfig, found: dict[str, tuple[int, ...]], source: Path) -> None:
    """`InputError` where sizes of a configuration are not those of the weights, before anything so large is built."""
    c = config

    def blocks(prefix: str) -> int:
        return len({key.split(".")[1] for key in found if key.startswith(prefix)})

    tokens = 1 + c.grid[0] * c.grid[1]
    wanted: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (c.embed_dim, c.in_channels, c.patch_size, c.patch_size),
        "pos_embed": (1, tokens, c.embed_dim),
    }
    if c.depth:
        wanted["blocks.0.mlp.fc1.weight"] = (int(c.embed_dim * c.mlp_ratio), c.embed_dim)
    if c.decoder_depth:
        wanted["decoder_embed.weight"] = (c.decoder_embed_dim, c.embed_dim)
        wanted["decoder_blocks.0.mlp.fc1.weight"] = (int(c.decoder_embed_dim * c.mlp_ratio), c.decoder_embed_dim)
    if c.kind == "hyperprior":
        wanted["bottleneck.h_a.0.weight"] = (c.hyper_channels, c.embed_dim)
    wrong = [
        f"{key} is {found[key]}, not {shape}" if key in found else f"{key} is missing"
        for key, shape in wanted.items()
        if found.get(key) != shape
    ]
    for name, depth in (("blocks.", c.depth), ("decoder_blocks.", c.decoder_depth)):
        if blocks(name) != depth:
            wrong.append(f"it has {blocks(name)} {name.rstrip('.')}, not {depth}")
    _refuse_misfit(wrong, source)


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
        raise InputError(f"{path} {_unreadable(path, str(error))}") from error
    state = document.get("model", document.get("state_dict", document)) if isinstance(document, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} holds no state dict of tensors")
    return state


def _unreadable(path: Path, message: str) -> str:
    """Why a checkpoint cannot be read safely; PyTorch's own words advise to switch safety off."""
    with path.open("rb") as file:
        if file.read(32).startswith(b"version https://git-lfs"):
            return "is a Git LFS pointer, not the checkpoint itself: fetch it with `git lfs pull`"
    foreign = re.search(r"(?:GLOBAL|global|class) ([\w.]+)", message)
    if foreign:
        return f"holds {foreign[1]}, and only tensors can be read safely: save the state dict alone"
    return "is not a checkpoint that can be read safely: it is damaged, or no checkpoint of PyTorch"


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
    _refuse_misfit(wrong, source)
    module.load_state_dict({key: value.to(own[key].dtype) for key, value in state.items()})
    module.eval()


def _refuse_misfit(wrong: list[str], source: Path) -> None:
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise InputError(f"{source} does not fit its configuration: {'; '.join(wrong[:3])}{more}")


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
