"""Turn a model's channels into the principal axes of its tokens, without changing what the model computes.

A factorised prior rates each channel alone, so it pays where channels are uncorrelated and energy sits in few of them.
A pre-trained transformer's channels are neither. But a pre-norm transformer may be written in any basis of its residual
stream that keeps the mean over channels in place, since LayerNorm without gains commutes with such rotations (Ashkboos
et al. 2024, SliceGPT, use this for language models): what writes to the stream is rotated, what reads from it is
rotated back.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from nec.models.mae import NecModel


def rotation(tokens: Tensor) -> Tensor:
    """Rotation (d, d) in double precision that takes tokens (n, d) close to their principal axes, largest first.

    It maps the vector of ones to itself. Rows of an exact basis of principal axes cannot do that: each axis is off by
    about 1/d in energy, and the last channel is a mixture that brings the sum over channels to zero.
    """
    d = tokens.shape[1]
    ones = torch.full((d,), d**-0.5, dtype=torch.float64)
    centred = tokens.double() - tokens.double().mean(dim=0)
    centred = centred - (centred @ ones)[:, None] * ones
    _, vectors = torch.linalg.eigh(centred.T @ centred + 1e9 * centred.square().sum() * torch.outer(ones, ones))
    axes = vectors.flip(1).T  # the direction of ones comes first
    axes = torch.cat([axes[1:], axes[:1] * torch.sign(axes[0] @ ones)])
    mirror = ones.clone()
    mirror[-1] -= 1
    mirror = mirror / mirror.norm()  # a Householder reflection takes the last unit vector to the ones
    return axes - 2 * torch.outer(mirror, mirror @ axes)


def to_principal_axes(model: NecModel, tokens: Tensor) -> NecModel:
    """A copy of an MAE whose encoder's tokens lie along the principal axes of `tokens` (n, d), samples of its output.

    Its reconstructions are those of `model`, up to rounding. Gains and offsets of the final norm go into the decoder's
    embedding, so that the new tokens are those of a plain LayerNorm.
    """
    turned = copy.deepcopy(model)
    with torch.no_grad():
        gain, offset = turned.norm.weight.double(), turned.norm.bias.double()
        turn = rotation((tokens.double() - offset) / gain.clamp(min=1e-6))
        for parameter in (turned.pos_embed, turned.cls_token):
            parameter.copy_(parameter.double() @ turn.T)
        _rotate_output(turned.patch_embed.proj, turn)
        for block in turned.blocks:
            _absorb(block.norm1, block.attn.qkv, turn)
            _rotate_output(block.attn.proj, turn)
            _absorb(block.norm2, block.mlp.fc1, turn)
            _rotate_output(block.mlp.fc2, turn)
        _absorb(turned.norm, turned.decoder_embed, turn)
    return turned


def _rotate_output(layer: nn.Linear | nn.Conv2d, turn: Tensor) -> None:
    """Make a layer that writes to the stream write the rotated vectors."""
    layer.weight.copy_((turn @ layer.weight.double().flatten(1)).view_as(layer.weight))
    assert layer.bias is not None
    layer.bias.copy_(turn @ layer.bias.double())


def _absorb(norm: nn.LayerNorm, reader: nn.Linear, turn: Tensor) -> None:
    """Move a norm's gains and offsets into the layer behind it, which then reads the rotated stream."""
    weight = reader.weight.double()
    reader.bias.copy_(reader.bias.double() + weight @ norm.bias.double())
    reader.weight.copy_(weight * norm.weight.double() @ turn.T)
    norm.weight.fill_(1.0)
    norm.bias.zero_()
