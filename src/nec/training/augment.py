"""Augmentations on batches of tensors, decided by the numbers handed in: crops, RandAugment, mixup, CutMix, erasing."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def random_resized_crop_flip(
    images: Tensor, draw: Tensor, scale: tuple[float, float] = (0.2, 1.0), turns: bool = False
) -> Tensor:
    """MAE's augmentation: a random crop resized bicubically to the input's size, and a random horizontal flip.

    Args:
        images: (n, c, h, w) float.
        draw: (n, 7) uniform in 0..1, on the CPU: it alone decides each image's crop and flips.
        scale: range of the crop's share of the image's area; the aspect ratio is drawn from 3/4..4/3.
        turns: also draw a vertical flip and a transposition. Images from above have no upright side.
    """
    n = images.shape[0]
    low, high = scale
    area = low + (high - low) * draw[:, 0]
    ratio = torch.exp((2 * draw[:, 1] - 1) * torch.log(torch.tensor(4 / 3)))
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    # Where the crop's centre may lie, in grid_sample's coordinates of -1..1.
    centre_x = (1 - width) * (2 * draw[:, 2] - 1)
    centre_y = (1 - height) * (2 * draw[:, 3] - 1)
    flip_x = torch.where(draw[:, 4] < 0.5, -1.0, 1.0)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = width * flip_x, height
    theta[:, 0, 2], theta[:, 1, 2] = centre_x, centre_y
    if turns:
        theta[:, 1, 1] *= torch.where(draw[:, 5] < 0.5, -1.0, 1.0)
        transposed = torch.stack([theta[:, :, 1], theta[:, :, 0], theta[:, :, 2]], dim=2)
        theta = torch.where((draw[:, 6] < 0.5)[:, None, None], transposed, theta)
    grid = F.affine_grid(theta.to(images), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bicubic", padding_mode="reflection", align_corners=False)


Operation = Callable[[Tensor, Tensor, Tensor], Tensor]
Strength = Callable[[Tensor, Tensor], Tensor]
Matrix = tuple[Tensor | float, ...]

#: ITU-R 601 weights of R, G, B in Pillow's grey: (19595 R + 38470 G + 7471 B + 2^15) >> 16.
_LUMA = (19595, 38470, 7471)


def rand_augment(
    images: Tensor, draw: Tensor, magnitude: float = 9.0, deviation: float = 0.5, fill: Tensor | None = None
) -> Tensor:
    """Put each image through as many operations as `draw` has rows for it; each acts with probability one half.

    Args:
        images: (n, c, h, w) uint8.
        draw: (n, operations, 4) uniform in 0..1: which operation, whether it acts, how its strength deviates from
            `magnitude`, its direction.
        magnitude, deviation: mean and standard deviation of the strength, on a scale of 0 to 10.
        fill: (c,) uint8, what rotations, shears and shifts bring in from outside; mid-grey if None.

    Returns:
        (n, c, h, w) uint8.
    """
    if fill is None:
        fill = torch.full((images.shape[1],), 128, dtype=torch.uint8)
    images = images.clone()
    for which, acts, strength, direction in draw.permute(1, 2, 0):
        chosen = (which * len(OPERATIONS)).long()
        # The normal distribution's quantile function, clamped away from its infinite ends.
        normal = math.sqrt(2) * torch.erfinv((2 * strength - 1).clamp(-0.999999, 0.999999))
        level = ((magnitude + deviation * normal) / 10).clamp(0, 1)
        sign = torch.where(direction < 0.5, -1.0, 1.0)
        for index, (operate, measure) in enumerate(OPERATIONS.values()):
            members = torch.nonzero((chosen == index) & (acts < 0.5))[:, 0]
            if len(members):
                images[members] = operate(images[members], measure(level[members], sign[members]), fill)
    return images


# -- values ---------------------------------------------------------------------------------------------------------


def auto_contrast(images: Tensor, strength: Tensor, fill: Tensor) -> Tensor:
    """Stretch each band to 0..255; a band of one value stays. No strength."""
    values = images.flatten(2).double()
    low, high = values.amin(dim=2, keepdim=True), values.amax(dim=2, keepdim=True)
    scale = 255 / (high - low).clamp(min=1)
    stretched = torch.where(high > low, (values * scale - low * scale).trunc().clamp(0, 255), values)
    return stretched.to(torch.uint8).view_as(images)


def equalize(images: Tensor, strength: Tensor, fill: Tensor) -> Tensor:
    """Flatten each band's histogram. No strength."""
    bands = images.flatten(0, 1).flatten(1).long()
    rows = torch.arange(len(bands))[:, None] * 256
    histogram = torch.bincount((bands + rows).flatten(), minlength=256 * len(bands)).view(-1, 256)
    last = 255 - (histogram.flip(1) > 0).long().argmax(dim=1, keepdim=True)  # the highest value that occurs
    step = (bands.shape[1] - histogram.gather(1, last)) // 255
    below = histogram.cumsum(dim=1) - histogram
    table = ((step // 2 + below) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step > 0, table, torch.arange(256))
    return table.gather(1, bands).to(torch.uint8).view_as(images)


def posterize(images: Tensor, strength: Tensor, fill: Tensor) -> Tensor:
    """Keep the upper `strength` bits of 8."""
    mask = 256 - 2 ** (8 - strength.long())
    return (images.long() & _spread(mask)).to(torch.uint8)


def solarize(images: Tensor, strength: Tensor, fill: Tensor) -> Tensor:
    """Invert the values from `strength` upwards."""
    return torch.where(images < _spread(strength), images, 255 - images)


def solarize_add(images: Tensor, strength: Tensor, fill: Tensor) -> Tensor:
    """Add `strength` to the values below 128."""
    added = (images.long() + _spread(strength.long())).clamp(max=255).to(torch.uint8)
    return torch.where(images < 128, added, images)


def color(images: Tensor, strength: Tensor, fill: Tensor) -> Tensor:
    """Blend with the image's grey: 0 grey, 1 as it is, above 1 more colourful."""
    return _blend(_grey(images).expand_as(images), images, strength)


def contrast(images: Tensor, strength: Tensor, fill: Tensor) -> Tensor:
    """Blend with the mean of the image's grey."""
    mean = (_grey(images).double().mean(dim=(1, 2, 3), keepdim=True) + 0.5).floor()
    return _blend(mean.expand_as(images), images, strength)


def sharpness(images: Tensor, strength: Tensor, fill: Tensor) -> Tensor:
    """Blend with the image smoothed by (1 1 1, 1 5 1, 1 1 1) / 13; the outermost pixels stay."""
    kernel = torch.ones(1, 1, 3, 3)
    kernel[..., 1, 1] = 5
    bands = images.flatten(0, 1)[:, None].float()
    smooth = images.clone()
    if min(images.shape[2:]) > 2:
        inner = (F.conv2d(bands, kernel) / 13 + 0.5).floor().to(torch.uint8)
        smooth[:, :, 1:-1, 1:-1] = inner.view(*images.shape[:2], *inner.shape[2:])
    return _blend(smooth, images, strength)


def _spread(strength: Tensor) -> Tensor:
    return strength[:, None, None, None]


def _grey(images: Tensor) -> Tensor:
    """(n, 1, h, w) int64: Pillow's grey of RGB; of other numbers of bands their mean."""
    if images.shape[1] != 3:
        return images.double().mean(dim=1, keepdim=True).round().long()
    weights = torch.tensor(_LUMA)[:, None, None]
    return ((images.long() * weights).sum(dim=1, keepdim=True) + 0x8000) >> 16


def _blend(zero: Tensor, one: Tensor, factor: Tensor) -> Tensor:
    """zero + factor * (one - zero), beyond 0..1 as well, cut off to a byte as Pillow does."""
    mixed = zero.float() + _spread(factor) * (one.float() - zero.float())
    return mixed.clamp(0, 255).to(torch.uint8)


# -- places ---------------------------------------------------------------------------------------------------------


def _rotation(degrees: Tensor, height: int, width: int) -> Matrix:
    """About the centre, counter-clockwise."""
    angle = -torch.deg2rad(degrees)
    cos, sin = angle.cos(), angle.sin()
    across = width / 2 - cos * width / 2 - sin * height / 2
    down = height / 2 + sin * width / 2 - cos * height / 2
    return cos, sin, across, -sin, cos, down


def _moved(matrix: Callable[[Tensor, int, int], Matrix]) -> Operation:
    """Pillow's `transform(AFFINE, (a, b, c, d, e, f), BILINEAR)`, the six from strength, height and width: the pixel at
    (x, y) is read at (a x + b y + c, d x + e y + f); coordinates in pixels from the upper left corner, a pixel's own
    being its centre.
    """

    def operate(images: Tensor, strength: Tensor, fill: Tensor) -> Tensor:
        height, width = images.shape[2:]
        a, b, c, d, e, f = (torch.zeros_like(strength) + value for value in matrix(strength, height, width))
        b, d = b * height / width, d * width / height  # affine_grid counts each axis from -1 to 1
        theta = torch.stack([a, b, a + b + 2 * c / width - 1, d, e, d + e + 2 * f / height - 1], dim=1).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(images.shape), align_corners=False)
        moved = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
        inside = ((grid >= -1) & (grid < 1)).all(dim=-1)[:, None]
        return torch.where(inside, moved.round().to(torch.uint8), fill[:, None, None])

    return operate


# -- strengths: (level 0..1, direction -1 or 1) -> what the operation takes ------------------------------------------


def _signed(largest: float) -> Strength:
    return lambda level, sign: largest * level * sign


def _factor(level: Tensor, sign: Tensor) -> Tensor:
    return (1 + 0.9 * level * sign).clamp(min=0.1)


#: timm's list of operations whose effect rises with the level, in its order, with the strength of each. Shears are by a
#: multiple of the other coordinate, translations by a share of the side.
OPERATIONS: dict[str, tuple[Operation, Strength]] = {
    "AutoContrast": (auto_contrast, _signed(0)),
    "Equalize": (equalize, _signed(0)),
    "Invert": (lambda images, strength, fill: 255 - images, _signed(0)),
    "Rotate": (_moved(_rotation), _signed(30)),
    "Posterize": (posterize, lambda level, sign: (4 - (level * 4).floor()).clamp(min=1)),  # Pillow refuses to keep none
    "Solarize": (solarize, lambda level, sign: 256 - (level * 256).floor()),
    "SolarizeAdd": (solarize_add, lambda level, sign: (level * 110).floor()),
    "Color": (color, _factor),
    "Contrast": (contrast, _factor),
    "Brightness": (lambda images, strength, fill: _blend(torch.zeros_like(images), images, strength), _factor),
    "Sharpness": (sharpness, _factor),
    "ShearX": (_moved(lambda s, height, width: (1, s, 0, 0, 1, 0)), _signed(0.3)),
    "ShearY": (_moved(lambda s, height, width: (1, 0, 0, s, 1, 0)), _signed(0.3)),
    "TranslateX": (_moved(lambda s, height, width: (1, 0, s * width, 0, 1, 0)), _signed(0.45)),
    "TranslateY": (_moved(lambda s, height, width: (1, 0, 0, 0, 1, s * height)), _signed(0.45)),
}


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
