"""The frame around every baseline's bytes, so that sizes count all that a decoder needs. See docs/baselines.md."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nec.codec.frame import MAX_VALUES, Reader, crc32c, varint
from nec.errors import CorruptError, InputError

MAGIC = b"\x9aB"
VERSION = 1
DTYPES = ("<u1", "<u2", "<f4")
"""dtypes of the arrays that a frame decodes to; its header holds the position here."""
_FIXED = struct.Struct("<2sBIB")  # magic, version, CRC-32C of all that follows it, length of the scheme's name


@dataclass(frozen=True)
class Frame:
    """Header of one frame: `scheme` says how the payload is coded, `shape` (n, ...) and `dtype` what it decodes to."""

    scheme: str
    dtype: np.dtype
    shape: tuple[int, int, int, int]

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded array."""
        return math.prod(self.shape) * self.dtype.itemsize


def pack(scheme: str, batch: NDArray, payload: bytes) -> bytes:
    """Frame of a payload that decodes to an array of `batch`'s shape (four axes) and dtype."""
    if batch.size > MAX_VALUES:
        raise InputError(f"batch of shape {batch.shape} is too large for one frame: encode it in parts")
    header = scheme.encode("ascii") + bytes([DTYPES.index(batch.dtype.newbyteorder("<").str.replace("|", "<"))])
    rest = bytes([len(scheme)]) + header + b"".join(map(varint, batch.shape)) + payload
    return struct.pack("<2sBI", MAGIC, VERSION, crc32c(rest)) + rest


def unpack(blob: bytes, scheme: str) -> tuple[Frame, bytes]:
    """Header and payload of a frame of this scheme.

    Raises `CorruptError` for damaged, truncated or foreign frames, before memory of the declared size is taken.
    """
    blob = bytes(blob)
    if len(blob) < _FIXED.size:
        raise CorruptError(f"not a frame of a baseline: {len(blob)} bytes, a header alone takes more; truncated")
    magic, version, crc, length = _FIXED.unpack_from(blob)
    if magic != MAGIC or version != VERSION:
        raise CorruptError(f"not a frame of a baseline: it starts with {blob[:3]!r}, not {MAGIC!r} and {VERSION}")
    if crc32c(blob[_FIXED.size - 1 :]) != crc:
        raise CorruptError(f"checksum mismatch in a frame of {len(blob)} bytes: damaged or truncated; fetch it again")
    start = _FIXED.size + length
    written = blob[_FIXED.size : start]
    if written != scheme.encode("ascii"):
        raise CorruptError(f"frame was written by {written!r}, this is {scheme!r}: decode it with its own method")
    if start >= len(blob) or blob[start] >= len(DTYPES):
        raise CorruptError("frame header is damaged: it declares no known dtype")
    reader = Reader(blob, start + 1)
    n, y, x, d = (reader.varint() for _ in range(4))
    if not 0 < n * y * x * d <= MAX_VALUES:
        raise CorruptError(f"frame declares an array of shape {(n, y, x, d)}: empty, or beyond the limit")
    return Frame(scheme, np.dtype(DTYPES[blob[start]]), (n, y, x, d)), blob[reader.position :]
