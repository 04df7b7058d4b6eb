"""Arrays of integers and floats as JSON, and the checks that make reading them back safe."""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError

MAX_BYTES = 1 << 28


def pack_array(array: NDArray[Any]) -> dict[str, Any]:
    """{"dtype", "shape", "data"}: little-endian C order, all first bytes, then all second ones...; zlib; base64."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    planes = little.reshape(-1).view(np.uint8).reshape(-1, little.dtype.itemsize).T
    data = base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode("ascii")
    return {"dtype": little.dtype.str.replace("|", "<"), "shape": list(array.shape), "data": data}


def unpack_array(packed: Any, where: str, dtype: str, ndim: int) -> NDArray[Any]:
    """Inverse of `pack_array` for an array of known dtype and rank. Raises `InputError` that names `where`."""
    kind = np.dtype(dtype)
    try:
        shape = tuple(int(size) for size in packed["shape"])
        if packed["dtype"] != dtype or len(shape) != ndim or min(shape, default=0) < 0:
            raise InputError(f"codec config: {where} must be {dtype} with {ndim} axes, not {packed['dtype']} {shape}")
        size = math.prod(shape) * kind.itemsize
        if size > MAX_BYTES:
            raise InputError(f"codec config: {where} declares {size} bytes, more than the limit of {MAX_BYTES}")
        inflater = zlib.decompressobj()
        raw = inflater.decompress(base64.b64decode(packed["data"], validate=True), size + 1)
    except (KeyError, TypeError, ValueError, zlib.error, binascii.Error) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"codec config: {where} is missing or damaged ({type(error).__name__}: {error})") from error
    if len(raw) != size:
        raise InputError(f"codec config: {where} holds {len(raw)} bytes where its shape needs {size}")
    planes = np.frombuffer(raw, np.uint8).reshape(kind.itemsize, -1)
    array = np.ascontiguousarray(planes.T).view(kind).reshape(shape)
    return array.astype(kind.newbyteorder("="), copy=False)


def whole(config: Mapping[str, Any], key: str, low: int, high: int) -> int:
    """An integer field, checked."""
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InputError(f"codec config: {key} must be an integer from {low} to {high}, not {value!r}")
    return value
