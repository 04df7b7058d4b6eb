"""Entropy bottlenecks for training: differentiable rate models of the quantised tokens.

These rate the latents while a model is adapted. The bytes of a product are made by `nec.codec`, whose tables are
integers; the two meet in `nec.encoding.fit`.

Both bottlenecks are called alike: `bottleneck(latent, noise)` -> (quantised, likelihoods). Noise and likelihoods are
dicts of tensors by the name of what is coded: "latent", and "hyper" where there is a hyper-latent.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nec.models.vit import Block

#: Smallest scale of the hyperprior's Gaussians, in steps of the quantiser.
SCALE_FLOOR = 0.11
_FILTERS = (3, 3, 3, 3)
_INIT_SCALE = 10.0
_TAIL_MASS = 1e-9
_LIKELIHOOD_FLOOR = 1e-9


class _LowerBound(torch.autograd.Function):
    """max(x, bound) whose gradient still pulls values below the bound upwards (Ballé et al. 2018)."""

    @staticmethod
    def forward(ctx, x: Tensor, bound: float) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp(min=bound)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        (x,) = ctx.saved_tensors
        return gradient * ((x >= ctx.bound) | (gradient < 0)), None


class FactorizedBottleneck(nn.Module):
    """Fully factorised prior of Ballé et al. 2018 (appendix 6.1): one learned density a channel.

    Parameters are named as in CompressAI's EntropyBottleneck (filters 3, 3, 3, 3), so that its weights load.

    `straight_through`: what is passed on while training is rounded, with the gradient of the identity, and only the
    likelihoods are those of the noisy values (Minnen & Singh 2020's mixed quantisation); else both are noisy.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.straight_through = False
        widths = (1, *_FILTERS, 1)
        self.matrices = nn.ParameterList()
        self.biases = nn.ParameterList()
        self.factors = nn.ParameterList()
        for i, (before, after) in enumerate(pairwise(widths)):
            self.matrices.append(nn.Parameter(torch.empty(channels, after, before)))
            self.biases.append(nn.Parameter(torch.empty(channels, after, 1).uniform_(-0.5, 0.5)))
            if i < len(_FILTERS):
                self.factors.append(nn.Parameter(torch.zeros(channels, after, 1)))
        self.quantiles = nn.Parameter(torch.empty(channels, 1, 3))
        self.start_at(_INIT_SCALE)
        tail = float(np.log(2 / _TAIL_MASS - 1))
        self.target: Tensor
        self.register_buffer("target", torch.tensor([-tail, 0.0, tail]), persistent=False)

    @torch.no_grad()
    def start_at(self, scale: float) -> None:
        """Make the densities logistic ones of this scale, in steps of the quantiser.

        CompressAI starts at 10. Latents much narrower than that take hundreds of steps to be rated right.
        """
        layer = scale ** (1 / len(self.matrices))
        for matrix in self.matrices:
            matrix.fill_(float(np.log(np.expm1(1 / layer / matrix.shape[1]))))
        self.quantiles.copy_(torch.tensor([-scale, 0.0, scale]))

    def medians(self) -> Tensor:
        """Medians (channels,) of the learned densities: the offsets of the quantiser."""
        return self.quantiles[:, 0, 1]

    def logits(self, x: Tensor, frozen: bool = False) -> Tensor:
        """Cumulative distribution before its sigmoid, at x (channels, 1, values); `frozen`: no gradients to it."""
        for i, (matrix, bias) in enumerate(zip(self.matrices, self.biases, strict=True)):
            factor = self.factors[i] if i < len(self.factors) else None
            if frozen:
                matrix, bias = matrix.detach(), bias.detach()
                factor = None if factor is None else factor.detach()
            x = F.softplus(matrix) @ x + bias
            if factor is not None:
                x = x + torch.tanh(factor) * torch.tanh(x)
        return x

    def likelihoods(self, x: Tensor) -> Tensor:
        """Probability of the unit cell around each value of x (..., channels); at least 1e-9."""
        flat = x.reshape(-1, x.shape[-1]).t()[:, None].float()
        lower, upper = self.logits(flat - 0.5), self.logits(flat + 0.5)
        sign = -torch.sign(lower + upper).detach()  # the side where the sigmoids' difference keeps its precision
        probability = (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()
        probability = _LowerBound.apply(probability, _LIKELIHOOD_FLOOR)
        return probability[:, 0].t().reshape(x.shape)

    def quantize(self, x: Tensor) -> Tensor:
        """Values (..., channels) rounded around the medians."""
        medians = self.medians().detach()
        return torch.round(x - medians) + medians

    def noise_shapes(self, tokens: int) -> dict[str, tuple[int, int]]:
        """Shape of one sample's noise for so many tokens, by name: what `forward` takes, without the batch axis."""
        return {"latent": (tokens, self.quantiles.shape[0])}

    def forward(self, x: Tensor, noise: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Quantised x (..., channels) and its likelihoods: additive uniform noise in training, rounding otherwise."""
        if not self.training:
            quantised = self.quantize(x)
            return quantised, {"latent": self.likelihoods(quantised)}
        noisy = add_noise(x, noise, "latent")
        passed = straight_through(x, self.quantize(x)) if self.straight_through else noisy
        return passed, {"latent": self.likelihoods(noisy)}

    def aux_loss(self) -> Tensor:
        """Distance of the quantiles from the density's tails and median; trains `quantiles` and nothing else."""
        return (self.logits(self.quantiles, frozen=True) - self.target).abs().sum()


class HyperpriorBottleneck(nn.Module):
    """Scale hyperprior (Ballé et al. 2018) made of transformers, as in the published code of Gomes & Brunschwiler 2024.

    A hyper-latent z = h_a(|y|) of `channels` a token is coded under a factorised prior; from it h_s computes the
    scales of zero-mean Gaussians under which y itself is coded. Parameters are named as in the published code.

    Args:
        dim: channels of the tokens y.
        channels: channels of the hyper-latent z.
        heads: of the attention in h_a and h_s.
    """

    def __init__(self, dim: int, channels: int = 96, heads: int = 4) -> None:
        super().__init__()
        self.straight_through = False
        blocks = [Block(channels, heads) for _ in range(4)]
        self.h_a = nn.Sequential(nn.Linear(dim, channels), nn.ReLU(), *blocks[:2])
        self.h_s = nn.Sequential(*blocks[2:], nn.Linear(channels, dim), nn.ReLU())
        self.entropy_bottleneck = FactorizedBottleneck(channels)

    def initialise_scales(self) -> None:
        """Let all scales start at about 1. With a bias of 0 the last ReLU is dead for tokens whose z rounds to 0."""
        last = self.h_s[2]
        assert isinstance(last, nn.Linear)
        nn.init.ones_(last.bias)

    def hyper_latent(self, y: Tensor) -> Tensor:
        """z (n, t, channels) of tokens y (n, t, d), not yet quantised."""
        return self.h_a(y.abs())

    def scales(self, z: Tensor) -> Tensor:
        """Scales (n, t, d) of the Gaussians from the quantised z (n, t, channels); not yet held above `SCALE_FLOOR`."""
        return self.h_s(z)

    def likelihoods(self, y: Tensor, scales: Tensor) -> Tensor:
        """Probability of the unit cell around y under zero-mean Gaussians of these scales; at least 1e-9."""
        scales = _LowerBound.apply(scales.float(), SCALE_FLOOR)
        distance = y.float().abs()
        probability = _normal_cdf((0.5 - distance) / scales) - _normal_cdf((-0.5 - distance) / scales)
        return _LowerBound.apply(probability, _LIKELIHOOD_FLOOR)

    def quantize(self, y: Tensor) -> Tensor:
        """Values rounded to integers: the Gaussians' means are 0."""
        return torch.round(y)

    def noise_shapes(self, tokens: int) -> dict[str, tuple[int, int]]:
        """Shape of one sample's noise for so many tokens, by name: what `forward` takes, without the batch axis."""
        hyper = self.entropy_bottleneck.noise_shapes(tokens)["latent"]
        return {"latent": (tokens, self.h_a[0].in_features), "hyper": hyper}  # type: ignore[dict-item]

    def forward(self, y: Tensor, noise: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Quantised y (n, t, d), and the likelihoods of it and of z: noise is added in training, else both rounded."""
        of_z = {"latent": noise["hyper"]} if noise is not None else None
        z, hyper = self.entropy_bottleneck(self.hyper_latent(y), of_z)
        rated = add_noise(y, noise, "latent") if self.training else self.quantize(y)
        passed = straight_through(y, self.quantize(y)) if self.training and self.straight_through else rated
        return passed, {"latent": self.likelihoods(rated, self.scales(z)), "hyper": hyper["latent"]}

    def aux_loss(self) -> Tensor:
        """Distance of the quantiles of z's prior from its tails and median; trains these `quantiles` alone."""
        return self.entropy_bottleneck.aux_loss()


Bottleneck = FactorizedBottleneck | HyperpriorBottleneck


def add_noise(x: Tensor, noise: dict[str, Tensor] | None, name: str) -> Tensor:
    """x plus the noise of this name, uniform in -0.5..0.5; drawn here where none is given."""
    return x + (torch.rand_like(x) - 0.5 if noise is None else noise[name])


def straight_through(x: Tensor, quantised: Tensor) -> Tensor:
    """The quantised values, with the gradient of x."""
    return x + (quantised - x).detach()


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * torch.erfc(x * -(0.5**0.5))
