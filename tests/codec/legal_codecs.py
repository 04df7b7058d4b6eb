"""Random codecs that docs/format.md allows, and random frames of them: what both coders must read alike."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.codec import EmbeddingCodec
from nec.codec import frame as framing
from nec.codec.config import pack_array
from nec.errors import InputError

TOTAL = 1 << 16
Rng = np.random.Generator
SIDES = (0, 1, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 33)


def table(rng: Rng, radius: int) -> NDArray[np.int64]:
    """Frequencies of a table: all mass in one entry (zero, escape or any), spread out, or even."""
    size = 2 * radius + 2
    if size == TOTAL:
        return np.ones(size, np.int64)
    kind = rng.integers(5)
    if kind < 3:
        frequencies = np.ones(size, np.int64)
        frequencies[(radius, size - 1, rng.integers(size))[kind]] += TOTAL - size
        return frequencies
    shares = rng.dirichlet(np.full(size, rng.choice([0.05, 1, 10]))) if kind == 3 else np.full(size, 1 / size)
    frequencies = 1 + np.floor(shares * (TOTAL - size)).astype(np.int64)
    frequencies[rng.integers(size)] += TOTAL - frequencies.sum()
    return frequencies


def fitting(config: dict[str, Any]) -> EmbeddingCodec:
    """The codec of a config whose id does not fit yet."""
    try:
        return EmbeddingCodec.from_dict(config)
    except InputError as error:
        if "has id " not in str(error):
            raise
        return EmbeddingCodec.from_dict({**config, "id": str(error).split("has id ")[1][:16]})


def codec(rng: Rng) -> EmbeddingCodec:
    """Any legal codec: both priors and versions, every way to choose a table, every kind of table."""
    version = int(rng.choice([1, 1, 2]))
    hierarchical = version == 2 or rng.random() < 0.6
    dimensions = int(rng.choice([1, 2, 3, 5, 8, 21]))
    rank = int(rng.integers(1, dimensions + 1))
    offset_of = rng.integers(0, rng.choice([1, 1, 2, 5, 33]), 65).astype(np.uint8)
    split, wide = int(rng.choice([1, 2, 5, 20, 60])), int(rng.choice([4, 5, 20]))
    tables = split * (int(offset_of.max()) + 1) + wide
    radii = rng.integers(0, rng.choice([1, 2, 10, 40]), tables)
    if rng.random() < 0.1:
        radii[rng.integers(tables)] = rng.choice([32767, 5000, 1000])
    classes, anchors = 10 if hierarchical else 1, int(rng.choice([1, 2, 5]))
    base = rng.integers(*((-32768, 32768) if rng.random() < 0.2 else (-50, 300)), size=(anchors, classes, rank))
    signed = 0 if version == 2 else 2
    weights = rng.integers(0, 256, (4 if version == 2 else 5, anchors, classes, rank))
    weights[:signed] -= 128
    if rng.random() < 0.2:
        weights[signed:] = 255
    config = {
        "format": "nec.embedding-codec",
        "version": version,
        "id": "",
        "prior": "hierarchical" if hierarchical else "factorized",
        "dimensions": dimensions,
        "rank": rank,
        "step": float(rng.choice([1e-3, 1.0, 1e3])),
        "first_level": int(rng.integers(-128, 128)),
        "spacing": int(rng.integers(1, 256)),
        "scale_low": int(rng.choice([0, 0, 5, 60, 255])),
        "scale_split": split,
        "scale_wide": wide,
        "mean": pack_array(rng.normal(size=dimensions).astype("<f4")),
        "base": pack_array(base.astype("<i2")),
        "weights": pack_array(weights.astype("<i2")),
        "offset_of": pack_array(offset_of),
        "radii": pack_array(radii.astype("<u2")),
        "frequencies": pack_array(np.concatenate([table(rng, int(radius)) for radius in radii]).astype("<u2")),
        "centroids": pack_array(rng.integers(-115, 116, (tables, 5)).astype("<i1")),
    }
    if rng.random() < 0.7:
        config["basis"] = pack_array(rng.normal(size=(rank, dimensions)).astype("<f2"))
    else:
        config["order"] = pack_array(rng.permutation(dimensions)[:rank].astype("<u2"))
    if rng.random() < 0.3:
        places = (*rng.integers(1, 4, 2).tolist(), dimensions)
        config["positions"] = pack_array(rng.normal(size=places).astype("<f2"))
    if version == 2:
        config["gains"] = pack_array(rng.uniform(0.1, 4, int(rng.integers(1, 17))).astype("<f4"))
    return fitting(config)


def sealed(blob: bytes) -> bytes:
    """The same frame with a CRC that fits."""
    return blob[:8] + struct.pack("<I", framing.crc32c(blob[:8] + blob[12:])) + blob[12:]


def forged(
    codec: EmbeddingCodec, numbers: list[int], words: bytes, level: int = 0
) -> bytes:  # numbers: n, y, x, channels, width, then those of the levels
    """A frame of any numbers with a CRC that fits."""
    head = struct.pack("<2sBb4sI", framing.MAGIC, framing.VERSION, level, bytes.fromhex(codec.id)[:4], 0)
    return sealed(head + b"".join(map(framing.varint, numbers)) + words)


def symbols(rng: Rng, codec: EmbeddingCodec) -> NDArray[np.int64]:
    """Any symbols (n, y, x, k) of a small grid: of one width, or with heavy tails, mostly zero or not."""
    shape = int(rng.integers(0, 4)), int(rng.choice(SIDES)), int(rng.choice(SIDES[:-1])), codec.rank
    if rng.random() < 0.5:
        limit = (1 << int(rng.integers(0, 25))) - 1
        found = rng.integers(-limit, limit + 1, shape)
    else:
        found = np.rint(rng.standard_cauchy(shape) * rng.choice([0.1, 1, 100])).clip(1 - 2**24, 2**24 - 1).astype(int)
    found[rng.random(shape) < rng.choice([0, 0.5, 0.95])] = 0
    found[..., int(rng.integers(1, codec.rank + 1)) :] = 0
    return found


def quality(rng: Rng) -> float:
    """A quality of any level."""
    return 2.0 ** (int(rng.choice([-128, -127, 0, 8, 100, 127, rng.integers(-128, 128)])) / 8)


def frame(rng: Rng, codec: EmbeddingCodec) -> bytes:
    """A frame of the codec with a CRC that fits, which a writer might have made or not."""
    if rng.random() < 0.6:
        blob = bytearray(codec.encode_symbols(symbols(rng, codec), quality(rng)))
        for _ in range(int(rng.integers(0, 4))):
            if len(blob) > 12:
                blob[int(rng.integers(12, len(blob)))] ^= 1 << int(rng.integers(8))
        if rng.random() < 0.3:
            del blob[int(rng.integers(12, len(blob) + 1)) :]
        if rng.random() < 0.2:
            blob[3] = int(rng.integers(256))
        return sealed(bytes(blob))
    n, y, x = int(rng.integers(0, 4)), int(rng.choice(SIDES)), int(rng.choice(SIDES))
    channels = int(rng.integers(0, codec.rank + 1)) if rng.random() < 0.95 else codec.rank + 1
    width = int(rng.choice([0, 1, 2, 5, 6, 7, 8, 12, 20, 23, 24, 24, 24, 25]))
    numbers, levels = [n, y, x, channels, width], len(codec.parts[1].resolutions(y, x)) if channels else 0
    for left in reversed(range(levels)):
        if codec.version == 2:
            numbers.append(int(rng.integers(0, channels + 1)))
        if left:
            numbers.append(int(rng.integers(0, 4)) if rng.random() < 0.3 else 0)
    count = int(rng.integers(0, 60))
    words = rng.integers(0, 1 << 32, count, dtype=np.uint64).astype("<u4")
    if rng.random() < 0.3:
        words[:] = rng.choice([1, 0xFFFFFFFF, 0x80000000, 0x00FFFFFF])
    return forged(codec, numbers, words.tobytes(), int(rng.integers(-128, 128)))
