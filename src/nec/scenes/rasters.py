"""Raster files as GDAL reads them: paths and URLs, headers, which pixels are invalid. Needs the extra `[geo]`."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError, missing_extra

RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt")
_SCHEMES = {
    "http": "/vsicurl/http://",
    "https": "/vsicurl/https://",
    "s3": "/vsis3/",
    "gs": "/vsigs/",
    "az": "/vsiaz/",
    "file": "/",
}
#: GDAL's settings for remote files where neither the environment nor `rasterio.Env` has set them. No listing of the
#: folder (one request a file otherwise); what a busy store refuses (429, 5xx) or a connection loses is tried again.
REMOTE_OPTIONS = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "CPL_VSIL_CURL_CACHE_SIZE": str(32 * 2**20),
}
#: Decoded blocks that GDAL keeps at most, in bytes, a process, unless `GDAL_CACHEMAX` is set. Its own default is 5% of
#: the machine's memory. What two threads read of Sentinel-2's JPEG 2000 in some bands at a time takes about as much.
CACHE_BYTES = 128 * 2**20
LEAST_CACHE_BYTES = 16 * 2**20

Affine = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class Grid:
    """Where pixels lie: `crs` ("EPSG:n" or WKT, None without), affine numbers of a pixel, (rows, columns)."""

    crs: str | None
    transform: Affine
    shape: tuple[int, int]

    def same(self, other: Grid) -> bool:
        """Whether the pixels are the same, to a thousandth of a pixel at the far corner."""
        if self.shape != other.shape or self.crs != other.crs:
            return False
        reach = np.array([self.shape[1], self.shape[0], 1.0] * 2)
        difference = np.abs(np.subtract(self.transform, other.transform)) * reach
        return bool(difference.max() <= 1e-3 * self.pixel_size)

    @property
    def pixel_size(self) -> float:
        """Side of a square of a pixel's area, in units of the CRS."""
        a, b, _, d, e, _ = self.transform
        return abs(a * e - b * d) ** 0.5


@dataclass(frozen=True)
class Header:
    """What the header of a raster file says. Lists have one entry a band.

    Attributes:
        path: as GDAL opens it.
        names: a band's own description, or the colour it is declared to be, or None.
        wavelengths: in µm, from GDAL's IMAGERY metadata, or None.
        scales, offsets: value = number * scale + offset; 1 and 0 where nothing is declared.
        block: (rows, columns) that are decoded together.
        interleaved: whether a block's bands are decoded together.
    """

    path: str
    grid: Grid
    dtypes: tuple[str, ...]
    names: tuple[str | None, ...]
    wavelengths: tuple[float | None, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    tags: dict[str, str]
    block: tuple[int, int]
    interleaved: bool

    def block_bytes(self, rows: float, columns: float, indexes: Sequence[int]) -> int:
        """Bytes of the decoded blocks under a window of so many pixels of the file, wherever it lies, at most."""
        touched = [
            min(math.ceil(size / side) + 1, math.ceil(whole / side))
            for size, side, whole in zip((rows, columns), self.block, self.grid.shape, strict=True)
        ]
        dtypes = self.dtypes if self.interleaved else [self.dtypes[index - 1] for index in indexes]
        return math.prod(touched) * math.prod(self.block) * sum(np.dtype(dtype).itemsize for dtype in dtypes)


def gdal_path(source: str | Path) -> str:
    """Local path, URL (http, https, s3, gs, az, file) or GDAL's own "/vsi..." -> what GDAL opens.

    Raises `InputError` for another scheme.
    """
    text = str(source)
    scheme, separator, rest = text.partition("://")
    if separator and not isinstance(source, Path):
        if scheme not in _SCHEMES:
            raise InputError(f"{text}: {scheme} is not read; give a path or a URL of {', '.join(_SCHEMES)}")
        return _SCHEMES[scheme] + rest.lstrip("/") if rest else text
    return text if text.startswith("/vsi") else os.path.abspath(Path(text).expanduser())


def is_remote(path: str) -> bool:
    """Whether a path of `gdal_path` goes over the network."""
    return re.match(r"/vsi(curl|s3|gs|az|oss|swift|webhdfs)", path) is not None


def open_raster(path: str) -> Any:
    """Open dataset of rasterio at a path of `gdal_path`; `InputError` where it is missing or none that GDAL reads."""
    rasterio = import_rasterio()
    _limit_cache()
    with reading(path):
        if not path.startswith("/vsi") and not os.path.exists(path):
            raise InputError(f"{path} does not exist")
        return rasterio.open(path)


@contextmanager
def reading(path: str) -> Iterator[None]:
    """GDAL's settings for reading `path`; its errors become an `InputError` that names the file."""
    rasterio = import_rasterio()
    try:
        if is_remote(path):
            with rasterio.Env(**_unset(REMOTE_OPTIONS)):
                yield
        else:
            yield
    except rasterio.errors.RasterioError as error:
        why = error.__cause__ or error
        raise InputError(f"{path} is missing, damaged or not a readable raster: {why}") from error


def read_header(path: str) -> Header:
    """Header of the raster at a path of `gdal_path`. `InputError` where it is unreadable or holds complex numbers."""
    with open_raster(path) as file, reading(path):
        if any(np.dtype(dtype).kind not in "iuf" for dtype in file.dtypes):
            raise InputError(f"{path} holds {', '.join(sorted(set(file.dtypes)))} pixels; real numbers are needed")
        return Header(
            path,
            Grid(crs_text(file.crs), affine(file.transform), (file.height, file.width)),
            tuple(file.dtypes),
            tuple(_name(file, index) for index in file.indexes),
            tuple(_wavelength(file, index) for index in file.indexes),
            tuple(file.scales),
            tuple(file.offsets),
            dict(file.tags()),
            tuple(file.block_shapes[0]),
            file.profile.get("interleave") == "pixel",
        )


def _name(file: Any, index: int) -> str | None:
    color = file.colorinterp[index - 1].name
    own = file.descriptions[index - 1]
    if own and list(file.descriptions).count(own) == 1:
        return own
    return color if color in ("red", "green", "blue", "nir") else None


def _wavelength(file: Any, index: int) -> float | None:
    text = file.tags(index, ns="IMAGERY").get("CENTRAL_WAVELENGTH_UM")
    return None if text is None else float(text)


def affine(transform: Any) -> Affine:
    """rasterio's transform -> (a, b, c, d, e, f)."""
    a, b, c, d, e, f = (float(value) for value in transform[:6])
    return a, b, c, d, e, f


def crs_text(crs: Any) -> str | None:
    """rasterio's CRS -> "EPSG:n" or WKT; None for none."""
    return crs.to_string() if crs else None


def target_grid(grid: Grid, crs: str | None = None, resolution: float | None = None) -> Grid:
    """A grid that covers `grid` in another CRS or with square pixels of `resolution`, in units of the CRS it is in.

    Raises `InputError` for a resolution that is not positive, a CRS that is unknown, a grid without CRS.
    """
    rasterio = import_rasterio()
    if resolution is not None and not resolution > 0:
        raise InputError(f"the resolution must be positive, not {resolution}")
    if crs is None and resolution is None:
        return grid
    if grid.crs is None:
        raise InputError("the raster has no coordinate reference system, so it cannot be resampled; assign one first")
    try:
        wanted = rasterio.crs.CRS.from_user_input(crs or grid.crs)
    except rasterio.errors.CRSError as error:
        raise InputError(f"{crs!r} is no coordinate reference system: {error}") from error
    source = rasterio.crs.CRS.from_user_input(grid.crs)
    a, b, c, d, e, f = grid.transform
    rows, columns = grid.shape
    if wanted == source and b == d == 0:
        return _resized(grid, resolution or abs(a)) if resolution else grid
    from rasterio.warp import calculate_default_transform

    corners = [(a * x + b * y + c, d * x + e * y + f) for x in (0, columns) for y in (0, rows)]
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    transform, width, height = calculate_default_transform(
        source, wanted, columns, rows, min(xs), min(ys), max(xs), max(ys), resolution=resolution
    )
    return Grid(crs_text(wanted), affine(transform), (height, width))


def _resized(grid: Grid, resolution: float) -> Grid:
    a, _, c, _, e, f = grid.transform
    rows, columns = grid.shape
    # What is left of a last pixel by rounding alone is no pixel.
    height = max(1, int(np.ceil(rows * abs(e) / resolution - 1e-6)))
    width = max(1, int(np.ceil(columns * abs(a) / resolution - 1e-6)))
    step_x, step_y = float(np.copysign(resolution, a)), float(np.copysign(resolution, e))
    return Grid(grid.crs, (step_x, 0.0, c, 0.0, step_y, f), (height, width))


def invalid_pixels(
    file: Any, bands: NDArray[Any], nodata: float | None = None, window: Any = None
) -> NDArray[np.bool_]:
    """(height, width): hidden by the nodata value or the mask of an open file whose `bands` were read from `window`.

    A pixel is hidden where any band holds the nodata value; where that is 0, a real value of dark pixels too, where
    every band does. `nodata` stands in place of the file's own.
    """
    from rasterio.enums import MaskFlags

    flags = file.mask_flag_enums[0]
    if nodata is None and MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        return file.read_masks(1, window=window) == 0
    value = file.nodata if nodata is None else nodata
    if value is None:
        return np.zeros(bands.shape[1:], bool)
    equal = np.isnan(bands) if np.isnan(value) else bands == value
    return equal.all(axis=0) if value == 0 else equal.any(axis=0)


def numbers(values: Sequence[float] | float | None, count: int, what: str) -> list[float] | None:
    """One number for all bands, or one for each -> a list; `InputError` for another count."""
    if values is None:
        return None
    given = [float(values)] * count if isinstance(values, int | float) else [float(value) for value in values]
    if len(given) != count or not np.isfinite(given).all():
        raise InputError(f"{what} must be one number or {count}, one a band, not {values}")
    return given


def _unset(options: dict[str, str]) -> dict[str, str]:
    from rasterio.env import getenv, hasenv

    present = getenv() if hasenv() else {}
    return {key: value for key, value in options.items() if key not in present and key not in os.environ}


@cache
def _limit_cache() -> None:
    """Set GDAL's limit for this process, once; `limit_cache` may then lower it."""
    _set_cache(CACHE_BYTES)


def limit_cache(size: int) -> None:
    """Let GDAL keep `size` bytes of decoded blocks in this process, or what is sensible where that is less or more."""
    _limit_cache()  # or the next file that is opened would undo it
    _set_cache(min(max(size, LEAST_CACHE_BYTES), CACHE_BYTES))


def _set_cache(size: int) -> None:
    # `rasterio.Env` would put GDAL's own limit back when it is left.
    import_rasterio()
    from rasterio.env import set_gdal_config

    if _unset({"GDAL_CACHEMAX": ""}):
        set_gdal_config("GDAL_CACHEMAX", size)


def import_rasterio() -> Any:
    """rasterio, or `MissingExtraError`."""
    try:
        import rasterio
        import rasterio.crs
    except ImportError as error:
        missing_extra("rasterio", "geo", error)
    return rasterio
