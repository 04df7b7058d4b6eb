"""Pre-training and NEC adaptation on Lightning. Needs the extra `[torch]`.

Names are imported when they are used, so that heads can take the optimiser's helpers without Lightning.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nec.errors import missing_extra

if TYPE_CHECKING:
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
_MODULES = {"adapt": "run", "pretrain": "run", "Run": "trainer", "TrainReport": "trainer"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'settings')}"), name)
    except ImportError as error:
        missing_extra("PyTorch with Lightning", "torch", error)
