"""Heads in torch, what they minimise, and the one loop that trains them all."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError, missing_extra
from nec.heads.metrics import confusion_matrix, segmentation_metrics
from nec.labels import IGNORE
from nec.training.optim import decays, parameter_groups, warmup_cosine

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F

    from nec.models.heads import AttentionPool, SegmentationHead
    from nec.models.mae import DecoderStage
except ImportError as error:
    missing_extra("torch", "torch", error)

# `HeadSettings.resolve` has set every field that the task knows, which a type of optional fields cannot say.
Settings = Any
Score = tuple[float, ...]  # larger is better, entries after the first break ties
Arrays = tuple[NDArray[np.floating], NDArray[Any]]  # tokens (n, y, x, d) of any float type, truth (n, ...)


# -- modules ----------------------------------------------------------------------------------------------------------


class Standardize(nn.Module):
    """Tokens (n, t, d) to zero mean at each place and unit variance in each channel, as in the training part.

    Transformers repeat much of their position embeddings in every image's tokens. Taking the mean by place, `mean`
    (t, d), leaves what tells images apart. Tokens of another grid get the mean of all places.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", 1 / std.clamp_min(1e-6))

    def forward(self, tokens: Tensor) -> Tensor:
        mean = self.mean if tokens.shape[1] == len(self.mean) else self.mean.mean(dim=0)
        return (tokens - mean) * self.scale

    @classmethod
    def of(cls, tokens: Tensor) -> Standardize:
        """By the statistics of tokens (n, t, d) of any float type."""
        total = torch.zeros(tokens.shape[1:], dtype=torch.float64)
        square = torch.zeros_like(total)
        for some in tokens.split(1024):
            block = some.double()
            total += block.sum(dim=0)
            square += block.square().sum(dim=0)
        mean = total / len(tokens)
        variance = (square / len(tokens) - mean.square()).clamp_min(0).mean(dim=0)
        return cls(mean.float(), variance.sqrt().float())


class AttentionHead(nn.Module):
    """Tokens (n, t, d) -> outputs (n, k): an input stage that may map to another width, attention pooling, a linear
    layer.

    Parameter names follow timm's `AttentionPoolLatent` under `pool.` and a linear `head.`, as in the paper's code.
    """

    def __init__(self, dimensions: int, outputs: int, heads: int, stage: nn.Module | None = None) -> None:
        super().__init__()
        self.stage = stage if stage is not None else nn.Identity()
        self.pool = AttentionPool(dimensions, heads)
        self.head = nn.Linear(dimensions, outputs)

    @classmethod
    def build(cls, tokens: Tensor, outputs: int, stage: nn.Module | None = None) -> AttentionHead:
        """A new head for tokens like `tokens` (n, t, d), the training part.

        Without `stage` they are standardised by their own statistics; with one (the decoder's first stage, of which a
        copy is trained) its output is pooled as it is.
        """
        stage = Standardize.of(tokens) if stage is None else copy.deepcopy(stage)
        width = _width(stage, tokens)
        return cls(width, outputs, next(heads for heads in (8, 6, 4, 3, 2, 1) if width % heads == 0), stage)

    def forward(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """`keep`: positions of the tokens that are pooled, None all. The stage sees all of them."""
        tokens = self.stage(tokens)
        return self.head(self.pool(tokens if keep is None else tokens[:, keep]))

    @torch.no_grad()
    def logits(self, tokens: Tensor, batch: int = 512) -> Tensor:
        """Outputs (n, k) of tokens (n, t, d) of any float type, batch by batch, in evaluation mode."""
        self.eval()
        return torch.cat([self(some.float()) for some in tokens.split(batch)])

    def scores(self, embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
        """Outputs (n, k) of each image's embeddings, (n, t, d) or (n, y, x, d)."""
        return self.logits(torch.from_numpy(embeddings.reshape(len(embeddings), -1, embeddings.shape[-1]))).numpy()


class Segmenter(nn.Module):
    """Token grids (n, y, x, d) -> logits of the classes: an input stage on the tokens, then a `SegmentationHead`.

    `pixels`: (rows, columns) of pixels that a token stands for, which decide the size of what it predicts.
    """

    def __init__(self, stage: nn.Module, head: SegmentationHead, pixels: tuple[float, float]) -> None:
        super().__init__()
        self.stage = stage
        self.head = head
        self.pixels = pixels

    @classmethod
    def build(
        cls, tokens: Tensor, size: tuple[int, int], classes: int, stage: nn.Module | None, **sizes: Any
    ) -> Segmenter:
        """A new head for grids like `tokens` (n, y, x, d) and masks of `size` (rows, columns); `stage` as above.

        `sizes` are width, blocks, upscale and drop_path of `SegmentationHead`.
        """
        grid = (tokens.shape[1], tokens.shape[2])
        if isinstance(stage, DecoderStage):
            stage = stage.on_grid(grid)
        flat = tokens.flatten(1, 2)
        stage = Standardize.of(flat) if stage is None else copy.deepcopy(stage)
        head = SegmentationHead(_width(stage, flat), classes, **sizes)
        return cls(stage, head, (size[0] / grid[0], size[1] / grid[1]))

    def forward(self, tokens: Tensor, turn: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """(n, y, x, d) -> logits and auxiliary logits (n, classes, h, w), each at a resolution of its own.

        `turn` flips or transposes the grid (n, y, x, e) behind the stage, which sees every token at its own place.
        """
        grid = self.stage(tokens.flatten(1, 2)).unflatten(1, tokens.shape[1:3])
        return self.head(grid if turn is None else turn(grid))

    @torch.no_grad()
    def logits(self, tokens: Tensor) -> Tensor:
        """Tokens (n, y, x, d) of any float type -> logits (n, classes, rows, columns) of pixels, in evaluation mode."""
        self.eval()
        rows, columns = (round(side * pixels) for side, pixels in zip(tokens.shape[1:3], self.pixels, strict=True))
        return _interpolate(self(tokens.float())[0], (rows, columns))

    def probabilities(self, embeddings: NDArray[np.floating], batch: int = 32) -> NDArray[np.float32]:
        """Embeddings (n, y, x, d) -> float32 (n, classes, rows, columns) that add up to 1 in each pixel."""
        parts = torch.from_numpy(embeddings).split(batch)
        return torch.cat([self.logits(some).softmax(dim=1) for some in parts]).numpy()

    def predict(self, embeddings: NDArray[np.floating], batch: int = 32) -> NDArray[np.uint8]:
        """Embeddings (n, y, x, d) -> class index of each pixel, uint8 (n, rows, columns)."""
        parts = torch.from_numpy(embeddings).split(batch)
        return torch.cat([self.logits(some).argmax(dim=1).to(torch.uint8) for some in parts]).numpy()


def _width(stage: nn.Module, tokens: Tensor) -> int:
    with torch.no_grad():
        return stage(tokens[:1].float()).shape[-1]


def _interpolate(logits: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(logits.shape[-2:]) == size:
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


# -- what is learnt ---------------------------------------------------------------------------------------------------


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error over the known targets (not NaN) of (n, k); 0 where none is known."""
    known = ~targets.isnan()
    return F.mse_loss(outputs[known], targets[known], reduction="sum") / known.sum().clamp(min=1)


def label_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy of logits (n, k) over the known labels (not NaN); 0 where none is known."""
    known = ~targets.isnan()
    loss = F.binary_cross_entropy_with_logits(outputs[known], targets[known], reduction="sum")
    return loss / known.sum().clamp(min=1)


def masked_cross_entropy(logits: Tensor, truth: Tensor) -> Tensor:
    """Mean cross-entropy over the pixels of `truth` (n, rows, columns) that are not `IGNORE`, 0 where none is.

    Logits (n, classes, h, w) are interpolated to the mask's size, of which every second pixel, every fourth and so on
    is taken where that is still twice as fine as the logits: they cannot follow more, and it costs most of a step.
    """
    step = max(1, 2 ** int(math.log2(truth.shape[1] / logits.shape[2] / 2))) if truth.shape[1] > logits.shape[2] else 1
    truth = truth[:, step // 2 :: step, step // 2 :: step]
    shown = _interpolate(logits, (truth.shape[1], truth.shape[2]))
    total = F.cross_entropy(shown, truth, ignore_index=IGNORE, reduction="sum")
    return total / (truth != IGNORE).sum().clamp_min(1)


def class_score(logits: Tensor, labels: Tensor) -> Score:
    """Accuracy, and of equally accurate weights those of the lower cross-entropy."""
    return float((logits.argmax(dim=1) == labels).double().mean()), -float(F.cross_entropy(logits, labels))


def turned(images: Tensor, which: int) -> Tensor:
    """Images (n, rows, columns, ...) flipped along rows (1), columns (2) and transposed (4), as `which`'s bits say."""
    axes = [axis for axis in (1, 2) if which & axis]
    flipped = images.flip(axes) if axes else images
    return flipped.transpose(1, 2) if which & 4 else flipped


@dataclass(frozen=True)
class _Pooled:
    """Learning from pooled tokens (n, t, d): a step leaves out the same tokens of all its images."""

    task: str
    settings: Settings
    generator: torch.Generator

    def loss(self, model: nn.Module, tokens: Tensor, truth: Tensor) -> Tensor:
        count, share = tokens.shape[1], 1 - self.settings.token_dropout
        outputs = model(tokens, torch.randperm(count, generator=self.generator)[: max(1, round(count * share))])
        if self.task == "classification":
            return F.cross_entropy(outputs, truth, label_smoothing=self.settings.label_smoothing)
        return squared_error(outputs, truth) if self.task == "regression" else label_loss(outputs, truth)

    def score(self, model: Any, tokens: Tensor, truth: Tensor) -> Score:
        outputs = model.logits(tokens)
        if self.task == "classification":
            return class_score(outputs, truth)
        return (-float((squared_error if self.task == "regression" else label_loss)(outputs, truth)),)


@dataclass(frozen=True)
class _Masked:
    """Learning masks from grids (n, y, x, d): a step turns its images by one of the symmetries of their shape."""

    classes: int
    settings: Settings
    generator: torch.Generator

    def loss(self, model: nn.Module, tokens: Tensor, truth: Tensor) -> Tensor:
        which = 0
        if self.settings.turns:
            square = tokens.shape[1] == tokens.shape[2] and truth.shape[1] == truth.shape[2]
            which = int(torch.randint(8 if square else 4, (), generator=self.generator))
        logits, auxiliary = model(tokens, lambda grid: turned(grid, which))
        truth = turned(truth, which).long()
        return masked_cross_entropy(logits, truth) + self.settings.auxiliary * masked_cross_entropy(auxiliary, truth)

    def score(self, model: Any, tokens: Tensor, truth: Tensor) -> Score:
        """Mean IoU, and of equal ones those of the higher overall accuracy."""
        confusion = confusion_matrix(model.predict(tokens.numpy()), truth.numpy(), self.classes)
        figures = segmentation_metrics(confusion, [str(i) for i in range(self.classes)])
        return figures["mean_iou"], figures["overall_accuracy"]


# -- training ---------------------------------------------------------------------------------------------------------


def fit_arrays(
    train: Arrays,
    val: Arrays,
    task: str,
    outputs: int,
    stage: nn.Module | None,
    settings: Settings,
    seed: int,
    on_epoch: Callable[[], None] | None = None,
) -> tuple[AttentionHead | Segmenter, int, float]:
    """Make a head for token grids and train it; torch's random state is left alone.

    Args:
        train, val: tokens (n, y, x, d) and what is true of them: classes int64 (n,); numbers or labels (n, k) with NaN
            where not known; masks (n, rows, columns) uint8, where `IGNORE` enters neither loss nor score.
        task: one of `nec.heads.train.TASKS`.
        outputs: classes or targets.
        stage: trained in front of the head (a copy of it), or None.
        settings: resolved for the task.

    Returns:
        the head, the epoch kept (from 1), and its score on `val`: accuracy, mean IoU, or the negative loss.

    Raises:
        InputError: a mask holds what is no class, a part without a labelled pixel, or training that diverges.
    """
    masked = task == "segmentation"
    mean = scale = None
    if masked:
        for name, (tokens, masks) in {"training": train, "validation": val}.items():
            _check_masks(tokens, masks, outputs, name)
    elif task == "regression":  # standardised by what is known of the training part: all targets weigh alike
        mean, std = np.nanmean(train[1], axis=0), np.nanstd(train[1], axis=0)
        scale = np.where(std > 1e-12, std, 1).astype(np.float32)
        train, val = ((tokens, ((values - mean) / scale).astype(np.float32)) for tokens, values in (train, val))
    (inputs, truth), (val_inputs, val_truth) = (
        (torch.from_numpy(x if masked else x.reshape(len(x), -1, x.shape[-1])), torch.from_numpy(y))
        for x, y in (train, val)
    )
    generator = torch.Generator().manual_seed(seed)
    model: AttentionHead | Segmenter
    learning: _Pooled | _Masked
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if masked:
            sizes = {name: getattr(settings, name) for name in ("width", "blocks", "upscale", "drop_path")}
            model = Segmenter.build(inputs, (truth.shape[1], truth.shape[2]), outputs, stage, **sizes)
            learning = _Masked(outputs, settings, generator)
        else:
            model = AttentionHead.build(inputs, outputs, stage)
            learning = _Pooled(task, settings, generator)

        def losses(epoch: int) -> Iterator[Tensor]:
            for index in torch.randperm(len(truth), generator=generator).split(settings.batch):
                yield learning.loss(model, inputs[index].float(), truth[index])

        groups = rated_groups(
            model, lambda name: settings.stage_lr if name.startswith("stage.") else settings.lr, settings.weight_decay
        )
        epoch, score = fit_epochs(
            model,
            groups,
            settings,
            math.ceil(len(truth) / settings.batch),
            losses,
            lambda average: learning.score(average, val_inputs, val_truth),
            on_epoch,
        )
    if mean is not None and scale is not None and isinstance(model, AttentionHead):  # outputs in the targets' units
        with torch.no_grad():
            model.head.weight.mul_(torch.from_numpy(scale)[:, None])
            model.head.bias.mul_(torch.from_numpy(scale)).add_(torch.from_numpy(mean))
    return model, epoch, score[0]


def _check_masks(tokens: NDArray[np.floating], masks: NDArray[np.uint8], classes: int, part: str) -> None:
    if tokens.ndim != 4 or masks.ndim != 3 or len(tokens) != len(masks):
        raise InputError(f"{part}: tokens {tokens.shape} and masks {masks.shape} must be (n, y, x, d) and (n, h, w)")
    labelled = masks != IGNORE
    if not labelled.any():
        raise InputError(f"no pixel of the {part} part has a label")
    highest = int(masks.max(where=labelled, initial=0))
    if highest >= classes:
        raise InputError(f"{part}: a mask holds {highest}, which is none of the {classes} classes (0 to {classes - 1})")


def rated_groups(module: nn.Module, rate: Callable[[str], float | None], weight_decay: float) -> list[dict[str, Any]]:
    """Groups for AdamW; `rate` gives the learning rate of a parameter by its name, None freezes it."""
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(rate(name) is not None)
    return parameter_groups(
        module, lambda name, p: {"lr": rate(name), "weight_decay": weight_decay if decays(p) else 0.0}
    )


def fit_epochs(
    model: nn.Module,
    groups: Sequence[dict[str, Any]],
    settings: Settings,
    steps: int,
    losses: Callable[[int], Iterable[Tensor]],
    score: Callable[[nn.Module], Score],
    on_epoch: Callable[[], None] | None = None,
) -> tuple[int, Score]:
    """Train `model` in place, and leave the moving average of the weights of the epoch that scored best.

    Args:
        groups: parameter groups of AdamW.
        settings: `epochs`, `warmup` and `average` count.
        steps: of an epoch.
        losses: epoch (from 0) -> the losses of its `steps` batches. Each must be computed when it is asked for (a
            generator does that): a step lies between two of them.
        score: what an epoch's averaged weights are worth, on the validation part.
        on_epoch: called after each epoch.

    Returns:
        the epoch kept, counted from 1, and its score.

    Raises:
        InputError: training diverged.
    """
    optimizer = torch.optim.AdamW(list(groups))
    total = settings.epochs * steps
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(total, max(1, int(settings.warmup * total))))
    average = copy.deepcopy(model).requires_grad_(False)
    best, best_epoch = model.state_dict(), 0
    best_score: Score = (-math.inf,)
    for epoch in range(settings.epochs):
        model.train()
        for loss in losses(epoch):
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            rates.step()
            # Early on the average must not hang on to the weights that training began with.
            _follow(average, model, min(settings.average, 1 - 10 / (10 + rates.last_epoch)))
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
