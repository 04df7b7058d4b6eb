"""Values stored as they are (RDC in the paper, float embeddings), and uniformly quantised embeddings (UQE)."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.bench.methods.method import (
    BLOSC,
    PACKED,
    Domain,
    Method,
    check_embeddings,
    check_images,
    compress,
    decompress,
    pack,
    pack_codes,
    unpack,
    unpack_codes,
)  # fmt: skip
from nec.errors import CorruptError, InputError


class Raw(Method):
    """A batch as one array of `stored` dtype ("uint8", "uint16", "float16", "float32"), in Blosc where `zstd`.

    Unsigned types store images (family "rdc"), float types embeddings (family "float"). Images of 8 bits in 16 are
    widened and come back as they were; 16 in 8 are refused.

    >>> import numpy as np
    >>> images = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
    >>> method = Raw("uint16", zstd=True)
    >>> bool((method.decode(method.encode(images)) == images).all())
    True
    """

    def __init__(self, stored: str, zstd: bool = False) -> None:
        if stored not in ("uint8", "uint16", "float16", "float32"):
            raise InputError(f"raw values are stored as uint8, uint16, float16 or float32, not {stored!r}")
        self.stored, self.zstd = np.dtype(stored).newbyteorder("<"), zstd
        self.domain: Domain = "images" if self.stored.kind == "u" else "embeddings"
        self.family = "rdc" if self.domain == "images" else "float"
        self.setting = 8.0 * self.stored.itemsize
        self.label = f"{stored}{', zstd' if zstd else ''}"
        self.lossless = stored != "float16"

    @property
    def name(self) -> str:
        return f"{self.family}-{np.dtype(self.stored).name}{'-zstd' if self.zstd else ''}"

    def encode(self, batch: NDArray[Any]) -> bytes:
        batch = check_images(batch) if self.domain == "images" else check_embeddings(batch)
        if self.domain == "images" and batch.dtype.itemsize > self.stored.itemsize:
            raise InputError(f"{self.name} stores 8 bits a value and the images have 16: use rdc:uint16")
        values = half_precision(batch) if self.stored.itemsize == 2 and batch.dtype.kind == "f" else batch
        values = values.astype(self.stored, copy=False)
        return pack(self.name, batch, compress(values) if self.zstd else values.tobytes())

    def decode(self, blob: bytes) -> NDArray[Any]:
        header, payload = unpack(blob, self.name)
        if header.dtype.kind != self.stored.kind:
            raise CorruptError(f"frame of {self.name} declares {header.dtype} values")
        if self.zstd:
            values = decompress(payload, header.shape, self.stored)
        elif len(payload) * header.dtype.itemsize != header.nbytes * self.stored.itemsize:
            raise CorruptError(f"frame holds {len(payload)} bytes where its shape {header.shape} takes another number")
        else:
            values = np.frombuffer(payload, self.stored).reshape(header.shape)
        return values.astype(header.dtype.newbyteorder("="))


def half_precision(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Values cast to float16; `InputError` for those beyond its range, which would become infinite."""
    with np.errstate(over="ignore"):
        half = values.astype("<f2")
    if not np.isfinite(half).all():
        raise InputError(f"values up to {np.abs(values).max():g} lie beyond float16's range of 65504: use float:32")
    return half


_HEADER = struct.Struct("<BB")  # bits, how the codes are stored


class UQE(Method):
    """Codes round((x - low) / (high - low) * (2^bits - 1)), Blosc over the codes of the whole batch.

    The range is that of the whole batch as published, or of each channel of it with `channelwise`, which is fairer to
    channels of small variance. 16 bits are a cast to float16. Codes are stored as bytes in Blosc (zstd 3, bitshuffle,
    as published), or as packed bits where these are fewer.

    >>> import numpy as np
    >>> tokens = np.linspace(-1, 1, 96, dtype=np.float32).reshape(2, 4, 4, 3)
    >>> method = UQE(4)
    >>> bool(np.abs(method.decode(method.encode(tokens)) - tokens).max() <= 0.5 * 2 / 15 + 1e-6)
    True
    """

    domain = "embeddings"

    def __init__(self, bits: float, channelwise: bool = False) -> None:
        if bits != 16 and not (float(bits).is_integer() and 1 <= bits <= 8):
            raise InputError(f"uqe takes 1 to 8 bits, or 16 for a cast to float16, not {bits:g}")
        if bits == 16 and channelwise:
            raise InputError("a cast to float16 has no range: 16 bits are for uqe, not for uqe-channel")
        self.bits, self.channelwise = int(bits), channelwise
        self.family = "uqe-channel" if channelwise else "uqe"
        self.setting = float(bits)
        self.label = f"{self.bits} bit"

    def encode(self, batch: NDArray[Any]) -> bytes:
        values = check_embeddings(batch)
        if self.bits == 16:
            body = compress(half_precision(values))
            return pack(self.family, values, _HEADER.pack(16, BLOSC) + body)
        axes = (0, 1, 2) if self.channelwise else None
        low, high = np.atleast_1d(values.min(axes)), np.atleast_1d(values.max(axes))
        codes = _quantise(values, low, high, self.bits)
        layout, body = pack_codes(codes, self.bits)
        ranges = np.stack([low, high]).astype("<f4").tobytes()
        return pack(self.family, values, _HEADER.pack(self.bits, layout) + ranges + body)

    def decode(self, blob: bytes) -> NDArray[np.float32]:
        header, payload = unpack(blob, self.family)
        if len(payload) < _HEADER.size or header.dtype != np.dtype("<f4"):
            raise CorruptError("frame of quantised embeddings is damaged: its header is incomplete")
        bits, layout = _HEADER.unpack_from(payload)
        body = payload[_HEADER.size :]
        if bits != self.bits or layout not in (BLOSC, PACKED):
            raise CorruptError(f"frame holds {bits} bits in layout {layout}; this is {self.name}: use its own method")
        if bits == 16:
            return decompress(body, header.shape, np.dtype("<f2")).astype(np.float32)
        size = 8 * (header.shape[3] if self.channelwise else 1)
        if len(body) < size:
            raise CorruptError("frame of quantised embeddings is truncated within its ranges")
        low, high = np.frombuffer(body[:size], "<f4").reshape(2, -1)
        if not (np.isfinite(low) & np.isfinite(high) & (low <= high)).all():
            raise CorruptError("frame of quantised embeddings declares a range that is none")
        codes = unpack_codes(body[size:], layout, header.shape, bits)
        return _dequantise(codes, low, high, bits)


def _quantise(values: NDArray[np.float32], low: NDArray, high: NDArray, bits: int) -> NDArray[np.uint8]:
    low, width = low.astype(np.float64), high.astype(np.float64) - low
    scale = np.divide(2**bits - 1, width, out=np.zeros_like(width), where=width > 0)
    return np.rint((values - low) * scale).clip(0, 2**bits - 1).astype(np.uint8)


def _dequantise(codes: NDArray[np.uint8], low: NDArray, high: NDArray, bits: int) -> NDArray[np.float32]:
    """Both ends of the range come back exactly, so that coding a decoded batch again changes nothing."""
    share = codes / float(2**bits - 1)
    return (low.astype(np.float64) * (1 - share) + high.astype(np.float64) * share).astype(np.float32)
