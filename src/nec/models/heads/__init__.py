"""Heads as modules: what `nec.tasks` trains and what the published code's checkpoints hold."""

from __future__ import annotations

from nec.models.heads.attention import AttentionPool
from nec.models.heads.segmentation import SegmentationHead

__all__ = ["AttentionPool", "SegmentationHead"]
