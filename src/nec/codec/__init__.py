"""Bytes to arrays and back: fitted, integer-exact compression of embedding grids. NumPy and constriction only."""

from __future__ import annotations

from nec.codec.embedding_codec import EmbeddingCodec
from nec.codec.zarr_codec import NecEmbeddingCodec

__all__ = ["EmbeddingCodec", "NecEmbeddingCodec"]
