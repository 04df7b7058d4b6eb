"""GeoTIFFs read whole; needs the extra `[geo]`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.datasets.base import Dataset, check_finite, describe_listing, reject_pixels
from nec.errors import InputError, missing_extra
from nec.scenes.rasters import crs_text, invalid_pixels

GEOTIFF_SUFFIXES = (".tif", ".tiff")


class GeoTiffDataset(Dataset):
    """One or several GeoTIFFs, each an image with its bands, type, CRS and geotransform.

    A pixel is invalid where any band holds the file's nodata value (every band, if that value is 0, which is a real
    value of dark pixels too), where the file's mask hides it, or where any band is NaN or infinite. An image with such
    pixels is refused. An alpha band is a band like the others: GDAL calls the fourth of four bytes so by default, and
    it often holds near infrared.
    """

    kind = "geotiff"
    windowed = True

    def __init__(self, paths: Sequence[str | Path]) -> None:
        files = [Path(path) for path in paths]
        for file in files:
            if not file.is_file():
                raise InputError(f"{file} does not exist" if not file.exists() else f"{file} is not a file")
        self.names, self.paths = _name(files)
        self.file_sizes = [file.stat().st_size for file in self.paths]
        self.description = {"kind": self.kind, "files": self.names, **describe_listing(self.names, self.file_sizes)}

    def read(self, index: int) -> NDArray[Any]:
        """Image `index` as (height, width, bands), in the file's type. `InputError` for invalid pixels."""
        path = self.paths[index]
        with _open(path) as file:
            if any(np.dtype(dtype).kind not in "iuf" for dtype in file.dtypes):
                raise InputError(f"{path} holds {', '.join(sorted(set(file.dtypes)))} pixels; real numbers are needed")
            try:
                bands = file.read()
                invalid = invalid_pixels(file, bands)
            except MemoryError as error:
                raise InputError(f"{path}, {file.width}x{file.height} px, is too large to be read whole") from error
            except _errors() as error:
                raise InputError(f"{path} is damaged or truncated ({error.__cause__ or error}); replace it") from error
        pixels = np.ascontiguousarray(np.moveaxis(bands, 0, -1))
        check_finite(pixels, str(path))
        if invalid.any():
            reject_pixels(invalid, str(path), "nodata")
        return pixels

    def georeference(self, index: int) -> dict[str, Any]:
        """`{"crs": "EPSG:n" or WKT or None, "transform": [a, b, c, d, e, f]}`: x = a*column + b*row + c, and so on."""
        with _open(self.paths[index]) as file:
            return {"crs": crs_text(file.crs), "transform": [float(value) for value in file.transform[:6]]}

    def shape(self, index: int) -> tuple[int, int, int]:
        """(height, width, bands) of image `index`, from its header."""
        with _open(self.paths[index]) as file:
            return file.height, file.width, file.count


def _name(files: list[Path]) -> tuple[list[str], list[Path]]:
    """Names relative to the folder that all files share, sorted."""
    absolute = [Path(os.path.abspath(file)) for file in files]
    if len(set(absolute)) != len(absolute):
        twice = next(file for file in absolute if absolute.count(file) > 1)
        raise InputError(f"{twice} is given twice")
    root = Path(os.path.commonpath([file.parent for file in absolute]))
    named = sorted((file.relative_to(root).as_posix(), file) for file in absolute)
    return [name for name, _ in named], [file for _, file in named]


def _errors() -> type[Exception]:
    from rasterio.errors import RasterioError

    return RasterioError


def _open(path: Path) -> Any:
    try:
        import rasterio
    except ImportError as error:
        missing_extra("rasterio", "geo", error)
    try:
        return rasterio.open(path)
    except rasterio.errors.RasterioIOError as error:
        raise InputError(f"{path} is not a readable GeoTIFF: {error}") from error
