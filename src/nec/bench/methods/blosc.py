"""Blosc with zstd at level 3 and bitshuffle, as the published baselines use it. numcodecs comes with zarr."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numcodecs import blosc  # type: ignore[import-untyped]
from numpy.typing import NDArray

from nec.errors import CorruptError, InputError

LEVEL = 3
_MOST = 2**31 - 1 - 16
_HEADER = struct.Struct("<4xIII")  # flags, then bytes of the array, of a block, of the whole


def compress(array: NDArray[Any]) -> bytes:
    """Bytes of an array in one Blosc buffer, header of 16 bytes included."""
    if array.nbytes > _MOST:
        raise InputError(f"batch of {array.nbytes:,} bytes is too large for one Blosc buffer: encode it in parts")
    return blosc.compress(np.ascontiguousarray(array), b"zstd", LEVEL, blosc.BITSHUFFLE, blocksize=0)


def decompress(payload: bytes, shape: tuple[int, ...], dtype: np.dtype) -> NDArray[Any]:
    """Inverse of `compress`. `CorruptError` for buffers that declare another size, or that Blosc refuses."""
    expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if len(payload) < 16:
        raise CorruptError(f"Blosc buffer of {len(payload)} bytes is truncated")
    size, block, whole = _HEADER.unpack_from(payload)
    if size != expected or whole != len(payload) or block > max(size, 1):
        raise CorruptError(f"Blosc buffer declares {size} bytes in {whole}; {expected} in {len(payload)} were expected")
    out = np.empty(shape, dtype)
    try:
        blosc.decompress(payload, out)
    except (RuntimeError, ValueError) as error:
        raise CorruptError(f"Blosc buffer is damaged: {error}") from error
    return out
