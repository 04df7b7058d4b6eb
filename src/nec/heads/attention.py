"""The attention-pooling classification head of the paper, in torch.

Parameter names follow timm's `AttentionPoolLatent` under `pool.` and a linear `head.`, as in the paper's published
code, so that heads saved by it load directly.
"""

from __future__ import annotations

import copy

import numpy as np
from numpy.typing import NDArray

from nec.errors import missing_extra

try:
    import torch
    from torch import nn

    from nec.models.heads import AttentionPool
except ImportError as error:
    missing_extra("torch", "torch", error)


class Standardize(nn.Module):
    """Tokens (n, t, d) to zero mean at each place and unit variance in each channel, as in the training part.

    Transformers repeat much of their position embeddings in every image's tokens. Taking the mean by place, `mean`
    (t, d), leaves what tells images apart. Tokens of another grid get the mean of all places.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("scale", 1 / std.clamp_min(1e-6))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        mean = self.mean if tokens.shape[1] == len(self.mean) else self.mean.mean(dim=0)
        return (tokens - mean) * self.scale


class AttentionClassifier(nn.Module):
    """Tokens (n, t, d) -> logits (n, classes): an input stage that may map to another width, attention pooling, a
    linear layer.
    """

    def __init__(self, dimensions: int, classes: int, heads: int, stage: nn.Module | None = None) -> None:
        super().__init__()
        self.stage = stage if stage is not None else nn.Identity()
        self.pool = AttentionPool(dimensions, heads)
        self.head = nn.Linear(dimensions, classes)

    def forward(self, tokens: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """`keep`: positions of the tokens that are pooled, None all. The stage sees all of them."""
        tokens = self.stage(tokens)
        return self.head(self.pool(tokens if keep is None else tokens[:, keep]))

    @torch.no_grad()
    def logits(self, tokens: torch.Tensor, batch: int = 512) -> torch.Tensor:
        """Logits (n, classes) of tokens (n, t, d) of any float type, batch by batch, in evaluation mode."""
        self.eval()
        return torch.cat([self(part.float()) for part in tokens.split(batch)])

    def scores(self, embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
        """Logits (n, classes) of each image's embeddings, (n, t, d) or (n, y, x, d)."""
        tokens = torch.from_numpy(embeddings.reshape(len(embeddings), -1, embeddings.shape[-1]))
        return self.logits(tokens).numpy()

    def predict(self, embeddings: NDArray[np.floating]) -> NDArray[np.int64]:
        """Class index of each image's embeddings, (n, t, d) or (n, y, x, d)."""
        return self.scores(embeddings).argmax(axis=1)


def build_classifier(tokens: torch.Tensor, classes: int, stage: nn.Module | None = None) -> AttentionClassifier:
    """A new head for tokens like `tokens` (n, t, d), the training part.

    Without `stage` the tokens are standardised with their own statistics; with one (the decoder's first stage, of
    which a copy is trained) its output is pooled as it is.
    """
    stage = build_stage(tokens, stage)
    with torch.no_grad():
        dimensions = stage(tokens[:1].float()).shape[-1]
    heads = next(heads for heads in (8, 6, 4, 3, 2, 1) if dimensions % heads == 0)
    return AttentionClassifier(dimensions, classes, heads, stage)


def build_stage(tokens: torch.Tensor, stage: nn.Module | None) -> nn.Module:
    """What stands before a head: a copy of `stage` to be trained, or standardisation by `tokens` (n, t, d)."""
    return Standardize(*_statistics(tokens)) if stage is None else copy.deepcopy(stage)


def _statistics(tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean at each place (t, d) and deviation around it in each channel (d,), of tokens (n, t, d) of any float type."""
    total = torch.zeros(tokens.shape[1:], dtype=torch.float64)
    square = torch.zeros_like(total)
    for part in tokens.split(1024):
        block = part.double()
        total += block.sum(dim=0)
        square += block.square().sum(dim=0)
    mean = total / len(tokens)
    variance = (square / len(tokens) - mean.square()).clamp_min(0).mean(dim=0)
    return mean.float(), variance.sqrt().float()
