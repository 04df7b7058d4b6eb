"""What every way to store images or embeddings offers, and what baselines share: Blosc, packed codes, the frame.

Sizes count all that a decoder needs. See docs/baselines.md.
"""

from __future__ import annotations

import math
import struct
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numcodecs import blosc  # type: ignore[import-untyped]
from numpy.typing import NDArray

from nec.codec.frame import MAX_VALUES, Reader, crc32c, varint
from nec.errors import CorruptError, InputError

Domain = Literal["images", "embeddings"]


class Method(ABC):
    """One way of storing batches at one setting.

    Attributes:
        family: what it is, apart from its setting: "uqe", "jpeg2000", ...
        setting: the number that orders the family's points: bits, compression ratio, quality.
        label: that setting in words.
        domain: whether it stores images (n, h, w, c), uint8 or uint16, or embeddings (n, y, x, d), float32.
        repeats: whether encoding what was decoded gives the same bytes again, of methods with loss on embeddings.
        version: of what it makes of the same images; results of another one are not its own.
        lossless: whether `decode(encode(batch))` is `batch`, bit by bit.
    """

    family: str
    setting: float
    label: str
    domain: Domain
    lossless: bool = False
    repeats: bool = True
    version: int = 1

    @property
    def name(self) -> str:
        """Unique among the methods, and what `methods` reads: "uqe-4", "jpeg2000-24"."""
        return f"{self.family}-{self.setting:g}"

    @property
    def nbytes(self) -> int:
        """Side information: bytes a decoder needs once, beside the frames."""
        return 0

    @property
    def needs_fit(self) -> bool:
        """Whether `fit` must come before `encode`."""
        return False

    def fit(self, sample: NDArray[Any]) -> Method:
        """The method fitted to a sample of its domain; itself where nothing is fitted."""
        return self

    @abstractmethod
    def encode(self, batch: NDArray[Any]) -> bytes:
        """Bytes of a whole batch. Raises `InputError` for shapes, dtypes and values that the method does not store."""

    @abstractmethod
    def decode(self, blob: bytes) -> NDArray[Any]:
        """The batch, in the shape and dtype that `encode` was given (embeddings: float32).

        Raises `CorruptError` for bytes that are damaged, truncated or another method's.
        """

    def image_bytes(self, blob: bytes) -> list[int] | None:
        """Each image's own share of a frame in bytes, where images are coded one by one; else None."""
        return None

    def files(self, blob: bytes) -> list[bytes] | None:
        """The images of a frame as files of their own that other programs open, where there is such a format."""
        return None


def check_images(batch: NDArray[Any]) -> NDArray[Any]:
    """Contiguous images (n, h, w, c) of uint8 or uint16, at least one; else `InputError`."""
    batch = np.ascontiguousarray(batch)
    if batch.ndim != 4 or batch.size == 0 or batch.dtype not in (np.uint8, np.uint16):
        raise InputError(f"images must be (n, h, w, c) of uint8 or uint16, not {batch.dtype} {batch.shape}")
    return batch.astype(batch.dtype.newbyteorder("="), copy=False)


def check_embeddings(batch: NDArray[Any]) -> NDArray[np.float32]:
    """Contiguous finite float32 embeddings (n, y, x, d), at least one; else `InputError`."""
    batch = np.asarray(batch)
    if batch.ndim != 4 or batch.size == 0 or batch.dtype.kind != "f":
        raise InputError(f"embeddings must be floats (n, y, x, d), not {batch.dtype} {batch.shape}")
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(batch, np.float32)
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).any(axis=(1, 2, 3)).argmax())
        raise InputError(f"embeddings have NaN or infinite values, first in image {bad}; leave such images out")
    return values


def check_setting(family: str, value: float, what: str, low: float, high: float, whole: bool = False) -> float:
    """A setting from `low` to `high`, where asked a whole number; else `InputError`."""
    if not low <= value <= high or (whole and not float(value).is_integer()):
        raise InputError(f"{family} takes a {'whole ' * whole}{what} from {low:g} to {high:g}, not {value:g}")
    return float(value)


def round_trip(coder: Any, batch: NDArray[Any], seconds: dict[str, float]) -> tuple[bytes, NDArray[Any]]:
    """Bytes of a batch and what they decode to; adds what that took to `seconds`, of "encode" and "decode"."""
    began = time.perf_counter()
    blob = coder.encode(batch)
    coded = time.perf_counter()
    decoded = coder.decode(blob)
    seconds["encode"] += coded - began
    seconds["decode"] += time.perf_counter() - coded
    return blob, decoded


# -- codes of a few bits ----------------------------------------------------------------------------------------------

LEVEL = 3  # of zstd, with bit shuffle, as the published baselines use Blosc
_MOST_BYTES = 2**31 - 1 - 16
_BLOSC = struct.Struct("<4xIII")  # flags, then bytes of the array, of a block, of the whole


def compress(array: NDArray[Any]) -> bytes:
    """Bytes of an array in one Blosc buffer, header of 16 bytes included."""
    if array.nbytes > _MOST_BYTES:
        raise InputError(f"batch of {array.nbytes:,} bytes is too large for one Blosc buffer: encode it in parts")
    return blosc.compress(np.ascontiguousarray(array), b"zstd", LEVEL, blosc.BITSHUFFLE, blocksize=0)


def decompress(payload: bytes, shape: tuple[int, ...], dtype: np.dtype) -> NDArray[Any]:
    """Inverse of `compress`. `CorruptError` for buffers that declare another size, or that Blosc refuses."""
    expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if len(payload) < 16:
        raise CorruptError(f"Blosc buffer of {len(payload)} bytes is truncated")
    size, block, whole = _BLOSC.unpack_from(payload)
    if size != expected or whole != len(payload) or block > max(size, 1):
        raise CorruptError(f"Blosc buffer declares {size} bytes in {whole}; {expected} in {len(payload)} were expected")
    out = np.empty(shape, dtype)
    try:
        blosc.decompress(payload, out)
    except (RuntimeError, ValueError) as error:
        raise CorruptError(f"Blosc buffer is damaged: {error}") from error
    return out


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


# -- the frame --------------------------------------------------------------------------------------------------------

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
