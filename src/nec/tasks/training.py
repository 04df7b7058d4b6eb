"""Train a classification head on token grids, epochs chosen on the validation part."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError, missing_extra
from nec.tasks.attention import AttentionClassifier, build_classifier

try:
    import torch
    from torch import nn
    from torch.nn import functional as F
except ImportError as error:
    missing_extra("torch", "torch", error)

Labelled = tuple[torch.Tensor, torch.Tensor]  # tokens (n, t, d) of any float type, labels (n,) int64


@dataclass(frozen=True)
class Recipe:
    """How a head is trained; the defaults measured best on EuroSAT tokens.

    Mixup of tokens gave nothing there, and flips and turns of the grid cannot: pooling does not know places.

    Attributes:
        epochs: passes over the training part; the cosine schedule ends there.
        batch: images a step.
        lr, stage_lr: peak learning rates of the head, and of a pre-trained input stage.
        weight_decay: of weight matrices.
        warmup: share of the steps during which the rates rise.
        label_smoothing: share of the target spread over all classes.
        token_dropout: share of an image's tokens that are left out of a step.
        average: decay of the moving average of the weights.
    """

    epochs: int = 30
    batch: int = 128
    lr: float = 2e-3
    stage_lr: float = 5e-4
    weight_decay: float = 0.05
    warmup: float = 0.1
    label_smoothing: float = 0.1
    token_dropout: float = 0.25
    average: float = 0.99


def default_recipe(images: int, with_stage: bool) -> Recipe:
    """The recipe for so many training images: small sets get more epochs, so that some hundreds of steps are made."""
    recipe = Recipe(epochs=12) if with_stage else Recipe()
    steps = math.ceil(images / recipe.batch)
    return replace(recipe, epochs=max(recipe.epochs, min(200, math.ceil(600 / steps))))


@dataclass(frozen=True)
class Fit:
    """What training found: the epoch (from 1) whose weights were kept, and their accuracy on the validation part."""

    epoch: int
    val_accuracy: float


def train_classifier(
    train: tuple[NDArray[np.floating], NDArray[np.int64]],
    val: tuple[NDArray[np.floating], NDArray[np.int64]],
    classes: int,
    stage: nn.Module | None,
    recipe: Recipe,
    seed: int,
    on_epoch: Callable[[], None] | None = None,
) -> tuple[AttentionClassifier, Fit]:
    """Make a head for arrays (tokens (n, t, d), labels (n,)) and train it, leaving torch's random state alone."""
    fitting, choosing = ((torch.from_numpy(tokens), torch.from_numpy(labels)) for tokens, labels in (train, val))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_classifier(fitting[0], classes, stage)
    return model, fit_head(model, fitting, choosing, recipe, seed, on_epoch)


def fit_head(
    model: AttentionClassifier,
    train: Labelled,
    val: Labelled,
    recipe: Recipe,
    seed: int,
    on_epoch: Callable[[], None] | None = None,
) -> Fit:
    """Train `model` (tokens (n, t, d) float32 -> logits) in place, leaving the weights of the best epoch on `val`.

    AdamW with warm-up and a cosine schedule, token dropout and label smoothing as in `recipe`. What is
    validated and kept is an exponential moving average of the weights. Raises `InputError` where training diverges.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens, labels = train
    batches = math.ceil(len(labels) / recipe.batch)
    optimizer = torch.optim.AdamW(parameter_groups(model, recipe.lr, recipe.stage_lr, recipe.weight_decay))
    total = recipe.epochs * batches
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, total, recipe.warmup))
    average = copy.deepcopy(model).requires_grad_(False)
    best, best_score, best_epoch = model.state_dict(), (-1.0, 0.0), 0
    for epoch in range(1, recipe.epochs + 1):
        model.train()
        for index in torch.randperm(len(labels), generator=generator).split(recipe.batch):
            loss = _loss(model, tokens[index].float(), labels[index], recipe, generator)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            _follow(average, model, min(recipe.average, 1 - 10 / (10 + schedule.last_epoch)))
        if not math.isfinite(loss.item()):
            raise InputError("training diverged: the embeddings may hold extreme or non-finite values")
        score = _score(average, val)
        if score > best_score:
            best, best_score, best_epoch = copy.deepcopy(average.state_dict()), score, epoch
        if on_epoch:
            on_epoch()
    model.load_state_dict(best)
    model.eval()
    return Fit(best_epoch, best_score[0])


def parameter_groups(model: nn.Module, lr: float, stage_lr: float, weight_decay: float) -> list[dict[str, object]]:
    """Groups for AdamW: weight matrices and convolutions decay; biases, norms and the query do not. A pre-trained input
    stage learns at its own rate.
    """
    groups = []
    for in_stage, rate in ((True, stage_lr), (False, lr)):
        named = [(n, p) for n, p in model.named_parameters() if n.startswith("stage.") == in_stage and p.requires_grad]
        for decays in (True, False):
            chosen = [p for _, p in named if (p.ndim in (2, 4)) == decays]
            if chosen:
                groups.append({"params": chosen, "lr": rate, "weight_decay": weight_decay if decays else 0.0})
    return groups


def _rate(step: int, total: int, warmup: float) -> float:
    ramp = max(1, int(warmup * total))
    if step < ramp:
        return (step + 1) / ramp
    return 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, total - ramp)))


def _loss(
    model: AttentionClassifier,
    tokens: torch.Tensor,
    labels: torch.Tensor,
    recipe: Recipe,
    generator: torch.Generator,
) -> torch.Tensor:
    """Cross-entropy of a batch whose images all lose the same random tokens."""
    t = tokens.shape[1]
    keep = torch.randperm(t, generator=generator)[: max(1, round(t * (1 - recipe.token_dropout)))]
    return F.cross_entropy(model(tokens, keep), labels, label_smoothing=recipe.label_smoothing)


@torch.no_grad()
def _follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    for mean, value in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(value, 1 - decay)


def _score(model: AttentionClassifier, val: Labelled) -> tuple[float, float]:
    """Accuracy, and of equally accurate weights those of the lower cross-entropy."""
    scores = model.logits(val[0])
    hits = (scores.argmax(dim=1) == val[1]).double().mean()
    return float(hits), -float(F.cross_entropy(scores, val[1]))
