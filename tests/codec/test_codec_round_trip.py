"""Round trips of any shape, content and quality; errors for bad input."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from codec_samples import smooth_embeddings
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nec.codec import EmbeddingCodec
from nec.codec.transform import Coefficients
from nec.errors import CorruptError, InputError

QUIET = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
SHAPES = st.one_of(
    st.sampled_from([(0, 4, 4), (3, 0, 4), (1, 1, 1), (2, 1, 9), (2, 9, 1), (1, 14, 14), (3, 7, 5), (5, 2, 2)]),
    st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(1, 9)),
)


@QUIET
@given(shape=SHAPES, bits=st.integers(0, 23), seed=st.integers(0, 99), level=st.integers(-60, 60))
def test_any_symbols_come_back(codec: EmbeddingCodec, shape: tuple, bits: int, seed: int, level: int) -> None:
    rng = np.random.default_rng(seed)
    size = rng.integers(0, 1 << rng.integers(0, bits + 1, (*shape, codec.rank)))
    symbols = size * rng.choice([-1, 1], size.shape) * (rng.random(size.shape) < rng.random())
    quality = 2 ** (level / 8)
    decoded, stored = codec.decode_symbols(codec.encode_symbols(symbols, quality))
    np.testing.assert_array_equal(decoded, symbols)
    assert stored == pytest.approx(quality)


@QUIET
@given(shape=SHAPES, seed=st.integers(0, 99), level=st.integers(-50, 70))
def test_decoded_batches_encode_to_the_same_bytes(codec: EmbeddingCodec, shape: tuple, seed: int, level: int) -> None:
    batch, quality = smooth_embeddings(*shape, codec.dimensions, seed=seed), 2 ** (level / 8)
    blob = codec.encode(batch, quality)
    decoded = codec.decode(blob)
    assert decoded.shape == batch.shape
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(codec.symbols(decoded, quality), codec.symbols(batch, quality))
    assert codec.encode(decoded, quality) == blob


def test_constants_and_single_values(codec: EmbeddingCodec) -> None:
    for value in (0.0, 1e-30, -3.5, 1e4):
        batch = np.full((2, 3, 3, codec.dimensions), value)
        symbols = codec.symbols(batch, 4.0)
        np.testing.assert_array_equal(codec.decode_symbols(codec.encode(batch, 4.0))[0], symbols)


def test_error_falls_with_quality(codecs: dict[str, EmbeddingCodec]) -> None:
    codec, batch = codecs["hierarchical"], smooth_embeddings(40, 8, 8, 5)
    variance = np.square(batch - batch.mean((0, 1, 2))).sum()
    errors = [np.square(codec.decode(codec.encode(batch, q)) - batch).sum() / variance for q in (0.25, 1, 4, 64, 4096)]
    assert errors == sorted(errors, reverse=True)
    # Quality 1: plain rounding errs by 3% of the variance, centroids lower that.
    assert 0.015 < errors[1] < 0.03
    rounded = codec._transform.reconstruct(Coefficients(codec.symbols(batch, 1.0), None, 0))
    assert np.square(rounded - batch).sum() / variance == pytest.approx(0.03, rel=0.02)
    # An octave of quality is half the step, so a quarter of the error where the step is small.
    assert errors[3] / errors[4] == pytest.approx(4.0**6, rel=0.2)


def test_every_float_dtype_and_byte_order_gives_the_same_bytes(codec: EmbeddingCodec) -> None:
    batch = smooth_embeddings(3, 4, 4, codec.dimensions).astype(np.float16)
    blobs = {codec.encode(batch.astype(dtype), 2.0) for dtype in ("<f2", ">f2", "<f4", ">f4", "<f8", ">f8")}
    assert len(blobs) == 1
    assert codec.encode(np.asfortranarray(batch), 2.0) in blobs


def test_extreme_qualities(codec: EmbeddingCodec) -> None:
    batch = smooth_embeddings(3, 4, 4, codec.dimensions)
    assert len(codec.encode(batch, 1e-12)) <= 24
    assert np.isfinite(codec.decode(codec.encode(batch, 1e-12))).all()
    fine = codec.decode(codec.encode(batch, 3e4))
    if codec.rank == codec.dimensions:
        np.testing.assert_allclose(fine, batch, atol=1e-4)
    with pytest.raises(InputError, match="too high"):
        codec.encode(batch * 1e6, 3e4)


def test_one_dead_or_lone_channel_and_tiny_samples() -> None:
    rng = np.random.default_rng(0)
    one = rng.normal(size=(1, 1, 1, 1)).astype(np.float32)
    assert EmbeddingCodec.fit(one).decode(EmbeddingCodec.fit(one).encode(one)).shape == (1, 1, 1, 1)
    constant = np.ones((4, 3, 3, 6))
    for prior in ("hierarchical", "factorized"):
        codec = EmbeddingCodec.fit(constant, prior=prior)
        np.testing.assert_allclose(codec.decode(codec.encode(constant)), constant, atol=1e-6)
    line = rng.normal(size=(5, 1, 9, 2))
    codec = EmbeddingCodec.fit(line)
    square = rng.normal(size=(2, 16, 16, 2))
    np.testing.assert_array_equal(codec.decode_symbols(codec.encode(square))[0], codec.symbols(square))


def test_dead_channels_cost_nothing() -> None:
    rng = np.random.default_rng(0)
    live = rng.normal(size=(100, 4, 4, 3))
    padded = np.concatenate([live, np.full((100, 4, 4, 29), 0.25)], axis=3)
    small, large = EmbeddingCodec.fit(live), EmbeddingCodec.fit(padded)
    assert len(large.encode(padded)) <= len(small.encode(live)) * 1.01


def test_fit_is_deterministic_and_reads_half_precision() -> None:
    sample = smooth_embeddings(12, 4, 4, 4).astype(np.float16)
    codec = EmbeddingCodec.fit(sample, seed=3)
    assert codec.id == EmbeddingCodec.fit(sample.astype(np.float64), seed=3).id
    assert codec.id != EmbeddingCodec.fit(sample, seed=3, prior="factorized").id


def test_given_step(codecs: dict[str, EmbeddingCodec]) -> None:
    sample = np.rint(smooth_embeddings(20, 4, 4, 4) * 3)
    codec = EmbeddingCodec.fit(sample, klt=False, step=1.0)
    assert codec.step() == 1.0
    assert codec.step(2.0) == 0.5
    assert np.abs(codec.decode(codec.encode(sample)) - sample).max() < 0.5


def test_save_load_pickle(codec: EmbeddingCodec, tmp_path: Path) -> None:
    codec.save(tmp_path / "codec.json")
    batch = smooth_embeddings(3, 5, 4, codec.dimensions)
    blob = codec.encode(batch, 3.0)
    for other in (
        EmbeddingCodec.load(tmp_path / "codec.json"),
        pickle.loads(pickle.dumps(codec)),
        copy.deepcopy(codec),
    ):
        assert (other.id, other.prior, other.rank, other.dimensions) == (codec.id, codec.prior, codec.rank, 5)
        assert other.encode(batch, 3.0) == blob
        np.testing.assert_array_equal(other.decode(blob), codec.decode(blob))
    assert codec.nbytes == pytest.approx((tmp_path / "codec.json").stat().st_size, rel=0.05)
    assert [p.name for p in tmp_path.iterdir()] == ["codec.json"]


def test_threads_share_a_codec(codecs: dict[str, EmbeddingCodec]) -> None:
    codec = EmbeddingCodec.from_dict(codecs["hierarchical"].to_dict())  # nothing cached yet
    batches = [smooth_embeddings(4, 6, 6, 5, seed=seed) for seed in range(12)]
    with ThreadPoolExecutor(6) as pool:
        blobs = list(pool.map(lambda batch: codec.encode(batch, 2.0), batches))
        decoded = list(pool.map(codec.decode, blobs))
    for batch, blob, result in zip(batches, blobs, decoded, strict=True):
        assert blob == codecs["hierarchical"].encode(batch, 2.0)
        np.testing.assert_array_equal(result, codecs["hierarchical"].decode(blob))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (np.zeros((2, 4, 4, 7)), "7 dimensions.*fitted on 5"),
        (np.zeros((4, 4, 5)), "four axes"),
        (np.full((2, 4, 4, 5), np.nan), "NaN or infinity"),
        (np.full((2, 4, 4, 5), np.inf), "NaN or infinity"),
        (np.zeros((2, 4, 4, 5), complex), "real numbers"),
        (np.zeros((2, 4, 4, 5), object), "real numbers"),
    ],
)
def test_bad_batches(codecs: dict[str, EmbeddingCodec], batch: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        codecs["hierarchical"].encode(batch)


@pytest.mark.parametrize("quality", [0, -1, np.nan, np.inf, "high", None])
def test_bad_quality(codecs: dict[str, EmbeddingCodec], quality: object) -> None:
    with pytest.raises(InputError, match="quality must be a positive number"):
        codecs["hierarchical"].encode(np.zeros((1, 2, 2, 5)), quality)  # type: ignore[arg-type]


def test_bad_fits() -> None:
    sample = np.zeros((2, 2, 2, 3))
    for bad, options, message in (
        (sample[:0], {}, "no embeddings"),
        (sample[0], {}, "four axes"),
        (sample * np.nan, {}, "NaN"),
        (sample, {"rank": 4}, "rank must be 1 to 3"),
        (sample, {"prior": "gaussian"}, "prior must be"),
        (sample, {"step": -1.0}, "step must be"),
    ):
        with pytest.raises(InputError, match=message):
            EmbeddingCodec.fit(bad, **options)


def test_bad_symbols(codecs: dict[str, EmbeddingCodec]) -> None:
    codec = codecs["hierarchical"]
    for bad in (np.zeros((1, 2, 2, 4), int), np.zeros((1, 2, 2, 5)), np.full((1, 2, 2, 5), 1 << 24)):
        with pytest.raises(InputError, match="symbols must"):
            codec.encode_symbols(bad)


def test_malformed_configs(codec: EmbeddingCodec, tmp_path: Path) -> None:
    good = codec.to_dict()
    EmbeddingCodec.from_dict(good)
    for key in good:
        for bad in (None, -7, "x", {"dtype": "<i2", "shape": [1 << 40], "data": ""}):
            with pytest.raises(InputError):
                EmbeddingCodec.from_dict({**good, key: bad})
    with pytest.raises(InputError, match="altered"):
        EmbeddingCodec.from_dict({**good, "first_level": good["first_level"] - 1})
    (tmp_path / "codec.json").write_text("{", encoding="utf-8")
    for path in (tmp_path / "codec.json", tmp_path / "none.json", tmp_path):
        with pytest.raises(InputError, match=path.name):
            EmbeddingCodec.load(path)


def test_other_codecs_frames_are_refused(codecs: dict[str, EmbeddingCodec]) -> None:
    ours, theirs = codecs["hierarchical"], codecs["factorized"]
    with pytest.raises(CorruptError, match=f"{theirs.id[:8]}.*{ours.id}"):
        ours.decode(theirs.encode(np.zeros((1, 2, 2, 5))))


def positioned(n: int, rows: int, columns: int, d: int, seed: int = 0) -> np.ndarray:
    """Embeddings of which a pattern over the grid, the same in each image, is most of the variance."""
    pattern = np.random.default_rng(99).normal(size=(8, 8, d)) * 3
    repeats = (-(-rows // 8), -(-columns // 8), 1)
    return (smooth_embeddings(n, rows, columns, d, seed=seed) + np.tile(pattern, repeats)[:rows, :columns]).astype("f4")


def test_means_by_position_are_found_and_save_bytes() -> None:
    sample, batch = positioned(200, 8, 8, 5), positioned(100, 8, 8, 5, seed=1)
    with_places, without = (EmbeddingCodec.fit(sample, positions=choice) for choice in (None, False))
    assert with_places.to_dict().keys() - without.to_dict().keys() == {"positions"}
    step = without.step(0.5) / with_places.step(1.0)  # compare at equal steps
    fine = with_places.encode(batch, 1 / step * 1.0)
    assert len(fine) < 0.8 * len(without.encode(batch, 0.5))
    assert "positions" not in EmbeddingCodec.fit(smooth_embeddings(200, 8, 8, 5), positions=None).to_dict()
    assert (
        "positions" not in EmbeddingCodec.fit(sample[:1], positions=None).to_dict()
    )  # one image: all its variance is by position


@pytest.mark.parametrize("grid", [(8, 8), (5, 16), (11, 3), (1, 1)])
def test_means_by_position_repeat_over_other_grids(grid: tuple[int, int]) -> None:
    codec = EmbeddingCodec.fit(positioned(100, 8, 8, 5), positions=True)
    batch = positioned(6, *grid, 5, seed=2)
    decoded = codec.decode(codec.encode(batch, 16.0))
    assert np.square(decoded - batch).mean() < 1e-3 * np.square(batch - batch.mean((0, 1, 2))).mean() + 1e-6
    np.testing.assert_array_equal(codec.symbols(decoded, 16.0), codec.symbols(batch, 16.0))
    again = EmbeddingCodec.from_dict(codec.to_dict())
    assert again.id == codec.id
    np.testing.assert_array_equal(again.decode(again.encode(batch, 16.0)), decoded)
