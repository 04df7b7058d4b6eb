"""Models on disk: our folders (config.json, model.safetensors, codec.json) and other people's checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, overload

from safetensors.torch import save_file

from nec.codec import EmbeddingCodec
from nec.errors import InputError
from nec.files import atomic_path, remove
from nec.models.config import ModelConfig
from nec.models.foreign import Loaded, load_foreign
from nec.models.mae import NecModel
from nec.models.weights import file_sha256, fill, read_safetensors
from nec.store.assets import resolve

FORMAT = 1
WEIGHTS_FILE, CONFIG_FILE, CODEC_FILE, CARD_FILE = "model.safetensors", "config.json", "codec.json", "README.md"


@overload
def load_model(path: str | Path, config: None = None) -> NecModel: ...
@overload
def load_model(path: str | Path, config: dict[str, Any] | str | Path) -> Loaded: ...
def load_model(path: str | Path, config: dict[str, Any] | str | Path | None = None) -> Loaded:
    """A model in evaluation mode, on the CPU.

    Args:
        path: one of our model folders, the name of a shipped model, or (with `config`) a checkpoint file of MAE (or
            with its keys: Remote-Sensing-RVSA's ViT-B), timm or the published NEC code: `.pt`/`.pth`, read with
            `weights_only=True`, or `.safetensors`.
        config: sizes of a foreign checkpoint, as a dict or a JSON file (keys of `ModelConfig`, or MAE's `img_size`,
            `in_chans`). What it leaves out is ViT-B/16; the kind of bottleneck is read off the weights.

    Returns:
        A `NecModel`; of the published code's classifiers and segmentation backbones a `NecClassifier` or
        `NecSegmenter`, images to logits, with the `NecModel` as `.model`.

    Raises:
        InputError: nothing there, not readable, or weights of another architecture than the configuration says.
    """
    if config is not None:
        return load_foreign(Path(path), _read_config(config))
    folder = resolve(path, "models")
    if folder.is_file():
        raise InputError(f"{folder} is a file: pass its sizes as config=..., or give a model folder")
    document = _read_json(folder / CONFIG_FILE)
    if document.get("format") != FORMAT or not isinstance(document.get("model"), dict):
        raise InputError(f"{folder / CONFIG_FILE} is not a model configuration of format {FORMAT}")
    weights = folder / WEIGHTS_FILE
    model = NecModel(ModelConfig.from_dict(document["model"]))
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
