"""Image files with as many bands as they have: Pillow's, and what GDAL alone reads (multi-band GeoTIFF)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.datasets.base import reject_pixels
from nec.datasets.images import decode_image, is_plain
from nec.errors import InputError
from nec.scenes import Scene, open_scene


@dataclass(frozen=True)
class Pixels:
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
        from nec.scenes.rasters import import_rasterio

        with import_rasterio().MemoryFile(data, filename=f"image{Path(name).suffix}") as memory:
            try:
                yield open_scene(memory.name, **asdict(self))
            except InputError as error:
                raise InputError(str(error).replace(memory.name, name)) from error


AS_THEY_ARE = Pixels()


def georeference(data: bytes, name: str) -> dict[str, Any] | None:
    """`{"crs": "EPSG:n" or WKT or None, "transform": [a, b, c, d, e, f]}` of an image file; None without."""
    if not name.lower().endswith((".tif", ".tiff", ".jp2")):
        return None
    with AS_THEY_ARE.scene(data, name) as scene:
        placed = scene.crs is not None or scene.transform != (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
        return {"crs": scene.crs, "transform": list(scene.transform)} if placed else None
