"""Adapters: models of other libraries as backbones, one function `load_KIND(what, ...)` each.

All take `device` and `precision`. A library is imported when its adapter is asked for; where it is missing, the error
names the extra that installs it. `nec.models.onnx` has the adapter of ONNX files.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from nec.errors import InputError, missing_extra
from nec.models.backbone import Backbone, Pixels

#: Prefix of a model's name -> how the name goes on.
ADAPTERS = {
    "timm": "timm:NAME, for example timm:vit_small_patch16_224",
    "torchgeo": "torchgeo:MODEL/WEIGHTS, for example torchgeo:resnet18/ResNet18_Weights.SENTINEL2_ALL_MOCO",
    "terratorch": "terratorch:NAME, for example terratorch:prithvi_eo_v2_300",
    "hf": "hf:NAME, for example hf:facebook/dinov3-vits16-pretrain-lvd1689m, or a folder",
    "onnx": "onnx:FILE, for example onnx:model.onnx",
    "python": "python:MODULE:FUNCTION, for example python:my_models:make",
}


def load_timm(
    name: str,
    *,
    device: str = "auto",
    precision: str = "fp32",
    pretrained: bool | str = True,
    layer: int | str | None = None,
    norm: bool | str = True,
    image_size: int | str | None = None,
    mean: Any = None,
    std: Any = None,
    seed: int | str = 0,
) -> Backbone:
    """A model of timm: its last feature map, or the tokens of its last block. Extra `[timm]`.

    Args:
        name: as `timm.create_model` takes it, "hf-hub:..." included.
        device, precision: see `nec.load_model`.
        pretrained: with its weights; else random ones, for tests.
        layer: which of the model's feature levels, from 0 (transformers: blocks); the last if None.
        norm: apply the final normalisation of transformers.
        image_size: side of the input in pixels; the model's own if None.
        mean, std: other statistics than those of its configuration.
        seed: of random weights.
    """
    try:
        import timm
    except ImportError as error:
        missing_extra("timm", "timm", error)
    import torch

    size, name = whole(image_size), f"timm:{name}"
    with fetching(name), torch.random.fork_rng(devices=[]):
        torch.manual_seed(whole(seed) or 0)
        sized = size is not None and name.startswith(("timm:vit", "timm:deit", "timm:eva", "timm:beit"))
        options = {"img_size": size} if sized else {}
        module = timm.create_model(name.removeprefix("timm:"), pretrained=truth(pretrained), num_classes=0, **options)
        settings = timm.data.resolve_model_data_config(module)
    bands, *side = settings["input_size"]
    pixels = Pixels(*statistics(name, (mean, std), (settings["mean"], settings["std"]), bands))
    facts = {"library": {"timm": timm.__version__}}
    return _of_timm_module(
        module, pixels, (size, size) if size else tuple(side), facts, layer, norm,
        name=name, device=device, precision=precision,
    )  # fmt: skip


def _of_timm_module(
    module: Any,
    pixels: Pixels,
    size: tuple[int, int],
    facts: dict[str, Any],
    layer: int | str | None,
    norm: bool | str,
    **options: Any,
) -> Backbone:
    """The backbone of a module with timm's `forward_intermediates`, which drops CLS and registers."""
    from nec.models.devices import TorchBackbone

    name = options["name"]
    if not hasattr(module, "forward_intermediates"):
        raise InputError(f"{name} does not give its features (no forward_intermediates): wrap it by python:")
    chosen, normed = whole(layer), truth(norm)
    indices = 1 if chosen is None else [chosen]

    def features(images: Any) -> Any:
        return module.forward_intermediates(
            images, indices=indices, norm=normed, output_fmt="NCHW", intermediates_only=True
        )[-1]

    facts = {**facts, "layer": chosen, "norm": normed}
    with fetching(name):
        return TorchBackbone(module, features, pixels, size, facts=facts, layout="NCHW", **options)


def load_torchgeo(
    name: str,
    *,
    device: str = "auto",
    precision: str = "fp32",
    layer: int | str | None = None,
    norm: bool | str = True,
    bands: Any = None,
    mean: Any = None,
    std: Any = None,
    image_size: int | str | None = None,
    in_chans: int | str | None = None,
) -> Backbone:
    """A model of TorchGeo with the bands and statistics of its weights. Extra `[torchgeo]`.

    Args:
        name: MODEL, random weights, or MODEL/WEIGHTS, as `torchgeo.models.get_model` and `get_weight` take them.
        device, precision: see `nec.load_model`.
        layer, norm: as of timm, see `load_timm`.
        bands: names of the bands in order; those of the weights if None.
        mean, std: statistics of images scaled to 0..1 (numbers of reflectance by 10,000); the weights' own if None.
        image_size: side of the input in pixels; 224 if None.
        in_chans: how many bands a model of random weights takes.
    """
    try:
        from torchgeo import __version__
        from torchgeo.models import get_model, get_weight
    except ImportError as error:
        missing_extra("TorchGeo", "torchgeo", error)
    model, _, wanted = name.partition("/")
    name, weights = f"torchgeo:{name}", None
    with fetching(name):
        if wanted:
            weights = get_weight(wanted)
        module = get_model(model, weights=weights, **({} if in_chans is None else {"in_chans": whole(in_chans)}))
    meta: dict[str, Any] = getattr(weights, "meta", {})
    channels = int(meta.get("in_chans", whole(in_chans) or 3))
    bands = names(bands) or meta.get("bands")
    if bands is not None and len(bands) != channels:
        raise InputError(f"{name} takes {channels} bands, not the {len(bands)} of {', '.join(map(str, bands))}")
    own = first_normalization(getattr(weights, "transforms", None)) if wanted else ([0.5], [0.25])
    scale = 1 / 255 if channels == 3 and not meta.get("bands") else 1e-4
    found = statistics(name, (mean, std), own, channels, scale)
    side = whole(image_size) or 224
    facts = {"weights": wanted or None, "library": {"torchgeo": __version__}}
    return _of_timm_module(
        module, Pixels(*found, bands, scale=scale), (side, side), facts, layer, norm,
        name=name, device=device, precision=precision,
    )  # fmt: skip


def first_normalization(transforms: Any) -> tuple[Any, Any]:
    """Mean and std of the first normalisation among transforms (Kornia's or torchvision's), or None twice."""
    for step in transforms.modules() if hasattr(transforms, "modules") else ():
        held = getattr(step, "flags", None) or {}
        found = [held.get(key, getattr(step, key, None)) for key in ("mean", "std")]
        if found[0] is not None and found[1] is not None:
            mean, std = (np.asarray(value, np.float64).reshape(-1).tolist() for value in found)
            return mean, std
    return None, None


def load_terratorch(
    name: str,
    *,
    device: str = "auto",
    precision: str = "fp32",
    pretrained: bool | str = True,
    layer: int | str = -1,
    bands: Any = None,
    mean: Any = None,
    std: Any = None,
    scale: Any = 1e-4,
    image_size: int | str = 224,
    modality: str | None = None,
) -> Backbone:
    """A backbone of TerraTorch's registry (Prithvi, TerraMind, ...); prefix tokens are dropped. Extra `[terratorch]`.

    Args:
        name: as `terratorch.registry.BACKBONE_REGISTRY.build` takes it.
        device, precision: see `nec.load_model`.
        pretrained: with its weights.
        layer: which of the features that it gives; the last by default.
        bands: names of the bands in order, as the library's `bands=`.
        mean, std: of each band, of images scaled to 0..1; the model's own numbers of 10,000 where it tells them.
        scale: what numbers of the files are multiplied with to reach 0..1.
        image_size: side of the input in pixels.
        modality: of models of several, the one that is given.
    """
    try:
        import terratorch
        from terratorch.registry import BACKBONE_REGISTRY
    except ImportError as error:
        missing_extra("TerraTorch", "terratorch", error)
    from nec.models.devices import TorchBackbone

    given: dict[str, Any] = {} if bands is None else {"bands": list(names(bands) or ())}
    if modality is not None:
        given["modalities"] = [modality]
    with fetching(f"terratorch:{name}"):
        module = BACKBONE_REGISTRY.build(name, pretrained=truth(pretrained), **given)
    name, factor = f"terratorch:{name}", (numbers(scale) or (1e-4,))[0]
    settings = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None) or {}
    settings = settings if isinstance(settings, dict) else vars(settings)
    found = statistics(name, (mean, std), (settings.get("mean"), settings.get("std")), None, factor)
    pixels = Pixels(*found, names(bands) or names(getattr(module, "model_bands", None)), scale=factor)
    index, side = whole(layer), whole(image_size)
    assert index is not None
    assert side is not None

    def features(images: Any) -> Any:
        found = module(images if modality is None else {modality: images})
        if isinstance(found, dict):
            found = list(found.values())
        return found[index] if isinstance(found, list | tuple) else found

    facts = {"layer": index, "library": {"terratorch": getattr(terratorch, "__version__", "unknown")}}
    return TorchBackbone(
        module, features, pixels, (side, side), name=name, facts=facts, device=device, precision=precision
    )


def load_hf(
    name: str,
    *,
    device: str = "auto",
    precision: str = "fp32",
    layer: int | str | None = None,
    mean: Any = None,
    std: Any = None,
    image_size: int | str | None = None,
    trust_remote_code: bool | str = False,
) -> Backbone:
    """A model of `transformers.AutoModel`, its last hidden state without CLS and register tokens. Extra `[hf]`.

    Args:
        name: of a model on the hub, or a folder.
        device, precision: see `nec.load_model`.
        layer: which of the hidden states, from 0 (behind the embedding); the last, normalised one if None.
        mean, std: other statistics than those of its image processor.
        image_size: side of the input in pixels; the model's own if None.
        trust_remote_code: run code that comes with the weights.
    """
    try:
        import transformers
        from transformers import AutoModel
        from transformers.image_processing_base import ImageProcessingMixin
    except ImportError as error:
        missing_extra("transformers", "hf", error)
    from nec.models.devices import TorchBackbone

    with fetching(f"hf:{name}"):
        module = AutoModel.from_pretrained(name, trust_remote_code=truth(trust_remote_code))
    try:
        processor = ImageProcessingMixin.get_image_processor_dict(name)[0]
    except Exception:  # many models have none
        processor = {}
    settings, name = getattr(module.config, "vision_config", module.config), f"hf:{name}"
    module = getattr(module, "vision_model", module)
    own = processor.get("image_mean"), processor.get("image_std")
    pixels = Pixels(*statistics(name, (mean, std), own, int(getattr(settings, "num_channels", 3))))
    size = getattr(settings, "image_size", 224)
    side = whole(image_size) or (size if isinstance(size, int) else int(size[0]))
    patch, chosen = getattr(settings, "patch_size", None), whole(layer)

    def features(images: Any) -> Any:
        found = module(pixel_values=images, output_hidden_states=chosen is not None)
        tokens = found.last_hidden_state if chosen is None else found.hidden_states[chosen]
        if tokens.ndim == 3 and isinstance(patch, int):  # CLS and registers come first
            return tokens[:, tokens.shape[1] - (images.shape[2] // patch) * (images.shape[3] // patch) :]
        return tokens

    facts = {"layer": chosen, "library": {"transformers": transformers.__version__}}
    return TorchBackbone(
        module, features, pixels, (side, side), name=name, facts=facts, device=device, precision=precision
    )


def load_python(name: str, *, device: str = "auto", precision: str = "fp32", **options: Any) -> Backbone:
    """What a function of your own returns.

    Args:
        name: MODULE:FUNCTION; the module is found as `import` finds it, or in the working directory.
        device, precision: handed on to functions that take them.
        options: handed on to the function.

    Raises:
        InputError: no such module or function, or what it returns is no `Backbone`.
    """
    module_name, colon, function_name = name.partition(":")
    if not colon or not module_name or not function_name:
        raise InputError(f"python:{name}: give python:MODULE:FUNCTION")
    function = getattr(_import(module_name), function_name, None)
    if not callable(function):
        raise InputError(f"python:{name}: {module_name} has no function {function_name!r}")
    taken = inspect.signature(function).parameters
    every = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    unknown = [key for key in options if not every and key not in taken]
    if unknown:
        raise InputError(f"python:{name} does not take the option {unknown[0]!r}")
    running = {key: value for key, value in (("device", device), ("precision", precision)) if every or key in taken}
    made = function(**running, **options)
    if not isinstance(made, Backbone):
        raise InputError(f"python:{name} returned {type(made).__name__}, not a nec.Backbone (Backbone.from_callable)")
    return made


def _import(name: str) -> Any:
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and name.startswith(error.name):
            raise InputError(f"python: there is no module {name!r}, here or installed") from error
        raise InputError(f"python: {name} needs the module {error.name!r}, which is not installed") from error
    except Exception as error:  # of the user's code
        raise InputError(f"python: {name} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        if added:
            sys.path.remove(here)


# -- what they share --------------------------------------------------------------------------------------------------


@contextmanager
def fetching(name: str) -> Iterator[None]:
    """Turn what a library raises for an unknown name, or a hub that cannot be reached, into one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # of six libraries and their hubs; each has its own
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"{name} cannot be loaded: {first[:300]} (no network? give a local file)") from error


def statistics(
    name: str, given: Sequence[Any], own: Sequence[Any], bands: int | None, scale: float = 1.0
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std of images scaled to 0..1: what is given, else the library's own.

    The own ones are times `scale` where they are of numbers of the files. `bands`: how many there must be, if known;
    one number stands for all.
    """
    unit = scale if own[1] is not None and max(own[1]) > 2 else 1.0
    found = []
    for value, known in zip(given, own, strict=True):
        values = numbers(value) or (None if known is None else tuple(float(number) * unit for number in known))
        if values is None:
            raise InputError(f"{name} tells no mean and std: give them, of images scaled to 0..1")
        found.append(values * bands if bands and len(values) == 1 else values)
    if bands and {len(values) for values in found} != {bands}:
        raise InputError(f"{name} takes {bands} bands: give mean and std of as many")
    return found[0], found[1]


def names(value: Any) -> tuple[str, ...] | None:
    """Names, or their text "red,green" as a command line gives it; None for none."""
    items = value.split(",") if isinstance(value, str) else value
    return tuple(map(str, items)) if items else None


def numbers(value: Any) -> tuple[float, ...] | None:
    """Numbers, or their text "0.4,0.5" as a command line gives it."""
    if value is None:
        return None
    items = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    try:
        return tuple(float(item) for item in items)
    except (TypeError, ValueError):
        raise InputError(f"{value!r} is no list of numbers, such as 0.485,0.456,0.406") from None


def truth(value: object) -> bool:
    """A truth value, or its text."""
    if isinstance(value, str):
        if value.lower() not in ("true", "false", "1", "0", "yes", "no"):
            raise InputError(f"{value!r} is neither true nor false")
        return value.lower() in ("true", "1", "yes")
    return bool(value)


def whole(value: object) -> int | None:
    """A whole number, or its text; None stays."""
    if value is None:
        return None
    try:
        return int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise InputError(f"{value!r} is no whole number") from None
