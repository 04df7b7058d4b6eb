"""Heads as modules: what `nec.heads` trains and what the published code's checkpoints hold."""

from __future__ import annotations

from nec.models.heads.attention import AttentionPool
from nec.models.heads.segmentation import SegmentationHead

__all__ = ["AttentionPool", "SegmentationHead"]
