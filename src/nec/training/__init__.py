"""Pre-training and NEC adaptation on Lightning. Needs the extra `[torch]`."""

from __future__ import annotations

from nec.errors import missing_extra

try:
    import lightning
    import torch
except ImportError as error:
    missing_extra("PyTorch with Lightning", "torch", error)

from nec.training.run import adapt, continue_pretraining, pretrain, refit_decoder
from nec.training.settings import AdaptSettings, TrainingSettings

__all__ = ["AdaptSettings", "TrainingSettings", "adapt", "continue_pretraining", "pretrain", "refit_decoder"]
del lightning, torch
