"""The bytes: a second implementation, committed fixtures, damage, and how close to the entropy they come."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import constriction
import numpy as np
import pytest
from codec_samples import smooth_embeddings
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_decoder import Coder, PlainDecoder, crc32c

from nec.codec import EmbeddingCodec, checksum, frame
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


def test_framing_is_small(codecs: dict[str, EmbeddingCodec]) -> None:
    for shape in ((128, 8, 8), (1, 14, 14), (4000, 2, 2)):
        plain = PlainDecoder(codecs["hierarchical"].to_dict())
        blob = codecs["hierarchical"].encode(smooth_embeddings(*shape, 5))
        assert len(blob) - 4 * len(plain.header(blob)["words"]) <= 24


def test_checksum() -> None:
    # Check value of CRC-32C in RFC 3720's form; the fall-back agrees with the compiled one.
    for crc in (checksum.crc32c, checksum._crc32c_plain, crc32c):
        assert crc(b"123456789") == 0xE3069283
        assert crc(b"") == 0


@pytest.mark.parametrize("prior", ["hierarchical", "factorized"])
def test_bytes_are_within_one_percent_of_the_cross_entropy(prior: str, codecs: dict[str, EmbeddingCodec]) -> None:
    codec = codecs[prior]
    for quality in (0.5, 2.0):
        blob = codec.encode(smooth_embeddings(150, 4, 4, 5, seed=3), quality)
        head, _, coder = PlainDecoder(codec.to_dict()).decode(blob)
        assert coder.finished()
        assert len(blob) <= 1.01 * math.ceil(coder.bits / 8) + 24
        assert 4 * len(head["words"]) <= 1.01 * coder.bits / 8
