"""Optimisers, groups of parameters and the learning-rate schedule of every training in the project."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

# Coefficients of the quintic Newton-Schulz iteration that Muon's author tuned for few steps in low precision.
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def parameter_groups(
    module: nn.Module, treatment: Callable[[str, nn.Parameter], dict[str, Any] | None]
) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser, in the order in which their first parameters stand in the module.

    Args:
        treatment: name and parameter -> options of its group ("lr", "weight_decay", ...), of which equal ones make one
            group; None leaves the parameter out. Frozen parameters are not asked for.
    """
    groups: dict[tuple[tuple[str, Any], ...], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        options = treatment(name, parameter) if parameter.requires_grad else None
        if options is not None:
            groups.setdefault(tuple(sorted(options.items())), []).append(parameter)
    return [{"params": members, **dict(options)} for options, members in groups.items()]


def decays(parameter: nn.Parameter) -> bool:
    """Whether weight decay acts on a parameter: on matrices and convolutions, not on biases, norms, tokens, queries."""
    return parameter.ndim in (2, 4)


def warmup_cosine(steps: int, warmup: int) -> Callable[[int], float]:
    """Step -> factor on the learning rate, for `LambdaLR`: linear over `warmup` steps, then half a cosine to 0."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        progress = min(1.0, (step - warmup) / max(1, steps - warmup))
        return 0.5 * (1 + math.cos(math.pi * progress))

    return factor


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Nearest semi-orthogonal matrices (approximately) of a batch (..., rows, columns), by Newton-Schulz iteration."""
    a, b, c = _NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.flatten(-2).norm(dim=-1)[..., None, None] + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class MuonAdamW(torch.optim.AdamW):
    """Muon (Jordan et al. 2024) for groups with `muon` True, torch's AdamW for the others.

    Muon's update is scaled to AdamW's usual size, 0.2 * sqrt(larger side) (Liu et al. 2025), so that one learning rate
    and one weight decay serve both. `torch.optim.Muon` computes in bfloat16, which processors without that arithmetic
    emulate many times slower; here the parameters' own precision counts, and matrices of a shape go through together.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, weight_decay: float = 0.05) -> None:
        super().__init__(groups, lr, betas=(0.9, 0.95), weight_decay=weight_decay)
        for group in self.param_groups:
            group.setdefault("muon", False)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            if group["muon"]:
                self._muon(group)
        super().step()
        return loss

    def _muon(self, group: dict[str, Any]) -> None:
        shapes: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
        for p in group["params"]:
            if p.grad is not None:
                shapes.setdefault(p.shape, []).append((p, p.grad))
                p.grad = None  # used up: AdamW passes over parameters without a gradient
        for shape, alike in shapes.items():
            updates = []
            for p, gradient in alike:
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                self.state[p].setdefault("step", torch.tensor(0.0))  # AdamW wants one in every restored state
                momentum.lerp_(gradient, 0.05)
                updates.append(gradient.lerp(momentum, 0.95))
                p.mul_(1 - group["lr"] * group["weight_decay"])
            for (p, _), update in zip(alike, orthogonalise(torch.stack(updates)), strict=True):
                p.add_(update, alpha=-0.2 * math.sqrt(max(shape)) * group["lr"])
