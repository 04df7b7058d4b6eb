"""Pre-training and NEC adaptation on Lightning. Needs the extra `[torch]`."""

from __future__ import annotations

from nec.errors import missing_extra

try:
    import lightning
    import torch
except ImportError as error:
    missing_extra("PyTorch with Lightning", "torch", error)

from nec.training.run import adapt, pretrain
from nec.training.settings import (
    AdaptOptions,
    AdaptSettings,
    FactorizedSettings,
    HierarchicalSettings,
    HyperpriorSettings,
    TrainingOptions,
    TrainingSettings,
)
from nec.training.trainer import Run, TrainReport

__all__ = [
    "AdaptOptions",
    "AdaptSettings",
    "FactorizedSettings",
    "HierarchicalSettings",
    "HyperpriorSettings",
    "Run",
    "TrainReport",
    "TrainingOptions",
    "TrainingSettings",
    "adapt",
    "pretrain",
]
del lightning, torch
