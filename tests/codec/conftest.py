"""Codecs that several tests share, fitted once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nec.codec import EmbeddingCodec

sys.path.insert(0, str(Path(__file__).parent))

from codec_samples import smooth_embeddings

DIMENSIONS = 5


@pytest.fixture(scope="session")
def codecs() -> dict[str, EmbeddingCodec]:
    """Codecs of both priors, with and without KLT, all of `DIMENSIONS` channels."""
    sample = smooth_embeddings(40, 8, 8, DIMENSIONS)
    return {
        "hierarchical": EmbeddingCodec.fit(sample),
        "factorized": EmbeddingCodec.fit(sample, prior="factorized"),
        "plain": EmbeddingCodec.fit(sample, klt=False, rank=3),
        "haar": EmbeddingCodec.fit(sample, spatial="haar"),
    }


@pytest.fixture(params=["hierarchical", "factorized", "plain", "haar"])
def codec(request: pytest.FixtureRequest, codecs: dict[str, EmbeddingCodec]) -> EmbeddingCodec:
    """Each of the shared codecs."""
    return codecs[request.param]
