"""A model with a head behind it, images to logits: what the published code saves after training for a task."""

from __future__ import annotations

from torch import Tensor, nn

from nec.errors import InputError
from nec.models.heads import AttentionPool, SegmentationHead
from nec.models.mae import DecoderStage, NecModel


class NecClassifier(nn.Module):
    """Normalised images (n, c, h, w) -> logits (n, classes): attention pooling and a linear layer on the tokens.

    The tokens are the dequantised ones where the model has a bottleneck, without CLS. `stage`, the first stage of an
    MAE's decoder, comes before the pooling, which then has the decoder's number of heads, else the encoder's.
    """

    def __init__(self, model: NecModel, classes: int, stage: DecoderStage | None = None) -> None:
        super().__init__()
        c = model.config
        width, heads = (c.embed_dim, c.num_heads) if stage is None else (c.decoder_embed_dim, c.decoder_num_heads)
        self.model = model
        self.stage = stage
        self.pool = AttentionPool(width, heads, c.mlp_ratio)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = (self.model.tokens(images) if self.model.bottleneck is None else self.model.quantized(images))[:, 1:]
        return self.head(self.pool(tokens if self.stage is None else self.stage(tokens)))


class NecSegmenter(nn.Module):
    """Normalised images (n, c, h, w) -> logits of pixels by a `SegmentationHead` on the dequantised tokens.

    `published`: no CLS in the encoder's sequence, as in the published segmentation backbones. These hold no FCN heads:
    `features` is what they have.
    """

    def __init__(
        self, model: NecModel, head: SegmentationHead, stage: DecoderStage | None = None, published: bool = False
    ) -> None:
        super().__init__()
        self.model = model
        self.stage = stage
        self.head = head
        self.published = published

    def _tokens(self, images: Tensor) -> Tensor:
        tokens = self.model.tokens(images, cls=not self.published)
        if self.model.bottleneck is not None:
            tokens = self.model.bottleneck(tokens)[0]
        tokens = tokens if self.published else tokens[:, 1:]
        return (tokens if self.stage is None else self.stage(tokens)).unflatten(1, self.model.grid_of(images))

    def features(self, images: Tensor) -> Tensor:
        """What the FCN heads see, (n, width, y * upscale, x * upscale) for a token grid of y times x."""
        return self.head.features(self._tokens(images))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, classes, y * upscale, x * upscale) and the auxiliary head's (n, classes, y, x)."""
        if not self.head.classes:
            raise InputError("this segmentation backbone has no FCN heads: use features(), and train heads on them")
        return self.head(self._tokens(images))
