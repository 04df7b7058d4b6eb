"""Entropy bottlenecks for training: differentiable rate models of the quantised tokens.

These rate the latents while a model is adapted. The bytes of a product are made by `nec.codec`, whose tables are
integers; the two meet in `nec.pipeline.fit`.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

_FILTERS = (3, 3, 3, 3)
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

    `init_scale`: the densities start as logistic ones of this scale, in steps of the quantiser. Latents much narrower
    than that take hundreds of steps to be rated right.
    `straight_through`: what is passed on while training is rounded, with the gradient of the identity, and only the
    likelihoods are those of the noisy values (Minnen & Singh 2020's mixed quantisation); else both are noisy.
    """

    def __init__(self, channels: int, init_scale: float = 10.0) -> None:
        super().__init__()
        self.straight_through = False
        widths = (1, *_FILTERS, 1)
        scale = init_scale ** (1 / (len(_FILTERS) + 1))
        self.matrices = nn.ParameterList()
        self.biases = nn.ParameterList()
        self.factors = nn.ParameterList()
        for i, (before, after) in enumerate(pairwise(widths)):
            start = float(np.log(np.expm1(1 / scale / after)))
            self.matrices.append(nn.Parameter(torch.full((channels, after, before), start)))
            self.biases.append(nn.Parameter(torch.empty(channels, after, 1).uniform_(-0.5, 0.5)))
            if i < len(_FILTERS):
                self.factors.append(nn.Parameter(torch.zeros(channels, after, 1)))
        self.quantiles = nn.Parameter(torch.tensor([-init_scale, 0.0, init_scale]).repeat(channels, 1, 1))
        tail = float(np.log(2 / _TAIL_MASS - 1))
        self.target: Tensor
        self.register_buffer("target", torch.tensor([-tail, 0.0, tail]), persistent=False)

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

    def forward(self, x: Tensor, noise: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Quantised x (..., channels) and its likelihoods: additive uniform noise in training, rounding otherwise."""
        if not self.training:
            quantised = self.quantize(x)
            return quantised, self.likelihoods(quantised)
        noisy = x + (torch.rand_like(x) - 0.5 if noise is None else noise)
        passed = x + (self.quantize(x) - x).detach() if self.straight_through else noisy
        return passed, self.likelihoods(noisy)

    def aux_loss(self) -> Tensor:
        """Distance of the quantiles from the density's tails and median; trains `quantiles` and nothing else."""
        return (self.logits(self.quantiles, frozen=True) - self.target).abs().sum()
