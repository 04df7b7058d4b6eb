"""Models: backbones of any kind, and our own masked autoencoder with its bottlenecks (extra `[torch]`)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nec.errors import missing_extra
from nec.models.backbone import Backbone, Pixels
from nec.models.loading import load_model

if TYPE_CHECKING:
    from nec.models.checkpoints import save_model
    from nec.models.config import PRESETS, ModelConfig
    from nec.models.foreign import NecClassifier, NecSegmenter
    from nec.models.mae import NecModel

__all__ = [
    "PRESETS", "Backbone", "ModelConfig", "NecClassifier", "NecModel", "NecSegmenter", "Pixels", "load_model",
    "save_model",
]  # fmt: skip

_TORCH = {
    "PRESETS": "config",
    "ModelConfig": "config",
    "NecClassifier": "foreign",
    "NecModel": "mae",
    "NecSegmenter": "foreign",
    "save_model": "checkpoints",
}


def __getattr__(name: str) -> Any:
    if name not in _TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_TORCH[name]}"), name)
    except ModuleNotFoundError as error:
        missing_extra("PyTorch with safetensors", "torch", error)
