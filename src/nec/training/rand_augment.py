"""RandAugment (Cubuk et al. 2020) on batches of images as torch bytes, with the operations and ranges of timm's
"rand-m9-mstd0.5-inc1", with which MAE and the paper fine-tune. Needs torch, neither torchvision nor Pillow.

Operations give Pillow's values (the geometric ones to within one, by bilinear interpolation where timm draws bilinear
or bicubic). Each takes images (n, c, h, w) uint8, one strength an image (n,) and the colour (c,) of what comes in from
outside, so that a batch needs a call for each operation that was drawn and not one for each image.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

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
