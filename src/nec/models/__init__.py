"""Foundation models in PyTorch: ViT, masked autoencoder, bottlenecks, checkpoints. Needs the extra `[torch]`."""

from __future__ import annotations

from nec.errors import missing_extra

try:
    import safetensors
    import torch
except ImportError as error:
    missing_extra("PyTorch with safetensors", "torch", error)

from nec.models.checkpoints import load_model, save_model
from nec.models.config import PRESETS, ModelConfig
from nec.models.mae import NecModel
from nec.models.predictors import NecClassifier, NecSegmenter

__all__ = ["PRESETS", "ModelConfig", "NecClassifier", "NecModel", "NecSegmenter", "load_model", "save_model"]
del safetensors, torch
