"""Raster files as GDAL reads them: paths and URLs, headers, which pixels are invalid. Needs the extra `[geo]`."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError, NecError, missing_extra

RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt")
_SCHEMES = {
    "http": "/vsicurl/http://",
    "https": "/vsicurl/https://",
    "s3": "/vsis3/",
    "gs": "/vsigs/",
    "az": "/vsiaz/",
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

    def place(self, row: Any, column: Any) -> tuple[Any, Any]:
        """(x, y) of places (row, column), which count pixels from the grid's corner."""
        a, b, c, d, e, f = self.transform
        return a * column + b * row + c, d * column + e * row + f

    def pixel(self, x: Any, y: Any) -> tuple[Any, Any]:
        """(row, column) of places (x, y)."""
        a, b, c, d, e, f = self.transform
        determinant = a * e - b * d
        x, y = x - c, y - f
        return (a * y - d * x) / determinant, (e * x - b * y) / determinant

    def from_pixel(self, row: int, column: int) -> Affine:
        """Affine numbers of the same grid when its rows and columns are counted from a pixel of it."""
        a, b, _, d, e, _ = self.transform
        c, f = self.place(row, column)
        return a, b, c, d, e, f


@dataclass(frozen=True)
class Header:
    """What the header of a raster file says. Lists have one entry a band.

    Attributes:
        path: as GDAL opens it.
        names: a band's own description, or the colour it is declared to be, or None.
        wavelengths: in µm, from GDAL's IMAGERY metadata, or None.
        scales, offsets: value = number * scale + offset; 1 and 0 where nothing is declared.
        nodata: number of invalid pixels, or None.
        alpha: the band (from 1) that tells which pixels are covered, None where the file has none. GDAL calls the
            fourth of four bytes alpha by default, and it often holds near infrared: see `_coverage`.
    """

    path: str
    grid: Grid
    dtypes: tuple[str, ...]
    names: tuple[str | None, ...]
    wavelengths: tuple[float | None, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    tags: dict[str, str]
    nodata: tuple[float | None, ...]
    alpha: int | None


def gdal_path(source: str | Path) -> str:
    """Local path, URL (http, https, s3, gs, az, file) or GDAL's own "/vsi..." -> what GDAL opens.

    What exists is a path, whatever it is called. Raises `InputError` for another scheme, or a name that is no UTF-8.
    """
    source = local_path(source)
    text = os.fspath(source)
    scheme, separator, rest = text.partition("://")
    if separator and not isinstance(source, Path) and not os.path.exists(text):
        if scheme not in _SCHEMES:
            raise InputError(f"{text}: {scheme} is not read; give a path or a URL of file, {', '.join(_SCHEMES)}")
        return _SCHEMES[scheme] + rest.lstrip("/") if rest else text
    if text.startswith("/vsi"):
        return text
    path = os.path.abspath(os.path.expanduser(text))
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{printable(path)}: the name is not UTF-8, and GDAL reads no other; rename it") from error
    return path


def existing(source: str | Path) -> Path | None:
    """What lies on the disk under a name, which may hold anything that a URL may; None where nothing does."""
    path = os.path.expanduser(os.fspath(source))
    # `Path.exists` raises for what is too long for a name, as signed URLs are.
    return Path(path) if os.path.exists(path) else None


def local_path(source: str | Path) -> str | Path:
    """A file:// URL as a path, anything else as it is."""
    text = os.fspath(source)
    if isinstance(source, Path) or not text.lower().startswith("file:/") or os.path.exists(text):
        return source
    url = urlsplit(text)
    if url.netloc not in ("", "localhost"):
        raise InputError(f"{text} is a file of another machine ({url.netloc}); give a path, or a URL that is served")
    # "#" and "?" are characters of a path: `Path.as_uri` writes them as %23 and %3F.
    return Path(unquote(text[len(url.scheme) + 1 :].removeprefix("//" + url.netloc)))


def public_link(text: str) -> str:
    """A URL without what may let others in: user, password, query (signatures, tokens). A path as it is."""
    url = urlsplit(text)
    if "://" not in text or os.path.exists(text):
        return printable(text)
    return urlunsplit((url.scheme, url.netloc.rpartition("@")[2], url.path, "", ""))


def printable(name: str) -> str:
    """A file's name for people and JSON: bytes that are no UTF-8 are written as \\xNN."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def is_remote(path: str) -> bool:
    """Whether a path of `gdal_path` goes over the network."""
    return re.match(r"/vsi(curl|s3|gs|az|oss|swift|webhdfs)", path) is not None


def open_raster(path: str) -> Any:
    """Open dataset of rasterio at a path of `gdal_path`; `InputError` where it is missing or none that GDAL reads."""
    rasterio = import_rasterio()
    with reading(path):
        if not path.startswith("/vsi") and not os.path.exists(path):
            raise InputError(f"{path} does not exist")
        return rasterio.open(path)


@contextmanager
def reading(path: str) -> Iterator[None]:
    """GDAL's settings for reading `path`; its errors become an `InputError` that names the file."""
    try:
        if is_remote(path):
            with import_rasterio().Env(**_unset(REMOTE_OPTIONS)):
                yield
        else:
            yield
    except NecError:
        raise
    except MemoryError as error:
        raise InputError(f"{path}: a window is too large for the memory; resample it to coarser pixels") from error
    except Exception as error:  # rasterio lets errors of GDAL, which have no public type, PROJ and NumPy through
        why = " ".join(str(error.__cause__ or error).split())
        raise InputError(f"{path} is missing, damaged or not a readable raster: {why}") from error


def read_header(path: str) -> Header:
    """Header of the raster at a path of `gdal_path`.

    Raises:
        InputError: unreadable, complex numbers, a container of several rasters, or pixels whose place nothing tells.
    """
    with open_raster(path) as file, reading(path):
        if not file.count:
            inside = ", ".join(name.rpartition(":")[2] for name in file.subdatasets)
            raise InputError(
                f"{path} is a container of several rasters ({inside}): export the wanted ones first, for example "
                f"gdal_translate '{file.subdatasets[0]}' one.tif"
                if inside
                else f"{path} holds no raster"
            )
        if any(np.dtype(dtype).kind not in "iuf" for dtype in file.dtypes):
            raise InputError(f"{path} holds {', '.join(sorted(set(file.dtypes)))} pixels; real numbers are needed")
        return Header(
            path,
            _place(file, path),
            tuple(file.dtypes),
            tuple(_name(file, index) for index in file.indexes),
            tuple(_wavelength(file, index) for index in file.indexes),
            tuple(file.scales),
            tuple(file.offsets),
            dict(file.tags()),
            tuple(None if value is None else float(value) for value in file.nodatavals),
            _coverage(file),
        )


def _place(file: Any, path: str) -> Grid:
    """The pixels' grid; of ground control points the affine grid that they lie on, if they lie on one."""
    shape = (file.height, file.width)
    points, crs = file.gcps
    if file.crs or not file.transform.is_identity:
        return Grid(crs_text(file.crs), affine(file.transform), shape)
    if len(points) >= 3 and crs:
        from rasterio.transform import from_gcps

        fitted = Grid(crs_text(crs), affine(from_gcps(points)), shape)
        places = [fitted.pixel(point.x, point.y) for point in points]
        off = max(abs(x - p.col) + abs(y - p.row) for (y, x), p in zip(places, points, strict=True))
        if off > 0.1:
            raise InputError(
                f"{path} is placed by ground control points that lie up to {off:.1f} px off any regular grid: warp it "
                "first (gdalwarp -tps)"
            )
        return fitted
    if points or file.rpcs:
        what = "ground control points" if points else "rational polynomials (RPC)"
        raise InputError(f"{path} is placed by {what} and has no coordinate reference system: warp it first (gdalwarp)")
    return Grid(None, affine(file.transform), shape)


def _coverage(file: Any) -> int | None:
    """The band that is alpha by its label and by its numbers: nearly all of five blocks are 0 or the largest."""
    from rasterio.enums import ColorInterp
    from rasterio.windows import Window

    found = [index for index in file.indexes if file.colorinterp[index - 1] is ColorInterp.alpha]
    if len(found) != 1 or file.count == 1 or np.dtype(file.dtypes[found[0] - 1]).kind != "u":
        return None
    rows, columns = (min(side, 512) for side in file.block_shapes[found[0] - 1])
    sampled = [
        file.read(found[0], window=Window(int(x * (file.width - 1)) // columns * columns,
                                          int(y * (file.height - 1)) // rows * rows, columns, rows)).ravel()
        for y, x in ((0.5, 0.5), (0, 0), (0, 1), (1, 0), (1, 1))
    ]  # fmt: skip
    numbers = np.concatenate(sampled)
    return found[0] if np.isin(numbers, [0, np.iinfo(numbers.dtype).max]).mean() > 0.95 else None


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
    a, b, _, d, _, _ = grid.transform
    rows, columns = grid.shape
    if wanted == source and b == d == 0:
        return _resized(grid, resolution or abs(a)) if resolution else grid
    from rasterio.warp import calculate_default_transform

    corners = [grid.place(y, x) for x in (0, columns) for y in (0, rows)]
    xs, ys = [x for x, _ in corners], [y for _, y in corners]
    transform, width, height = calculate_default_transform(
        source, wanted, columns, rows, min(xs), min(ys), max(xs), max(ys), resolution=resolution
    )
    return Grid(crs_text(wanted), affine(transform), (height, width))


def grid_like(target: Any) -> Grid:
    """The pixel grid of a `GeoBox` (odc-geo), a scene, a raster store or whatever has `crs`, `transform` and `shape`.

    Of a raster store, whose transform is that of tokens of `patch_px` pixels, the pixels that its scenes had.
    """
    if isinstance(target, Grid):
        return target
    try:
        patch = int(getattr(target, "patch_px", 1))
        a, b, c, d, e, f = affine(target.transform)
        shape = target.grid if hasattr(target, "patch_px") else target.shape
        rows, columns = (int(size) * patch for size in shape[-2:])
        wanted = import_rasterio().crs.CRS.from_user_input(str(target.crs))
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"align takes a grid with crs, transform and shape, not {target!r}: {error}") from error
    except import_rasterio().errors.CRSError as error:
        raise InputError(f"align: the grid has no coordinate reference system that is known: {error}") from error
    return Grid(crs_text(wanted), (a / patch, b / patch, c, d / patch, e / patch, f), (rows, columns))


def _resized(grid: Grid, resolution: float) -> Grid:
    a, _, c, _, e, f = grid.transform
    rows, columns = grid.shape
    # What is left of a last pixel by rounding alone is no pixel.
    height = max(1, int(np.ceil(rows * abs(e) / resolution - 1e-6)))
    width = max(1, int(np.ceil(columns * abs(a) / resolution - 1e-6)))
    step_x, step_y = float(np.copysign(resolution, a)), float(np.copysign(resolution, e))
    return Grid(grid.crs, (step_x, 0.0, c, 0.0, step_y, f), (height, width))


def valid_pixels(
    file: Any, header: Header, chosen: Sequence[tuple[int, float | None]], bands: Sequence[NDArray[Any]], window: Any
) -> NDArray[np.bool_]:
    """Which pixels (rows, columns) of a window nothing in their file hides: the one place where that is decided.

    A pixel is hidden where a band is not finite or holds its nodata number; where that is 0, a real number of dark
    pixels too, where all bands of the file do. The file's masks hide, and alpha below one half where it tells the
    coverage and was not chosen as a band.

    Args:
        file: the open file of rasterio.
        chosen: the bands' indexes from 1, and the nodata numbers that stand in place of the file's own.
        bands: what was read of each.
    """
    from rasterio.enums import MaskFlags

    valid = np.ones(bands[0].shape, bool)
    zeros: list[NDArray[np.bool_]] = []
    for (index, given), numbers in zip(chosen, bands, strict=True):
        if numbers.dtype.kind == "f":
            valid &= np.isfinite(numbers)
        nodata = header.nodata[index - 1] if given is None else given
        if nodata == 0:
            zeros.append(numbers == 0)
        elif nodata is not None and np.isfinite(nodata):
            valid &= ~_equal(numbers, nodata)
    hidden = np.logical_and.reduce(zeros) if zeros else np.zeros_like(valid)
    if hidden.any():  # the bands that nobody chose count as well: what is valid must not depend on the choice
        everywhere = any(given == 0 for _, given in chosen)
        for index in set(file.indexes) - {index for index, _ in chosen} - {header.alpha}:
            if everywhere or header.nodata[index - 1] == 0:
                hidden &= file.read(index, window=window) == 0
    valid &= ~hidden
    for index, given in chosen:
        flags = set(file.mask_flag_enums[index - 1])
        if flags & {MaskFlags.all_valid, MaskFlags.alpha} or flags == {MaskFlags.nodata}:
            continue
        if MaskFlags.nodata not in flags or given is None:
            valid &= file.read_masks(index, window=window) != 0
        if MaskFlags.per_dataset in flags:
            break
    if header.alpha is not None and header.alpha not in [index for index, _ in chosen]:
        alpha = file.read(header.alpha, window=window)
        valid &= alpha > np.iinfo(alpha.dtype).max // 2
    return valid


def _equal(numbers: NDArray[Any], nodata: float) -> NDArray[np.bool_]:
    # Files round -3.4e38 in as many ways as there are programs.
    return np.isclose(numbers, nodata, rtol=1e-6, atol=0) if numbers.dtype.kind == "f" else numbers == nodata


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


def import_rasterio() -> Any:
    """rasterio, or `MissingExtraError`."""
    try:
        import rasterio
        import rasterio.crs
    except ImportError as error:
        missing_extra("rasterio", "geo", error)
    return rasterio


ATTEMPTS = 5
FIRST_SECONDS = 0.5  # before the second attempt, then twice as long each time

_Result = TypeVar("_Result")
_TRANSIENT = re.compile(
    r"(http|code|status)\D{0,12}(429|502|503|504)\b|time[d -]*out|temporarily|too many requests|slow ?down|try again"
    r"|bad gateway|service ?unavailable|connection (was )?(reset|refused|aborted|closed)|could ?n.t connect"
    r"|could not connect|resolve host|recv failure|send failure",
    re.IGNORECASE,
)


def transient(error: BaseException) -> bool:
    """Whether an error is of a kind that goes away: a timeout, a connection, HTTP 429, 502, 503 or 504.

    GDAL has no types for these, so its words decide. What caused an error counts too.
    """
    return any(
        isinstance(link, TimeoutError | ConnectionError) or _TRANSIENT.search(str(link)) is not None
        for link in _chain(error)
    )


def retry(action: Callable[[], _Result]) -> _Result:
    """Result of `action`, which is called up to five times where an error may pass."""
    pause = FIRST_SECONDS
    for _ in range(ATTEMPTS - 1):
        try:
            return action()
        except (OSError, NecError) as error:
            if not transient(error):
                raise
        time.sleep(pause)
        pause *= 2
    return action()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
