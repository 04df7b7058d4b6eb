"""Image codecs and their common frame. Needs the extra `[bench]` (Pillow and imagecodecs).

Images are coded one by one. Their files begin and end alike within a batch (headers, tables), and a frame holds that
once: a consumer gets many images, and headers of 100 to 600 bytes an image would otherwise decide low rates. Lengths
that a container repeats are taken out of it, so that its header is stored once a frame, and put back into `files`.

Options of WebP, AVIF, JPEG XL and HTJ2K are those that gave the highest PSNR at equal bytes on EuroSAT's images of
64 px; see `docs/baselines.md`.
"""

from __future__ import annotations

import io
import math
import struct
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.bench.methods.method import Frame, Method, check_images, check_setting, pack, unpack
from nec.codec.frame import Reader, varint
from nec.errors import CorruptError, InputError, missing_extra


class ImageFiles(Method):
    """Each image in a file format that other programs read; what the files share is stored once a frame."""

    domain = "images"
    bands: tuple[int, ...] = (1, 3)
    depths: tuple[str, ...] = ("uint8",)
    what: str  # the setting is, with its range
    low: float
    high: float
    whole: bool = False

    def __init__(self, setting: float) -> None:
        self.setting = check_setting(self.family, setting, self.what, self.low, self.high, self.whole)
        self.label = f"{self.what} {setting:g}"

    def encode(self, batch: NDArray[Any]) -> bytes:
        batch = check_images(batch)
        if batch.shape[3] not in self.bands or batch.dtype.name not in self.depths:
            raise InputError(
                f"{self.family} stores {' or '.join(map(str, self.bands))} bands of {' or '.join(self.depths)} here, "
                f"and the images have {batch.shape[3]} of {batch.dtype}: leave this method out, or choose bands"
            )
        files = [self.strip(file) for file in self.write(batch)]
        prefix = _common_start(files)
        suffix = _common_start([file[len(prefix) :][::-1] for file in files])[::-1]
        bodies = [file[len(prefix) : len(file) - len(suffix)] for file in files]
        shared = varint(len(prefix)) + prefix + varint(len(suffix)) + suffix
        return pack(self.family, batch, shared + b"".join(varint(len(body)) + body for body in bodies))

    def decode(self, blob: bytes) -> NDArray[Any]:
        header, payload = unpack(blob, self.family)
        prefix, suffix, bodies = _split(header, payload)
        return np.stack([self._read_checked(self._restored(prefix + body + suffix), header) for body in bodies])

    def image_bytes(self, blob: bytes) -> list[int]:
        _, _, bodies = _split(*unpack(blob, self.family))
        return [len(varint(len(body))) + len(body) for body in bodies]

    def files(self, blob: bytes) -> list[bytes]:
        prefix, suffix, bodies = _split(*unpack(blob, self.family))
        return [self._restored(prefix + body + suffix) for body in bodies]

    def _restored(self, stored: bytes) -> bytes:
        try:
            return self.restore(stored)
        except (ValueError, IndexError, struct.error) as error:
            raise CorruptError(f"an image of the {self.family} frame is damaged: {error}") from error

    def _read_checked(self, file: bytes, header: Frame) -> NDArray[Any]:
        try:
            size = self.size(file)  # before memory of that size is taken
            pixels = np.asarray(self.read(file)) if size == header.shape[1:3] else None
        except Exception as error:  # the readers raise nearly anything here
            raise CorruptError(f"an image of the {self.family} frame is damaged: {error}") from error
        if pixels is None:
            raise CorruptError(f"an image of {size} px in a frame of {header.shape[1:3]} px")
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        if pixels.shape != header.shape[1:] or pixels.dtype != header.dtype:
            raise CorruptError(f"an image of {pixels.dtype} {pixels.shape} in a frame of {header.shape}")
        return pixels

    def write(self, batch: NDArray[Any]) -> list[bytes]:
        """A file for each image of (n, h, w, c)."""
        images = batch[..., 0] if batch.shape[3] == 1 else batch
        return [bytes(self.write_image(image)) for image in np.ascontiguousarray(images)]

    def write_image(self, image: NDArray[Any]) -> bytes:
        """A file of one image (h, w, c), or (h, w) where it has one band."""
        raise NotImplementedError

    @abstractmethod
    def read(self, file: bytes) -> NDArray[Any]:
        """Pixels (h, w, c) or (h, w) of a file."""

    def size(self, file: bytes) -> tuple[int, int]:
        """Height and width that a file declares, read without decoding it."""
        with pillow().open(io.BytesIO(file)) as image:
            return image.height, image.width

    def strip(self, file: bytes) -> bytes:
        """The file without what follows from its length, so that the files of a batch begin alike."""
        return file

    def restore(self, stored: bytes) -> bytes:
        """Inverse of `strip`; `ValueError` for what no file gives."""
        return stored


def _common_start(files: list[bytes]) -> bytes:
    first, last = min(files), max(files)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[:length]


def _split(header: Frame, payload: bytes) -> tuple[bytes, bytes, list[bytes]]:
    """Shared beginning, shared end, and each image's bytes between them."""
    reader = Reader(payload, 0)

    def take() -> bytes:
        length = reader.varint()
        start, reader.position = reader.position, reader.position + length
        if reader.position > len(payload):
            raise CorruptError("frame of images is truncated")
        return payload[start : reader.position]

    prefix, suffix = take(), take()
    if header.shape[0] > len(payload):
        raise CorruptError(f"frame declares {header.shape[0]} images in {len(payload)} bytes")
    bodies = [take() for _ in range(header.shape[0])]
    if reader.position != len(payload):
        raise CorruptError(f"frame has {len(payload) - reader.position} bytes behind its last image")
    return prefix, suffix, bodies


class Jpeg2000(ImageFiles):
    """JPEG 2000 (ISO/IEC 15444-1) at a compression ratio, raw pixel bytes over stored bytes; 1 is lossless.

    Raw codestreams, one tile, one quality layer, colour transform, 9/7 wavelet (lossless: 5/3), as many resolutions as
    leave a lowest one of 8 px, by OpenJPEG in Pillow. Comments are left out and the tile-part's length is 0, "up to the
    end", which the standard allows. The encoder is asked for the rate that leaves an image, in a large batch, its share
    of raw / ratio bytes; at 64 px it keeps to that within some 10% down to 60 bytes, and stays below it from there.

    With `constant_quality` (family "jpeg2000-psnr") the setting is a PSNR in dB that each image is to reach instead.
    """

    depths = ("uint8", "uint16")
    version = 2  # 1 was without the colour transform

    def __init__(self, ratio: float, constant_quality: bool = False) -> None:
        self.family = "jpeg2000-psnr" if constant_quality else "jpeg2000"
        what = ("PSNR in dB", 10, 60) if constant_quality else ("compression ratio (1 is lossless)", 1, 1e6)
        self.setting = check_setting(self.family, ratio, *what)
        self.lossless = ratio == 1 and not constant_quality
        self.label = f"{ratio:g} dB" if constant_quality else "lossless" if ratio == 1 else f"1:{ratio:g}"

    def write(self, batch: NDArray[Any]) -> list[bytes]:
        if batch.shape[3] == 3 and batch.dtype != np.uint8:
            raise InputError("jpeg2000 stores three bands of uint8 only here, or one of uint16: leave this method out")
        resolutions = resolutions_of(batch[0])
        if self.lossless:
            return [normalise(_openjpeg(image, resolutions, 0)) for image in batch]
        if self.family == "jpeg2000-psnr":
            return [normalise(_openjpeg(image, resolutions, self.setting, "dB")) for image in batch]
        header = _start_of_tile(_openjpeg(batch[0], resolutions, self.setting))
        raw = batch[0].nbytes
        share = raw / self.setting
        wanted = max(share - len(varint(int(share))), 1.0) + header
        return [normalise(_openjpeg(image, resolutions, raw / wanted)) for image in batch]

    def read(self, file: bytes) -> NDArray[Any]:
        return _read_with_pillow(file)


def resolutions_of(image: NDArray[Any]) -> int:
    """How many resolutions leave a lowest one of about 8 px, at most 6."""
    return max(1, min(6, round(math.log2(min(image.shape[:2]))) - 2))


def _openjpeg(image: NDArray[Any], resolutions: int, quality: float, mode: str = "rates") -> bytes:
    """Codestream of one image (h, w, c) at a compression ratio or (mode "dB") a PSNR; 0 is lossless."""
    out = io.BytesIO()
    options = {"quality_mode": mode, "quality_layers": [quality], "irreversible": True} if quality else {}
    picture = pillow().fromarray(image[..., 0] if image.shape[2] == 1 else image)
    colour = int(image.shape[2] == 3)  # Pillow leaves the colour transform out unless told, which costs 3 dB
    picture.save(out, "JPEG2000", no_jp2=True, num_resolutions=resolutions, mct=colour, **options)
    return out.getvalue()


def _segments(codestream: bytes) -> list[tuple[int, int, int]]:
    """(marker, start, end) of the segments behind SOC up to the first tile-part's header, which is the last."""
    found, start = [], 2
    while True:
        marker, length = struct.unpack_from(">HH", codestream, start)
        found.append((marker, start, start + 2 + length))
        if marker == _SOT:
            return found
        start += 2 + length


_SOT, _COM = 0xFF90, 0xFF64


def _start_of_tile(codestream: bytes) -> int:
    return _segments(codestream)[-1][1]


def normalise(codestream: bytes) -> bytes:
    """A codestream of one tile-part without comments, and with tile-part length 0: up to the end."""
    *main, (_, tile, _) = _segments(codestream)
    kept = b"".join(codestream[start:end] for marker, start, end in main if marker != _COM)
    # SOT: marker, length, tile index (2 bytes each), then 4 bytes of tile-part length
    return codestream[:2] + kept + codestream[tile : tile + 6] + bytes(4) + codestream[tile + 10 :]


class Jpeg(ImageFiles):
    """JPEG at a quality of 1 to 100 (libjpeg's scale, 4:2:0, the standard's Huffman tables, which files share)."""

    family, what, low, high, whole = "jpeg", "quality", 1, 100, True

    def write_image(self, image: NDArray[Any]) -> bytes:
        return imagecodecs().jpeg8_encode(image, int(self.setting))

    def read(self, file: bytes) -> NDArray[Any]:
        return _read_with_pillow(file)


class Png(ImageFiles):
    """PNG at its highest compression: the lossless reference."""

    family, label, lossless = "png", "lossless", True
    bands = (1, 2, 3, 4)
    depths = ("uint8", "uint16")

    def __init__(self) -> None:
        self.setting = 0.0

    @property
    def name(self) -> str:
        return "png"

    def write_image(self, image: NDArray[Any]) -> bytes:
        return imagecodecs().png_encode(image, 9)

    def read(self, file: bytes) -> NDArray[Any]:
        return imagecodecs().png_decode(file)


class WebP(ImageFiles):
    """WebP, lossy (a VP8 key frame), at a quality of 0 to 100, by libwebp's slowest method."""

    family, what, low, high, whole = "webp", "quality", 0, 100, True
    bands = (3,)

    def write_image(self, image: NDArray[Any]) -> bytes:
        return imagecodecs().webp_encode(image, self.setting, method=6, lossless=False)

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

    family, what, low, high, whole = "avif", "quality", 0, 100, True
    bands = (3,)

    def write_image(self, image: NDArray[Any]) -> bytes:
        return imagecodecs().avif_encode(image, int(self.setting), speed=4, pixelformat="420", numthreads=1)

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

    family, what, low, high = "jpegxl", "distance", 0.01, 25

    def write_image(self, image: NDArray[Any]) -> bytes:
        options = {"distance": self.setting, "effort": 3, "usecontainer": False, "numthreads": 1}
        return imagecodecs().jpegxl_encode(image, **options)

    def read(self, file: bytes) -> NDArray[Any]:
        return imagecodecs().jpegxl_decode(file, numthreads=1)

    def size(self, file: bytes) -> tuple[int, int]:
        return _jpegxl_size(file)


class Htj2k(ImageFiles):
    """High-throughput JPEG 2000 (ISO/IEC 15444-15) at a quantiser step, a share of the pixels' range, by OpenJPH.

    Codestreams as those of `Jpeg2000`: without comment, one tile-part that goes up to the end, a lowest resolution of
    8 px. OpenJPEG decodes them: the OpenJPH in imagecodecs 2026.3.6 gives coarse steps back with a larger error.
    """

    family, what, low, high = "htj2k", "step", 1e-5, 1

    def write_image(self, image: NDArray[Any]) -> bytes:
        options = {"reversible": False, "resolutions": resolutions_of(image)}
        return normalise(bytes(imagecodecs().htj2k_encode(image, self.setting, **options)))

    def read(self, file: bytes) -> NDArray[Any]:
        return imagecodecs().jpeg2k_decode(file)

    def size(self, file: bytes) -> tuple[int, int]:
        width, height, left, top = struct.unpack_from(">4I", file, 8)  # of SIZ, which follows SOC
        return height - top, width - left


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


def _read_with_pillow(file: bytes) -> NDArray[Any]:
    with pillow().open(io.BytesIO(file)) as image:
        return np.array(image)


def pillow() -> Any:
    """Pillow's `Image` module."""
    try:
        from PIL import Image
    except ImportError as error:
        missing_extra("Pillow", "bench", error)
    return Image


def imagecodecs() -> Any:
    """The package imagecodecs."""
    try:
        import imagecodecs as module
    except ImportError as error:
        missing_extra("imagecodecs", "bench", error)
    return module
