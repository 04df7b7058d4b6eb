"""Newer image codecs: WebP, AVIF, JPEG XL and HTJ2K. Needs the extra `[bench]` (imagecodecs).

Options are those that gave the highest PSNR at equal bytes on EuroSAT's images of 64 px; see `docs/baselines.md`.
Lengths that a container repeats are taken out of it, so that its header is stored once a frame, and put back into
`files`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.bench.methods.images import ImageFiles, imagecodecs, normalise, resolutions_of
from nec.errors import InputError


class WebP(ImageFiles):
    """WebP, lossy (a VP8 key frame), at a quality of 0 to 100, by libwebp's slowest method."""

    family = "webp"
    bands = (3,)

    def __init__(self, quality: float) -> None:
        self.setting, self.label = _quality("webp", quality), f"quality {quality:g}"

    def write(self, batch: NDArray[Any]) -> list[bytes]:
        encode = imagecodecs().webp_encode
        return [bytes(encode(image, self.setting, method=6, lossless=False)) for image in batch]

    def read(self, file: bytes) -> NDArray[Any]:
        return imagecodecs().webp_decode(file, hasalpha=False)

    def strip(self, file: bytes) -> bytes:
        """RIFF and VP8 chunk without lengths and padding; the 3 bytes that vary in the frame's header after the rest.

        A frame starts with a tag of 3 bytes (RFC 6386, 9.1), then 7 that are the start code and the size in pixels.
        """
        length = struct.unpack_from("<I", file, 16)[0]
        frame = file[20 : 20 + length]
        return file[:4] + file[8:16] + frame[3:10] + frame[:3] + frame[10:]

    def restore(self, stored: bytes) -> bytes:
        if stored[:12] != b"RIFFWEBPVP8 ":
            raise ValueError("not the start of a lossy WebP file")
        frame = stored[19:22] + stored[12:19] + stored[22:]
        padded = frame + bytes(len(frame) % 2)
        chunk = b"WEBPVP8 " + struct.pack("<I", len(frame)) + padded
        return b"RIFF" + struct.pack("<I", len(chunk)) + chunk


class Avif(ImageFiles):
    """AVIF (an AV1 key frame) at a quality of 0 to 100: 4:2:0, by libaom at speed 4."""

    family = "avif"
    bands = (3,)

    def __init__(self, quality: float) -> None:
        self.setting, self.label = _quality("avif", quality), f"quality {quality:g}"

    def write(self, batch: NDArray[Any]) -> list[bytes]:
        encode = imagecodecs().avif_encode
        return [bytes(encode(image, int(self.setting), speed=4, pixelformat="420", numthreads=1)) for image in batch]

    def read(self, file: bytes) -> NDArray[Any]:
        return imagecodecs().avif_decode(file, numthreads=1)

    def size(self, file: bytes) -> tuple[int, int]:
        return _declared(file)

    def strip(self, file: bytes) -> bytes:
        """The file with the lengths of its media box and of its only item as 0."""
        extent, box = _lengths(file)
        return b"".join((file[:extent], bytes(4), file[extent + 4 : box], bytes(4), file[box + 4 :]))

    def restore(self, stored: bytes) -> bytes:
        extent, box = _lengths(stored)
        length = len(stored) - box
        sizes = struct.pack(">I", length - 8), struct.pack(">I", length)
        return b"".join((stored[:extent], sizes[0], stored[extent + 4 : box], sizes[1], stored[box + 4 :]))


class JpegXl(ImageFiles):
    """JPEG XL, lossy (VarDCT), at a Butteraugli distance of 0.01 to 25: bare codestreams, libjxl's effort 3.

    Higher efforts spend bits by what eyes see; at 64 px their PSNR is lower at equal bytes.
    """

    family = "jpegxl"

    def __init__(self, distance: float) -> None:
        if not 0.01 <= distance <= 25:
            raise InputError(f"jpegxl takes a distance from 0.01 to 25, not {distance:g}")
        self.setting, self.label = float(distance), f"distance {distance:g}"

    def write(self, batch: NDArray[Any]) -> list[bytes]:
        encode = imagecodecs().jpegxl_encode
        images = batch[..., 0] if batch.shape[3] == 1 else batch
        options = {"distance": self.setting, "effort": 3, "usecontainer": False, "numthreads": 1}
        return [bytes(encode(image, **options)) for image in np.ascontiguousarray(images)]

    def read(self, file: bytes) -> NDArray[Any]:
        return imagecodecs().jpegxl_decode(file, numthreads=1)

    def size(self, file: bytes) -> tuple[int, int]:
        return _jpegxl_size(file)


class Htj2k(ImageFiles):
    """High-throughput JPEG 2000 (ISO/IEC 15444-15) at a quantiser step, a share of the pixels' range, by OpenJPH.

    Codestreams as those of `Jpeg2000`: without comment, one tile-part that goes up to the end, a lowest resolution of
    8 px. OpenJPEG decodes them: the OpenJPH in imagecodecs 2026.3.6 gives coarse steps back with a larger error.
    """

    family = "htj2k"

    def __init__(self, step: float) -> None:
        if not 1e-5 <= step <= 1:
            raise InputError(f"htj2k takes a quantiser step from 0.00001 to 1 (of the pixels' range), not {step:g}")
        self.setting, self.label = float(step), f"step {step:g}"

    def write(self, batch: NDArray[Any]) -> list[bytes]:
        encode, resolutions = imagecodecs().htj2k_encode, resolutions_of(batch)
        images = np.ascontiguousarray(batch[..., 0] if batch.shape[3] == 1 else batch)
        return [normalise(bytes(encode(x, self.setting, reversible=False, resolutions=resolutions))) for x in images]

    def read(self, file: bytes) -> NDArray[Any]:
        return imagecodecs().jpeg2k_decode(file)

    def size(self, file: bytes) -> tuple[int, int]:
        width, height, left, top = struct.unpack_from(">4I", file, 8)  # of SIZ, which follows SOC
        return height - top, width - left


def _quality(name: str, quality: float) -> float:
    if not (0 <= quality <= 100 and float(quality).is_integer()):
        raise InputError(f"{name} takes a whole quality from 0 to 100, not {quality:g}")
    return float(quality)


# -- ISO base media files (ISO/IEC 14496-12) --------------------------------------------------------------------------


def _boxes(file: bytes, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, start, stop) of the boxes of 32-bit length from `start`; a length of 0 goes up to `stop`."""
    while start + 8 <= stop:
        length, kind = struct.unpack_from(">I4s", file, start)
        end = start + length if length else stop
        if not start + 8 <= end <= stop:
            raise ValueError("a box of an AVIF file is longer than the file")
        yield kind, start, end
        start = end


def _find(file: bytes, kind: bytes, start: int, stop: int) -> tuple[int, int]:
    found = next(((first, last) for name, first, last in _boxes(file, start, stop) if name == kind), None)
    if found is None:
        raise ValueError(f"an AVIF file without a box {kind!r}")
    return found


def _meta(file: bytes, kind: bytes) -> tuple[int, int]:
    """A box inside the `meta` box, which has 4 bytes of version and flags before its own."""
    start, stop = _find(file, b"meta", 0, len(file))
    return _find(file, kind, start + 12, stop)


def _lengths(file: bytes) -> tuple[int, int]:
    """Where the item's length (in `iloc`, of one item in one extent) and the box `mdat` start."""
    extent = _meta(file, b"iloc")[1] - 4
    box, stop = _find(file, b"mdat", 0, len(file))
    if stop != len(file):
        raise ValueError("an AVIF file whose media box is not its last")
    return extent, box


def _declared(file: bytes) -> tuple[int, int]:
    """Height and width of the property `ispe`."""
    start, stop = _meta(file, b"iprp")
    start, stop = _find(file, b"ipco", start + 8, stop)
    start, _ = _find(file, b"ispe", start + 8, stop)
    width, height = struct.unpack_from(">2I", file, start + 12)
    return height, width


# -- JPEG XL's size header (ISO/IEC 18181-1) --------------------------------------------------------------------------

_RATIOS = ((0, 1), (1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_WIDTHS = (9, 13, 18, 30)


def _jpegxl_size(file: bytes) -> tuple[int, int]:
    """Height and width of a bare codestream: bits follow the two bytes of its signature, low ones first."""
    if file[:2] != b"\xff\x0a":
        raise ValueError("not a bare JPEG XL codestream")
    bits, place = int.from_bytes(file[2:16], "little"), 0

    def take(count: int) -> int:
        nonlocal place
        value = (bits >> place) & ((1 << count) - 1)
        place += count
        return value

    small = take(1)

    def side() -> int:
        return 8 * (take(5) + 1) if small else take(_WIDTHS[take(2)]) + 1

    height = side()
    above, below = _RATIOS[take(3)]
    return height, height * above // below if above else side()
