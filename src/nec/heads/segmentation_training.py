"""Train a segmentation head on token grids and masks, epochs chosen by mean IoU on the validation part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError, missing_extra
from nec.heads.metrics import confusion_matrix, segmentation_metrics
from nec.heads.training import Fit, parameter_groups
from nec.store import IGNORE

try:
    import torch
    from torch import nn
    from torch.nn import functional as F

    from nec.heads.loop import Schedule, Score, fit_epochs
    from nec.heads.segmenter import Segmenter, build_segmenter, interpolate
except ImportError as error:
    missing_extra("torch", "torch", error)

Masked = tuple[NDArray[np.floating], NDArray[np.uint8]]  # tokens (n, y, x, d), masks (n, rows, columns)


@dataclass(frozen=True)
class SegmentationRecipe:
    """How a segmentation head is built and trained. The defaults are for some hundred images on a processor.

    The paper's head is `width` None (half the tokens' dimensions), 6 blocks and an upscaling of 4.

    Attributes:
        width, blocks, upscale, drop_path: sizes of the head, see `nec.models.heads.SegmentationHead`.
        epochs: passes over the training part; the cosine schedule ends there.
        batch: images a step.
        lr, stage_lr: peak learning rates of the head, and of a pre-trained input stage.
        weight_decay: of weight matrices and convolutions.
        warmup: share of the steps during which the rates rise.
        auxiliary: weight of the auxiliary head's loss.
        turns: flip and transpose grids and masks together.
        average: decay of the moving average of the weights.
    """

    width: int | None = 32
    blocks: int = 2
    upscale: int = 2
    drop_path: float = 0.0
    epochs: int = 10
    batch: int = 8
    lr: float = 2e-3
    stage_lr: float = 5e-4
    weight_decay: float = 0.05
    warmup: float = 0.1
    auxiliary: float = 0.4
    turns: bool = True
    average: float = 0.99

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch, self.width or 1) < 1 or self.blocks < 0:
            raise InputError("a segmentation recipe needs at least 1 epoch, 1 image a step, a width of 1 and 0 blocks")


def default_segmentation_recipe(images: int, with_stage: bool) -> SegmentationRecipe:
    """The recipe for so many training images: about 3,000 images are seen in all, in 4 to 60 epochs."""
    del with_stage
    return replace(SegmentationRecipe(), epochs=min(60, max(4, round(3000 / images))))


def train_segmenter(
    train: Masked,
    val: Masked,
    classes: int,
    stage: nn.Module | None,
    recipe: SegmentationRecipe,
    seed: int,
    on_epoch: Callable[[], None] | None = None,
) -> tuple[Segmenter, Fit]:
    """Make a head for arrays (tokens (n, y, x, d) of any float type, masks (n, rows, columns) uint8) and train it.

    Pixels of 255 (`IGNORE`) enter neither loss nor score. `Fit.val_accuracy` is the mean IoU on `val`. Leaves torch's
    random state alone.

    Raises:
        InputError: a mask holds what is no class, a part without a labelled pixel, or training that diverges.
    """
    for part, (tokens, masks) in {"training": train, "validation": val}.items():
        _check(tokens, masks, classes, part)
    grids, truth = (torch.from_numpy(values) for values in train)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = {name: getattr(recipe, name) for name in ("width", "blocks", "upscale", "drop_path")}
        model = build_segmenter(grids, (truth.shape[1], truth.shape[2]), classes, stage, **sizes)

        def losses(epoch: int) -> Iterator[torch.Tensor]:
            for index in torch.randperm(len(truth), generator=generator).split(recipe.batch):
                yield segmentation_loss(model, grids[index].float(), truth[index], recipe, generator)

        schedule = Schedule(recipe.epochs, math.ceil(len(truth) / recipe.batch), recipe.warmup, recipe.average)
        groups = parameter_groups(model, recipe.lr, recipe.stage_lr, recipe.weight_decay)
        epoch, score = fit_epochs(model, groups, schedule, losses, partial(_score, val=val, classes=classes), on_epoch)
    return model, Fit(epoch, score[0])


def _check(tokens: NDArray[np.floating], masks: NDArray[np.uint8], classes: int, part: str) -> None:
    if tokens.ndim != 4 or masks.ndim != 3 or len(tokens) != len(masks):
        raise InputError(f"{part}: tokens {tokens.shape} and masks {masks.shape} must be (n, y, x, d) and (n, h, w)")
    labelled = masks != IGNORE
    if not labelled.any():
        raise InputError(f"no pixel of the {part} part has a label")
    highest = int(masks.max(where=labelled, initial=0))
    if highest >= classes:
        raise InputError(f"{part}: a mask holds {highest}, which is none of the {classes} classes (0 to {classes - 1})")


def segmentation_loss(
    model: Segmenter,
    tokens: torch.Tensor,
    masks: torch.Tensor,
    recipe: SegmentationRecipe,
    generator: torch.Generator,
) -> torch.Tensor:
    """Cross-entropy over the labelled pixels of a batch, plus the auxiliary head's."""
    turn = partial(turned, which=_draw_turn(tokens, masks, generator) if recipe.turns else 0)
    logits, auxiliary = model(tokens, turn)
    truth = turn(masks).long()
    return masked_cross_entropy(logits, truth) + recipe.auxiliary * masked_cross_entropy(auxiliary, truth)


def masked_cross_entropy(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over the pixels of `truth` (n, rows, columns) that are not `IGNORE`, 0 where none is.

    Logits (n, classes, h, w) are interpolated to the mask's size, of which every second pixel, every fourth and so on
    is taken where that is still twice as fine as the logits: they cannot follow more, and it costs most of a step.
    """
    step = max(1, 2 ** int(math.log2(truth.shape[1] / logits.shape[2] / 2))) if truth.shape[1] > logits.shape[2] else 1
    truth = truth[:, step // 2 :: step, step // 2 :: step]
    shown = interpolate(logits, (truth.shape[1], truth.shape[2]))
    total = F.cross_entropy(shown, truth, ignore_index=IGNORE, reduction="sum")
    return total / (truth != IGNORE).sum().clamp_min(1)


def _draw_turn(tokens: torch.Tensor, masks: torch.Tensor, generator: torch.Generator) -> int:
    """One of the symmetries of the square, or of the rectangle, for a whole batch."""
    square = tokens.shape[1] == tokens.shape[2] and masks.shape[1] == masks.shape[2]
    return int(torch.randint(8 if square else 4, (), generator=generator))


def turned(images: torch.Tensor, which: int) -> torch.Tensor:
    """Images (n, rows, columns, ...) flipped along rows (1), columns (2) and transposed (4), as the bits of `which`
    say.
    """
    axes = [axis for axis in (1, 2) if which & axis]
    flipped = images.flip(axes) if axes else images
    return flipped.transpose(1, 2) if which & 4 else flipped


def _score(model: nn.Module, val: Masked, classes: int) -> Score:
    """Mean IoU, and of equal ones those of the higher overall accuracy."""
    assert isinstance(model, Segmenter)
    confusion = confusion_matrix(model.predict(val[0]), val[1], classes)
    figures = segmentation_metrics(confusion, [str(i) for i in range(classes)])
    return figures["mean_iou"], figures["overall_accuracy"]
