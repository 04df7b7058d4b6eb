"""Attention pooling, the classification head of the paper, with the parameter names of timm's `AttentionPoolLatent`."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional as F

from nec.errors import InputError


class AttentionPool(nn.Module):
    """Pool tokens (n, t, d) to (n, d) with one learned query: attend, project, then x + mlp(norm(x)).

    Same arithmetic and parameter names as timm's `AttentionPoolLatent` (latent length 1, no position embedding, no
    query-key norm).
    """

    def __init__(self, dimensions: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        if dimensions % heads:
            raise InputError(f"{heads} attention heads do not divide {dimensions} dimensions")
        self.heads = heads
        self.latent = nn.Parameter(torch.empty(1, 1, dimensions))
        self.q = nn.Linear(dimensions, dimensions)
        self.kv = nn.Linear(dimensions, 2 * dimensions)
        self.proj = nn.Linear(dimensions, dimensions)
        self.norm = nn.LayerNorm(dimensions)
        hidden = int(dimensions * mlp_ratio)
        self.mlp = nn.Sequential(
            OrderedDict(fc1=nn.Linear(dimensions, hidden), act=nn.GELU(), fc2=nn.Linear(hidden, dimensions))
        )
        nn.init.trunc_normal_(self.latent, std=dimensions**-0.5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n, t, d) -> (n, d). Keys and values of single tokens are never formed: with one query, its dot products
        with the keys are linear in the tokens (the key bias cancels in the softmax) and weights sum to 1 ahead of the
        value projection. That is the same function at about a twentieth of the arithmetic.
        """
        n, _, d = tokens.shape
        width = d // self.heads
        query = self.q(self.latent).view(self.heads, width) * width**-0.5
        key, value = self.kv.weight.view(2, self.heads, width, d)
        direction = torch.einsum("hw,hwd->hd", query, key)
        weights = F.softmax(tokens @ direction.T, dim=1)
        gathered = weights.transpose(1, 2) @ tokens
        pooled = torch.einsum("nhd,hwd->nhw", gathered, value).reshape(n, d) + self.kv.bias[d:]
        pooled = self.proj(pooled)
        return pooled + self.mlp(self.norm(pooled))
