"""Augmentations on whole batches of tensors, decided by the numbers handed in. Needs torch, not torchvision."""

from __future__ import annotations

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
