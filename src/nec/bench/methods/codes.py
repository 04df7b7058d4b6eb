"""Codes of 1 to 8 bits as bytes: Blosc over one byte a code, or packed bits where these are fewer."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nec.bench.methods.blosc import compress, decompress
from nec.errors import CorruptError

BLOSC, PACKED = 0, 1


def pack_codes(codes: NDArray[np.uint8], bits: int) -> tuple[int, bytes]:
    """Layout (`BLOSC` or `PACKED`) and bytes of an array of codes below 2^bits: the shorter of the two."""
    stored, packed = compress(codes), _pack_bits(codes, bits)
    return (BLOSC, stored) if len(stored) <= len(packed) else (PACKED, packed)


def unpack_codes(body: bytes, layout: int, shape: tuple[int, ...], bits: int) -> NDArray[np.uint8]:
    """Inverse of `pack_codes`. Raises `CorruptError`."""
    if layout == BLOSC:
        codes = decompress(body, shape, np.dtype("u1"))
        if codes.max() >= 1 << bits:
            raise CorruptError(f"frame holds codes beyond {bits} bits")
        return codes
    if layout != PACKED:
        raise CorruptError(f"frame holds codes in layout {layout}, which is none")
    count = int(np.prod(shape, dtype=np.int64))
    if len(body) != -(-count * bits // 8):
        raise CorruptError(f"frame holds {len(body)} bytes of packed codes for {count} values of {bits} bits")
    loose = np.zeros((count, 8), np.uint8)
    loose[:, 8 - bits :] = np.unpackbits(np.frombuffer(body, np.uint8), count=count * bits).reshape(count, bits)
    return np.packbits(loose.reshape(-1)).reshape(shape)


def _pack_bits(codes: NDArray[np.uint8], bits: int) -> bytes:
    """Bits of all codes, high ones first, without gaps."""
    return np.packbits(np.unpackbits(codes.reshape(-1)).reshape(-1, 8)[:, 8 - bits :]).tobytes()
