"""The compiled coder writes and reads the plain coder's bytes on every legal codec, and refuses what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import legal_codecs
import numpy as np
import pytest
from codec_samples import smooth_embeddings
from hypothesis import given, settings
from hypothesis import strategies as st

from nec.codec import EmbeddingCodec, coder
from nec.codec.tables import Bank, Reader, Writer, integer_table
from nec.errors import CorruptError, InputError

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "codec"
compiled = pytest.mark.skipif(coder.KERNEL is None, reason="built without a compiler")


@contextmanager
def plain() -> Iterator[None]:
    """As where the kernel was not built."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coder, "KERNEL", None)
        yield


def outcome(task: Callable[[], Any]) -> tuple[str, Any]:
    try:
        return "", task()
    except (CorruptError, InputError) as error:
        return str(error), None


def alike(task: Callable[[], Any]) -> Any:
    """What both coders give; where they refuse, the same message, and None is returned."""
    found = outcome(task)
    with plain():
        expected = outcome(task)
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1], expected[1])
    return found[1]


@compiled
@pytest.mark.parametrize("seed", range(4))
def test_any_symbols_under_any_legal_codec(seed: int) -> None:
    """The same bytes, and the symbols come back, whole and in part."""
    rng = np.random.default_rng(seed)
    for _ in range(25):
        codec = legal_codecs.codec(rng)
        for _ in range(4):
            symbols, quality = legal_codecs.symbols(rng, codec), legal_codecs.quality(rng)
            blob = codec.encode_symbols(symbols, quality)
            with plain():
                assert codec.encode_symbols(symbols, quality) == blob
            np.testing.assert_array_equal(alike(lambda: codec.decode_symbols(blob)[0]), symbols)  # noqa: B023


@compiled
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
@pytest.mark.parametrize("seed", range(4))
def test_any_frame_of_any_legal_codec_is_read_alike(seed: int) -> None:
    """Also frames that no writer made: the same values, whole, in part and coarse, or the same refusal."""
    rng, read = np.random.default_rng(100 + seed), 0
    part = slice(0, 2), slice(1, None), slice(-2, None), slice(None, 3)
    for _ in range(15):
        codec = legal_codecs.codec(rng)
        for _ in range(10):
            blob = legal_codecs.frame(rng, codec)
            read += alike(lambda: codec.decode(blob)) is not None  # noqa: B023
            alike(lambda: codec.decode(blob, part=part))  # noqa: B023
            for spacing in (2, 4, 16):
                alike(lambda: codec.decode_coarse(blob, spacing))  # noqa: B023
    assert read > 20


@compiled
@pytest.mark.parametrize("seed", range(3))
def test_any_pyramid_is_quantised_alike(seed: int) -> None:
    """Contexts that were taken while quantising give the bytes that contexts taken again give."""
    rng, tried = np.random.default_rng(200 + seed), 0
    while tried < 15:
        codec = legal_codecs.codec(rng)
        if codec.spatial is None:
            continue
        batch = smooth_embeddings(3, *rng.integers(1, 18, 2).tolist(), codec.dimensions, seed=tried)
        quality = codec.step() * 2.0 ** int(rng.integers(-5, 9))
        blob = alike(lambda: codec.encode(batch, quality))  # noqa: B023
        if blob is not None:
            assert codec.encode_symbols(codec.symbols(batch, quality), quality) == blob
        tried += 1


def laplace_bank() -> Bank:
    """Tables from nearly certain to flat, one of them of radius 0, one where escape is likeliest."""
    tables = []
    for scale in (0.02, 0.4, 3.0, 30.0):
        law = np.exp(-np.abs(np.arange(-200, 201)) / scale)
        tables.append(integer_table(law / law.sum()))
    tables += [np.array([65535, 1]), np.array([16384, 49152])]
    return Bank(np.array([(len(table) - 2) // 2 for table in tables]), np.concatenate(tables))


BANK = laplace_bank()


@settings(max_examples=60)
@given(seed=st.integers(0, 1 << 20), count=st.integers(0, 4))
def test_blocks_come_back(seed: int, count: int) -> None:
    """The plain coder alone, which the kernel is held to."""
    rng, writer, blocks = np.random.default_rng(seed), Writer(), []
    for _ in range(count):
        shape = [(0,), (1,), (2, 3), (7, 1, 9), (500,), (40, 60)][rng.integers(6)]
        table = rng.integers(0, len(BANK), shape).astype(np.uint16)
        size = rng.integers(0, 1 << rng.integers(0, 25, shape))
        residual = size * rng.choice([-1, 1], shape) * (rng.random(shape) < rng.random())
        shift = rng.integers(0, 24, shape).astype(np.int32) if rng.random() < 0.5 else None
        writer.push_block(BANK, table, residual, shift)
        blocks.append((table, residual, shift))
    reader = Reader(writer.finish())
    for table, residual, shift in reversed(blocks):
        np.testing.assert_array_equal(reader.pull_block(BANK, table, shift), residual)
    reader.check_finished()


@compiled
@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(1, 9)),
    prior=st.sampled_from(["hierarchical", "factorized", "plain", "haar"]),
    seed=st.integers(0, 99),
    level=st.integers(-60, 90),
)
def test_frames_of_fitted_codecs_are_the_same(
    codecs: dict[str, EmbeddingCodec], shape: tuple, prior: str, seed: int, level: int
) -> None:
    codec, quality = codecs[prior], 2 ** (level / 8)
    batch = smooth_embeddings(*shape, codec.dimensions, seed=seed)
    blob = codec.encode(batch, quality)
    with plain():
        assert codec.encode(batch, quality) == blob
    alike(lambda: codec.decode(blob))


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*/*.bin")), ids=lambda path: path.stem)
def test_fixtures_decode_without_the_kernel(path: Path) -> None:
    recorded = np.load(path.parent / f"{path.name.removesuffix('.bin')}.npz")
    name = max((p for p in path.parent.glob("*.json") if path.name.startswith(p.stem)), key=lambda p: len(p.stem))
    codec = EmbeddingCodec.load(name)
    with plain():
        symbols, quality = codec.decode_symbols(path.read_bytes())
        assert codec.encode_symbols(symbols, quality) == path.read_bytes()
    np.testing.assert_array_equal(symbols, recorded["symbols"])


def test_large_grids_are_coded_in_strips() -> None:
    """Grids whose planes pass the kernel's strips, by rows and by channels."""
    sample = smooth_embeddings(3, 64, 64, 70)
    codec = EmbeddingCodec.fit(sample, spatial="haar")
    for batch in (sample[:1], smooth_embeddings(1, 600, 5, 70, seed=1), smooth_embeddings(1, 3, 900, 70, seed=2)):
        blob = alike(lambda: codec.encode(batch, 2.0))  # noqa: B023
        alike(lambda: codec.decode(blob))  # noqa: B023


@pytest.mark.parametrize(("variable", "expected"), [("", coder.active()), ("1", "plain")])
def test_the_environment_chooses_once_a_process(variable: str, expected: str) -> None:
    code = "from nec.codec import coder; print(coder.active())"
    environment = {**os.environ, "NEC_PLAIN": variable}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.strip() == expected


@compiled
def test_the_kernel_refuses_arrays_that_do_not_fit(codecs: dict[str, EmbeddingCodec]) -> None:
    """What Python never gives it: it trusts no size."""
    prior = codecs["haar"].parts[1]
    model, live = prior._model, (5, 5, 5, 5)
    steps, b0, weights, narrow = prior._plan(prior._steps((8, 8, 2, 5), live), 0, 3)
    grid, words = np.zeros((8, 8, 2, 5), np.int32), np.zeros(3, np.uint32)
    bad = steps.copy()
    for field, value in ((0, 4), (1, 3), (2, 8), (3, -1), (4, 0), (5, 10), (7, 3), (8, 6), (9, -1)):
        bad[1] = steps[1]
        bad[1, field] = value
        with pytest.raises(ValueError, match="fit the grid"):
            model.decode(words, (bad, b0, weights, narrow), grid, None, 3, True)
    for plan in (
        (steps[:, :9], b0, weights, narrow), (steps, b0[:, :4], weights, narrow), (steps, b0, weights[:3], narrow),
        (steps.astype(np.int32), b0, weights, narrow), (steps, b0[0], weights, narrow),
    ):  # fmt: skip
        with pytest.raises((ValueError, BufferError)):
            model.decode(words, plan, grid, None, 3, True)
    for plan in (
        (steps, -b0 - 1, weights, narrow),
        (steps, b0 + (1 << 30), weights, narrow),
        (steps, b0, weights + 256, narrow),
    ):
        with pytest.raises(ValueError, match="out of range"):
            model.decode(words, plan, grid, None, 3, True)
    plan = steps, b0, weights, narrow
    with pytest.raises(ValueError, match="width"):
        model.decode(words, plan, grid, None, 13, True)
    for arguments in (
        (words, plan, grid[:, :, :1].copy(), None, 3, True), (words, plan, grid, np.zeros(9, np.int8), 3, True),
        (words, plan, grid, None, 25, True), (words.astype(np.uint64), plan, grid, None, 3, True),
        (words, plan, grid.transpose(1, 0, 2, 3), None, 3, True), (words, plan, grid.astype(np.int64), None, 3, True),
    ):  # fmt: skip
        with pytest.raises((ValueError, BufferError)):
            model.decode(*arguments)
    kept = np.full(grid.shape, 60000, np.uint16), np.zeros(grid.shape, np.uint8)
    with pytest.raises(ValueError, match="not of this codec"):
        model.encode(plan, grid, 4, kept)
    with pytest.raises(ValueError, match="resolutions"):
        model.encode(plan, grid, 2, None)


@compiled
def test_values_are_checked_too() -> None:
    """`expand` and `dequantise` trust no shape, dtype or stride."""
    kernel = coder.KERNEL
    bands = [np.ones(shape, np.float32) for shape in ((2, 2, 2, 3), (2, 2, 1, 3), (2, 1, 2, 3), (2, 1, 1, 3))]
    out = np.empty((2, 3, 3, 3), np.float32)
    kernel.expand(*bands, out)
    assert out[0, 0, 0, 0] == 4
    for bad in (out[:, :2].copy(), out.astype(np.float64), out[..., :2].copy(), out[0], out.astype(np.int16)):
        with pytest.raises(ValueError, match="fit together"):
            kernel.expand(*bands, bad)
    for place in range(4):
        for wrong in (bands[place][:1], np.ones((2, 3, 3, 3), np.float32), bands[place].astype(np.float64)):
            with pytest.raises(ValueError, match="fit together"):
                kernel.expand(*bands[:place], wrong, *bands[place + 1 :], out)
    symbols, centroids, found = np.ones((1, 2, 3, 4), np.int32), np.ones((1, 2, 3, 4), np.int8), np.empty((1, 2, 3, 4))
    kernel.dequantise(symbols, centroids, 2.0, found)
    assert (found == 2 + 2 / 256).all()
    for one, other, target in (
        (symbols[:, :1], centroids, found), (symbols, centroids[..., :3], found), (symbols[0], None, found),
        (symbols, centroids, found[..., :3].copy()), (symbols.transpose(0, 1, 3, 2), None, found),
        (np.ones((1, 2, 3, 8), np.int32)[..., ::2], None, found), (symbols.astype(np.int64), None, found),
        (symbols, centroids.astype(np.int16), found),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="fit together"):
            kernel.dequantise(one, other, 2.0, target)
