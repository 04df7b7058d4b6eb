"""Codecs of many channels: what travels with a store stays small."""

from __future__ import annotations

import numpy as np
import pytest
from codec_samples import smooth_embeddings

from nec.codec import EmbeddingCodec, fitting

CODECS = {"tokens": {"prior": "hierarchical"}, "factorized": {"prior": "factorized"}, "pyramid": {"spatial": "haar"}}


@pytest.mark.slow
@pytest.mark.parametrize("channels", [768, 1024])
@pytest.mark.parametrize("kind", list(CODECS))
def test_side_information_of_wide_codecs_stays_small(kind: str, channels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sample, batch = (smooth_embeddings(n, 4, 4, channels, seed=n) for n in (24, 16))
    codec = EmbeddingCodec.fit(sample, klt=False, **CODECS[kind])
    assert codec.nbytes < 32 << 10
    monkeypatch.setattr(fitting, "_NARROW", channels)  # every channel has parameters of its own
    own = EmbeddingCodec.fit(sample, klt=False, **CODECS[kind])
    assert own.side_information()["contexts"] > 2 * codec.side_information()["contexts"]
    for quality in (0.25, 2.0):
        symbols = codec.symbols(batch, quality)
        blob = codec.encode_symbols(symbols, quality)
        np.testing.assert_array_equal(codec.decode_symbols(blob)[0], symbols)
        assert len(blob) < 1.005 * len(own.encode_symbols(symbols, quality))


def test_channels_share_parameters_only_in_wide_codecs() -> None:
    assert fitting._groups(256, False) is None
    groups = fitting._groups(768, False)
    assert groups is not None
    assert np.all(np.diff(groups) >= 0)
    np.testing.assert_array_equal(groups[:16], np.arange(16))
    sums = np.random.default_rng(0).normal(size=(3, 768))
    means = fitting._shared(sums, groups)
    for group in np.unique(groups):
        inside = groups == group
        np.testing.assert_allclose(means[:, inside], np.repeat(sums[:, inside].mean(1)[:, None], inside.sum(), 1))


def test_a_channel_of_a_group_may_be_dead() -> None:
    """Its mean with the others' is not; where all are dead nothing is fitted."""
    sample = smooth_embeddings(8, 4, 4, 320)
    sample[..., 40:60] = 0
    sample[..., 150:] = 1
    for options in CODECS.values():
        codec = EmbeddingCodec.fit(sample, klt=False, **options)
        np.testing.assert_array_equal(codec.symbols(codec.decode(codec.encode(sample))), codec.symbols(sample))
