"""Classifiers trained from images through a model that stays frozen, or is fine-tuned with the head.

The reference for heads on stored embeddings: here the images are moved, and augmentation can act on their pixels.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError, missing_extra

try:
    import torch
    from torch import Tensor, nn
    from torch.nn import functional as F

    from nec.heads.network import AttentionHead, Score, Settings, class_score, fit_epochs, rated_groups
    from nec.models.codec_bottleneck import CodecBottleneck
    from nec.models.mae import NecModel
    from nec.training.augment import random_resized_crop_flip
    from nec.training.mixing import cut_box, cutmix, mixup, random_erase, smooth_targets
    from nec.training.rand_augment import rand_augment
except ImportError as error:
    missing_extra("torch", "torch", error)

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec
    from nec.datasets import Dataset

#: Tokens (n, y, x, d) -> the same after a lossy way to the consumer.
Quantizer = Callable[[Tensor], Tensor]

_MEMORY_BYTES = 1 << 30  # decoded images up to this size stay in memory
_STATISTICS = 512  # training images that the head's input is standardised by


# -- what images go through -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Augmentation:
    """How training images and their targets are varied; the defaults are the paper's.

    Attributes:
        crop_scale: range of the random crop's share of the area; it is flipped at random as well. None: neither.
        turns: vertical flips and transpositions too.
        operations, magnitude, deviation: of RandAugment; 0 operations leave it out.
        mixup, cutmix: parameter a of the Beta(a, a) that the shares are drawn from; 0 leaves it out. With both, each
            batch draws one of them.
        erasing: share of the images of which a rectangle is erased.
        label_smoothing: share of the target spread over all classes.
    """

    crop_scale: tuple[float, float] | None = (0.08, 1.0)
    turns: bool = False
    operations: int = 2
    magnitude: float = 9.0
    deviation: float = 0.5
    mixup: float = 0.8
    cutmix: float = 1.0
    erasing: float = 0.25
    label_smoothing: float = 0.1


#: What `--augment` takes. "light" is for runs of a few epochs: the paper's hundreds of epochs need its variety.
AUGMENTATIONS = {
    "paper": Augmentation(),
    "light": Augmentation(crop_scale=(0.5, 1.0), turns=True, operations=0, mixup=0, cutmix=0, erasing=0),
    "none": Augmentation(crop_scale=None, operations=0, mixup=0, cutmix=0, erasing=0, label_smoothing=0),
}


def training_views(
    model: NecModel,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    classes: int,
    how: Augmentation,
    seed: int,
    step: int,
) -> tuple[Tensor, Tensor]:
    """Images (n, h, w, c) and labels (n,) of the batch of `step` -> normalised views (n, c, h, w), target shares
    (n, classes). Everything random in them follows from `seed` and `step`.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    n = len(pixels)
    if how.crop_scale is not None:
        crops = random_resized_crop_flip(
            pixels.float(), torch.rand(n, 7, generator=generator), how.crop_scale, how.turns
        )
        pixels = crops.round().clamp(0, 255).to(torch.uint8)
    if how.operations:
        draw = torch.rand(n, how.operations, 4, generator=generator)
        fill = (255 * torch.tensor(model.config.mean)).round().clamp(0, 255).to(torch.uint8)
        pixels = rand_augment(pixels, draw, how.magnitude, how.deviation, fill)
    views = model.normalize(pixels.permute(0, 2, 3, 1))
    if how.erasing:
        draw, noise = torch.rand(n, 5, generator=generator), torch.randn(views.shape, generator=generator)
        views = random_erase(views, draw, noise.to(views), how.erasing)
    targets = smooth_targets(torch.from_numpy(labels), classes, how.label_smoothing).to(views)
    return _mixed(views, targets, how, np.random.default_rng([seed, step]))


def _mixed(views: Tensor, targets: Tensor, how: Augmentation, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """The batch after mixup or CutMix, or as it is where neither is wanted."""
    ways = [name for name in ("mixup", "cutmix") if getattr(how, name)]
    if not ways:
        return views, targets
    way = ways[rng.integers(len(ways))]
    share = float(rng.beta(getattr(how, way), getattr(how, way)))
    if way == "mixup":
        return mixup(views, targets, share)
    y, x = rng.random(2)
    return cutmix(views, targets, cut_box(views.shape[2], views.shape[3], share, y, x))


def evaluation_views(model: NecModel, images: NDArray[np.uint8], resize: int | None = None) -> Tensor:
    """Images (n, h, w, c) -> normalised (n, c, h, w), the same size; nothing random.

    `resize`: first bring the shorter side to so many pixels, then cut the centre out (the paper: 292, and 256 cut).
    """
    views = model.normalize(images)
    if resize is None:
        return views
    height, width = views.shape[2:]
    if resize < min(height, width):
        raise InputError(f"images of {width}x{height} px cannot be cut from images resized to {resize} px")
    factor = resize / min(height, width)
    size = [round(height * factor), round(width * factor)]
    larger = F.interpolate(views, size=size, mode="bicubic", antialias=True, align_corners=False)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return larger[:, :, top : top + height, left : left + width]


# -- the model with its head ------------------------------------------------------------------------------------------


class TokenSource(nn.Module):
    """Normalised images (n, c, h, w) -> tokens (n, y*x, d) as they reach a consumer: a model, and a lossy way.

    `fine_tune` lets gradients through to the model; the quantiser hands them on as they are (straight through).
    """

    def __init__(self, model: NecModel, quantize: Quantizer | None, fine_tune: bool) -> None:
        super().__init__()
        self.model, self.quantize, self.fine_tune = model, quantize, fine_tune

    def forward(self, images: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.fine_tune and torch.is_grad_enabled()):
            tokens = self.model.token_grid(images).flatten(1, 2)
            return tokens if self.quantize is None else tokens + self._change(tokens.detach(), images)

    @torch.no_grad()
    def _change(self, tokens: Tensor, images: Tensor) -> Tensor:
        assert self.quantize is not None
        return self.quantize(tokens.unflatten(1, self.model.grid_of(images))).flatten(1, 2) - tokens


class OnlineClassifier(nn.Module):
    """Normalised images (n, c, h, w) -> logits (n, classes): a model, a lossy way, and a head on the tokens."""

    def __init__(self, source: TokenSource, head: AttentionHead, eval_resize: int | None = None) -> None:
        super().__init__()
        self.source, self.head, self.eval_resize = source, head, eval_resize

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.source(images))

    def scores(self, part: Part) -> NDArray[np.float32]:
        """Logits (n, classes) of the images of a part."""
        return run_through(self.eval(), part, self.source.model, self.eval_resize).numpy()


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


# -- data -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """Images of a part of the split: `take` reads those at places in the part, (n, h, w, c) uint8."""

    take: Callable[[NDArray[np.int64]], NDArray[np.uint8]]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def read_images(dataset: Dataset, parts: list[NDArray[np.int64]], model: NecModel, size: int | None) -> list[Part]:
    """The images of each part, kept in memory where they are few, else read when they are needed."""
    assert dataset.labels is not None
    size = size or dataset.image_size
    first = dataset.load(parts[0][:1], size)
    name, bands = dataset.names[int(parts[0][0])], model.config.in_channels
    if first.dtype != np.uint8 or first.shape[-1] != bands:
        raise InputError(
            f"{name} has {first.shape[-1]} band(s) of {first.dtype}; online training takes {bands} of uint8"
        )
    kept = first.nbytes * sum(map(len, parts)) <= _MEMORY_BYTES

    def reader(part: NDArray[np.int64]) -> Callable[[NDArray[np.int64]], NDArray[np.uint8]]:
        return dataset.load(part, size).__getitem__ if kept else lambda places: dataset.load(part[places], size)

    return [Part(reader(part), dataset.labels[part]) for part in parts]


# -- training ---------------------------------------------------------------------------------------------------------


def fit_images(
    source: TokenSource,
    train: Part,
    val: Part,
    classes: int,
    with_decoder: bool,
    settings: Settings,
    seed: int,
    on_epoch: Callable[[], None] | None = None,
) -> tuple[OnlineClassifier, int, float]:
    """Train a head, and with `source.fine_tune` the model (a copy of it), on images; see `fit_arrays`."""
    model = source.model
    source = TokenSource(copy.deepcopy(model) if source.fine_tune else model, source.quantize, source.fine_tune)
    net = _build(source, model.decoder_stage() if with_decoder else None, train, classes, settings, seed)
    groups = rated_groups(net, lambda name: _learning_rate(name, net, settings), settings.weight_decay)
    steps, how = math.ceil(len(train) / settings.batch), AUGMENTATIONS[settings.augmentation]

    def losses(epoch: int) -> Iterator[Tensor]:
        """Cross-entropy with the mixed targets, batch by batch: order and views follow from seed, epoch and step."""
        order = np.random.default_rng([seed, epoch]).permutation(len(train))
        for i, places in enumerate(np.split(order, range(settings.batch, len(order), settings.batch))):
            images, labels = train.take(places), train.labels[places]
            views, targets = training_views(source.model, images, labels, classes, how, seed, epoch * steps + i)
            yield F.cross_entropy(net(views), targets)

    settings = replace(settings, epochs=_affordable_epochs(net, losses, settings, steps))
    trained: nn.Module = net if source.fine_tune else net.head
    epoch, found = fit_epochs(trained, groups, settings, steps, losses, _scorer(source, val, settings), on_epoch)
    return net.eval(), epoch, found[0]


def _scorer(source: TokenSource, val: Part, settings: Settings) -> Callable[[nn.Module], Score]:
    """Accuracy and cross-entropy on the validation part. A frozen model sees its images once, not once an epoch."""
    truth = torch.from_numpy(val.labels)
    inputs = None if source.fine_tune else run_through(source, val, source.model, settings.eval_resize)

    def score(average: nn.Module) -> Score:
        if inputs is None:
            logits = run_through(average.eval(), val, source.model, settings.eval_resize)
        else:
            assert isinstance(average, AttentionHead)
            logits = average.logits(inputs.to(source.model.cls_token.device)).cpu()
        return class_score(logits, truth)

    return score


def _build(
    source: TokenSource, stage: nn.Module | None, train: Part, classes: int, settings: Settings, seed: int
) -> OnlineClassifier:
    """The classifier before training, its head's input standardised by tokens of training images."""
    some = np.random.default_rng(seed).permutation(len(train))[:_STATISTICS]
    sample = Part(lambda places: train.take(some[places]), train.labels[some])
    config, device = source.model.config, source.model.cls_token.device
    grid = source.model.grid_of(source.model.normalize(train.take(some[:1])))
    if stage is not None and grid != config.grid:
        side = config.image_size
        raise InputError(f"the decoder stage knows the places of {side}x{side} px images only: resize to {side} px")
    tokens = run_through(source, sample, source.model, settings.eval_resize).to(device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = AttentionHead.build(tokens, classes, stage)
    return OnlineClassifier(source, head.to(device), settings.eval_resize)


def _learning_rate(name: str, net: OnlineClassifier, settings: Settings) -> float | None:
    """Peak rate of the parameter; None: it is not trained. The positions are sines and cosines and stay.

    The head learns at `lr`, the decoder stage at `model_lr`. When fine-tuning, the encoder's layer i of 0 (patches and
    CLS), 1 .. depth (blocks), depth + 1 (the last norm) learns at model_lr * layer_decay ** (depth + 1 - i), as in MAE.
    """
    if name.startswith("head."):
        return settings.model_lr if name.startswith("head.stage.") else settings.lr
    depth = net.source.model.config.depth
    first, _, rest = name.removeprefix("source.model.").partition(".")
    layers = {"patch_embed": 0, "cls_token": 0, "norm": depth + 1}
    layer = int(rest.partition(".")[0]) + 1 if first == "blocks" else layers.get(first)
    if layer is None or not net.source.fine_tune:
        return None
    return settings.model_lr * settings.layer_decay ** (depth + 1 - layer)


def _affordable_epochs(
    net: nn.Module, losses: Callable[[int], Iterator[Tensor]], settings: Settings, steps: int
) -> int:
    """Epochs that the time limit allows, by a timed step (its gradients are thrown away); at least one."""
    if settings.time_limit is None:
        return settings.epochs
    seconds = math.inf
    for _ in range(2):  # the first one warms up
        began = time.perf_counter()
        next(iter(losses(0))).backward()
        seconds = time.perf_counter() - began
    net.zero_grad()
    return max(1, min(settings.epochs, int(settings.time_limit / (1.1 * seconds * steps))))


@torch.no_grad()
def run_through(apply: Callable[[Tensor], Tensor], part: Part, model: NecModel, eval_resize: int | None) -> Tensor:
    """`apply` to all images of a part as they are for evaluation, in order, in batches; on the CPU."""
    places = np.split(np.arange(len(part)), range(256, len(part), 256))
    views = (evaluation_views(model, part.take(some), eval_resize) for some in places)
    return torch.cat([apply(images).cpu() for images in views])
