"""The scale hyperprior: its rate against the law it states, its stream against damage and against other arithmetic."""

from __future__ import annotations

import copy
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

import nec  # noqa: E402
from nec.codec.frame import crc32c  # noqa: E402
from nec.models import ModelConfig, NecModel, save_model  # noqa: E402
from nec.models.bottleneck import HyperpriorBottleneck  # noqa: E402
from nec.models.hyperprior_stream import SCALES, HyperpriorStream, gaussian_bank  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "fixtures" / "reference_nec"
TINY = {
    "image_size": 32, "patch_size": 8, "embed_dim": 12, "depth": 1, "num_heads": 2, "decoder_depth": 0,
    "kind": "hyperprior", "hyper_channels": 8, "hyper_heads": 2,
}  # fmt: skip


def tiny() -> NecModel:
    torch.manual_seed(0)
    return NecModel(ModelConfig.from_dict(TINY)).eval()


@pytest.fixture(scope="module")
def stream() -> HyperpriorStream:
    return HyperpriorStream(tiny())


def grids(n: int, y: int, x: int, spread: float = 4.0, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(n, y, x, 12)) * spread).astype(np.float32)


# -- the bottleneck ---------------------------------------------------------------------------------------------------


def test_likelihoods_are_those_of_a_rounded_gaussian() -> None:
    prior = HyperpriorBottleneck(3, 8, 2)
    y = torch.arange(-60, 61).float()[None, :, None].expand(1, -1, 3)
    scales = torch.tensor([0.0, 1.5, 9.0]).expand(1, 121, 3)  # the first is held at the floor
    law = torch.distributions.Normal(torch.zeros(3, dtype=torch.float64), torch.tensor([0.11, 1.5, 9.0]).double())
    wanted = (law.cdf(y[0] + 0.5) - law.cdf(y[0] - 0.5)).clamp(min=1e-9)
    torch.testing.assert_close(prior.likelihoods(y, scales)[0].double(), wanted, rtol=1e-3, atol=1e-6)


def test_scales_below_the_floor_can_grow_again() -> None:
    """Ballé's lower bound: no gradient that lowers a scale below the floor, but one that raises it."""
    prior = HyperpriorBottleneck(1, 8, 2)
    for y, moves in ((1.0, True), (0.0, False)):
        scales = torch.tensor([[[0.05]]], requires_grad=True)
        (-prior.likelihoods(torch.tensor([[[y]]]), scales).log2()).sum().backward()
        assert (scales.grad.abs().sum() > 0) == moves, y


def test_noise_of_both_latents_is_the_callers() -> None:
    prior = HyperpriorBottleneck(12, 8, 2).train()
    y = torch.randn(2, 5, 12)
    shapes = prior.noise_shapes(5)
    assert shapes == {"latent": (5, 12), "hyper": (5, 8)}
    noise = {name: torch.rand(2, *shape) - 0.5 for name, shape in shapes.items()}
    quantised, likelihoods = prior(y, noise)
    torch.testing.assert_close(quantised, y + noise["latent"])
    z = prior.hyper_latent(y) + noise["hyper"]
    torch.testing.assert_close(likelihoods["latent"], prior.likelihoods(quantised, prior.scales(z)))
    torch.testing.assert_close(likelihoods["hyper"], prior.entropy_bottleneck.likelihoods(z))
    again = prior(y, noise)[0]
    assert torch.equal(again, quantised)
    assert not torch.equal(prior(y)[0], quantised)


@pytest.mark.slow
def test_it_learns_scales_that_vary_from_token_to_token() -> None:
    """Tokens with a spread of their own: knowing it saves bits that no factorised prior can, in the stream as well."""
    torch.manual_seed(0)
    model = NecModel(ModelConfig.from_dict(TINY | {"embed_dim": 16}))
    prior = model.bottleneck
    optimizer = torch.optim.Adam(prior.parameters(), 1e-2)

    def sample(count: int) -> torch.Tensor:
        spread = torch.where(torch.rand(count, 4, 1) < 0.5, 0.3, 20.0)
        return torch.randn(count, 4, 16) * spread

    for _ in range(300):
        _, likelihoods = prior(sample(32))
        bits = -sum(part.log2().sum() for part in likelihoods.values()) / (32 * 4 * 16)
        optimizer.zero_grad()
        (bits + prior.aux_loss() / 100).backward()
        optimizer.step()
    tokens = sample(1000)
    _, likelihoods = prior.eval()(tokens)
    bits = -sum(part.log2().sum() for part in likelihoods.values()).item() / tokens.numel()
    entropies = [_rounded_entropy(0.3), _rounded_entropy(20.0)]
    grid = np.arange(-200, 201)
    mixture = (_rounded_pmf(0.3, grid) + _rounded_pmf(20.0, grid)) / 2
    blind = -(mixture * np.log2(np.maximum(mixture, 1e-30))).sum()  # the best that one table a channel can do
    assert np.mean(entropies) < bits < blind
    blob = HyperpriorStream(model).encode(tokens.unflatten(1, (2, 2)).numpy())
    assert 8 * len(blob) == pytest.approx(bits * tokens.numel(), rel=0.02)


def _rounded_pmf(scale: float, grid: np.ndarray) -> np.ndarray:
    def cdf(t: float) -> float:
        return 0.5 * math.erfc(-t / scale / math.sqrt(2))

    return np.array([cdf(k + 0.5) - cdf(k - 0.5) for k in grid])


def _rounded_entropy(scale: float) -> float:
    p = _rounded_pmf(scale, np.arange(-300, 301))
    return float(-(p * np.log2(np.maximum(p, 1e-30))).sum())


def test_hyperprior_models_round_trip_through_folders(tmp_path: Path) -> None:
    model = tiny()
    save_model(model, tmp_path / "m", half=False)
    again = nec.load_model(tmp_path / "m")
    assert again.config == model.config
    assert (again.config.hyper_channels, again.config.hyper_heads) == (8, 2)
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    with pytest.raises(nec.InputError, match="hyper_channels 6"):
        ModelConfig.from_dict(TINY | {"hyper_channels": 6, "hyper_heads": 4})


# -- tables -----------------------------------------------------------------------------------------------------------


def test_tables_are_compressais() -> None:
    """The published checkpoint carries CompressAI's scale table and its 16-bit cumulative tables."""
    state = torch.load(GOLDEN / "hyperprior.pt", weights_only=True)["model"]
    theirs = {key.rsplit(".", 1)[1]: value.numpy() for key, value in state.items() if "gaussian_cond" in key}
    np.testing.assert_allclose(SCALES, theirs["scale_table"], rtol=1e-5)
    bank = gaussian_bank()
    assert len(bank) == 64
    for i in range(64):
        length, offset = theirs["_cdf_length"][i], theirs["_offset"][i]
        counts = np.diff(theirs["_quantized_cdf"][i, :length])[:-1]  # the last is for values beyond
        radius = min(int(bank.radii[i]), -int(offset))
        ours = bank.table(i)[bank.radii[i] - radius : bank.radii[i] + radius + 1]
        middle = counts[-offset - radius : -offset + radius + 1]
        assert np.abs(ours - middle).max() <= 12 + 0.01 * middle.max(), i


# -- the stream -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "y", "x"), [(0, 2, 2), (1, 1, 1), (3, 4, 5), (20, 2, 3)])
def test_streams_round_trip(stream: HyperpriorStream, n: int, y: int, x: int) -> None:
    tokens = grids(n, y, x)
    decoded = stream.decode(stream.encode(tokens))
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, np.rint(tokens))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-(2**24) + 1, 2**24 - 1) | st.integers(-3, 3), min_size=12, max_size=60))
def test_any_integers_round_trip(stream: HyperpriorStream, values: list[int]) -> None:
    tokens = np.array(values[: len(values) // 12 * 12], np.float32).reshape(-1, 1, 1, 12)
    np.testing.assert_array_equal(stream.decode(stream.encode(tokens)), tokens)


def test_decoded_tokens_are_the_models_own_and_take_the_bits_it_states() -> None:
    model = nec.load_model(GOLDEN / "hyperprior.pt", config=GOLDEN / "config.json")
    with np.load(GOLDEN / "expected.npz") as file, torch.inference_mode():
        images = torch.tensor(file["images"]).repeat(16, 1, 1, 1)
        tokens = model.tokens(images)[:, 1:]
        quantised, likelihoods = model.bottleneck(tokens)
    # Beyond its tables the stream takes escapes, which are cheaper than the likelihoods' floor of 30 bits.
    bits = sum((-part.log2()).clamp(max=18).sum().item() for part in likelihoods.values())
    coder = HyperpriorStream(model)
    blob = coder.encode(tokens.unflatten(1, (4, 4)).numpy())
    np.testing.assert_array_equal(coder.decode(blob), quantised.unflatten(1, (4, 4)).numpy())
    assert len(blob) * 8 == pytest.approx(bits, rel=0.02)
    h_s = 2 * (12 * 96 * 96 + 13 * 96) + 97 * 48
    assert coder.nbytes == 4 * (h_s + 96 * (33 + 13 + 12 + 3))  # and the prior: matrices, biases, factors, quantiles


DECODE = """
import sys, numpy as np, torch
torch.set_num_threads(int(sys.argv[1]))
import nec
from nec.models.hyperprior_stream import HyperpriorStream
tokens = HyperpriorStream(nec.load_model("model")).decode(open("blob", "rb").read())
assert torch.get_num_threads() == int(sys.argv[1])
np.save("decoded", tokens)
"""


@pytest.mark.slow
def test_another_process_with_other_threads_decodes_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = NecModel(ModelConfig.from_dict(TINY | {"embed_dim": 96, "hyper_channels": 96, "hyper_heads": 4}))
    save_model(model, tmp_path / "model")
    model = nec.load_model(tmp_path / "model")
    tokens = np.random.default_rng(0).normal(0, 5, (24, 8, 8, 96)).astype(np.float32)
    (tmp_path / "blob").write_bytes(HyperpriorStream(model).encode(tokens))
    threads = "1" if torch.get_num_threads() > 1 else "2"
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": str(Path(nec.__file__).parents[1])}
    command = [sys.executable, "-c", DECODE, threads]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "decoded.npy"), np.rint(tokens))


def test_batches_of_another_size_give_the_same_scales(stream: HyperpriorStream) -> None:
    """Images are coded on their own: what one decodes to does not depend on those beside it."""
    tokens = grids(40, 3, 3)
    hyper = stream._hyper_symbols(tokens.reshape(40, 9, 12).astype(np.float64))
    whole = stream._scale_indices(hyper)
    np.testing.assert_array_equal(np.concatenate([stream._scale_indices(hyper[i : i + 1]) for i in range(40)]), whole)


@pytest.mark.parametrize("name", ["h_s.2.weight", "h_s.0.attn.qkv.weight", "h_s.1.mlp.fc2.bias"])
def test_a_decoder_whose_arithmetic_disagrees_says_so(stream: HyperpriorStream, name: str) -> None:
    blob = stream.encode(grids(4, 4, 4))
    other = tiny()
    with torch.no_grad():
        dict(other.bottleneck.named_parameters())[name].view(-1)[0] += 0.5  # one weight
    with pytest.raises(nec.CorruptError, match="arithmetic disagrees"):
        HyperpriorStream(other).decode(blob)


def test_other_tables_are_reported(stream: HyperpriorStream) -> None:
    other = tiny()
    with torch.no_grad():
        other.bottleneck.entropy_bottleneck.biases[4][0] += 1.0
    with pytest.raises(nec.CorruptError, match="other tables"):
        HyperpriorStream(other).decode(stream.encode(grids(1, 2, 2)))


def test_damage_is_always_found(stream: HyperpriorStream) -> None:
    blob = stream.encode(grids(2, 3, 3))
    for end in (0, 3, 23, 24, len(blob) - 4, len(blob) - 1):
        with pytest.raises(nec.CorruptError):
            stream.decode(blob[:end])
    with pytest.raises(nec.CorruptError):
        stream.decode(blob + b"\0\0\0\0")
    for place in range(len(blob)):
        damaged = bytearray(blob)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(nec.CorruptError):
            stream.decode(bytes(damaged))


@settings(max_examples=60, deadline=None)
@given(st.integers(4, 400), st.integers(0, 255), st.booleans())
def test_damage_under_a_right_checksum_is_a_clear_error_or_whole(
    stream: HyperpriorStream, place: int, value: int, cut: bool
) -> None:
    """A forged checksum gets to the parts behind it: nothing but CorruptError may come out of them."""
    blob = bytearray(stream.encode(grids(2, 3, 3)))
    blob[place % len(blob)] = value
    blob = blob[:-4] if cut else blob
    try:
        decoded = stream.decode(_sealed(bytes(blob)))
    except nec.CorruptError:
        return
    assert decoded.shape[3] == 12


def _sealed(blob: bytes) -> bytes:
    return blob[:4] + struct.pack("<I", crc32c(blob[:4] + blob[8:])) + blob[8:]


def test_headers_beyond_the_limits_take_no_memory(stream: HyperpriorStream) -> None:
    blob = stream.encode(grids(1, 2, 2))
    for n, y, x in [(2**32 - 1, 2, 2), (1, 65535, 65535), (1, 0, 4), (1 << 25, 2, 2)]:
        with pytest.raises(nec.CorruptError, match="beyond the limit"):
            stream.decode(_sealed(blob[:16] + struct.pack("<IHH", n, y, x) + blob[24:]))
    with pytest.raises(nec.CorruptError, match="version 9"):
        stream.decode(_sealed(blob[:2] + b"\x09" + blob[3:]))


def test_what_cannot_be_coded_is_refused(stream: HyperpriorStream) -> None:
    with pytest.raises(nec.InputError, match=r"\(n, y, x, 12\)"):
        stream.encode(np.zeros((2, 4, 12), np.float32))
    for value in (math.nan, math.inf, 2.0**25):
        with pytest.raises(nec.InputError, match="cannot be coded"):
            stream.encode(np.full((1, 1, 1, 12), value, np.float32))
    plain = copy.deepcopy(TINY) | {"kind": "factorized"}
    with pytest.raises(nec.InputError, match="kind 'factorized'"):
        HyperpriorStream(NecModel(ModelConfig.from_dict(plain)))
