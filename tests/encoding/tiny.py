"""Smooth images, and a tiny model with random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image


def smooth(count: int, side: int, bands: int, seed: int = 0) -> np.ndarray:
    """Smooth random images (count, side, side, bands), bytes."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, bands), dtype=np.uint8)
    planes = [
        np.asarray(Image.fromarray(coarse[i, ..., b]).resize((side, side), Image.Resampling.BICUBIC))
        for i in range(count)
        for b in range(bands)
    ]
    return np.stack(planes).reshape(count, bands, side, side).transpose(0, 2, 3, 1).copy()


def build_model(bands: int = 3, **changes: Any) -> Any:
    """ViT of 2 blocks, 16 wide, 4 px patches, 16 px images, with random weights."""
    import torch

    from nec.models.config import ModelConfig
    from nec.models.mae import NecModel

    torch.manual_seed(0)
    sizes = {"image_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
    decoder = {"decoder_embed_dim": 8, "decoder_depth": 1, "decoder_num_heads": 2}
    model = NecModel(ModelConfig.from_dict({**sizes, **decoder, "in_channels": bands, **changes})).eval()
    model.name, model.sha256 = "tiny", "0" * 64
    return model


def fit_to(model: Any, images: np.ndarray) -> Any:
    """`model` with a codec fitted to its embeddings of `images`."""
    import torch

    from nec.codec import EmbeddingCodec

    with torch.inference_mode():
        model.codec = EmbeddingCodec.fit(model.embed(model.normalize(images)))
    return model
