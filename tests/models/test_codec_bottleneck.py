"""The codec in differentiable form against the codec itself: its bytes, its values, its thresholds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from nec import EmbeddingCodec, InputError
from nec.models.codec_bottleneck import CodecBottleneck, cell_lengths, draw_levels


def smooth_tokens(n: int, y: int, x: int, d: int, seed: int = 0) -> NDArray[np.float32]:
    """Grids that are alike from token to token, channels of falling variance, images of unequal strength."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(n, y + 3, x + 3, d)) * np.exp(-np.arange(d) / 3) * rng.uniform(0.3, 2, (n, 1, 1, 1))
    smooth = sum(noise[:, i : i + y, j : j + x] for i in range(4) for j in range(4)) / 4
    turned = (smooth + 0.2 * noise[:, :y, :x]) @ np.linalg.qr(rng.normal(size=(d, d)))[0]
    return (turned + rng.normal(size=(1, y, x, d))).astype(np.float32)


@pytest.fixture(scope="module")
def tokens() -> NDArray[np.float32]:
    return smooth_tokens(160, 8, 8, 12)


@pytest.fixture(scope="module")
def codec(tokens: NDArray[np.float32]) -> EmbeddingCodec:
    return EmbeddingCodec.fit(tokens, spatial="haar", positions=True)


def levels(count: int, quality: float) -> torch.Tensor:
    return torch.full((count,), 8 * float(np.log2(quality)))


def check_bits(codec: EmbeddingCodec, tokens: NDArray[np.float32], quality: float, tolerance: float) -> None:
    """Bits in evaluation mode are those of real frames, less the frame's 24 bytes, padding and ends of stream."""
    with torch.no_grad():
        bits = CodecBottleneck(codec).eval()(torch.from_numpy(tokens), levels(len(tokens), quality)).bits.sum().item()
    assert bits / 8 == pytest.approx(len(codec.encode(tokens, quality)) - 36, rel=tolerance, abs=16)


@pytest.mark.parametrize("quality", [0.125, 0.25, 0.5, 1.0, 4.0])
def test_bits_are_those_of_real_bytes(codec: EmbeddingCodec, tokens: NDArray[np.float32], quality: float) -> None:
    check_bits(codec, tokens, quality, 0.01)


@pytest.mark.parametrize("quality", [0.25, 1.0])
def test_bits_of_other_grids(codec: EmbeddingCodec, quality: float) -> None:
    check_bits(codec, smooth_tokens(160, 7, 5, 12, seed=1), quality, 0.02)


@pytest.mark.slow
def test_bits_of_a_public_models_embeddings(data_dir: Path) -> None:
    with np.load(data_dir / "embeddings" / "galileo_nano_eurosat_1000.npz") as file:
        tokens = np.asarray(file["embeddings"][:200], np.float32)
    codec = EmbeddingCodec.fit(tokens[:120], spatial="haar", positions=None)
    for quality in (0.0625, 0.25, 1.0):
        check_bits(codec, tokens[120:], quality, 0.03)


@pytest.mark.parametrize("quality", [0.0625, 0.5, 2.0])
def test_values_are_those_that_the_codec_decodes(
    codec: EmbeddingCodec, tokens: NDArray[np.float32], quality: float
) -> None:
    """Symbols and centroids alike; a coefficient on the very edge of a cell may fall on either side."""
    with torch.no_grad():
        coded = CodecBottleneck(codec).eval()(torch.from_numpy(tokens), levels(len(tokens), quality))
    decoded = codec.decode(codec.encode(tokens, quality))
    alike = np.abs(coded.tokens.numpy() - decoded).max(axis=(1, 2, 3)) < 1e-3 * codec.step(quality)
    assert alike.mean() > 0.95
    whole = torch.from_numpy(tokens)
    bottleneck = CodecBottleneck(codec)
    back = bottleneck.tokens_of(bottleneck.coefficients(whole), 8, 8)
    torch.testing.assert_close(back, whole, atol=1e-4, rtol=1e-4)


@given(st.floats(-3, 1.5), st.integers(0, 30))
def test_the_density_of_noisy_values_is_one_and_has_the_geometric_laws_cells(octaves: float, size: int) -> None:
    """Over the reals the unit cells' masses integrate to 1; at integers they are r^k (1 - r), halved for two signs."""
    mean = torch.tensor(10.0**octaves, dtype=torch.float64)
    places = torch.arange(-4000, 4000, dtype=torch.float64) / 10 + 0.05
    mass = torch.exp2(-cell_lengths(places, mean)).sum().item() / 10
    assert mass == pytest.approx(1, abs=0.01)
    ratio = (mean / (1 + mean)).item()
    wanted = np.log2(1 - ratio) + size * np.log2(ratio) - (size > 0)
    assert cell_lengths(torch.tensor(float(size), dtype=torch.float64), mean).item() == pytest.approx(-wanted, rel=1e-3)


def test_code_lengths_in_single_precision_stay_finite_far_out() -> None:
    values = torch.tensor([0.0, 0.4999, 0.5, 1.0, 7.0, 1e4], requires_grad=True)
    bits = cell_lengths(values, torch.full((6,), 2.0**-14))
    bits.sum().backward()
    assert bits.isfinite().all()
    assert values.grad is not None
    assert values.grad.isfinite().all()
    assert (bits.diff() > 0).all()


@pytest.mark.parametrize("quantization", ["noise", "mixed", "straight-through"])
def test_gradients_reach_tokens_contexts_and_gains(
    quantization: str, codec: EmbeddingCodec, tokens: NDArray[np.float32]
) -> None:
    bottleneck = CodecBottleneck(codec).train()
    bottleneck.quantization = quantization
    given = torch.from_numpy(tokens[:32]).requires_grad_()
    coded = bottleneck(given, torch.linspace(-24, 8, 32))
    coded.bits.sum().backward()
    assert given.grad is not None
    for gradient in (given.grad, *(parameter.grad for parameter in bottleneck.parameters())):
        assert gradient is not None
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0
    # Larger deviations from the mean cost more bits.
    assert (given.grad * (given.detach() - torch.from_numpy(tokens).mean(0))).sum() > 0
    # The tokens pass gradients on as the identity does (the basis is of half precision).
    given.grad = None
    bottleneck(given, torch.linspace(-24, 8, 32)).tokens.sum().backward()
    torch.testing.assert_close(given.grad, torch.ones_like(given), atol=0.02, rtol=0)


def test_noise_errs_as_uniform_quantisation_does(codec: EmbeddingCodec, tokens: NDArray[np.float32]) -> None:
    bottleneck = CodecBottleneck(codec).train()
    bottleneck.quantization = "noise"
    whole = torch.from_numpy(tokens)
    noise = torch.rand(len(tokens), *bottleneck.noise_shape(8, 8), generator=torch.Generator().manual_seed(0)) - 0.5
    coded = bottleneck(whole, levels(len(tokens), 2.0), noise)
    # One step for all, as the gains are scaled: 1/12 of its square in each of 64 x 12 coefficients, in level 0's steps.
    wanted = 64 * 12 / 12 / 4
    assert bottleneck.distance(coded.tokens, whole).mean().item() == pytest.approx(wanted, rel=0.02)
    again = bottleneck(whole, levels(len(tokens), 2.0), noise)
    assert torch.equal(again.tokens, coded.tokens)


def test_contexts_that_were_disturbed_train_back(codec: EmbeddingCodec, tokens: NDArray[np.float32]) -> None:
    whole, at = torch.from_numpy(tokens[:48]), levels(48, 0.5)
    bottleneck = CodecBottleneck(codec).train()
    best = bottleneck(whole, at).bits.mean().item()
    with torch.no_grad():
        bottleneck.base.add_(3.0)
        bottleneck.slopes.mul_(0.3)
    start = bottleneck(whole, at).bits.mean().item()
    optimizer = torch.optim.Adam([bottleneck.base, bottleneck.slopes], 0.1)
    for _ in range(40):
        optimizer.zero_grad()
        bits = bottleneck(whole, at).bits.mean()
        bits.backward()
        optimizer.step()
    assert start > 1.15 * best
    assert bits.item() < 1.01 * best


def test_levels_between_the_codecs_are_between_in_bits(codec: EmbeddingCodec, tokens: NDArray[np.float32]) -> None:
    with torch.no_grad():
        bottleneck, whole = CodecBottleneck(codec).eval(), torch.from_numpy(tokens)
        low, middle, high = (bottleneck(whole, torch.full((160,), at)).bits.mean() for at in (-8.0, -7.5, -7.0))
    assert low < middle < high
    drawn = draw_levels(torch.tensor([0.0, 0.5, 1.0]), (0.25, 4.0))
    assert drawn.tolist() == [-16, 0, 16]


def test_a_refit_is_a_codec_of_the_same_metric(codec: EmbeddingCodec, tokens: NDArray[np.float32]) -> None:
    again = CodecBottleneck(codec).refit(tokens)
    assert again.step() == codec.step()
    assert len(again.encode(tokens, 0.5)) == pytest.approx(len(codec.encode(tokens, 0.5)), rel=0.02)
    finer = CodecBottleneck(codec)
    with torch.no_grad():
        finer.channel_gains[0] = 3.0
    refit = finer.refit(tokens)
    axis = codec.parts[0].basis[0].astype(np.float64)
    along, across = [], []
    for one in (again, refit):
        error = one.decode(one.encode(tokens, 0.5)) - tokens
        along.append(np.square(error @ axis).sum())
        across.append(np.square(error).sum() - along[-1])
    assert along[1] < along[0] / 20  # an eighth of the step
    assert across[1] == pytest.approx(across[0], rel=0.1)
    assert refit.encode(refit.decode(refit.encode(tokens, 0.5)), 0.5) == refit.encode(tokens, 0.5)


def test_typical_bits_are_the_codecs_at_its_anchors(codec: EmbeddingCodec, tokens: NDArray[np.float32]) -> None:
    bottleneck = CodecBottleneck(codec).train()
    bottleneck.calibrate(torch.from_numpy(tokens))
    assert bottleneck.training
    found = bottleneck.typical_bits(torch.tensor([-8.0, -4.0, 0.0]))
    for quality, bits in zip((0.5, 1.0), found[[0, 2]].tolist(), strict=True):
        assert bits == pytest.approx(8 * len(codec.encode(tokens, quality)) / 160, rel=0.03)
    assert found[1].item() == pytest.approx((found[0] * found[2]).sqrt().item(), rel=1e-4)


def test_codecs_without_a_pyramid_are_refused(tokens: NDArray[np.float32]) -> None:
    with pytest.raises(InputError, match="haar"):
        CodecBottleneck(EmbeddingCodec.fit(tokens[:40]))
