"""The paper's heads as modules: what `nec.heads` trains and what the published code's checkpoints hold.

Parameter names and arithmetic are those of the published code (Gomes & Brunschwiler 2024), whose attention pooling is
timm's `AttentionPoolLatent`, so that its weights load.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nec.errors import InputError


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
