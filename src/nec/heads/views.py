"""What an image goes through on its way into a model that is trained or tested online."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError, missing_extra

try:
    import torch
    from torch import Tensor
    from torch.nn import functional as F

    from nec.models.mae import NecModel
    from nec.training.augment import random_resized_crop_flip
    from nec.training.mixing import cut_box, cutmix, mixup, random_erase, smooth_targets
    from nec.training.rand_augment import rand_augment
except ImportError as error:
    missing_extra("torch", "torch", error)


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

    def __post_init__(self) -> None:
        if min(self.operations, self.mixup, self.cutmix) < 0:
            raise InputError("augmentation: operations, mixup and cutmix must not be negative")
        if not (0 <= self.erasing <= 1 and 0 <= self.label_smoothing < 1):
            raise InputError("augmentation: erasing and label smoothing are shares between 0 and 1")


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
