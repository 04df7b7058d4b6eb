"""Models that a training starts from: cut, in principal axes, with a bottleneck, partly frozen."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from nec.codec import EmbeddingCodec
from nec.errors import InputError
from nec.models import NecModel
from nec.models.axes import to_principal_axes
from nec.models.bottleneck import FactorizedBottleneck, HyperpriorBottleneck
from nec.models.codec_bottleneck import CodecBottleneck
from nec.training.batches import Images
from nec.training.settings import AdaptSettings, HierarchicalSettings, HyperpriorSettings

_AXES_IMAGES = 1024
_CODEC_IMAGES, _CALIBRATION_IMAGES, _REFIT_IMAGES = 512, 128, 2048


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Weights that are drawn within follow from `seed`; torch's own random state is afterwards as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def need_plain(model: NecModel, what: str) -> None:
    """Refuse a model that is no masked autoencoder without a bottleneck."""
    if model.bottleneck is not None or not model.config.decoder_depth:
        raise InputError(f"only a masked autoencoder without a bottleneck can be {what}: give the pre-trained model")


def cut_encoder(model: NecModel, blocks: int) -> NecModel:
    """The first `blocks` encoder blocks, frozen, a LayerNorm of gain 1, frozen, and the decoder.

    The last blocks of a small autoencoder prepare pixels; the tokens before them can serve other tasks better and code
    in fewer bytes.
    """
    if not 1 <= blocks <= model.config.depth:
        raise InputError(f"cannot keep {blocks} blocks: the encoder has {model.config.depth}")
    cut = NecModel(replace(model.config, depth=blocks))
    own = cut.state_dict()
    kept = {key: value for key, value in model.state_dict().items() if key in own and not key.startswith("norm.")}
    cut.load_state_dict(kept, strict=False)
    for name, parameter in cut.named_parameters():
        if not name.startswith(("decoder_", "mask_token")):
            parameter.requires_grad_(False)
    return cut


def start_of_adaptation(model: NecModel, images: Images, settings: AdaptSettings) -> tuple[NecModel, NecModel | None]:
    """The model that adaptation trains, and the frozen teacher of a distortion of features."""
    with seeded(settings.seed):
        if settings.principal_axes:
            tokens = sample_tokens(model, images, settings.seed, _AXES_IMAGES)
            model = to_principal_axes(model, tokens.flatten(0, 2))
        adapted = with_bottleneck(model, settings)
        freeze(adapted, settings.trainable_blocks)
        teacher = _through_codec(adapted, images, settings) if isinstance(settings, HierarchicalSettings) else None
    return adapted, teacher


@torch.no_grad()
def sample_tokens(model: NecModel, images: Images, seed: int, count: int) -> Tensor:
    """Tokens (n, y, x, d) of so many of the images."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(images))[:count])
    batches = np.array_split(chosen, -(-len(chosen) // 128))
    return torch.cat([model.token_grid(model.normalize(images.take(batch))) for batch in batches])


def _through_codec(model: NecModel, images: Images, settings: HierarchicalSettings) -> NecModel | None:
    """Fit a codec to the model's tokens as its bottleneck; returns the frozen model if the distortion needs it.

    Freezes, too, what the distortion leaves without gradients: distributed training refuses such parameters.
    """
    teacher = copy.deepcopy(model).requires_grad_(False).eval() if settings.distortion != "pixels" else None
    tokens = sample_tokens(model, images, settings.seed, _CODEC_IMAGES)
    model.use_codec(EmbeddingCodec.fit(tokens.numpy(), spatial="haar", positions=None, seed=settings.seed))
    bottleneck = model.bottleneck
    assert isinstance(bottleneck, CodecBottleneck)
    bottleneck.quantization = settings.quantization
    bottleneck.calibrate(tokens[:_CALIBRATION_IMAGES])
    if settings.distortion == "features":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and not name.startswith(("decoder_", "mask_token")))
    return teacher


def refit_codec(model: NecModel, images: Images, seed: int) -> None:
    """Fit the codec of the product to the tokens that training ended with; it becomes the bottleneck as well."""
    bottleneck = model.bottleneck
    assert isinstance(bottleneck, CodecBottleneck)
    tokens = sample_tokens(model, images, seed, _REFIT_IMAGES)
    model.use_codec(bottleneck.refit(tokens.cpu().numpy(), seed))


def with_bottleneck(model: NecModel, settings: AdaptSettings) -> NecModel:
    """A copy of a model with a fresh bottleneck (of prior hierarchical without), tokens scaled by `latent_scale`.

    A distortion of features alone needs no decoder, so that encoders without one can be adapted.
    """
    of_features = isinstance(settings, HierarchicalSettings) and settings.distortion == "features"
    if not model.config.decoder_depth and not of_features:
        raise InputError(
            "adaptation needs the MAE's decoder, and this model is an encoder alone: give prior hierarchical and "
            "distortion features, which need none"
        )
    if model.bottleneck is not None:
        raise InputError(f"{model.name} has a bottleneck already: adapt the model that it was made from")
    config = replace(model.config, kind=settings.prior, lmbda=settings.lmbda)
    if isinstance(settings, HyperpriorSettings):
        config = replace(config, hyper_channels=settings.hyper_channels, hyper_heads=settings.hyper_heads)
    adapted = NecModel(config)
    adapted.load_state_dict(model.state_dict(), strict=False)
    bottleneck = adapted.bottleneck
    if isinstance(bottleneck, FactorizedBottleneck | HyperpriorBottleneck):
        bottleneck.straight_through = settings.quantization == "mixed"
        prior = bottleneck if isinstance(bottleneck, FactorizedBottleneck) else bottleneck.entropy_bottleneck
        prior.start_at(settings.prior_scale)
    with torch.no_grad():
        adapted.norm.weight.mul_(settings.latent_scale)
        adapted.norm.bias.mul_(settings.latent_scale)
        if adapted.config.decoder_depth:
            adapted.decoder_embed.weight.div_(settings.latent_scale)
    return adapted


def freeze(model: nn.Module, trainable_blocks: int | None, blocks: str = "blocks") -> None:
    """Leave trainable the last encoder blocks, the first decoder block and what lies outside the blocks.

    Args:
        trainable_blocks: how many of the encoder's; None leaves everything as it is.
        blocks: name of the module that holds the encoder's blocks in order, as in "encoder.layers". A decoder is ours.
    """
    if trainable_blocks is None:
        return
    try:
        encoder = list(model.get_submodule(blocks).children())
    except AttributeError as error:
        raise InputError(f"the model has no module {blocks!r} that holds its blocks") from error
    if trainable_blocks > len(encoder):
        raise InputError(f"trainable_blocks is {trainable_blocks}; the encoder has {len(encoder)} blocks")
    decoder = list(model.decoder_blocks) if isinstance(model, NecModel) and model.config.decoder_depth else []
    for block in [*encoder[: len(encoder) - trainable_blocks], *decoder[1:]]:
        block.requires_grad_(False)
