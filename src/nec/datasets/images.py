"""Image files: Pillow's, and with GDAL those of many bands. Pillow is in the extra `[torch]`, rasterio in `[geo]`."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError, missing_extra
from nec.scenes import Scene, open_scene
from nec.scenes.rasters import import_rasterio

if TYPE_CHECKING:
    from PIL import Image as PillowImage

_MODES = ("L", "RGB", "F", "I", "I;16", "I;16B")
IMAGE_SUFFIXES = (".bmp", ".jp2", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def decode_image(data: bytes, name: str) -> NDArray[Any]:
    """Bytes of an image file -> (height, width, bands): 1 band for greyscale, 3 for colour and palette images.

    An alpha band is dropped where it is opaque everywhere, since nothing is lost then. Greyscale images of 16 and 32
    bits keep their type.

    Raises:
        InputError: not an image, truncated, with transparent pixels, or of a colour model without plain bands.
    """
    image = open_image(data, name)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    elif image.mode == "1":
        image = image.convert("L")
    if image.mode in ("RGBA", "LA"):
        image = _drop_opaque_alpha(image, name)
    if image.mode not in _MODES:
        raise InputError(f"{name} has the colour model {image.mode}, which has no plain bands; convert it to RGB")
    pixels = np.asarray(image)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def image_size(file: BinaryIO, name: str) -> tuple[int, int]:
    """(height, width) of an open image file from its header; `InputError` where it is no image."""
    with _reading(name):
        width, height = _pillow().open(file).size
    return height, width


def open_image(data: bytes, name: str) -> PillowImage.Image:
    """Bytes of an image file -> Pillow's image, decoded, in the file's own colour model; `InputError` for a bad one."""
    with _reading(name):
        image = _pillow().open(io.BytesIO(data))
        image.load()
    return image


def is_plain(data: bytes) -> bool:
    """Whether Pillow reads all that is in an image file, which of TIFF and JPEG 2000 is a part only.

    GDAL must read many bands, wide numbers, a nodata number, masks in further directories, and all that is damaged.
    """
    if not data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51")):
        return True
    try:
        image = _pillow().open(io.BytesIO(data))
        tags = getattr(image, "tag_v2", {})
        plain = image.mode in (*_MODES, "P", "PA", "1", "LA", "CMYK", "LAB", "YCbCr")
        return plain and (not tags or (tags.get(277, 1) in (1, 3) and 42113 not in tags and image.n_frames == 1))
    except Exception:  # Pillow raises nearly anything; GDAL will say what is wrong
        return False


@contextmanager
def _reading(name: str) -> Iterator[None]:
    image_module = _pillow()
    try:
        yield
    except image_module.DecompressionBombError as error:
        raise InputError(f"{name} is too large to be decoded whole: {error}") from error
    except Exception as error:  # Pillow's readers raise nearly anything (OSError, SyntaxError, struct.error, ...) here
        if type(error).__name__ == "UnidentifiedImageError":
            raise InputError(f"{name} is damaged, or no image that Pillow reads; replace or remove it") from error
        raise InputError(f"{name} is damaged or truncated ({error}); replace or remove it") from error


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        missing_extra("Pillow", "torch", error)
    return Image


def _drop_opaque_alpha(image: PillowImage.Image, name: str) -> PillowImage.Image:
    lowest = image.getchannel("A").getextrema()[0]
    if lowest != 255:
        hidden = int((np.asarray(image.getchannel("A")) != 255).sum())
        raise InputError(f"{name} has {hidden} transparent pixel(s); fill them and save the image without alpha")
    return image.convert(image.mode.removesuffix("A"))


def resize(image: NDArray[Any], size: int | tuple[int, int]) -> NDArray[Any]:
    """(height, width, bands) -> (size, size, bands), bicubic and antialiased, in the same dtype.

    The image is cropped centrally to the aspect ratio of `size` first, so nothing is distorted. Bytes are computed by
    Pillow's 8-bit arithmetic, other types in float32, rounded and clipped to the range of integers.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise InputError(f"image size must be positive, not {size}")
    rows, columns = image.shape[:2]
    if (rows, columns) == (height, width):
        return image
    scale = min(rows / height, columns / width)
    top, left = (rows - height * scale) / 2, (columns - width * scale) / 2
    box = (left, top, left + width * scale, top + height * scale)
    module = _pillow()
    working = image if image.dtype == np.uint8 else image.astype(np.float32)
    bands = [
        np.asarray(
            module.fromarray(np.ascontiguousarray(working[..., band])).resize(
                (width, height), module.Resampling.BICUBIC, box=box
            )
        )
        for band in range(image.shape[2])
    ]
    out = np.stack(bands, axis=-1)
    if image.dtype.kind in "iu" and image.dtype != np.uint8:
        limits = np.iinfo(image.dtype)
        out = np.clip(np.rint(out.astype(np.float64)), limits.min, limits.max)
    return out.astype(image.dtype)


@dataclass(frozen=True)
class PixelOptions:
    """Which bands of image files are taken, and what their numbers mean, as `nec.scenes.open_scene` has it.

    Attributes:
        bands: names, common names or positions from 1; None takes all.
        sensor: names the bands by their order: one of `nec.scenes.sensors.SENSORS`.
        scale, offset: value = number * scale + offset, in float32; None leaves what the file or the sensor say.
        nodata: number of invalid pixels, in place of the files' own.
    """

    bands: Sequence[str | int] | None = None
    sensor: str | None = None
    scale: float | Sequence[float] | None = None
    offset: float | Sequence[float] | None = None
    nodata: float | None = None

    def read(self, data: bytes, name: str) -> NDArray[Any]:
        """Bytes of an image file -> (height, width, bands): values where their scale is known, else the file's numbers.

        Raises:
            InputError: no image, damaged, no such band, or pixels that are not valid.
        """
        if self == AS_THEY_ARE and is_plain(data):
            return decode_image(data, name)
        with self.scene(data, name) as scene:
            wide = any(np.dtype(dtype).itemsize > 2 for dtype in scene.dtypes) and not scene.physical
            pixels, valid = scene.read(0, 0, *scene.shape, np.float64 if wide else np.float32)
            if not valid.all():
                plain = scene.nodata == [None] * len(scene.bands) and all("float" in dtype for dtype in scene.dtypes)
                reject_pixels(~valid, name, "NaN or infinite" if plain else "nodata")
            return pixels if scene.physical else pixels.astype(np.result_type(*scene.dtypes))

    @contextmanager
    def scene(self, data: bytes, name: str) -> Iterator[Scene]:
        """The file as a scene; errors name it."""
        with import_rasterio().MemoryFile(data, filename=f"image{Path(name).suffix}") as memory:
            try:
                yield open_scene(memory.name, **asdict(self))
            except InputError as error:
                raise InputError(str(error).replace(memory.name, name)) from error


AS_THEY_ARE = PixelOptions()


def georeference(data: bytes, name: str) -> dict[str, Any] | None:
    """`{"crs": "EPSG:n" or WKT or None, "transform": [a, b, c, d, e, f]}` of an image file; None without."""
    if not name.lower().endswith((".tif", ".tiff", ".jp2")):
        return None
    with AS_THEY_ARE.scene(data, name) as scene:
        placed = scene.crs is not None or scene.transform != (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
        return {"crs": scene.crs, "transform": list(scene.transform)} if placed else None


def check_finite(image: NDArray[Any], name: str) -> None:
    """`InputError` with count and first place of NaN or infinite pixels of a (height, width, bands) image."""
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        reject_pixels(~np.isfinite(image).all(axis=-1), name, "NaN or infinite")


def reject_pixels(bad: NDArray[np.bool_], name: str, what: str) -> None:
    """`InputError` that counts the `bad` pixels (height, width) and tells where they begin and end."""
    rows, columns = np.nonzero(bad)
    raise InputError(
        f"{name} has {len(rows)} {what} pixel(s) of {bad.size}, first at row {rows[0]}, column {columns[0]}, within "
        f"rows {rows.min()}-{rows.max()}, columns {columns.min()}-{columns.max()}; fill or crop them first"
    )
