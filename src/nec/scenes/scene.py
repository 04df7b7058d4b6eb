"""A scene: bands of one or several raster files on one pixel grid, read window by window. Needs the extra `[geo]`."""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
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
    open_raster,
    read_header,
    reading,
    valid_pixels,
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
    """A band in a file.

    Attributes:
        path: as GDAL opens it.
        index: of the band in the file, from 1.
        nodata: number of invalid pixels in place of the file's own.
        scale, offset: what metadata beside the file say, None where they say nothing.
        convention: (scale, offset) of the sensor, which counts where neither metadata nor the file say anything.
    """

    path: str
    index: int
    band: Band
    nodata: float | None = None
    scale: float | None = None
    offset: float | None = None
    convention: tuple[float, float] = (1.0, 0.0)

    def scaled(self, header: Header, scale: float | None, offset: float | None) -> Layer:
        """The layer with its band's scale and offset: of the call, of the metadata, of the file, by convention.

        Raises `InputError` for a scale that no value survives.
        """
        own = header.scales[self.index - 1], header.offsets[self.index - 1]
        fallback = self.convention if own == (1.0, 0.0) else own
        scale, offset = (
            next(value for value in values if value is not None)
            for values in ((scale, self.scale, fallback[0]), (offset, self.offset, fallback[1]))
        )
        if not scale or not math.isfinite(scale) or not math.isfinite(offset):
            raise InputError(
                f"{self.path} has the scale {scale:g} and the offset {offset:g} in band {self.band.name}, which no "
                "value survives; give scale (and offset)"
            )
        return replace(self, band=replace(self.band, scale=scale, offset=offset))


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
        nodata: numbers of invalid pixels, one a band, or None.
        datetime: when it was taken, numpy datetime64 in ms and UTC, or None.
        source_links: STAC links to what the scene was read from: dicts with "rel", "href" and, where known, "type".
    """

    def __init__(self, contents: Contents, grid: Grid, files: dict[str, Header], mask: Mask | None = None) -> None:
        self.name = contents.name
        self.crs, self.transform, self.shape = grid.crs, grid.transform, grid.shape
        self.bands = [layer.band for layer in contents.layers]
        self.physical = contents.physical
        self.dtypes = [files[layer.path].dtypes[layer.index - 1] for layer in contents.layers]
        own = [files[layer.path].nodata[layer.index - 1] for layer in contents.layers]
        self.nodata = [
            n if layer.nodata is None else layer.nodata for layer, n in zip(contents.layers, own, strict=True)
        ]
        self.datetime = contents.datetime
        self.source_links = [dict(link) for link in contents.links]
        self._contents, self._grid, self._files, self._mask = contents, grid, files, mask
        self._positions: dict[str, list[int]] = {}
        for position, layer in enumerate(contents.layers):
            self._positions.setdefault(layer.path, []).append(position)
        self._handles = _Handles()

    def __repr__(self) -> str:
        bands = ", ".join(band.name for band in self.bands)
        return f"Scene({self.name!r}, {self.shape[0]} x {self.shape[1]} px, bands {bands}, {self.crs})"

    def select(self, bands: Sequence[str | int]) -> Scene:
        """The same scene with these bands only, by name, common name or position from 1."""
        layers = choose(self._contents.layers, bands, self.name)
        return Scene(replace(self._contents, layers=layers), self._grid, self._files, self._mask)

    def read(
        self, row: int, column: int, rows: int, columns: int, dtype: type[np.floating[Any]] = np.float32
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Pixels (rows, columns, bands) of a window, and which of them are valid (rows, columns).

        Values are number * scale + offset, float32 unless `dtype` asks for float64, and NaN in every band of a pixel
        that is not valid: outside of the scene, hidden by nodata or a mask, or not finite. Windows may stick out of
        the scene on any side.

        Raises:
            InputError: an empty window; a file that cannot be read, with its name.
        """
        if rows < 1 or columns < 1:
            raise InputError(f"a window of {rows} x {columns} px is empty")
        pixels = np.full((rows, columns, len(self.bands)), np.nan, dtype)
        valid = np.zeros((rows, columns), bool)
        top, left = max(row, 0), max(column, 0)
        bottom, right = min(row + rows, self.shape[0]), min(column + columns, self.shape[1])
        if top < bottom and left < right:
            place = np.s_[top - row : bottom - row, left - column : right - column]
            self._fill(pixels[place], valid[place], top, left)
            pixels[~valid] = np.nan
        return pixels, valid

    def _fill(self, pixels: NDArray[Any], valid: NDArray[np.bool_], row: int, column: int) -> None:
        window = (row, column, *valid.shape)
        valid[...] = True
        if self._mask is not None:
            layer = self._mask.layer
            (classes,), inside = self._raster(layer.path, nearest=True).read([(layer.index, layer.nodata)], window)
            valid &= inside & ~np.isin(classes, list(self._mask.hidden))
        for path, positions in self._positions.items():
            layers = [self._contents.layers[position] for position in positions]
            bands, inside = self._raster(path).read([(layer.index, layer.nodata) for layer in layers], window)
            valid &= inside
            for position, layer, numbers in zip(positions, layers, bands, strict=True):
                pixels[..., position] = _scaled(numbers, layer.band)
        valid &= np.isfinite(pixels).all(axis=-1)

    def _raster(self, path: str, nearest: bool = False) -> _Raster:
        opened = self._handles.of_this_thread()
        if (path, nearest) not in opened:
            opened[path, nearest] = _Raster(self._files[path], self._grid, nearest)
        return opened[path, nearest]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_handles"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._handles = _Handles()


def read_headers(paths: Sequence[str]) -> dict[str, Header]:
    """Headers of several files, read in parallel (a remote file's takes some round trips)."""
    if len(paths) < 2:
        return {path: read_header(path) for path in paths}
    with ThreadPoolExecutor(min(8, len(paths))) as pool:
        return dict(zip(paths, pool.map(read_header, paths), strict=True))


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

    def of_this_thread(self) -> dict[tuple[str, bool], _Raster]:
        if self._owner != os.getpid():
            self._reset()
        if not hasattr(self._local, "opened"):
            self._local.opened = {}
        return self._local.opened


#: (first row, first column, rows, columns) in pixels.
PixelWindow = tuple[int, int, int, int]
#: Side of the blocks that are resampled at once, and of what they are made of, in pixels at most.
_BLOCK, _SOURCE = 256, 2048
#: Bytes of resampled blocks that a thread keeps, since tiles overlap.
_KEPT_BYTES = 16 * 2**20


class _Raster:
    """An open file seen on a grid: as it is where the grid is its own, resampled otherwise.

    Resampled pixels are made in blocks of a fixed place, so that they depend on no window. What is hidden enters no
    value; a resampled pixel is valid where half of what it is made of is, by weight.
    """

    def __init__(self, header: Header, grid: Grid, nearest: bool) -> None:
        self.header, self.grid = header, grid
        self._file = open_raster(header.path)
        self._blocks: OrderedDict[Any, tuple[NDArray[Any], NDArray[np.bool_]]] = OrderedDict()
        self._same = header.grid.same(grid)
        if not self._same:
            self._method = _resampling(header.grid, grid, nearest)
            self._coarser = _coarser(header.grid, grid)
            self._side = int(np.clip(2 ** int(np.log2(max(1, _SOURCE / self._coarser))), 1, _BLOCK))

    def read(
        self, chosen: Sequence[tuple[int, float | None]], window: PixelWindow
    ) -> tuple[Sequence[NDArray[Any]], NDArray[np.bool_]]:
        """Numbers of the bands `chosen` (index, nodata), each (rows, columns), and which pixels are valid."""
        with reading(self.header.path):
            if self._same:
                return self._own(chosen, window)
            row, column, rows, columns = window
            out, valid = np.empty((len(chosen), rows, columns), self._kind(chosen)), np.empty((rows, columns), bool)
            side = self._side
            for y in range(row // side, -(-(row + rows) // side)):
                for x in range(column // side, -(-(column + columns) // side)):
                    numbers, inside = self._block(tuple(chosen), y, x)
                    top, left = max(row, y * side), max(column, x * side)
                    bottom, right = min(row + rows, (y + 1) * side), min(column + columns, (x + 1) * side)
                    ours = np.s_[top - row : bottom - row, left - column : right - column]
                    theirs = np.s_[top - y * side : bottom - y * side, left - x * side : right - x * side]
                    out[:, *ours], valid[ours] = numbers[:, *theirs], inside[theirs]
            return list(out), valid

    def _own(
        self, chosen: Sequence[tuple[int, float | None]], window: PixelWindow
    ) -> tuple[list[NDArray[Any]], NDArray[np.bool_]]:
        row, column, rows, columns = window
        place = import_rasterio().windows.Window(column, row, columns, rows)
        indexes = [index for index, _ in chosen]
        alike = len({self.header.dtypes[index - 1] for index in indexes}) == 1
        bands = [*self._file.read(indexes, window=place)] if alike else [
            self._file.read(index, window=place) for index in indexes
        ]  # fmt: skip
        return bands, valid_pixels(self._file, self.header, chosen, bands, place)

    def _kind(self, chosen: Sequence[tuple[int, float | None]]) -> type[np.floating[Any]]:
        kinds = {_exact(np.dtype(self.header.dtypes[index - 1])) for index, _ in chosen}
        return np.float64 if np.float64 in kinds else np.float32

    def _block(
        self, chosen: tuple[tuple[int, float | None], ...], y: int, x: int
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        key = (chosen, y, x)
        if key not in self._blocks:
            self._blocks[key] = made = self._resampled(chosen, y * self._side, x * self._side)
            while len(self._blocks) > max(1, _KEPT_BYTES // (made[0].nbytes + made[1].nbytes)):
                self._blocks.popitem(last=False)
        self._blocks.move_to_end(key)
        return self._blocks[key]

    def _resampled(
        self, chosen: Sequence[tuple[int, float | None]], top: int, left: int
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        window = self._under(top, left)
        if window is None:
            nothing = np.full((len(chosen), self._side, self._side), np.nan, self._kind(chosen))
            return nothing, np.zeros(nothing.shape[1:], bool)
        bands, valid = self._own(chosen, window)
        source = np.stack([*bands, valid]).astype(self._kind(chosen))
        source[:-1, ~valid] = np.nan
        *numbers, share = self._warped(source, window, top, left)
        return np.stack(numbers), (share >= 0.5 - 1e-6) & np.isfinite(numbers).all(axis=0)

    def _warped(self, source: NDArray[Any], window: PixelWindow, top: int, left: int) -> NDArray[Any]:
        """What was read of a window, as a block of the grid; NaN counts as nothing, band by band."""
        rasterio = import_rasterio()
        from rasterio.enums import Resampling
        from rasterio.vrt import WarpedVRT

        count, height, width = source.shape
        own = rasterio.Affine(*self.header.grid.from_pixel(window[0], window[1]))
        profile = {"count": count, "height": height, "width": width, "dtype": source.dtype, "nodata": float("nan")}
        with rasterio.MemoryFile() as memory:
            with memory.open(driver="GTiff", crs=self.header.grid.crs, transform=own, **profile) as file:
                file.write(source)
            with (
                memory.open() as file,
                WarpedVRT(
                    file,
                    crs=self.grid.crs,
                    transform=rasterio.Affine(*self.grid.from_pixel(top, left)),
                    height=self._side,
                    width=self._side,
                    resampling=Resampling[self._method],
                    src_nodata=float("nan"),
                    nodata=float("nan"),
                    tolerance=1e-6,  # next to no approximation; rasterio 1.4 opens nothing at 0
                    UNIFIED_SRC_NODATA="NO",
                ) as view,
            ):
                return view.read()

    def _under(self, top: int, left: int) -> PixelWindow | None:
        """The window of the file under a block of the grid, with what resampling needs around it; None if outside."""
        rows, columns = self.grid.shape
        ys, xs = np.meshgrid(
            np.linspace(top, min(top + self._side, rows), 17), np.linspace(left, min(left + self._side, columns), 17)
        )
        rows_under, columns_under = _pixels(self.header.grid, self.grid, ys.ravel(), xs.ravel())
        if not len(rows_under):
            return None
        margin = math.ceil(2 * self._coarser) + 3
        height, width = self.header.grid.shape
        first_row, last_row = (max(0, int(np.floor(rows_under.min())) - margin),
                               min(height, int(np.ceil(rows_under.max())) + margin))  # fmt: skip
        first, last = (max(0, int(np.floor(columns_under.min())) - margin),
                       min(width, int(np.ceil(columns_under.max())) + margin))  # fmt: skip
        if first_row >= last_row or first >= last:
            return None
        return first_row, first, last_row - first_row, last - first


def _pixels(
    own: Grid, grid: Grid, rows: NDArray[np.floating], columns: NDArray[np.floating]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Places (row, column) of `grid` as those of `own`, without those that have none."""
    x, y = grid.place(rows, columns)
    if own.crs != grid.crs:
        from rasterio.warp import transform

        x, y = map(np.asarray, transform(grid.crs, own.crs, x, y))
        there = np.isfinite(x) & np.isfinite(y)
        x, y = x[there], y[there]
    return own.pixel(x, y)


def _coarser(own: Grid, grid: Grid) -> float:
    """How many of a file's pixels lie along one of the grid's, in its middle."""
    row, column = grid.shape[0] / 2, grid.shape[1] / 2
    rows, columns = _pixels(own, grid, np.array([row, row + 1, row]), np.array([column, column, column + 1]))
    if len(rows) < 3:
        return 1.0
    (dy, ey), (dx, ex) = rows[1:] - rows[0], columns[1:] - columns[0]
    return float(abs(dy * ex - dx * ey) ** 0.5)


def _resampling(own: Grid, grid: Grid, nearest: bool) -> str:
    """How a file is resampled: classes to the nearest, values bilinearly, by averaging where pixels become coarser."""
    if nearest:
        return "nearest"
    return "average" if _coarser(own, grid) > 1.5 else "bilinear"
