"""The parts of models and heads, with the parameter names of MAE's, timm's and the published code's checkpoints.

Written plainly so that these load key for key; nothing here needs timm or torchvision.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nec.errors import InputError


class PatchEmbed(nn.Module):
    """Image (n, c, h, w) -> tokens (n, y*x, d), row by row. h and w must be multiples of the patch size."""

    def __init__(self, patch_size: int, in_channels: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, dim, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention with one fused `qkv` projection."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"{dim} dimensions cannot be split over {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, length, dim = x.shape
        q, k, v = self.qkv(x).view(n, length, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).reshape(n, length, dim))


class Mlp(nn.Module):
    """Two linear layers with a GELU between."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def sincos_positions(dim: int, grid: tuple[int, int]) -> Tensor:
    """Fixed 2-D sine-cosine positions (1, 1 + y*x, dim) as in MAE: a zero row for CLS, then the grid row by row.

    The first half of the channels encodes the column, the second half the row (MAE's order).
    """
    if dim % 4:
        raise ValueError(f"sine-cosine positions need a multiple of 4 dimensions, got {dim}")
    frequencies = 1.0 / 10000 ** (np.arange(dim // 4, dtype=np.float64) / (dim / 4))
    rows, columns = np.meshgrid(np.arange(grid[0]), np.arange(grid[1]), indexing="ij")
    halves = [np.outer(axis.ravel(), frequencies) for axis in (columns, rows)]
    table = np.concatenate([f(angle) for angle in halves for f in (np.sin, np.cos)], axis=1)
    with_cls = np.concatenate([np.zeros((1, dim)), table])
    return torch.from_numpy(with_cls).float()[None]


def resize_positions(positions: Tensor, native: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Positions (1, 1 + y*x, d) of the `native` grid, bicubically interpolated to another token `grid`; CLS stays."""
    if native == grid:
        return positions
    dim = positions.shape[-1]
    image = positions[:, 1:].reshape(1, *native, dim).permute(0, 3, 1, 2)
    resized = F.interpolate(image, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], resized.permute(0, 2, 3, 1).reshape(1, -1, dim)], dim=1)


class AttentionPool(nn.Module):
    """Pool tokens (n, t, d) to (n, d) with one learned query: attend, project, then x + mlp(norm(x)).

    Same arithmetic and parameter names as timm's `AttentionPoolLatent` (latent length 1, no position embedding, no
    query-key norm).
    """

    def __init__(self, dimensions: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        if dimensions % heads:
            raise InputError(f"{heads} attention heads do not divide {dimensions} dimensions")
        self.heads = heads
        self.latent = nn.Parameter(torch.empty(1, 1, dimensions))
        self.q = nn.Linear(dimensions, dimensions)
        self.kv = nn.Linear(dimensions, 2 * dimensions)
        self.proj = nn.Linear(dimensions, dimensions)
        self.norm = nn.LayerNorm(dimensions)
        hidden = int(dimensions * mlp_ratio)
        self.mlp = nn.Sequential(
            OrderedDict(fc1=nn.Linear(dimensions, hidden), act=nn.GELU(), fc2=nn.Linear(hidden, dimensions))
        )
        nn.init.trunc_normal_(self.latent, std=dimensions**-0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        """(n, t, d) -> (n, d). Keys and values of single tokens are never formed: with one query, its dot products
        with the keys are linear in the tokens (the key bias cancels in the softmax) and weights sum to 1 ahead of the
        value projection. That is the same function at about a twentieth of the arithmetic.
        """
        n, _, d = tokens.shape
        width = d // self.heads
        query = self.q(self.latent).view(self.heads, width) * width**-0.5
        key, value = self.kv.weight.view(2, self.heads, width, d)
        direction = torch.einsum("hw,hwd->hd", query, key)
        weights = F.softmax(tokens @ direction.T, dim=1)
        gathered = weights.transpose(1, 2) @ tokens
        pooled = torch.einsum("nhd,hwd->nhw", gathered, value).reshape(n, d) + self.kv.bias[d:]
        pooled = self.proj(pooled)
        return pooled + self.mlp(self.norm(pooled))


class ConvBlock(nn.Module):
    """Residual block x + gelu(conv(norm(gelu(conv(x))))) on images (n, width, y, x).

    `published`: the first convolution acts twice and the second never, as in the published code.
    """

    def __init__(self, width: int, drop_path: float = 0.0, published: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.drop_path = drop_path
        self.published = published

    def forward(self, x: Tensor) -> Tensor:
        second = self.conv1 if self.published else self.conv2
        change = F.gelu(second(self.norm(F.gelu(self.conv1(x)))))
        return x + drop_path(change, self.drop_path if self.training else 0.0)


class UpscalingBlock(nn.Module):
    """Images (n, width, y, x) -> (n, width, 2 y, 2 x): convolution, pixel shuffle (Shi et al. 2016), norm, ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 4 * width, 3, padding=1)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(F.pixel_shuffle(self.conv(x), 2)))


class FcnHead(nn.Sequential):
    """Images (n, width, y, x) -> logits (n, classes, y, x): 3x3 convolution, norm, ReLU, dropout, 1x1 (Long et al.)."""

    def __init__(self, width: int, classes: int, dropout: float = 0.1) -> None:
        super().__init__(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Dropout2d(dropout),
            nn.Conv2d(width, classes, 1),
        )


class SegmentationHead(nn.Module):
    """Token grids (n, y, x, d) to logits of pixels: a 3x3 convolution, residual blocks, upscalings, an FCN head.

    A second FCN head on the grid before the upscalings is for an auxiliary loss (0.4 of the sum in the paper).

    Args:
        dimensions: d of the tokens (after the decoder stage, if there is one).
        classes: how many classes; 0 leaves out the FCN heads (the published backbones have none).
        width: channels inside; default half the dimensions. 64 is enough for a cheap head.
        blocks: residual blocks.
        upscale: logits a token side, a power of two: the paper's two upscalings are 4.
        drop_path: probability that a sample skips a residual block in training (Huang et al. 2016).
        published: apply each block's first convolution twice, as the published code does.
    """

    def __init__(
        self,
        dimensions: int,
        classes: int,
        *,
        width: int | None = None,
        blocks: int = 6,
        upscale: int = 4,
        drop_path: float = 0.0,
        published: bool = False,
    ) -> None:
        super().__init__()
        if upscale < 1 or upscale & (upscale - 1):
            raise InputError(f"a segmentation head upscales by a power of two, not {upscale}")
        if not 0 <= drop_path < 1:
            raise InputError(f"drop_path must lie in 0..1, got {drop_path}")
        width = width or max(dimensions // 2, 1)
        self.classes = classes
        self.first_conv = nn.Conv2d(dimensions, width, 3, padding=1)
        self.conv_blocks = nn.ModuleList(ConvBlock(width, drop_path, published) for _ in range(blocks))
        self.upscaling_blocks = nn.ModuleList(UpscalingBlock(width) for _ in range(upscale.bit_length() - 1))
        if classes:
            self.head = FcnHead(width, classes)
            self.auxiliary_head = FcnHead(width, classes)

    def _grid(self, tokens: Tensor) -> Tensor:
        """(n, y, x, d) -> (n, width, y, x), after the residual blocks, which are skipped as a whole too."""
        if tokens.ndim != 4:
            raise InputError(f"a segmentation head takes token grids (n, y, x, d), not shape {tuple(tokens.shape)}")
        first = self.first_conv(tokens.permute(0, 3, 1, 2))
        x = first
        for block in self.conv_blocks:
            x = block(x)
        return x + first

    def _upscale(self, x: Tensor) -> Tensor:
        for block in self.upscaling_blocks:
            x = block(x)
        return x

    def features(self, tokens: Tensor) -> Tensor:
        """Token grids (n, y, x, d) -> what the FCN head sees, (n, width, y * upscale, x * upscale)."""
        return self._upscale(self._grid(tokens))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Token grids (n, y, x, d) -> logits (n, classes, y * upscale, x * upscale), auxiliary logits
        (n, classes, y, x).
        """
        grid = self._grid(tokens)
        return self.head(self._upscale(grid)), self.auxiliary_head(grid)


def drop_path(change: Tensor, probability: float) -> Tensor:
    """Change (n, ...) of a residual block, zero for a sample with this probability, its expectation kept."""
    if not probability:
        return change
    kept = torch.rand(len(change), *[1] * (change.ndim - 1), device=change.device) >= probability
    return change * kept / (1 - probability)
