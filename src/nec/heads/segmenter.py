"""The segmentation head of the paper with its input stage: token grids to a class for each pixel, in torch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from nec.errors import missing_extra
from nec.heads.attention import build_stage

try:
    import torch
    from torch import nn
    from torch.nn import functional as F

    from nec.models.heads import SegmentationHead
    from nec.models.mae import DecoderStage
except ImportError as error:
    missing_extra("torch", "torch", error)


class Segmenter(nn.Module):
    """Token grids (n, y, x, d) -> logits of the classes: an input stage on the tokens, then a `SegmentationHead`.

    `pixels`: (rows, columns) of pixels that a token stands for, which decide the size of what `predict` gives.
    """

    def __init__(self, stage: nn.Module, head: SegmentationHead, pixels: tuple[float, float]) -> None:
        super().__init__()
        self.stage = stage
        self.head = head
        self.pixels = pixels

    def forward(
        self, tokens: torch.Tensor, turn: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(n, y, x, d) -> logits and auxiliary logits (n, classes, h, w), each at a resolution of its own.

        `turn` flips or transposes the grid (n, y, x, e) behind the stage, which sees every token at its own place.
        """
        grid = self.stage(tokens.flatten(1, 2)).unflatten(1, tokens.shape[1:3])
        return self.head(grid if turn is None else turn(grid))

    @torch.no_grad()
    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens (n, y, x, d) of any float type -> logits (n, classes, rows, columns) of pixels, in evaluation mode."""
        self.eval()
        rows, columns = (round(side * pixels) for side, pixels in zip(tokens.shape[1:3], self.pixels, strict=True))
        return interpolate(self(tokens.float())[0], (rows, columns))

    def probabilities(self, embeddings: NDArray[np.floating], batch: int = 32) -> NDArray[np.float32]:
        """Embeddings (n, y, x, d) -> float32 (n, classes, rows, columns) that add up to 1 in each pixel."""
        parts = torch.from_numpy(embeddings).split(batch)
        return torch.cat([self.logits(part).softmax(dim=1) for part in parts]).numpy()

    def predict(self, embeddings: NDArray[np.floating], batch: int = 32) -> NDArray[np.uint8]:
        """Embeddings (n, y, x, d) -> class index of each pixel, uint8 (n, rows, columns)."""
        parts = torch.from_numpy(embeddings).split(batch)
        return torch.cat([self.logits(part).argmax(dim=1).to(torch.uint8) for part in parts]).numpy()


def interpolate(logits: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Logits (n, classes, h, w) bilinearly to another size (rows, columns)."""
    if tuple(logits.shape[-2:]) == size:
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def build_segmenter(
    tokens: torch.Tensor,
    size: tuple[int, int],
    classes: int,
    stage: nn.Module | None = None,
    *,
    width: int | None = None,
    blocks: int = 6,
    upscale: int = 4,
    drop_path: float = 0.0,
) -> Segmenter:
    """A new head for grids like `tokens` (n, y, x, d), the training part, and masks of `size` (rows, columns).

    Stage as in `build_classifier`; sizes as in `SegmentationHead`.
    """
    grid = (tokens.shape[1], tokens.shape[2])
    if isinstance(stage, DecoderStage):
        stage = stage.on_grid(grid)
    built = build_stage(tokens.flatten(1, 2), stage)
    with torch.no_grad():
        dimensions = built(tokens[:1].flatten(1, 2).float()).shape[-1]
    head = SegmentationHead(dimensions, classes, width=width, blocks=blocks, upscale=upscale, drop_path=drop_path)
    return Segmenter(built, head, (size[0] / grid[0], size[1] / grid[1]))
