"""The frame around every coded batch: who wrote it, how large it is, and whether it is intact. See docs/format.md."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

from google_crc32c import value as crc32c

from nec.errors import CorruptError, InputError

MAGIC = b"\x9aN"
VERSION = 1
MAX_VALUES = 1 << 30
"""Largest n * y * x * d that a frame may declare (memory is taken only below it)."""
MAX_SIDE = 1 << 16
"""Largest rows or columns of a token grid."""
MAX_HEADER = 176
"""Bytes that a header takes at most: the fixed part, five numbers, and two of each of 17 resolutions."""
_FIXED = struct.Struct("<2sBb4sI")


@dataclass(frozen=True)
class Frame:
    """Header fields of one frame.

    `extent` (n, y, x); `channels` before the last ones that are zero throughout; `width` bits of the largest absolute
    symbol; of each resolution, coarse first, `live`, the channels before the last ones that are zero in it, and
    `segments`, the words that it adds to the ANS stream.
    """

    codec_id: bytes
    level: int
    extent: tuple[int, int, int]
    channels: int
    width: int
    live: tuple[int, ...]
    segments: tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """What of a frame depends on its codec.

    `resolutions_of(y, x)` says how many resolutions a grid has, `dimensions` how many values a token decodes to,
    `by_resolution` whether a frame counts the live channels of each (version 2), which else are all `channels`.
    """

    codec_id: str
    resolutions_of: Callable[[int, int], int]
    dimensions: int
    by_resolution: bool


def varint(value: int) -> bytes:
    """A number >= 0 in groups of 7 bits, low ones first, the high bit set on all bytes but the last."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Reader:
    """Takes varints off the head of `data`, from `start` on; `CorruptError` where one runs past its end."""

    def __init__(self, data: bytes, start: int) -> None:
        self.data, self.position = data, start

    def varint(self) -> int:
        value = shift = 0
        while True:
            if self.position >= len(self.data) or shift > 35:
                raise CorruptError("frame header is damaged: a number runs past its end")
            byte = self.data[self.position]
            self.position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7


def pack(frame: Frame, words: bytes, by_resolution: bool) -> bytes:
    """Serialise a frame; `words` is the ANS stream, 4 * sum(segments) bytes."""
    numbers = [*frame.extent, frame.channels, frame.width]
    for live, segment in zip(frame.live, frame.segments, strict=True):
        numbers += [live, segment] if by_resolution else [segment]
    if frame.segments:
        numbers.pop()  # the last resolution's words are the rest
    rest = b"".join(map(varint, numbers)) + words
    head = struct.pack("<2sBb4s", MAGIC, VERSION, frame.level, frame.codec_id)
    return head + struct.pack("<I", crc32c(head + rest)) + rest


def unpack(blob: bytes, layout: Layout) -> tuple[Frame, memoryview]:
    """Check and split a frame of a codec. Returns its header and its ANS words.

    Raises `CorruptError` for damaged, truncated, foreign or too large frames, before memory of the declared size is
    taken.
    """
    level, reader = _check_start(blob, layout.codec_id)
    if crc32c(blob[:8] + blob[12:]) != _FIXED.unpack_from(blob)[4]:
        raise CorruptError(f"checksum mismatch in a frame of {len(blob)} bytes: damaged or truncated; fetch it again")
    header = _read_numbers(reader, level, layout)
    words = memoryview(blob)[reader.position :]
    finest = len(words) // 4 - sum(header.segments)
    if len(words) % 4 or finest < 0 or (not header.channels and finest):
        raise CorruptError(f"frame holds {len(words)} bytes of code, which its header does not account for")
    return replace(header, segments=(*header.segments, finest) if header.channels else ()), words


def unpack_prefix(blob: bytes, layout: Layout) -> tuple[Frame, int]:
    """Header of a frame whose end may be missing, and where its words begin; without the finest resolution's segment.

    Nothing protects a prefix against damage but the header's limits. `CorruptError` as in `unpack`.
    """
    level, reader = _check_start(blob, layout.codec_id)
    return _read_numbers(reader, level, layout), reader.position


def _check_start(blob: bytes, codec_id: str) -> tuple[int, Reader]:
    """Quality level, and a reader of the numbers that follow the fixed part."""
    if len(blob) < _FIXED.size:
        raise CorruptError(f"not a nec frame: {len(blob)} bytes, a header alone takes more; the data is truncated")
    magic, version, level, writer, _ = _FIXED.unpack_from(blob)
    if magic != MAGIC:
        raise CorruptError(f"not a nec frame: it starts with {bytes(magic)!r}, not {MAGIC!r}; damaged, or other data")
    if version != VERSION:
        raise CorruptError(f"frame version {version} is not known to this nec (it reads {VERSION}): upgrade nec")
    if writer != bytes.fromhex(codec_id)[:4]:
        raise CorruptError(f"frame was written by codec {writer.hex()}..., this is codec {codec_id}: use its own codec")
    return level, Reader(blob, _FIXED.size)


def _read_numbers(reader: Reader, level: int, layout: Layout) -> Frame:
    """A header but for the last resolution's segment."""
    n, y, x, channels, width = (reader.varint() for _ in range(5))
    if y > MAX_SIDE or x > MAX_SIDE or n * y * x * layout.dimensions > MAX_VALUES or width > 24:
        raise CorruptError(f"frame declares {n} images of {y}x{x} tokens and {width} bits a symbol: beyond the limit")
    live, segments = [], []
    for left in reversed(range(layout.resolutions_of(y, x) if channels else 0)):
        live.append(reader.varint() if layout.by_resolution else channels)
        segments += [reader.varint()] if left else []
    if max(live, default=channels) > channels:
        raise CorruptError(
            f"frame header is damaged: a resolution has {max(live)} live channels where {channels} are coded"
        )
    writer = bytes.fromhex(layout.codec_id)[:4]
    return Frame(writer, level, (n, y, x), channels, width, tuple(live), tuple(segments))


def check_extent(n: int, y: int, x: int, d: int) -> None:
    """Refuse batches that a frame may not hold."""
    if y > MAX_SIDE or x > MAX_SIDE or n * y * x * d > MAX_VALUES:
        raise InputError(f"batch of {n} images of {y}x{x}x{d} is too large for one frame: encode it in parts")
