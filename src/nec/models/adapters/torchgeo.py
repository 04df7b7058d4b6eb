"""`torchgeo:MODEL/WEIGHTS`: models of TorchGeo with the bands and statistics of their weights. Extra `[torchgeo]`."""

from __future__ import annotations

from typing import Any

import numpy as np

from nec.errors import InputError, missing_extra
from nec.models.adapters import fetching, numbers, whole
from nec.models.adapters.timm import of_timm_module
from nec.models.backbone import Backbone, Pixels


def load(
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
    """A model of TorchGeo.

    Args:
        name: MODEL, random weights, or MODEL/WEIGHTS, as `torchgeo.models.get_model` and `get_weight` take them.
        device, precision: see `nec.load_model`.
        layer, norm: as of timm, see `nec.models.adapters.timm`.
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
    weights: Any = None
    with fetching(f"torchgeo:{name}"):
        if wanted:
            weights = get_weight(wanted)
        given = {} if in_chans is None else {"in_chans": whole(in_chans)}
        module = get_model(model, weights=weights, **given)
    meta = {} if weights is None else weights.meta
    channels = int(meta.get("in_chans", whole(in_chans) or 3))
    names = bands.split(",") if isinstance(bands, str) else bands or meta.get("bands")
    own = _statistics(getattr(weights, "transforms", None))
    scale = 1 / 255 if channels == 3 and not meta.get("bands") else 1e-4
    averages, deviations = numbers(mean), numbers(std)
    if averages is None or deviations is None:
        if own is None:
            if weights is not None:
                raise InputError(f"torchgeo:{name} tells no mean and std: give them")
            own = ((0.5,) * channels, (0.25,) * channels)
        # What the library subtracts and divides by is in numbers of the files; ours is in images scaled to 0..1.
        own_scale = scale if max(own[1]) > 2 else 1.0
        averages = averages or tuple(float(v) * own_scale for v in _repeat(own[0], channels))
        deviations = deviations or tuple(float(v) * own_scale for v in _repeat(own[1], channels))
    if names is not None and len(names) != channels:
        raise InputError(
            f"torchgeo:{name} takes {channels} bands, not the {len(names)} of {', '.join(map(str, names))}"
        )
    pixels = Pixels(averages, deviations, None if names is None else tuple(names), scale=scale)
    side = whole(image_size) or 224
    facts = {"weights": wanted or None, "library": {"torchgeo": __version__}}
    return of_timm_module(
        module, f"torchgeo:{name}", pixels, (side, side), facts, layer, norm, device=device, precision=precision
    )


def _statistics(transforms: Any) -> tuple[Any, Any] | None:
    """Mean and std of the first normalisation among the weights' transforms (Kornia's or torchvision's)."""
    for step in transforms.modules() if hasattr(transforms, "modules") else ():
        held = getattr(step, "flags", None) or {}
        mean, std = held.get("mean", getattr(step, "mean", None)), held.get("std", getattr(step, "std", None))
        if mean is not None and std is not None:
            return tuple(np.asarray(value, np.float64).reshape(-1).tolist() for value in (mean, std))  # type: ignore[return-value]
    return None


def _repeat(values: Any, count: int) -> Any:
    return values * count if len(values) == 1 else values
