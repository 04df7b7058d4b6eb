"""The training loop that every head shares: AdamW, warm-up and cosine, averaged weights, the best epoch kept."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from nec.errors import InputError, missing_extra

try:
    import torch
    from torch import Tensor, nn
except ImportError as error:
    missing_extra("torch", "torch", error)

Score = tuple[float, ...]  # larger is better, entries after the first break ties


@dataclass(frozen=True)
class Schedule:
    """How long a training takes and how its steps are sized.

    Attributes:
        epochs: the cosine ends after so many.
        steps: of an epoch.
        warmup: share of all steps during which the rates rise.
        average: decay of the moving average of the weights; 0 keeps the weights themselves.
        clip: largest norm of a step's gradient.
    """

    epochs: int
    steps: int
    warmup: float
    average: float
    clip: float = 1.0

    def rate(self, step: int) -> float:
        """Factor on the learning rates at `step`: a linear rise, then half a cosine down to 0."""
        total = self.epochs * self.steps
        ramp = max(1, int(self.warmup * total))
        if step < ramp:
            return (step + 1) / ramp
        return 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, total - ramp)))


def fit_epochs(
    model: nn.Module,
    groups: Sequence[dict[str, Any]],
    schedule: Schedule,
    losses: Callable[[int], Iterable[Tensor]],
    score: Callable[[nn.Module], Score],
    on_epoch: Callable[[], None] | None = None,
) -> tuple[int, Score]:
    """Train `model` in place, and leave the (averaged) weights of the epoch that scored best.

    Args:
        groups: parameter groups of AdamW.
        losses: epoch (from 0) -> the losses of its `schedule.steps` batches. Each must be computed when it is asked for
            (a generator does that): a step lies between two of them.
        score: what an epoch's averaged weights are worth, on the validation part.
        on_epoch: called after each epoch.

    Returns:
        the epoch kept, counted from 1, and its score.

    Raises:
        InputError: training diverged.
    """
    optimizer = torch.optim.AdamW(list(groups))
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule.rate)
    average = copy.deepcopy(model).requires_grad_(False)
    best, best_epoch = model.state_dict(), 0
    best_score: Score = (-math.inf,)
    for epoch in range(schedule.epochs):
        model.train()
        for loss in losses(epoch):
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
            optimizer.step()
            rates.step()
            # Early on the average must not hang on to the weights that training began with.
            _follow(average, model, min(schedule.average, 1 - 10 / (10 + rates.last_epoch)))
        if not math.isfinite(loss.item()):
            raise InputError("training diverged: the embeddings may hold extreme or non-finite values")
        found = score(average)
        if found > best_score:
            best, best_score, best_epoch = copy.deepcopy(average.state_dict()), found, epoch + 1
        if on_epoch:
            on_epoch()
    model.load_state_dict(best)
    model.eval()
    return best_epoch, best_score


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)
    for kept, buffer in zip(average.buffers(), model.buffers(), strict=True):  # statistics of batch norms
        kept.copy_(buffer)
