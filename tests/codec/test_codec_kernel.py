"""The compiled coder writes and reads the plain coder's bytes, and refuses what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from codec_samples import smooth_embeddings
from hypothesis import given, settings
from hypothesis import strategies as st

from nec.codec import EmbeddingCodec, coder
from nec.codec.tables import Bank, Reader, Writer, integer_table
from nec.errors import CorruptError

pytest.importorskip("numba", reason="the compiled coder needs numba: pip install 'neural-embedding-compression[fast]'")

from nec.codec.fast import FastReader, FastWriter

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "codec"


@contextmanager
def plain() -> Iterator[None]:
    """As where numba is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coder, "compiled", lambda: None)
        yield


def laplace_bank() -> Bank:
    """Tables from nearly certain to flat, one of them of radius 0."""
    tables = []
    for scale in (0.02, 0.4, 3.0, 30.0):
        law = np.exp(-np.abs(np.arange(-200, 201)) / scale)
        tables.append(integer_table(law / law.sum()))
    tables.append(np.array([65535, 1]))
    return Bank(np.array([(len(table) - 2) // 2 for table in tables]), np.concatenate(tables))


BANK = laplace_bank()
Block = tuple[np.ndarray, np.ndarray, np.ndarray | None]


@st.composite
def blocks(draw: Callable[[Any], Any]) -> Block:
    """Tables, residuals, and for some blocks numbers of raw low bits."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    shape = draw(st.sampled_from([(0,), (1,), (2, 3), (7, 1, 9), (500,), (40, 60)]))
    table = rng.integers(0, len(BANK), shape).astype(np.uint16)
    size = rng.integers(0, 1 << rng.integers(0, draw(st.integers(1, 25)), shape))
    residual = size * rng.choice([-1, 1], shape) * (rng.random(shape) < rng.random())
    shift = rng.integers(0, draw(st.integers(1, 24)), shape).astype(np.int32) if draw(st.booleans()) else None
    return table, residual, shift


@settings(max_examples=60)
@given(parts=st.lists(blocks(), max_size=4))
def test_blocks_give_the_same_words(parts: list[Block]) -> None:
    writers = Writer(), FastWriter()
    for table, residual, shift in parts:
        for writer in writers:
            writer.push_block(BANK, table, residual, shift)
        assert writers[0].words_below == writers[1].words_below
    words, ours = (writer.finish() for writer in writers)
    np.testing.assert_array_equal(ours, words)
    for reader in (Reader(words), FastReader(words)):
        for table, residual, shift in reversed(parts):
            np.testing.assert_array_equal(reader.pull_block(BANK, table, shift), residual)
        reader.check_finished()


@settings(max_examples=60)
@given(block=blocks(), words=st.lists(st.integers(0, 2**32 - 1), max_size=40))
def test_any_words_are_read_alike(block: Block, words: list[int]) -> None:
    """Also those that no writer made: both give the same residuals, or refuse."""

    def read(kind: type[Reader] | type[FastReader]) -> tuple[str, Any]:
        try:
            reader = kind(np.array(words, np.uint32))
            residual = reader.pull_block(BANK, block[0], block[2])
            reader.check_finished()
        except CorruptError as error:
            return str(error), None
        return "", residual.tolist()

    assert read(FastReader) == read(Reader)


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(1, 9)),
    prior=st.sampled_from(["hierarchical", "factorized", "plain"]),
    seed=st.integers(0, 99),
    level=st.integers(-60, 90),
)
def test_frames_are_the_same(
    codecs: dict[str, EmbeddingCodec], shape: tuple, prior: str, seed: int, level: int
) -> None:
    codec, quality = codecs[prior], 2 ** (level / 8)
    batch = smooth_embeddings(*shape, codec.dimensions, seed=seed)
    blob = codec.encode(batch, quality)
    decoded = codec.decode(blob)
    with plain():
        assert codec.encode(batch, quality) == blob
        np.testing.assert_array_equal(codec.decode(blob), decoded)


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*/*.bin")), ids=lambda path: path.stem)
def test_fixtures_decode_without_numba(path: Path) -> None:
    recorded = np.load(path.parent / f"{path.name.removesuffix('.bin')}.npz")
    name = max((p for p in path.parent.glob("*.json") if path.name.startswith(p.stem)), key=lambda p: len(p.stem))
    codec = EmbeddingCodec.load(name)
    with plain():
        symbols, quality = codec.decode_symbols(path.read_bytes())
        assert codec.encode_symbols(symbols, quality) == path.read_bytes()
    np.testing.assert_array_equal(symbols, recorded["symbols"])


def test_the_plain_coder_serves_where_numba_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(coder.new_writer(), FastWriter)

    def without(name: str) -> ModuleType:
        raise ImportError("no numba")

    monkeypatch.setattr(coder, "import_module", without)
    for variable in ("", "1"):
        monkeypatch.setenv("NEC_PLAIN", variable)
        coder.kernel.cache_clear()
        assert isinstance(coder.new_writer(), Writer)
        assert isinstance(coder.new_reader(np.zeros(0, np.uint32)), Reader)
        monkeypatch.undo()
    coder.kernel.cache_clear()


def test_a_process_begins_with_the_plain_coder(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(coder, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(coder, "PATIENCE", 2.0)
    coder._first_use.cache_clear()
    found = []
    for now in (100.0, 101.9, 102.1, 500.0):
        clock[0] = now
        found.append(type(coder.new_writer()))
    coder._first_use.cache_clear()
    assert found == [Writer, Writer, FastWriter, FastWriter]
