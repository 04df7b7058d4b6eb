"""The bytes: a second implementation, committed fixtures, damage, and how close to the entropy they come."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import constriction
import legal_codecs
import numpy as np
import pytest
from codec_samples import smooth_embeddings
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_decoder import Coder, PlainDecoder, crc32c

from nec.codec import EmbeddingCodec, frame
from nec.codec.tables import categorical
from nec.errors import CorruptError, InputError

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "codec"


def as_array(known: dict, head: dict, rank: int) -> np.ndarray:
    symbols = np.zeros((head["n"], head["y"], head["x"], rank), np.int64)
    for place, (symbol, _) in known.items():
        symbols[place] = symbol
    return symbols


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*/*.bin")), ids=lambda path: path.stem)
def test_fixtures_decode_forever(path: Path) -> None:
    blob, recorded = path.read_bytes(), np.load(path.parent / f"{path.name.removesuffix('.bin')}.npz")
    name = max((p for p in path.parent.glob("*.json") if path.name.startswith(p.stem)), key=lambda p: len(p.stem))
    codec = EmbeddingCodec.load(name)
    symbols, quality = codec.decode_symbols(blob)
    np.testing.assert_array_equal(symbols, recorded["symbols"])
    np.testing.assert_allclose(codec.decode(blob), recorded["decoded"], rtol=1e-5, atol=1e-5)
    assert codec.encode_symbols(symbols, quality) == blob
    plain = PlainDecoder(json.loads(name.read_text()))
    head, known, coder = plain.decode(blob)
    np.testing.assert_array_equal(as_array(known, head, codec.rank), recorded["symbols"])
    assert coder.finished()
    for (i, y, x), token in plain.embeddings(blob).items():
        np.testing.assert_allclose(token, recorded["decoded"][i, y, x], rtol=1e-4, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
    bits=st.integers(0, 20),
    level=st.integers(-40, 40),
    prior=st.sampled_from(["hierarchical", "factorized", "plain", "haar"]),
    seed=st.integers(0, 99),
)
def test_plain_python_reads_the_same_symbols(
    codecs: dict[str, EmbeddingCodec], shape: tuple, bits: int, level: int, prior: str, seed: int
) -> None:
    codec, rng = codecs[prior], np.random.default_rng(seed)
    symbols = rng.integers(-(1 << bits) + 1, 1 << bits, (*shape, codec.rank)) * (rng.random((*shape, codec.rank)) < 0.5)
    blob = codec.encode_symbols(symbols, 2 ** (level / 8))
    head, known, coder = PlainDecoder(codec.to_dict()).decode(blob)
    np.testing.assert_array_equal(as_array(known, head, codec.rank), symbols)
    assert coder.finished()
    assert (head["level"], head["id"]) == (level, codec.id[:8])


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
def test_the_page_reads_any_legal_codec() -> None:
    """Codecs that no fit makes: the second implementation gives the same symbols, or refuses where ours does."""
    rng, read = np.random.default_rng(5), 0
    for _ in range(60):
        codec = legal_codecs.codec(rng)
        symbols = legal_codecs.symbols(rng, codec)
        if symbols.size > 1500 or max(codec.parts[1].bank.radii) > 100:
            continue
        blob = codec.encode_symbols(symbols, legal_codecs.quality(rng))
        head, known, coder = PlainDecoder(codec.to_dict()).decode(blob)
        np.testing.assert_array_equal(as_array(known, head, codec.rank), symbols)
        assert coder.finished()
        read += symbols.size > 0
    assert read > 10


@settings(max_examples=50, deadline=None)
@given(
    weights=st.lists(st.integers(0, 1 << 12), min_size=2, max_size=300),
    seed=st.integers(0, 99),
)
def test_constriction_takes_the_integer_tables_exactly(weights: list[int], seed: int) -> None:
    weights_ = np.array(weights, np.float64) + 1e-9
    frequencies = np.floor(weights_ / weights_.sum() * (65536 - len(weights))).astype(np.int64) + 1
    frequencies[0] += 65536 - frequencies.sum()
    symbols = np.random.default_rng(seed).choice(len(weights), 300, p=frequencies / 65536).astype(np.int32)
    symbols[: len(weights)] = np.arange(len(weights))[:300]
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(symbols, categorical(frequencies))
    plain = Coder(coder.get_compressed()[::-1].tolist())
    table = (frequencies * 256).tolist()
    assert [plain.pull(table) for _ in symbols] == symbols.tolist()
    assert plain.finished()


@pytest.mark.parametrize("name", ["hierarchical", "haar"])
def test_coarse_levels_need_only_the_first_words(codecs: dict[str, EmbeddingCodec], name: str) -> None:
    codec = codecs[name]
    blob = codec.encode(smooth_embeddings(12, 8, 8, 5, seed=2), 8.0)
    plain = PlainDecoder(codec.to_dict())
    head, everything, _ = plain.decode(blob)
    assert 0 < sum(head["coarse"]) < len(head["words"]) / 2
    for levels, spacing in ((1, 8), (2, 4), (3, 2)):
        _, known, _ = plain.decode(blob, levels)
        assert {place[1:3] for place in known} == {(y, x) for y in range(0, 8, spacing) for x in range(0, 8, spacing)}
        assert all(everything[place] == value for place, value in known.items())


def test_images_are_coded_in_blocks(monkeypatch: pytest.MonkeyPatch, codecs: dict[str, EmbeddingCodec]) -> None:
    codec, symbols = codecs["hierarchical"], None
    batch = smooth_embeddings(7, 4, 4, 5)
    whole = codec.encode(batch)
    monkeypatch.setattr("nec.codec.prior._BLOCK_VALUES", 4 * 4 * 5 * 3)
    symbols = codec.symbols(batch)
    parts = codec.encode(batch)
    assert parts != whole
    np.testing.assert_array_equal(codec.decode_symbols(parts)[0], symbols)


def test_every_flipped_bit_and_every_truncation_is_found(codec: EmbeddingCodec) -> None:
    blob = codec.encode(smooth_embeddings(2, 4, 4, codec.dimensions), 2.0)
    for position in range(len(blob)):
        for bit in range(8):
            damaged = bytearray(blob)
            damaged[position] ^= 1 << bit
            with pytest.raises(CorruptError):
                codec.decode(bytes(damaged))
    for size in range(len(blob)):
        with pytest.raises(CorruptError):
            codec.decode(blob[:size])
    with pytest.raises(CorruptError):
        codec.decode(blob + b"\0")


def forged(blob: bytes) -> bytes:
    """The same bytes with a CRC that fits."""
    return blob[:8] + struct.pack("<I", crc32c(blob[:8] + blob[12:])) + blob[12:]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_forged_frames_never_crash_or_take_much_memory(codecs: dict[str, EmbeddingCodec], data: st.DataObject) -> None:
    codec = codecs[data.draw(st.sampled_from(["hierarchical", "factorized"]))]
    blob = bytearray(codec.encode(smooth_embeddings(2, 3, 3, 5), 2.0))
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(12, len(blob) - 1))] = data.draw(st.integers(0, 255))
    try:
        symbols = codec.decode(forged(bytes(blob)), limit=(8, 8, 8))
    except CorruptError:
        return
    assert symbols.shape[3] == 5


def test_declared_sizes_are_bounded(codecs: dict[str, EmbeddingCodec]) -> None:
    codec = codecs["hierarchical"]
    head = codec.encode(np.zeros((1, 1, 1, 5)))[:12]
    for numbers in ([1 << 28, 1, 1, 1, 1], [1, 1 << 20, 1, 0, 0], [1, 2, 2, 6, 1, 0], [1, 1, 1, 1, 25]):
        tail = b"".join(frame.varint(number) for number in numbers)
        with pytest.raises(CorruptError, match=r"limit|channels"):
            codec.decode(forged(head + tail))
    with pytest.raises(CorruptError, match="at most"):
        codec.decode(codec.encode(np.zeros((9, 1, 1, 5))), limit=(8, 1, 1))
    with pytest.raises(InputError, match="too large"):
        frame.check_extent(1 << 20, 64, 64, 1)


@pytest.mark.parametrize("shape", [(128, 8, 8), (64, 14, 14), (1, 14, 14), (4000, 2, 2), (3, 1, 1)])
def test_framing_is_small(codec: EmbeddingCodec, shape: tuple[int, int, int]) -> None:
    """As docs/format.md counts it: the fixed part and five numbers, then a table of the resolutions."""
    blob = codec.encode(smooth_embeddings(*shape, 5), 2.0)
    head = PlainDecoder(codec.to_dict()).header(blob)
    numbers = [*shape, head["channels"], head["width"]]
    table = [*head["coarse"], *(head["live"] if codec.spatial else [])]
    framing, levels = (sum(len(frame.varint(number)) for number in part) for part in (numbers, table))
    assert 12 + framing + levels == len(blob) - 4 * len(head["words"])
    assert 12 + framing <= 24
    assert levels <= (4 if codec.spatial else 3) * len(head["coarse"]) + 2
    if codec.spatial is None and shape != (64, 14, 14):
        assert 12 + framing + levels <= 24


def test_checksum() -> None:
    # Check value of CRC-32C in RFC 3720's form; the fall-back agrees with the compiled one.
    for crc in (frame.crc32c, crc32c):
        assert crc(b"123456789") == 0xE3069283
        assert crc(b"") == 0


def test_the_formula_and_the_plain_decoder_count_the_same_bits(codec: EmbeddingCodec) -> None:
    for quality in (0.5, 4096.0):
        symbols = codec.symbols(smooth_embeddings(20, 5, 4, 5, seed=3), quality)
        _, _, coder = PlainDecoder(codec.to_dict()).decode(codec.encode_symbols(symbols, quality))
        assert coder.finished()
        assert cross_entropy(codec, symbols, quality) == pytest.approx(coder.bits)


def cross_entropy(codec: EmbeddingCodec, symbols: np.ndarray, quality: float) -> float:
    """Bits of symbols under the tables that their contexts choose, by the formula; no coder takes part."""
    prior, plain, level = codec.parts[1], PlainDecoder(codec.to_dict()), round(8 * math.log2(quality))
    grid, radii = symbols.transpose(1, 2, 0, 3).astype(np.int64), np.array(plain.radii)
    costs = [24 - np.log2(np.array(table)) for table in plain.tables]
    starts, cost = np.cumsum([0, *map(len, costs[:-1])]), np.concatenate(costs)
    escape, total = 24 - np.log2(np.array(plain.escape)), 0.0
    last = int(np.flatnonzero(grid.any((0, 1, 2))).max(initial=-1))
    for waves in prior.resolutions(*grid.shape[:2]):
        tokens = [(slice(w.row, None, w.step), slice(w.column, None, w.step)) for w in waves]
        alive = [np.flatnonzero(grid[place].any((0, 1, 2))).max(initial=-1) for place in tokens]
        live = 1 + (max(alive) if codec.spatial else last)
        for wave, place in zip(waves, tokens, strict=True):
            context = prior.context(wave, grid, prior.relatives(wave, *grid.shape[:2]), level)
            residual, table = context.fold(grid[place])[..., :live], context.table[..., :live]
            shift = np.zeros_like(residual) if context.shift is None else context.shift[..., :live]
            high, radius = residual + (1 << shift >> 1) >> shift, radii[table]
            beyond = np.abs(high) > radius
            total += cost[starts[table] + np.where(beyond, 2 * radius + 1, high + radius)].sum() + shift.sum()
            value = (2 * (np.abs(high) - radius - 1) + (high < 0) + 1)[beyond]
            lengths = np.floor(np.log2(value)).astype(np.int64)
            total += lengths.sum() + escape[lengths].sum()
    return float(total)


@pytest.mark.parametrize("quality", [0.125, 1.0, 32.0, 1024.0])
def test_bytes_are_within_half_a_percent_of_the_cross_entropy(codec: EmbeddingCodec, quality: float) -> None:
    """Of payloads of 16 KiB and more, framing included."""
    images = 5000 if quality < 1 else 500
    symbols = codec.symbols(smooth_embeddings(images, 8, 8, 5, seed=3), quality)
    blob, bits = codec.encode_symbols(symbols, quality), cross_entropy(codec, symbols, quality)
    assert len(blob) >= 16 << 10
    assert 0.9999 * bits / 8 - 8 < len(blob) < 1.005 * bits / 8
