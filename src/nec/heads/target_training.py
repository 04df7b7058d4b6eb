"""Attention heads for regression and multi-label targets, with losses that pass over what is not known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nec.errors import missing_extra
from nec.heads.attention import AttentionClassifier
from nec.heads.training import Objective, Recipe, train_head

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F
except ImportError as error:
    missing_extra("torch", "torch", error)

Fitting = tuple[NDArray[np.floating], NDArray[np.float32]]  # tokens (n, t, d), targets (n, k) with NaN where unknown


@dataclass(frozen=True)
class TokenHead:
    """A trained head: tokens (n, t, d) or grids (n, y, x, d) -> predictions (n, targets).

    Numbers come in the targets' units: `mean` and `scale` (targets,) undo the standardisation of the training. Labels
    come as probabilities.
    """

    network: AttentionClassifier
    mean: NDArray[np.float32] | None
    scale: NDArray[np.float32] | None

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())

    def scores(self, embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
        outputs = self.network.scores(embeddings)
        if self.mean is None or self.scale is None:
            return torch.sigmoid(torch.from_numpy(outputs)).numpy()
        return outputs * self.scale + self.mean


def squared_error(outputs: Tensor, targets: Tensor, recipe: Recipe | None = None) -> Tensor:
    """Mean squared error over the known targets (not NaN) of (n, k); 0 where none is known."""
    known = ~targets.isnan()
    return F.mse_loss(outputs[known], targets[known], reduction="sum") / known.sum().clamp(min=1)


def label_loss(outputs: Tensor, targets: Tensor, recipe: Recipe | None = None) -> Tensor:
    """Mean binary cross-entropy of logits (n, k) over the known labels (not NaN); 0 where none is known."""
    known = ~targets.isnan()
    loss = F.binary_cross_entropy_with_logits(outputs[known], targets[known], reduction="sum")
    return loss / known.sum().clamp(min=1)


#: What each kind of target is fitted and chosen by: the epoch of the lowest loss on the validation part is kept.
OBJECTIVES = {
    "regression": Objective(squared_error, lambda outputs, targets: (-float(squared_error(outputs, targets)),)),
    "multilabel": Objective(label_loss, lambda outputs, targets: (-float(label_loss(outputs, targets)),)),
}


def train_target_head(
    train: Fitting,
    val: Fitting,
    task: str,
    stage: nn.Module | None,
    recipe: Recipe,
    seed: int,
    on_epoch: Callable[[], None] | None = None,
) -> tuple[TokenHead, int]:
    """Train a head for the "regression" or "multilabel" targets, and return it with the epoch kept (from 1).

    Numbers are standardised by the known ones of the training part, so that all targets weigh alike.
    """
    mean = scale = None
    parts = [train, val]
    if task == "regression":
        mean, std = np.nanmean(train[1], axis=0), np.nanstd(train[1], axis=0)
        scale = np.where(std > 1e-12, std, 1).astype(np.float32)
        parts = [(tokens, ((values - mean) / scale).astype(np.float32)) for tokens, values in parts]
    targets = train[1].shape[1]
    network, fit = train_head(parts[0], parts[1], targets, stage, recipe, seed, on_epoch, OBJECTIVES[task])
    return TokenHead(network, mean, scale), fit.epoch
