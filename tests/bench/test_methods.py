"""Every method: round trips over shapes and values, golden values, and bytes that were tampered with."""

from __future__ import annotations

import doctest
import importlib
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import nec
from nec.bench.methods import UQE, CodecMethod, Method, methods
from nec.codec.frame import crc32c

GOLDEN = Path(__file__).parents[1] / "fixtures" / "reference_nec" / "expected.npz"
EMBEDDING_SPEC = "float:32,32-zstd,16,16-zstd uqe:1,2,3,4,5,8,16 uqe-channel:2,4,8"
IMAGE_SPEC = "rdc:uint8,uint8-zstd,uint16,uint16-zstd png jpeg2000:1,4,24 jpeg:90,30 webp:30 avif:30 jpegxl:4 htj2k:0.1"
FLOATS = st.floats(-(2.0**127), 2.0**127, width=32) | st.floats(-4, 4, width=32)
EMBEDDINGS = hnp.arrays(np.float32, hnp.array_shapes(min_dims=4, max_dims=4, max_side=5), elements=FLOATS)


def smooth_images(n: int = 5, side: int = 32, bands: int = 3, dtype: type = np.uint8) -> np.ndarray:
    """Blurred noise, which image codecs find structure in."""
    noise = np.random.default_rng(0).normal(size=(n, side, side, bands))
    for axis in (1, 2):
        noise = sum(np.roll(noise, shift, axis) for shift in range(-3, 4))
    low, high = noise.min(), noise.max()
    return ((noise - low) / (high - low) * np.iinfo(dtype).max).astype(dtype)


def tokens(n: int = 6) -> np.ndarray:
    return np.cumsum(np.random.default_rng(1).normal(size=(n, 4, 4, 6)), axis=1).astype(np.float32)


def ids(method: Method) -> str:
    return method.name


# ---- embeddings


@pytest.mark.parametrize("method", methods(EMBEDDING_SPEC), ids=ids)
@settings(max_examples=25, deadline=None)
@given(batch=EMBEDDINGS)
def test_embeddings_keep_what_the_method_promises(method: Method, batch: np.ndarray) -> None:
    if method.lossless:
        np.testing.assert_array_equal(method.decode(method.encode(batch)), batch)
        return
    if method.name in ("uqe-16", "float-float16", "float-float16-zstd"):
        batch = np.clip(batch, -65000, 65000)
        wanted = batch.astype(np.float16).astype(np.float32)
    else:
        axes = (0, 1, 2) if method.family == "uqe-channel" else None
        low, high = batch.min(axes, keepdims=True).astype(float), batch.max(axes, keepdims=True).astype(float)
        half_step = (high - low) / (2**method.setting - 1) / 2
        wanted = None
    decoded = method.decode(method.encode(batch))
    assert decoded.dtype == np.float32
    assert decoded.shape == batch.shape
    if wanted is not None:
        np.testing.assert_array_equal(decoded, wanted)
    else:
        rounding = np.spacing(np.maximum(np.abs(low), np.abs(high)).astype(np.float32)).astype(float)
        assert (np.abs(decoded.astype(float) - batch) <= half_step * (1 + 1e-9) + rounding).all()
    np.testing.assert_array_equal(method.decode(method.encode(decoded)), decoded)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8, 16])
def test_uqe_is_the_published_one(bits: int) -> None:
    with np.load(GOLDEN) as file:
        latent, wanted = file["mae_latent"][:, 1:], file[f"uqe{bits}"]
    method = UQE(bits)
    decoded = method.decode(method.encode(latent[:, :, None]))[:, :, 0]
    np.testing.assert_allclose(decoded, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", methods("uqe:2,3,5,8 uqe-channel:2,8"), ids=ids)
def test_constants_cost_nothing_and_come_back(method: Method) -> None:
    batch = np.full((3, 2, 2, 4), -7.25, np.float32)
    np.testing.assert_array_equal(method.decode(method.encode(batch)), batch)


def test_noise_takes_no_more_than_its_packed_bits() -> None:
    batch = np.random.default_rng(2).uniform(size=(1, 3, 3, 5)).astype(np.float32)
    for bits in (2, 3, 5, 8):
        blob = UQE(bits).encode(batch)
        assert len(blob) <= 16 + 2 + 8 + -(-batch.size * bits // 8)
        assert np.abs(UQE(bits).decode(blob) - batch).max() <= 0.5 / (2**bits - 1)


def test_channelwise_ranges_serve_channels_of_small_variance() -> None:
    batch = np.random.default_rng(3).normal(size=(20, 4, 4, 8)).astype(np.float32) * np.logspace(-3, 0, 8, dtype="f4")

    def relative_error(method: Method) -> float:
        difference = method.decode(method.encode(batch)) - batch
        return float((np.square(difference).sum((0, 1, 2)) / np.square(batch).sum((0, 1, 2))).max())

    assert relative_error(UQE(4, channelwise=True)) < 0.03 < relative_error(UQE(4))


@pytest.mark.parametrize("method", [*methods(EMBEDDING_SPEC), CodecMethod().fit(tokens())], ids=ids)
@pytest.mark.parametrize("fault", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(method: Method, fault: float) -> None:
    batch = tokens()
    batch[2, 1, 0, 3] = fault
    with pytest.raises(nec.InputError, match="NaN or inf"):
        method.encode(batch)


def test_values_beyond_half_precision_are_refused() -> None:
    for method in methods("uqe:16 float:16"):
        with pytest.raises(nec.InputError, match="65504"):
            method.encode(np.full((1, 1, 1, 1), 1e5, np.float32))


def test_our_codec_as_a_method() -> None:
    method = CodecMethod(quality=2.0, variant="factorized")
    with pytest.raises(nec.InputError, match="fit"):
        method.encode(tokens())
    fitted = method.fit(tokens(40))
    codec = fitted.codec
    blob = fitted.encode(tokens())
    assert blob == codec.encode(tokens(), quality=2.0)
    np.testing.assert_array_equal(fitted.decode(blob), codec.decode(blob))
    assert (fitted.nbytes, fitted.name, fitted.fit(tokens())) == (codec.nbytes, "codec-factorized-2", fitted)


# ---- tampered bytes: a frame whose checksum was made to fit again still raises nothing but NecError


def resealed(blob: bytes) -> bytes:
    return blob[:3] + struct.pack("<I", crc32c(blob[7:])) + blob[7:]


def some_blobs() -> list[tuple[Method, bytes]]:
    embedding = [(method, method.encode(tokens())) for method in methods(EMBEDDING_SPEC)]
    raw = [(method, method.encode(smooth_images())) for method in methods("rdc:uint8,uint8-zstd,uint16-zstd")]
    pytest.importorskip("imagecodecs")
    pytest.importorskip("PIL")
    coded = [(method, method.encode(smooth_images())) for method in methods("png jpeg2000:1,24 jpeg:50")]
    return embedding + raw + coded


@pytest.fixture(scope="module")
def blobs() -> list[tuple[Method, bytes]]:
    return some_blobs()


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_changed_and_cut_frames_are_refused(blobs, data) -> None:
    method, blob = data.draw(st.sampled_from(blobs))
    position = data.draw(st.integers(0, len(blob) - 1))
    changed = bytearray(blob)
    changed[position] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(changed), blob[:position], blob + b"x"):
        with pytest.raises(nec.CorruptError):
            method.decode(damaged)


@settings(max_examples=250, deadline=None)
@given(data=st.data())
def test_forged_frames_raise_nothing_else(blobs, data) -> None:
    method, blob = data.draw(st.sampled_from(blobs))
    forged = bytearray(blob)
    head = st.integers(7, min(len(blob) - 1, 7 + 64))  # most of what can go wrong is declared early
    for position in data.draw(st.lists(head | st.integers(7, len(blob) - 1), min_size=1, max_size=4)):
        forged[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.just(len(blob)) | st.integers(8, len(blob)))
    try:
        decoded = method.decode(resealed(bytes(forged[:cut])))
    except nec.CorruptError:
        return
    assert decoded.ndim == 4


@settings(max_examples=100, deadline=None)
@given(junk=st.binary(max_size=300), data=st.data())
def test_foreign_bytes_are_refused(blobs, junk: bytes, data) -> None:
    method, blob = data.draw(st.sampled_from(blobs))
    name = blob[7 : 8 + blob[7]]
    for foreign in (junk, resealed(b"\x9aB\x01" + bytes(4) + name + junk)):
        with pytest.raises(nec.CorruptError):
            method.decode(foreign)


def test_another_methods_frame_is_refused(blobs) -> None:
    for method, _ in blobs:
        for other, blob in blobs:
            if other.family != method.family:
                with pytest.raises(nec.CorruptError):
                    method.decode(blob)


def test_a_frame_that_declares_too_much_takes_no_memory() -> None:
    (method,) = methods("rdc:uint8-zstd")
    blob = method.encode(smooth_images())
    start = 8 + blob[7] + 1
    huge = blob[:start] + b"\xff\xff\xff\xff\x7f" * 4 + blob[start + 4 :]
    with pytest.raises(nec.CorruptError, match="limit"):
        method.decode(resealed(huge))


# ---- names


@pytest.mark.parametrize(
    ("spec", "word"),
    [
        ("uqe:9", "8 bits"), ("uqe:2.5", "2.5"), ("uqe:", "uqe"), ("uqe", "uqe"), ("png:3", "png"), ("gif:3", "gif"),
        ("jpeg:0", "quality"), ("jpeg:x", "'x'"), ("jpeg2000:0.5", "ratio"), ("jpeg2000:nan", "ratio"),
        ("nec:-1", "-1"),
        ("uqe:2,2", "twice"), ("  ", "no method"), ("uqe-channel:16", "16"), ("rdc:uint8-lz4", "uint8-lz4"),
    ],
)  # fmt: skip
def test_a_wrong_name_is_quoted(spec: str, word: str) -> None:
    with pytest.raises(nec.InputError, match=word):
        methods(spec)


def test_default_names_are_unique_and_read_back() -> None:
    names = [method.name for method in methods()]
    assert len(names) == len(set(names)) > 25
    assert {"uqe-8", "jpeg2000-24", "rdc-uint8-zstd", "png"} <= set(names)


@pytest.mark.parametrize("module", ["raw", "spec"])
def test_examples_in_docstrings(module: str) -> None:
    result = doctest.testmod(importlib.import_module(f"nec.bench.methods.{module}"))
    assert result.attempted > 0
    assert result.failed == 0
