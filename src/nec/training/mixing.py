"""Mixup, CutMix, soft targets and random erasing on batches, decided by the numbers handed in. Needs torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

Box = tuple[int, int, int, int]


def smooth_targets(labels: Tensor, classes: int, smoothing: float = 0.0) -> Tensor:
    """Labels (n,) -> target shares (n, classes): 1 - `smoothing` for the label, and `smoothing` spread over all
    classes.
    """
    return F.one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes


def mixup(images: Tensor, targets: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Blend each image and its target with those of its mirror place in the batch (Zhang et al. 2018).

    Args:
        images: (n, c, h, w) float.
        targets: (n, classes) shares.
        share: weight of the image itself, in 0..1; it is drawn from Beta(a, a).
    """
    return images.lerp(images.flip(0), 1 - share), targets.lerp(targets.flip(0), 1 - share)


def cutmix(images: Tensor, targets: Tensor, box: Box) -> tuple[Tensor, Tensor]:
    """Replace the `box` (top, bottom, left, right; ends excluded) of each image by that of its mirror place in the
    batch, and mix the targets by area (Yun et al. 2019). Arguments as in `mixup`.
    """
    top, bottom, left, right = box
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
    area = (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])
    return mixed, targets.lerp(targets.flip(0), area)


def cut_box(height: int, width: int, share: float, y: float, x: float) -> Box:
    """The box that CutMix takes from the other image, (top, bottom, left, right).

    It has the image's aspect ratio and the area 1 - `share`; its centre lies at (`y`, `x`), uniform in 0..1, and what
    juts out of the image is cut off.
    """
    side = math.sqrt(1 - share)
    ends = []
    for length, centre in ((height, y), (width, x)):
        middle, half = int(centre * length), int(length * side) // 2
        ends += [max(0, middle - half), min(length, middle + half)]
    return ends[0], ends[1], ends[2], ends[3]


def random_erase(
    images: Tensor,
    draw: Tensor,
    noise: Tensor,
    probability: float = 0.25,
    area: tuple[float, float] = (0.02, 1 / 3),
    aspect: float = 0.3,
) -> Tensor:
    """Replace a random rectangle of some images by `noise` (Zhong et al. 2020; timm's "pixel" mode, one rectangle).

    Args:
        images: (n, c, h, w) float, normalised.
        draw: (n, 5) uniform in 0..1: whether, area, aspect ratio, top, left.
        noise: like `images`; standard normal.
        probability: share of the images that are erased.
        area: range of the rectangle's share of the image.
        aspect: its height / width is drawn from `aspect`..1/`aspect`, evenly on a log scale. timm draws again where the
            rectangle does not fit; here its sides are cut down to the image's.
    """
    height, width = images.shape[2:]
    acts, size, ratio, y, x = draw.t()
    wanted = (area[0] + (area[1] - area[0]) * size) * height * width
    shape = torch.exp((1 - 2 * ratio) * math.log(aspect))
    tall = (wanted * shape).sqrt().round().clamp(1, height)
    wide = (wanted / shape).sqrt().round().clamp(1, width)
    top, left = (y * (height - tall + 1)).floor(), (x * (width - wide + 1)).floor()
    rows, columns = torch.arange(height), torch.arange(width)
    in_rows = (rows >= top[:, None]) & (rows < (top + tall)[:, None])
    in_columns = (columns >= left[:, None]) & (columns < (left + wide)[:, None])
    erased = in_rows[:, :, None] & in_columns[:, None, :] & (acts < probability)[:, None, None]
    return torch.where(erased[:, None].to(images.device), noise, images)
