"""Classifiers trained from images through a foundation model that stays frozen, or is fine-tuned with the head.

The reference for heads on stored embeddings: here the images are moved, and augmentation can act on their pixels.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError, missing_extra
from nec.heads.classification import ClassificationResult
from nec.heads.metrics import classification_metrics
from nec.heads.splits import Split, choose_split
from nec.progress import Progress

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F

    from nec.heads.attention import AttentionClassifier, build_classifier
    from nec.heads.loop import Schedule, Score, fit_epochs
    from nec.heads.views import AUGMENTATIONS, Augmentation, evaluation_views, training_views
    from nec.models.codec_bottleneck import CodecBottleneck
    from nec.models.mae import NecModel
except ImportError as error:
    missing_extra("torch", "torch", error)

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec
    from nec.datasets import Dataset

#: Tokens (n, y, x, d) -> the same after a lossy way to the consumer.
Quantizer = Callable[[Tensor], Tensor]
Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]  # images (n, h, w, c), labels (n,)

_MEMORY_BYTES = 1 << 30  # decoded images up to this size stay in memory
_STATISTICS = 512  # training images that the head's input is standardised by


@dataclass(frozen=True)
class OnlineSettings:
    """How a classifier is trained from images.

    The defaults suit some thousand images on a processor. The paper's fine-tuning on UC Merced: 400 epochs,
    augmentation "paper", `image_size` 256, `eval_resize` 292.

    Attributes:
        epochs: passes over the training part; the cosine schedule ends there.
        batch: images a step.
        lr: peak learning rate of the head.
        model_lr: that of what is pre-trained: the model's last layer, and the decoder stage.
        layer_decay: factor on the rate from each of the model's layers to the one before.
        weight_decay: of weight matrices.
        warmup: share of the steps during which the rates rise.
        average: decay of the moving average of the weights, 0 for none.
        augmentation: of the training images; one of `AUGMENTATIONS` by name, or an own one.
        image_size: side in pixels that a dataset's images are brought to; None keeps them.
        eval_resize: side that validation and test images are enlarged to, before their centre is cut out at the size
            of the training images.
        time_limit: seconds; fewer epochs are made where a timed step says that `epochs` would take longer. What comes
            out then depends on the machine.
    """

    epochs: int = 20
    batch: int = 64
    lr: float = 2e-3
    model_lr: float = 5e-4
    layer_decay: float = 0.75
    weight_decay: float = 0.05
    warmup: float = 0.1
    average: float = 0.99
    augmentation: str | Augmentation = "light"
    image_size: int | None = None
    eval_resize: int | None = None
    time_limit: float | None = None

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch) < 1:
            raise InputError("online training needs at least 1 epoch and 1 image a step")
        if self.time_limit is not None and self.time_limit <= 0:
            raise InputError("the time limit must be positive")
        if isinstance(self.augmentation, str) and self.augmentation not in AUGMENTATIONS:
            raise InputError(f"unknown augmentation {self.augmentation!r}: {', '.join(AUGMENTATIONS)}")

    @property
    def views(self) -> Augmentation:
        """What `augmentation` means."""
        return AUGMENTATIONS[self.augmentation] if isinstance(self.augmentation, str) else self.augmentation


class Backbone(nn.Module):
    """Normalised images (n, c, h, w) -> tokens (n, y*x, d) as they reach a consumer: a model, and a lossy way.

    `fine_tune` lets gradients through to the model; the quantiser hands them on as they are (straight through).
    """

    def __init__(self, model: NecModel, quantize: Quantizer | None, fine_tune: bool) -> None:
        super().__init__()
        self.model, self.quantize, self.fine_tune = model, quantize, fine_tune

    def forward(self, images: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.fine_tune and torch.is_grad_enabled()):
            tokens = self.model.embed(images).flatten(1, 2)
            return tokens if self.quantize is None else tokens + self._change(tokens.detach(), images)

    @torch.no_grad()
    def _change(self, tokens: Tensor, images: Tensor) -> Tensor:
        assert self.quantize is not None
        return self.quantize(tokens.unflatten(1, self.model.grid_of(images))).flatten(1, 2) - tokens


class OnlineClassifier(nn.Module):
    """Normalised images (n, c, h, w) -> logits (n, classes): a backbone and a head on its tokens."""

    def __init__(self, backbone: Backbone, head: AttentionClassifier) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))


def bottleneck_quantizer(model: NecModel) -> Quantizer:
    """Rounding by the model's own bottleneck, as at test time (by a codec's at quality 1)."""
    if model.bottleneck is None:
        raise InputError("this model has no bottleneck: adapt it first (nec adapt), or quantise by its codec")
    bottleneck = copy.deepcopy(model.bottleneck).eval()

    def quantize(tokens: Tensor) -> Tensor:
        if isinstance(bottleneck, CodecBottleneck):
            return bottleneck(tokens, tokens.new_zeros(len(tokens))).tokens
        return bottleneck(tokens.flatten(1, 2))[0].view_as(tokens)

    return quantize


def codec_quantizer(codec: EmbeddingCodec | None, quality: float = 1.0) -> Quantizer:
    """The way through a store: coded at `quality` and decoded."""
    if codec is None:
        raise InputError("the model has no codec: make one with nec fit")

    def quantize(tokens: Tensor) -> Tensor:
        return torch.from_numpy(codec.decode(codec.encode(tokens.cpu().numpy(), quality))).to(tokens)

    return quantize


# -- entry points -----------------------------------------------------------------------------------------------------


def train_online(
    model: NecModel,
    dataset: Dataset,
    *,
    fine_tune: bool = False,
    quantize: Quantizer | None = None,
    with_decoder: bool = False,
    settings: OnlineSettings | None = None,
    split: Sequence[str] | None = None,
    test_fraction: float | None = None,
    resplit: bool = False,
    seed: int = 0,
    seeds: int = 1,
    quiet: bool = True,
) -> ClassificationResult:
    """Train a classifier from a dataset's training images and report accuracy on its test images.

    Args:
        model: the foundation model; it is not changed.
        dataset: labelled images of bytes.
        fine_tune: train a copy of the model's encoder too, else the head alone.
        quantize: what the tokens go through before the head; see `bottleneck_quantizer`, `codec_quantizer`.
        with_decoder: put the model's first decoder stage in front of the head and train it as well.
        settings: defaults to `OnlineSettings()`.
        split, test_fraction, resplit: as in `nec.heads.classify`; by default the dataset's own split.
        seed, seeds: seeds of the trainings are `seed`, `seed` + 1, ...
        quiet: print no progress.

    Returns:
        a `ClassificationResult`; its `bytes_per_image` are those of the image files, which this way needs.

    Raises:
        InputError: no labels, images that do not fit the model, unknown parts, diverging training.
    """
    began = time.perf_counter()
    if seeds < 1:
        raise InputError("the number of seeds must be at least 1")
    if dataset.labels is None or not dataset.class_names or len(dataset.class_names) < 2:
        raise InputError(f"the {dataset.kind} dataset has no labels of at least two classes to learn")
    settings = settings or OnlineSettings()
    chosen = choose_split(
        dataset.labels,
        dataset.split,
        dataset.class_names,
        names=split,
        test_fraction=test_fraction,
        seed=seed,
        resplit=resplit,
    )
    parts = _parts(dataset, chosen, model, settings)
    truth, classes = parts[2].labels, len(dataset.class_names)
    stage = model.decoder_stage() if with_decoder else None
    fits = [
        _train(_backbone(model, quantize, fine_tune), stage, parts, classes, settings, seed + i, quiet)
        for i in range(seeds)
    ]
    measured = [classification_metrics(fit.scores, truth, dataset.class_names) for fit in fits]
    return ClassificationResult(
        head="attention",
        source="fine-tune" if fine_tune else "online",
        with_decoder=with_decoder,
        accuracies=[one["accuracy"] for one in measured],
        top5_accuracies=[one["top5"] for one in measured],
        val_accuracies=[fit.val_accuracy for fit in fits],
        epochs=[fit.epoch for fit in fits],
        confusion=sum(one["confusion"] for one in measured),
        class_names=list(dataset.class_names),
        train_images=len(chosen.train),
        val_images=len(chosen.val),
        test_images=len(chosen.test),
        split=chosen.description,
        seeds=[seed + i for i in range(seeds)],
        head_parameters=fits[0].parameters,
        bytes_per_image=float(np.mean(np.asarray(dataset.file_sizes)[np.concatenate([p.index for p in parts])])),
        seconds=time.perf_counter() - began,
        warning=chosen.warning,
        model=fits[0].module,
    )


def fine_tune(
    model: NecModel,
    train: Arrays,
    val: Arrays,
    test: Arrays,
    classes: int,
    settings: OnlineSettings | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Fine-tune a copy of the model with a head on arrays, and measure it; see `train_arrays`."""
    return train_arrays(model, train, val, test, classes, settings, seed, fine_tune=True)


def train_arrays(
    model: NecModel,
    train: Arrays,
    val: Arrays,
    test: Arrays,
    classes: int,
    settings: OnlineSettings | None = None,
    seed: int = 0,
    *,
    fine_tune: bool = False,
    quantize: Quantizer | None = None,
    with_decoder: bool = False,
) -> dict[str, Any]:
    """Train from arrays (images (n, h, w, c) uint8, labels (n,)), all of one size.

    Returns:
        `accuracy`, `top5`, `per_class` and `confusion` of the test part (see `classification_metrics`; classes are
        named "0", "1", ...), and of the training `val_accuracy`, `epoch` (kept), `epochs` (made), `parameters`
        (trained) and `seconds`.
    """
    began = time.perf_counter()
    parts = [Part(np.arange(len(labels)), images.__getitem__, labels) for images, labels in (train, val, test)]
    stage = model.decoder_stage() if with_decoder else None
    backbone = _backbone(model, quantize, fine_tune)
    fit = _train(backbone, stage, parts, classes, settings or OnlineSettings(), seed)
    figures = classification_metrics(fit.scores, test[1], [str(i) for i in range(classes)])
    keys = ("val_accuracy", "epoch", "epochs", "parameters")
    return figures | {key: getattr(fit, key) for key in keys} | {"seconds": time.perf_counter() - began}


def _backbone(model: NecModel, quantize: Quantizer | None, fine_tune: bool) -> Backbone:
    return Backbone(copy.deepcopy(model) if fine_tune else model, quantize, fine_tune)


# -- data -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """Images of a part of the split: `index` are their positions in the dataset, `take` reads places in the part."""

    index: NDArray[np.int64]
    take: Callable[[NDArray[np.int64]], NDArray[np.uint8]]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def _parts(dataset: Dataset, split: Split, model: NecModel, settings: OnlineSettings) -> list[Part]:
    assert dataset.labels is not None
    size = settings.image_size or dataset.image_size
    first = dataset.load(split.train[:1], size)
    name, bands = dataset.names[int(split.train[0])], model.config.in_channels
    if first.dtype != np.uint8 or first.shape[-1] != bands:
        raise InputError(
            f"{name} has {first.shape[-1]} band(s) of {first.dtype}; online training takes {bands} of uint8"
        )
    fits = first.nbytes * sum(len(part) for part in (split.train, split.val, split.test)) <= _MEMORY_BYTES
    return [
        Part(part, _reader(dataset, part, size, fits), dataset.labels[part])
        for part in (split.train, split.val, split.test)
    ]


def _reader(
    dataset: Dataset, positions: NDArray[np.int64], size: int | None, cached: bool
) -> Callable[[NDArray[np.int64]], NDArray[np.uint8]]:
    if cached:
        return dataset.load(positions, size).__getitem__
    return lambda places: dataset.load(positions[places], size)


# -- training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Fit:
    module: OnlineClassifier
    scores: NDArray[np.float32]  # of the test part
    val_accuracy: float
    epoch: int
    epochs: int
    parameters: int


def _train(
    backbone: Backbone,
    stage: nn.Module | None,
    parts: Sequence[Part],
    classes: int,
    settings: OnlineSettings,
    seed: int,
    quiet: bool = True,
) -> _Fit:
    train, val, test = parts
    net = _build(backbone, stage, train, classes, settings, seed)
    groups = parameter_groups(net, settings)
    batches = TrainingBatches(net, train, classes, settings, seed)
    epochs = batches.affordable_epochs()
    schedule = Schedule(epochs, batches.steps, settings.warmup, settings.average)
    trained: nn.Module = net if backbone.fine_tune else net.head
    with Progress(epochs, "training", "epochs", quiet=quiet) as progress:
        epoch, found = fit_epochs(
            trained, groups, schedule, batches.losses, _scorer(backbone, val, settings), progress.update
        )
    scores = run_through(net.eval(), test, net.backbone.model, settings).numpy()
    count = sum(parameter.numel() for group in groups for parameter in group["params"])
    return _Fit(net, scores, found[0], epoch, epochs, count)


def _scorer(backbone: Backbone, val: Part, settings: OnlineSettings) -> Callable[[nn.Module], Score]:
    """Accuracy and cross-entropy on the validation part. A frozen model sees its images once, not once an epoch."""
    truth = torch.from_numpy(val.labels)
    inputs = None if backbone.fine_tune else run_through(backbone, val, backbone.model, settings)

    def score(average: nn.Module) -> Score:
        if inputs is None:
            logits = run_through(average.eval(), val, backbone.model, settings)
        else:
            assert isinstance(average, AttentionClassifier)
            logits = average.logits(inputs.to(backbone.model.cls_token.device)).cpu()
        return float((logits.argmax(dim=1) == truth).double().mean()), -float(F.cross_entropy(logits, truth))

    return score


def _build(
    backbone: Backbone, stage: nn.Module | None, train: Part, classes: int, settings: OnlineSettings, seed: int
) -> OnlineClassifier:
    """The classifier before training, its head's input standardised by tokens of training images."""
    some = np.random.default_rng(seed).permutation(len(train))[:_STATISTICS]
    sample = Part(train.index[some], lambda places: train.take(some[places]), train.labels[some])
    config = backbone.model.config
    grid = backbone.model.grid_of(backbone.model.normalize(train.take(some[:1])))
    if stage is not None and grid != config.grid:
        side = config.image_size
        raise InputError(f"the decoder stage knows the places of {side}x{side} px images only: resize to {side} px")
    device = backbone.model.cls_token.device
    tokens = run_through(backbone, sample, backbone.model, settings).to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = build_classifier(tokens, classes, stage)
    return OnlineClassifier(backbone, head.to(device))


def parameter_groups(net: OnlineClassifier, settings: OnlineSettings) -> list[dict[str, Any]]:
    """What is trained, by learning rate and weight decay; everything else is frozen.

    The head learns at `lr`, the decoder stage at `model_lr`. When fine-tuning, the encoder's layer i of 0 (patches and
    CLS), 1 .. depth (blocks), depth + 1 (the last norm) learns at model_lr * layer_decay ** (depth + 1 - i), as in MAE.
    Matrices and the patches' convolution decay; vectors and the CLS token do not.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        rate = _learning_rate(name, net, settings)
        parameter.requires_grad_(rate is not None)
        if rate is not None:
            groups.setdefault((rate, parameter.ndim in (2, 4)), []).append(parameter)
    return [
        {"params": members, "lr": rate, "weight_decay": settings.weight_decay if decays else 0.0}
        for (rate, decays), members in groups.items()
    ]


def _learning_rate(name: str, net: OnlineClassifier, settings: OnlineSettings) -> float | None:
    """Peak rate of the parameter; None: it is not trained. The positions are sines and cosines and stay."""
    if name.startswith("head."):
        return settings.model_lr if name.startswith("head.stage.") else settings.lr
    depth = net.backbone.model.config.depth
    first, _, rest = name.removeprefix("backbone.model.").partition(".")
    layers = {"patch_embed": 0, "cls_token": 0, "norm": depth + 1}
    layer = int(rest.partition(".")[0]) + 1 if first == "blocks" else layers.get(first)
    if layer is None or not net.backbone.fine_tune:
        return None
    return settings.model_lr * settings.layer_decay ** (depth + 1 - layer)


@dataclass(frozen=True)
class TrainingBatches:
    """The batches of a training, as losses: order and views follow from seed, epoch and step."""

    net: OnlineClassifier
    train: Part
    classes: int
    settings: OnlineSettings
    seed: int

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        return math.ceil(len(self.train) / self.settings.batch)

    def losses(self, epoch: int) -> Iterator[Tensor]:
        """Cross-entropy with the mixed targets, batch by batch."""
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.train))
        size, how = self.settings.batch, self.settings.views
        for i, places in enumerate(np.split(order, range(size, len(order), size))):
            images, labels, step = self.train.take(places), self.train.labels[places], epoch * self.steps + i
            model = self.net.backbone.model
            views, targets = training_views(model, images, labels, self.classes, how, self.seed, step)
            yield F.cross_entropy(self.net(views), targets)

    def affordable_epochs(self) -> int:
        """Epochs that the time limit allows, by a timed step (its gradients are thrown away); at least one."""
        limit, seconds = self.settings.time_limit, math.inf
        if limit is None:
            return self.settings.epochs
        for _ in range(2):  # the first one warms up
            began = time.perf_counter()
            next(iter(self.losses(0))).backward()
            seconds = time.perf_counter() - began
        self.net.zero_grad()
        return max(1, min(self.settings.epochs, int(limit / (1.1 * seconds * self.steps))))


@torch.no_grad()
def run_through(apply: Callable[[Tensor], Tensor], part: Part, model: NecModel, settings: OnlineSettings) -> Tensor:
    """`apply` to all images of a part as they are for evaluation, in order, in batches; on the CPU."""
    places = np.split(np.arange(len(part)), range(256, len(part), 256))
    views = (evaluation_views(model, part.take(some), settings.eval_resize) for some in places)
    return torch.cat([apply(images).cpu() for images in views])
