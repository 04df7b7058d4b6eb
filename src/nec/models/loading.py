"""`nec.load_model`: one name, whatever the model is."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from nec.errors import InputError, missing_extra
from nec.models import adapters
from nec.models.adapters import ADAPTERS
from nec.models.backbone import Backbone
from nec.store.opening import resolve


def load_model(
    name: str | Path,
    device: str = "auto",
    *,
    precision: str = "fp32",
    config: dict[str, Any] | str | Path | None = None,
    **options: Any,
) -> Any:
    """A model in evaluation mode, ready for `nec.encode`.

    Args:
        name: one of our model folders, the name of a shipped model, a checkpoint file, or `ADAPTER:WHAT`:
            `timm:NAME`, `torchgeo:MODEL/WEIGHTS`, `terratorch:NAME`, `hf:NAME`, `onnx:FILE`, `python:MODULE:FUNCTION`.
            A checkpoint file (`.pt`/`.pth`, read with `weights_only=True`, or `.safetensors`) is one of MAE or with its
            keys (Remote-Sensing-RVSA's ViT-B), timm or the published NEC code, and needs `config`.
        device: "auto" (the best there is), "cpu", "cuda" or "mps".
        precision: "fp32", or "bf16" or "fp16", which change some symbols and are part of the model's identity.
        config: sizes of a checkpoint file, as a dict or a JSON file (keys of `ModelConfig`, or MAE's `img_size`,
            `in_chans`). What it leaves out is ViT-B/16; the kind of bottleneck is read off the weights.
        options: an adapter's own, for example `layer`; see `nec.models.adapters`. `symmetries`, of any model: 2, 4 or
            8, embeddings are means over so many turns and flips of an image. Of a checkpoint: further keys of `config`.

    Returns:
        A `Backbone`; `NecModel` for ours. Of the published code's classifiers and segmentation backbones a
        `NecClassifier` or `NecSegmenter`, images to logits, with the `NecModel` as `.model`.

    Raises:
        InputError: nothing there, not readable, weights of another architecture than the configuration says, or a
            device that is not there.
        MissingExtraError: the library that it needs is not installed.
    """
    kind, colon, rest = str(name).partition(":")
    if colon and kind in ADAPTERS and not Path(name).exists():
        symmetries = _number(options.pop("symmetries", 1))
        if config is not None:
            raise InputError(f"config holds the sizes of a checkpoint file, and {name} knows its own: leave it out")
        if not rest:
            raise InputError(f"{name} lacks a name: {ADAPTERS[kind]}")
        module = adapters if hasattr(adapters, f"load_{kind}") else import_module(f"nec.models.{kind}")
        load = getattr(module, f"load_{kind}")
        try:
            made: Backbone = load(rest, device=device, precision=precision, **options)
        except TypeError as error:
            if "unexpected keyword argument" in str(error) and f"load_{kind}()" in str(error):
                raise InputError(f"{kind}: models do not know the option {str(error).rpartition(' ')[2]}") from error
            raise
        return made.symmetric(symmetries)
    return _own(name, device, precision, config, options)


def _own(
    name: str | Path, device: str, precision: str, config: dict[str, Any] | str | Path | None, options: dict[str, Any]
) -> Any:
    try:
        from nec.models.checkpoints import load_folder, read_json
        from nec.models.devices import check_precision, choose_device
        from nec.models.foreign import load_foreign
    except ModuleNotFoundError as error:
        missing_extra("PyTorch with safetensors", "torch", error)
    there = choose_device(device)
    if config is not None:
        sizes = config if isinstance(config, dict) else read_json(Path(config))
        loaded: Any = load_foreign(Path(name), {**sizes, **options})
    else:
        folder = resolve(name, "models")
        if folder.is_file():
            raise InputError(f"{folder} is a file: pass its sizes as config=..., or give a model folder")
        symmetries = _number(options.pop("symmetries", None))
        if options:
            raise InputError(f"{name} is a model folder, which does not take the option {next(iter(options))!r}")
        loaded = load_folder(folder)
        if symmetries is not None:
            loaded = loaded.symmetric(symmetries)
    loaded.precision = check_precision(precision)
    return loaded.to(there)


def _number(value: Any) -> Any:
    """A number that may have come as text from a command line."""
    return int(value) if isinstance(value, str) and value.isdigit() else value
