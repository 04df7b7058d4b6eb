"""Optimisers and learning-rate schedule of pre-training and adaptation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

# Coefficients of the quintic Newton-Schulz iteration that Muon's author tuned for few steps in low precision.
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


_Pair = tuple[nn.Parameter, Tensor]  # with its gradient


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


class MuonAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for matrices inside blocks, AdamW for everything else.

    Muon's update is scaled to AdamW's usual size, 0.2 * sqrt(larger side) (Liu et al. 2025), so that one learning rate
    and one weight decay serve both. Unlike `torch.optim.Muon` it works in the parameters' own precision: on processors
    without bfloat16 arithmetic that is many times faster.

    Args:
        groups: parameter groups, each with `params` and optionally `muon` (True: matrices by Muon), `lr`,
            `weight_decay`, `betas`.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, weight_decay: float = 0.05) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "betas": (0.9, 0.95), "momentum": 0.95, "muon": False}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = closure() if closure is not None else None
        for group in self.param_groups:
            pairs = [(p, p.grad) for p in group["params"] if p.grad is not None]
            for p, _ in pairs:
                p.mul_(1 - group["lr"] * group["weight_decay"])
            if group["muon"]:
                self._muon(pairs, group)
            else:
                self._adam(pairs, group)
        return loss

    def _muon(self, pairs: list[_Pair], group: dict[str, Any]) -> None:
        shapes: dict[torch.Size, list[_Pair]] = {}
        for p, gradient in pairs:
            shapes.setdefault(p.shape, []).append((p, gradient))
        for alike in shapes.values():  # one batched iteration for all matrices of a shape
            updates = []
            for p, gradient in alike:
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(gradient, 1 - group["momentum"])
                updates.append(gradient.lerp(momentum, group["momentum"]))
            size = 0.2 * math.sqrt(max(alike[0][0].shape))
            for (p, _), update in zip(alike, orthogonalise(torch.stack(updates)), strict=True):
                p.add_(update, alpha=-group["lr"] * size)

    def _adam(self, pairs: list[_Pair], group: dict[str, Any]) -> None:
        beta1, beta2 = group["betas"]
        for p, gradient in pairs:
            state = self.state[p]
            if not state:
                state["step"], state["mean"], state["square"] = 0, torch.zeros_like(p), torch.zeros_like(p)
            state["step"] += 1
            state["mean"].lerp_(gradient, 1 - beta1)
            state["square"].lerp_(gradient.square(), 1 - beta2)
            scale = math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
            p.addcdiv_(state["mean"], state["square"].sqrt().add_(1e-8), value=-group["lr"] * scale)


def warmup_cosine(step: int, steps: int, warmup: int, floor: float = 0.0) -> float:
    """Factor on the learning rate at `step`: linear over `warmup` steps, then half a cosine from 1 down to `floor`."""
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))
