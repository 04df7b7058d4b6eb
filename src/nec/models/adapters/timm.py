"""`timm:NAME`: any model of timm, its last feature map or the tokens of its last block. Extra `[timm]`."""

from __future__ import annotations

from typing import Any

from nec.errors import InputError, missing_extra
from nec.models.adapters import fetching, numbers, truth, whole
from nec.models.backbone import Backbone, Pixels

DEFAULT_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def load(
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
    """A model of timm.

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

    size = whole(image_size)
    with fetching(f"timm:{name}"), torch.random.fork_rng(devices=[]):
        torch.manual_seed(whole(seed) or 0)
        options = {} if size is None or not name.startswith(("vit", "deit", "eva", "beit")) else {"img_size": size}
        module = timm.create_model(name, pretrained=truth(pretrained), num_classes=0, **options)
        settings = timm.data.resolve_model_data_config(module)
    facts: dict[str, Any] = {"library": {"timm": timm.__version__}}
    bands = settings["input_size"][0]
    statistics = (numbers(mean) or settings["mean"], numbers(std) or settings["std"])
    if len(statistics[0]) != bands:
        raise InputError(f"timm:{name} takes {bands} bands: give mean and std of as many")
    side = (size, size) if size else tuple(settings["input_size"][1:])
    return of_timm_module(
        module, f"timm:{name}", Pixels(*statistics), side, facts, layer, norm, device=device, precision=precision
    )


def of_timm_module(
    module: Any,
    name: str,
    pixels: Pixels,
    size: tuple[int, int],
    facts: dict[str, Any],
    layer: int | str | None,
    norm: bool | str,
    **running: Any,
) -> Backbone:
    """The backbone of a module with timm's `forward_intermediates`, which drops CLS and registers."""
    from nec.models.devices import TorchBackbone

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
        return TorchBackbone(module, features, pixels, size, name=name, facts=facts, layout="NCHW", **running)
