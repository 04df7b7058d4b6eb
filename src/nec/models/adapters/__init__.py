"""Adapters: models of other libraries as backbones. One module each, with one function `load(what, ...)`.

All take `device` and `precision`. A library is imported when its adapter is asked for; where it is missing, the error
names the extra that installs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nec.errors import InputError

#: Prefix of a model's name -> how the name goes on.
ADAPTERS = {
    "timm": "timm:NAME, for example timm:vit_small_patch16_224",
    "torchgeo": "torchgeo:MODEL/WEIGHTS, for example torchgeo:resnet18/ResNet18_Weights.SENTINEL2_ALL_MOCO",
    "terratorch": "terratorch:NAME, for example terratorch:prithvi_eo_v2_300",
    "hf": "hf:NAME, for example hf:facebook/dinov3-vits16-pretrain-lvd1689m, or a folder",
    "onnx": "onnx:FILE, for example onnx:model.onnx",
    "python": "python:MODULE:FUNCTION, for example python:my_models:make",
}


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
