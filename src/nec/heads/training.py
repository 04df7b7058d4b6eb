"""Train a classification head on token grids, epochs chosen on the validation part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.errors import missing_extra
from nec.heads.attention import AttentionClassifier, build_classifier

try:
    import torch
    from torch import nn
    from torch.nn import functional as F

    from nec.heads.loop import Schedule, Score, fit_epochs
except ImportError as error:
    missing_extra("torch", "torch", error)

Labelled = tuple[torch.Tensor, torch.Tensor]  # tokens (n, t, d) of any float type, labels (n,) int64 or targets


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


@dataclass(frozen=True)
class Objective:
    """What a head learns.

    Attributes:
        loss: (outputs (n, k), targets, recipe) -> the mean loss of a batch.
        score: (outputs (n, k), targets) of the validation part -> what the weights are worth.
    """

    loss: Callable[[torch.Tensor, torch.Tensor, Recipe], torch.Tensor]
    score: Callable[[torch.Tensor, torch.Tensor], Score]


def _class_loss(logits: torch.Tensor, labels: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    return F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)


def _class_score(logits: torch.Tensor, labels: torch.Tensor) -> Score:
    """Accuracy, and of equally accurate weights those of the lower cross-entropy."""
    hits = (logits.argmax(dim=1) == labels).double().mean()
    return float(hits), -float(F.cross_entropy(logits, labels))


#: One class an image, given by its index.
CLASSES = Objective(_class_loss, _class_score)


def default_recipe(images: int, with_stage: bool) -> Recipe:
    """The recipe for so many training images: small sets get more epochs, so that some hundreds of steps are made."""
    recipe = Recipe(epochs=12) if with_stage else Recipe()
    steps = math.ceil(images / recipe.batch)
    return replace(recipe, epochs=max(recipe.epochs, min(200, math.ceil(600 / steps))))


@dataclass(frozen=True)
class Fit:
    """What training found: the epoch (from 1) whose weights were kept, and their accuracy on the validation part
    (for other objectives than classes: the first entry of their score).
    """

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
    return train_head(train, val, classes, stage, recipe, seed, on_epoch, CLASSES)


def train_head(
    train: tuple[NDArray[np.floating], NDArray[Any]],
    val: tuple[NDArray[np.floating], NDArray[Any]],
    outputs: int,
    stage: nn.Module | None,
    recipe: Recipe,
    seed: int,
    on_epoch: Callable[[], None] | None,
    objective: Objective,
) -> tuple[AttentionClassifier, Fit]:
    """Make a head with so many outputs for arrays (tokens (n, t, d), targets (n, ...)) and train it for `objective`,
    leaving torch's random state alone.
    """
    fitting, choosing = ((torch.from_numpy(tokens), torch.from_numpy(targets)) for tokens, targets in (train, val))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_classifier(fitting[0], outputs, stage)
    return model, fit_head(model, fitting, choosing, recipe, seed, on_epoch, objective)


def fit_head(
    model: AttentionClassifier,
    train: Labelled,
    val: Labelled,
    recipe: Recipe,
    seed: int,
    on_epoch: Callable[[], None] | None = None,
    objective: Objective = CLASSES,
) -> Fit:
    """Train `model` (tokens (n, t, d) float32 -> outputs) in place, leaving the weights of the best epoch on `val`.

    AdamW with warm-up and a cosine schedule, token dropout and label smoothing as in `recipe`. What is
    validated and kept is an exponential moving average of the weights. Raises `InputError` where training diverges.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens, targets = train

    def losses(epoch: int) -> Iterator[torch.Tensor]:
        for index in torch.randperm(len(targets), generator=generator).split(recipe.batch):
            keep = _kept_tokens(tokens.shape[1], recipe.token_dropout, generator)
            yield objective.loss(model(tokens[index].float(), keep), targets[index], recipe)

    def score(average: nn.Module) -> Score:
        assert isinstance(average, AttentionClassifier)
        return objective.score(average.logits(val[0]), val[1])

    schedule = Schedule(recipe.epochs, math.ceil(len(targets) / recipe.batch), recipe.warmup, recipe.average)
    groups = parameter_groups(model, recipe.lr, recipe.stage_lr, recipe.weight_decay)
    epoch, found = fit_epochs(model, groups, schedule, losses, score, on_epoch)
    return Fit(epoch, found[0])


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


def _kept_tokens(tokens: int, dropout: float, generator: torch.Generator) -> torch.Tensor:
    """Which tokens a step sees: all its images lose the same ones."""
    return torch.randperm(tokens, generator=generator)[: max(1, round(tokens * (1 - dropout)))]
