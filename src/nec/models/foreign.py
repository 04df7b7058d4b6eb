"""Other people's checkpoints: MAE's (and Remote-Sensing-RVSA's, which has its keys), timm's, the published NEC code's.

What a file holds is read off its keys; sizes that keys do not show come from the configuration. Its names are turned
into ours, and what other code keeps beside the weights (its coder's tables, heads of ImageNet classifiers) is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nec.errors import InputError
from nec.models.checkpoints import file_sha256, fill, read_state
from nec.models.config import ModelConfig
from nec.models.heads import AttentionPool, SegmentationHead
from nec.models.mae import DecoderStage, NecModel
from nec.models.vit import Block


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


Loaded = NecModel | NecClassifier | NecSegmenter

# CompressAI's tables and constants: rebuilt from the parameters, or not needed because the codec makes the bytes.
_DERIVED = re.compile(
    r"(bottleneck\.(_offset|_quantized_cdf|_cdf_length|target|likelihood_lower_bound\.bound)$|gaussian_conditional\.)"
)
_OLDER_PRIOR = re.compile(r"bottleneck\._(matrix|bias|factor)(\d+)$")
_NEWER_PRIOR = {"matrix": "matrices", "bias": "biases", "factor": "factors"}
# Our bottleneck is one module; in the published code its parts lie beside the encoder's.
_HYPERPRIOR = re.compile(r"^(backbone\.)?(h_a|h_s|entropy_bottleneck)\.")
# Heads of ImageNet classifiers, which have no attention pooling.
_HEADS = ("head.", "fc_norm.", "head_dist.")
_DECODER = re.compile(r"(decoder_|mask_token)")


def load_foreign(path: Path, values: dict[str, Any]) -> Loaded:
    """Model in a checkpoint file, in evaluation mode; `values` as for `ModelConfig.from_dict`. See `nec.load_model`."""
    if not path.is_file():
        raise InputError(f"no checkpoint file at {path}")
    if values.get("embed_dim", 768) != 768 and "num_heads" not in values:
        raise InputError(f"{path}: give num_heads with embed_dim: the weights do not tell it, and 12 are ViT-B's")
    state = _own_names(read_state(path))
    config = ModelConfig.from_dict(values)
    if "pool.latent" in state:
        return _classifier(config, state, path)
    if "first_conv.weight" in state:
        return _segmenter(config, state, path)
    return _model(config, {key: value for key, value in state.items() if not key.startswith(_HEADS)}, path)


def _own_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict under our names, without what is derived from the rest."""
    named = {}
    for key, value in state.items():
        if _DERIVED.search(key):
            continue
        key = key.removeprefix("module.")  # DistributedDataParallel's
        key = _HYPERPRIOR.sub(lambda m: f"{m[1] or ''}bottleneck.{m[2]}.", key)
        key = _OLDER_PRIOR.sub(lambda m: f"bottleneck.{_NEWER_PRIOR[m[1]]}.{m[2]}", key)
        named[key] = value
    return named


def _with_bottleneck(config: ModelConfig, state: dict[str, Tensor]) -> ModelConfig:
    """The configuration with the kind of bottleneck that the weights have."""
    first = state.get("bottleneck.h_a.0.bias")
    if first is not None:
        return replace(config, kind="hyperprior", hyper_channels=len(first))
    return replace(config, kind="factorized" if _any(state, "bottleneck.") else "mae")


def _model(config: ModelConfig, state: dict[str, Tensor], path: Path) -> NecModel:
    """A model alone: a masked autoencoder, or an encoder, which may have an unused decoder's tokens beside it."""
    config = _with_bottleneck(config, state)
    if "decoder_embed.weight" not in state:
        config = replace(config, decoder_depth=0)
        state = {key: value for key, value in state.items() if not _DECODER.match(key)}
    model = NecModel(config)
    fill(model, state, path)
    return _identified(model, path)


def _classifier(config: ModelConfig, state: dict[str, Tensor], path: Path) -> NecClassifier:
    """The published classifier: `backbone.*`, `pool.*` and `head.*`, with the decoder's first stage or without."""
    config = replace(_with_bottleneck(config, _under(state, "backbone.")), decoder_depth=0)
    backbone = _under(state, "backbone.")
    stage = _stage(config, backbone, path)
    classifier = NecClassifier(NecModel(config), len(state.get("head.bias", ())), stage)
    weights = {key: value for key, value in state.items() if not key.startswith("backbone.")}
    fill(classifier, weights | _prefixed("model.", _encoder(backbone)) | _state("stage.", stage), path)
    _identified(classifier.model, path)
    return classifier


def _segmenter(config: ModelConfig, state: dict[str, Tensor], path: Path) -> NecSegmenter:
    """The published segmentation backbone: no CLS, its head's layers beside the encoder's, no FCN heads."""
    config = replace(_with_bottleneck(config, state), decoder_depth=0)
    stage = _stage(config, state, path)
    width, dimensions = state["first_conv.weight"].shape[:2]
    blocks, upscalings = _count(state, "conv_blocks"), _count(state, "upscaling_blocks")
    head = SegmentationHead(dimensions, 0, width=width, blocks=blocks, upscale=2**upscalings, published=True)
    segmenter = NecSegmenter(NecModel(config), head, stage, published=True)
    own = {"first_conv.", "conv_blocks.", "upscaling_blocks."}
    weights = {key: value for key, value in state.items() if key.startswith(tuple(own))}
    encoder = _encoder({key: value for key, value in state.items() if key not in weights})
    if "cls_token" not in encoder and "pos_embed" in encoder:  # never used, since `published` leaves it out
        encoder["cls_token"] = torch.zeros(1, 1, config.embed_dim)
        encoder["pos_embed"] = nn.functional.pad(encoder["pos_embed"], (0, 0, 1, 0))
    fill(segmenter, _prefixed("head.", weights) | _prefixed("model.", encoder) | _state("stage.", stage), path)
    _identified(segmenter.model, path)
    return segmenter


def _stage(config: ModelConfig, state: dict[str, Tensor], path: Path) -> DecoderStage | None:
    """The decoder's first stage, if the weights have one; later decoder blocks serve no task."""
    if "decoder_embed.weight" not in state:
        return None
    width, heads = config.decoder_embed_dim, config.decoder_num_heads
    tokens = config.grid[0] * config.grid[1]
    stage = DecoderStage(
        nn.Linear(config.embed_dim, width), Block(width, heads, config.mlp_ratio), torch.zeros(1, tokens, width)
    )
    parts = {"decoder_embed.": "embed.", "decoder_blocks.0.": "block."}
    weights = {new + key: value for old, new in parts.items() for key, value in _under(state, old).items()}
    if "decoder_pos_embed" in state:
        weights["positions"] = state["decoder_pos_embed"][:, -tokens:]  # with CLS or without
    fill(stage, weights, path)
    return stage


def _encoder(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not _DECODER.match(key)}


def _identified(model: NecModel, path: Path) -> NecModel:
    model.name, model.sha256 = path.stem, file_sha256(path)
    return model


def _state(prefix: str, module: nn.Module | None) -> dict[str, Tensor]:
    return {} if module is None else _prefixed(prefix, module.state_dict())


def _under(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def _any(keys: Iterable[str], prefix: str) -> bool:
    return any(key.startswith(prefix) for key in keys)


def _count(state: dict[str, Tensor], name: str) -> int:
    """How many numbered modules `name` has."""
    return len({key.split(".")[1] for key in state if key.startswith(name + ".")})
