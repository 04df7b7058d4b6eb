"""A scene: bands of one or several raster files on one pixel grid, read window by window. Needs the extra `[geo]`."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError
from nec.scenes.rasters import (
    Grid,
    Header,
    import_rasterio,
    invalid_pixels,
    limit_cache,
    open_raster,
    read_header,
    reading,
    target_grid,
)
from nec.scenes.sensors import band_key


@dataclass(frozen=True)
class Band:
    """A band of a scene.

    Attributes:
        name: the sensor's ("B04"), the file's, or "band1" and so on.
        wavelength_um: central wavelength in µm, or None.
        scale, offset: value = number in the file * scale + offset.
        common: STAC's common name ("red"), or None.
    """

    name: str
    wavelength_um: float | None = None
    scale: float = 1.0
    offset: float = 0.0
    common: str | None = None


@dataclass(frozen=True)
class Layer:
    """A band in a file: `path` as GDAL opens it, `index` from 1, `nodata` in place of the file's own."""

    path: str
    index: int
    band: Band
    nodata: float | None = None


@dataclass(frozen=True)
class Mask:
    """A layer of classes that hides pixels: those of the classes `hidden`."""

    layer: Layer
    hidden: frozenset[int]


@dataclass(frozen=True)
class Contents:
    """What a scene is made of, before it is put on one grid; the openers of files, folders and STAC Items return it.

    Attributes:
        layers: every band there is, in order.
        physical: whether values are physical ones (reflectance), rather than the files' numbers.
        classes: the layer of a scene classification map, or None.
    """

    name: str
    layers: tuple[Layer, ...]
    physical: bool = False
    datetime: np.datetime64 | None = None
    links: tuple[dict[str, str], ...] = ()
    classes: Layer | None = None


def choose(layers: Sequence[Layer], wanted: Sequence[str | int], name: str) -> tuple[Layer, ...]:
    """Layers by the name or common name of their band, in any case, or by position from 1; in the order of `wanted`.

    Raises:
        InputError: no such band, or several of that name; the message lists what there is.
    """
    if not wanted:
        raise InputError(f"no band of {name} was asked for")
    return tuple(_choose(layers, item, name) for item in wanted)


def _choose(layers: Sequence[Layer], wanted: str | int, name: str) -> Layer:
    if isinstance(wanted, int):
        if not 1 <= wanted <= len(layers):
            raise InputError(f"{name} has no band {wanted}: bands are counted from 1 to {len(layers)}")
        return layers[wanted - 1]
    found = [layer for layer in layers if band_key(layer.band.name) == band_key(wanted)]
    found = found or [layer for layer in layers if layer.band.common == wanted.lower()]
    if len(found) != 1:
        known = ", ".join(f"{b.name} ({b.common})" if b.common else b.name for b in (x.band for x in layers))
        problem = f"{len(found)} bands" if found else "no band"
        raise InputError(
            f"{name} has {problem} {wanted!r}; it has {known}: choose by these names, or by position from 1"
        )
    return found[0]


class Scene:
    """Bands on one pixel grid. Made by `nec.scenes.open_scene`.

    Reading is thread-safe: each thread opens the files for itself, and so does a process that the scene was pickled
    to or that forked. Files are never read whole.

    Attributes:
        name: of the file, folder or Item.
        crs: "EPSG:n" or WKT; None for a file without.
        transform: affine numbers (a, b, c, d, e, f) of a pixel: x = a * column + b * row + c, y = d * column + ...
        shape: (rows, columns).
        bands: list of `Band`, in the order of the pixels' last axis.
        physical: whether values are physical (the bands' scale and offset come from the files' metadata, from the
            sensor's convention or from the caller), reflectance for optical sensors; else they are the files' numbers.
        dtypes: types of the files' numbers, one a band.
        datetime: when it was taken, numpy datetime64 in ms and UTC, or None.
        source_links: STAC links to what the scene was read from: dicts with "rel", "href" and, where known, "type".
    """

    def __init__(self, contents: Contents, grid: Grid, files: dict[str, Header], mask: Mask | None = None) -> None:
        self.name = contents.name
        self.crs, self.transform, self.shape = grid.crs, grid.transform, grid.shape
        self.bands = [layer.band for layer in contents.layers]
        self.physical = contents.physical
        self.dtypes = [files[layer.path].dtypes[layer.index - 1] for layer in contents.layers]
        self.datetime = contents.datetime
        self.source_links = [dict(link) for link in contents.links]
        self._contents, self._grid, self._files, self._mask = contents, grid, files, mask
        self._parts = _parts(contents.layers)
        self._handles = _Handles()

    def __repr__(self) -> str:
        bands = ", ".join(band.name for band in self.bands)
        return f"Scene({self.name!r}, {self.shape[0]} x {self.shape[1]} px, bands {bands}, {self.crs})"

    def select(self, bands: Sequence[str | int]) -> Scene:
        """The same scene with these bands only, by name, common name or position from 1."""
        layers = choose(self._contents.layers, bands, self.name)
        return Scene(replace(self._contents, layers=layers), self._grid, self._files, self._mask)

    def read(self, row: int, column: int, rows: int, columns: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Pixels (rows, columns, bands) float32 of a window, and which of them are valid (rows, columns).

        Values are number * scale + offset, and NaN in every band of a pixel that is not valid: outside of the scene,
        hidden by nodata or a mask, or not finite. Windows may stick out of the scene on any side.

        Raises:
            InputError: an empty window; a file that cannot be read, with its name.
        """
        if rows < 1 or columns < 1:
            raise InputError(f"a window of {rows} x {columns} px is empty")
        pixels = np.full((rows, columns, len(self.bands)), np.nan, np.float32)
        valid = np.zeros((rows, columns), bool)
        top, left = max(row, 0), max(column, 0)
        bottom, right = min(row + rows, self.shape[0]), min(column + columns, self.shape[1])
        if top < bottom and left < right:
            place = np.s_[top - row : bottom - row, left - column : right - column]
            self._fill(pixels[place], valid[place], top, left)
            pixels[~valid] = np.nan
        return pixels, valid

    def keep_blocks(self, rows: int, columns: int, windows: int) -> None:
        """Let GDAL keep the blocks under so many windows at once of (rows, columns) pixels, and not much more."""
        layers: list[Layer] = [*self._contents.layers, *([self._mask.layer] if self._mask else [])]
        total = 0
        for path in dict.fromkeys(layer.path for layer in layers):
            header = self._files[path]
            high, wide = (own / side for own, side in zip(header.grid.shape, self.shape, strict=True))
            indexes = [layer.index for layer in layers if layer.path == path]
            total += header.block_bytes(rows * high, columns * wide, indexes)
        limit_cache(windows * total)

    def _fill(self, pixels: NDArray[np.float32], valid: NDArray[np.bool_], row: int, column: int) -> None:
        rows, columns = valid.shape
        window = import_rasterio().windows.Window(column, row, columns, rows)
        valid[...] = True
        if self._mask is not None:
            layer = self._mask.layer
            classes, inside = self._raster(layer.path, layer.nodata, nearest=True).read([layer.index], window)
            valid &= inside & ~np.isin(classes[0], list(self._mask.hidden))
        for (path, nodata), positions in self._parts.items():
            layers = [self._contents.layers[position] for position in positions]
            numbers, inside = self._raster(path, nodata).read([layer.index for layer in layers], window)
            valid &= inside
            for position, layer, values in zip(positions, layers, numbers, strict=True):
                pixels[..., position] = _scaled(values, layer.band)
        valid &= np.isfinite(pixels).all(axis=-1)

    def _raster(self, path: str, nodata: float | None, nearest: bool = False) -> _Raster:
        opened = self._handles.of_this_thread()
        key = (path, nodata, nearest)
        if key not in opened:
            opened[key] = _Raster(self._files[path], self._grid, nodata, nearest)
        return opened[key]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_handles"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._handles = _Handles()


def make_scene(
    contents: Contents,
    *,
    mask: Mask | None = None,
    resolution: float | None = None,
    crs: str | None = None,
    headers: dict[str, Header] | None = None,
) -> Scene:
    """Put the layers of `contents` on one grid: the finest file's, or the one that `resolution` and `crs` ask for.

    `headers`: those that were read already.
    """
    paths = list(dict.fromkeys([layer.path for layer in contents.layers] + ([mask.layer.path] if mask else [])))
    files = {**read_headers([path for path in paths if path not in (headers or {})]), **(headers or {})}
    for layer in contents.layers:
        if not 1 <= layer.index <= len(files[layer.path].dtypes):
            raise InputError(f"{layer.path} has no band {layer.index}")
    grids = [files[layer.path].grid for layer in contents.layers]
    grid = target_grid(min(grids, key=lambda grid: grid.pixel_size), crs, resolution)
    for path in paths:
        own = files[path].grid
        if not own.same(grid) and (own.crs is None or grid.crs is None):
            raise InputError(
                f"{path} has another pixel grid than the scene, and without a coordinate reference system in both "
                "it cannot be resampled; assign one first"
            )
    return Scene(contents, grid, {path: files[path] for path in paths}, mask)


def read_headers(paths: Sequence[str]) -> dict[str, Header]:
    """Headers of several files, read in parallel (a remote file's takes some round trips)."""
    if not paths:
        return {}
    with ThreadPoolExecutor(min(8, len(paths))) as pool:
        return dict(zip(paths, pool.map(read_header, paths), strict=True))


def _parts(layers: Sequence[Layer]) -> dict[tuple[str, float | None], list[int]]:
    """Positions of the layers that one reading of a file gives."""
    parts: dict[tuple[str, float | None], list[int]] = {}
    for position, layer in enumerate(layers):
        parts.setdefault((layer.path, layer.nodata), []).append(position)
    return parts


def _scaled(values: NDArray[Any], band: Band) -> NDArray[Any]:
    if (band.scale, band.offset) == (1.0, 0.0):
        return values
    kind = _exact(values.dtype)
    return values.astype(kind) * kind(band.scale) + kind(band.offset)


def _exact(dtype: np.dtype[Any]) -> type[np.floating[Any]]:
    """The float type that holds the numbers of a type without rounding."""
    return np.float64 if dtype.itemsize > 4 or (dtype.itemsize == 4 and dtype.kind != "f") else np.float32


class _Handles:
    """Open files of each thread. A forked process opens its own: both would move the same file positions."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._owner = os.getpid()
        self._local = threading.local()

    def of_this_thread(self) -> dict[tuple[str, float | None, bool], _Raster]:
        if self._owner != os.getpid():
            self._reset()
        if not hasattr(self._local, "opened"):
            self._local.opened = {}
        return self._local.opened


class _Raster:
    """An open file seen on a grid: as it is where the grid is its own, resampled otherwise."""

    def __init__(self, header: Header, grid: Grid, nodata: float | None, nearest: bool) -> None:
        self.path, self.nodata = header.path, nodata
        self._file = open_raster(header.path)
        self._values: Any = None
        self._nearest: Any = None
        if not header.grid.same(grid):
            with reading(header.path):
                self._values = self._warped(grid, _resampling(header.grid, grid, nearest))
                self._nearest = self._values if nearest else self._warped(grid, "nearest")

    def read(self, indexes: list[int], window: Any) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Numbers (bands, rows, columns) of a window, and which pixels (rows, columns) nothing in the file hides."""
        with reading(self.path):
            if self._values is None:
                bands = self._file.read(indexes, window=window)
                return bands, ~invalid_pixels(self._file, bands, self.nodata, window)
            bands = self._values.read(indexes, window=window)
            valid = np.isfinite(bands).all(axis=0)
            if self._nearest is not self._values and self._any_rule(indexes):
                valid &= np.isfinite(self._nearest.read(indexes, window=window)).all(axis=0)
            return bands, valid

    def _any_rule(self, indexes: list[int]) -> bool:
        return self._source_nodata not in (None, 0) and len(indexes) > 1

    @property
    def _source_nodata(self) -> float | None:
        if self.nodata is not None or self._file.nodata is not None:
            return self.nodata if self.nodata is not None else self._file.nodata
        return float("nan") if np.dtype(self._file.dtypes[0]).kind == "f" else None

    def _warped(self, grid: Grid, resampling: str) -> Any:
        rasterio = import_rasterio()
        from rasterio.enums import Resampling
        from rasterio.vrt import WarpedVRT

        nodata = self._source_nodata
        return WarpedVRT(
            self._file,
            src_nodata=nodata,
            crs=grid.crs,
            transform=rasterio.Affine(*grid.transform),
            height=grid.shape[0],
            width=grid.shape[1],
            resampling=Resampling[resampling],
            dtype=np.dtype(_exact(np.dtype(self._file.dtypes[0]))).name,
            nodata=float("nan"),
            # Next to no approximation: what a pixel becomes must not depend on the window that it is read in.
            # (rasterio 1.4 opens nothing at 0.)
            tolerance=1e-6,
            # See `invalid_pixels`: zeros hide a pixel together, other values each for itself.
            UNIFIED_SRC_NODATA="YES" if nodata == 0 else "PARTIAL",
        )


def _resampling(own: Grid, grid: Grid, nearest: bool) -> str:
    """How a file is resampled: classes to the nearest, values bilinearly, by averaging where pixels become coarser."""
    if nearest:
        return "nearest"
    coarser = grid.pixel_size / own.pixel_size
    if own.crs != grid.crs:  # other units; both cover about the same area
        coarser = (own.shape[0] * own.shape[1] / (grid.shape[0] * grid.shape[1])) ** 0.5
    return "average" if coarser > 1.5 else "bilinear"
