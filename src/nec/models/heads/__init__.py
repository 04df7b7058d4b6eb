"""Heads as modules: what `nec.tasks` trains and what the published code's checkpoints hold."""

from __future__ import annotations

from nec.models.heads.attention import AttentionPool

__all__ = ["AttentionPool"]
