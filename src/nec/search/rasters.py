"""Values at points, maps of likeness and of change, and means over polygons, window by window of a raster."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nec.errors import InputError, missing_extra
from nec.files import atomic_path
from nec.report import Report
from nec.search.distance import check_metric, distances, query_vector
from nec.search.places import projected, read_points, read_polygons

Window = tuple[slice, ...]
ROBUST = 3 * 1.4826  # median absolute deviations: three standard deviations where distances are normal
_BLOCK = 256  # pixels along a side of a GeoTIFF's blocks


class Raster(Protocol):
    """What these methods need of a raster store."""

    path: str
    tiling: Any
    grid: tuple[int, int]
    dimensions: int
    crs: str | None
    transform: tuple[float, float, float, float, float, float]

    @property
    def times(self) -> np.ndarray: ...
    def index(self, time: Any) -> int: ...
    def read(self, time: Any, rows: slice = ..., columns: slice = ...) -> np.ndarray: ...
    def read_valid(self, time: Any, rows: slice = ..., columns: slice = ...) -> np.ndarray: ...
    def frames(self, time: int) -> Any: ...
    def counted(self) -> tuple[Self, Any]: ...


@dataclass(frozen=True, eq=False)
class ScoreMap(Report):
    """A map of one number a token.

    Attributes:
        values: float32 (rows, columns), NaN where a token is not valid; None where it was written to `out`.
        out: the GeoTIFF that holds it, or None.
        rows, columns: its size.
        valid: tokens that have a value.
        least, most: the range of the values.
        bytes_read: bytes of the store that were read for it.
    """

    values: NDArray[np.float32] | None = field(repr=False)
    out: str | None
    rows: int
    columns: int
    valid: int
    least: float
    most: float
    bytes_read: int

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "values"}

    def __str__(self) -> str:
        place = f"{self.out}: " if self.out else ""
        return (
            f"{place}{self.rows} x {self.columns} tokens, {self.valid} valid, values {self.least:.4g} to"
            f" {self.most:.4g}, {self.bytes_read} bytes read"
        )


@dataclass(frozen=True, eq=False)
class Change(ScoreMap):
    """A map of distances between two dates.

    Attributes:
        threshold: distance above which a token counts as changed: the median plus three robust standard deviations.
        changed: tokens above it.
        times: the dates.
    """

    threshold: float
    changed: int
    times: tuple[str, str]

    def __str__(self) -> str:
        share = self.changed / self.valid if self.valid else 0.0
        return f"{super().__str__()}\n{self.changed} tokens ({share:.1%}) above the threshold {self.threshold:.4g}"


class SearchableRaster:
    """The half of `RasterStore` that takes values and compares them."""

    def sample(
        self: Raster, points: Any, crs: Any = "EPSG:4326", method: str = "nearest", *, time: Any = -1
    ) -> NDArray[np.float32]:
        """Embeddings at points, float32 (n, d), NaN outside the raster and where it is not valid.

        Each chunk that holds a point is read once, and no other.

        Args:
            points: array (n, 2) of x (longitude) and y (latitude), a GeoDataFrame, or a file: CSV or Parquet with
                columns x and y or lon and lat, GeoParquet, GeoJSON, or what else geopandas reads.
            crs: CRS of an array and of columns; None for the raster's own. Geometry has its own.
            method: "nearest" (the token that holds the point) or "bilinear" (of the four centres around it; within
                half a token of the border, of those that there are). An invalid token among them gives NaN.
            time: date, see `RasterStore.index`.

        Raises:
            InputError: no points, points without a CRS, all of them outside, no such date or method.
            CorruptError: something that was read is damaged.
            MissingExtraError: another CRS needs pyproj, a file geopandas.
        """
        if method not in ("nearest", "bilinear"):
            raise InputError(f"no method {method!r}: give nearest or bilinear")
        index = self.index(time)
        places, source, _ = read_points(points, crs)
        columns, rows = _grid_places(self, projected(places, source, self.crs, self.path))
        height, width = self.grid
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        if not inside.any():
            raise InputError(f"all {len(places)} points lie outside {self.path}: check their CRS, and that x is first")
        out = np.full((len(places), self.dimensions), np.nan, np.float32)
        rows, columns = rows[inside], columns[inside]
        if method == "nearest":
            out[inside] = _gather(self, index, rows.astype(int), columns.astype(int))
            return out
        top, left = np.floor(rows - 0.5).astype(int), np.floor(columns - 0.5).astype(int)
        down, right = rows - 0.5 - top, columns - 0.5 - left
        corners = [
            (np.clip(top + i, 0, height - 1), np.clip(left + j, 0, width - 1), abs(1 - i - down) * abs(1 - j - right))
            for i in (0, 1) for j in (0, 1)
        ]  # fmt: skip
        y, x, weights = (np.stack(parts) for parts in zip(*corners, strict=True))
        tokens, inverse = np.unique(y * width + x, return_inverse=True)
        values = _gather(self, index, tokens // width, tokens % width)
        total = np.zeros((len(rows), self.dimensions))
        for corner, weight in zip(inverse.reshape(4, -1), weights, strict=True):
            total += np.where(weight[:, None] > 0, weight[:, None] * values[corner], 0)
        out[inside] = total
        return out

    def similar(
        self: Raster,
        x: float | None = None,
        y: float | None = None,
        *,
        vectors: ArrayLike | None = None,
        crs: Any = None,
        time: Any = -1,
        out: str | Path | None = None,
        overwrite: bool = False,
    ) -> ScoreMap:
        """Cosine similarity of each token of a date with what lies at a place, or with given vectors.

        Args:
            x, y: the place.
            vectors: one (d,) or several (m, d) instead; each token gets the greatest of its similarities.
            crs: CRS of the place; None for the raster's own.
            time: date, see `RasterStore.index`.
            out: Cloud Optimized GeoTIFF to write; None to return the map's values. Memory: a shard, a number a token.
            overwrite: replace `out` if it exists.

        Returns:
            The map, from -1 to 1.

        Raises:
            InputError: neither or both of place and vectors, a place outside or not valid, vectors of another
                dimension, no such date, or `out` exists.
        """
        if (x is None) != (y is None) or (x is None) == (vectors is None):
            raise InputError("give x and y, or vectors")
        reader, counter = self.counted()
        index = self.index(time)
        if vectors is None:
            vectors = SearchableRaster.sample(reader, np.array([[x, y]], np.float64), crs, time=index)
            if np.isnan(vectors).any():
                raise InputError(f"{self.path} is not valid at {x}, {y}: choose another place")
        given = np.asarray(vectors)
        rows = given if given.ndim == 2 else given[None]
        queries = [query_vector(row, self.dimensions, "cosine") for row in rows]
        if not queries:
            raise InputError("there are no vectors")

        def scores(window: Window) -> NDArray[Any]:
            tokens = reader.read(index, *window)
            return np.max([1 - distances(tokens, query, "cosine") for query in queries], axis=0)

        facts = _make_map(self, scores, out, overwrite, lambda values: {"DESCRIPTION": "cosine similarity"})[0]
        return ScoreMap(**facts, bytes_read=counter.bytes_read)

    def change(
        self: Raster,
        t0: Any,
        t1: Any,
        out: str | Path | None = None,
        *,
        metric: str = "cosine",
        overwrite: bool = False,
    ) -> Change:
        """Distance of each token between two dates, where both are valid, and a threshold for what changed.

        The threshold is robust: the median of the distances plus 3 x 1.4826 of their median absolute deviations.
        Memory: a shard of each date and one number a token.

        Args:
            t0, t1: dates, see `RasterStore.index`.
            out: Cloud Optimized GeoTIFF to write, with the threshold as a tag; None to keep the map in memory.
            metric: "cosine" or "euclidean".
            overwrite: replace `out` if it exists.

        Raises:
            InputError: no such date, twice the same, no token valid in both, no such metric, or `out` exists.
        """
        check_metric(metric)
        first, second = self.index(t0), self.index(t1)
        if first == second:
            raise InputError(f"{t0} and {t1} are the same date: give two of {len(self.times)}")
        reader, counter = self.counted()
        limit: list[float] = []

        def far(window: Window) -> NDArray[Any]:
            before, after = reader.read(first, *window), reader.read(second, *window)
            return distances(before, after, metric)

        def tags(values: NDArray[np.float32]) -> dict[str, str]:
            if not len(values):
                raise InputError(f"{self.path} has no token that is valid on both dates")
            middle = np.median(values.astype(np.float64))
            limit.append(float(middle + ROBUST * np.median(np.abs(values - middle))))
            return {"DESCRIPTION": f"{metric} distance", "THRESHOLD": repr(limit[0])}

        facts, values = _make_map(self, far, out, overwrite, tags)
        changed = int((values > limit[0]).sum())
        times = str(self.times[first]), str(self.times[second])
        return Change(**facts, bytes_read=counter.bytes_read, threshold=limit[0], changed=changed, times=times)

    def zonal(
        self: Raster,
        polygons: Any,
        crs: Any = "EPSG:4326",
        *,
        time: Any = -1,
        out: str | Path | None = None,
        overwrite: bool = False,
    ) -> Any:
        """Mean and standard deviation of the valid tokens whose centres lie in each polygon.

        Each shard that a polygon touches is read once.

        Args:
            polygons: a GeoDataFrame, a file that geopandas reads, or shapely polygons.
            crs: CRS of shapely polygons; None for the raster's own. Others have their own.
            time: date, see `RasterStore.index`.
            out: GeoParquet to write.
            overwrite: replace `out` if it exists.

        Returns:
            The GeoDataFrame with the columns `tokens` (how many), `mean` and `std` ((d,) float32, NaN without a token).

        Raises:
            InputError: geometry other than polygons, without a CRS, all outside, no such date, or `out` exists.
            MissingExtraError: geopandas, shapely or pyproj is not installed.
        """
        index = self.index(time)
        frame = read_polygons(polygons, crs)
        import shapely

        def place(points: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.stack(_grid_places(self, projected(points, frame.crs, self.crs, self.path)), axis=1)

        shapes = np.array([shapely.transform(shape, place) for shape in frame.geometry], object)
        touched = shapely.box(0, 0, self.grid[1], self.grid[0])
        if not shapely.intersects(shapes, touched).any():
            raise InputError(f"all {len(shapes)} polygons lie outside {self.path}: check their CRS")
        counts = np.zeros(len(shapes), np.int64)
        sums, squares = np.zeros((2, len(shapes), self.dimensions))
        for window, members in _inside(self, shapes):
            valid = self.read_valid(index, *window)
            wanted = np.zeros_like(valid)
            for _, part, mask in members:
                wanted[part] |= mask & valid[part]
            if not wanted.any():
                continue
            tokens = self.frames(index).read(window, wanted=wanted)
            for number, part, mask in members:
                some = tokens[part][mask & valid[part]].astype(np.float64)
                counts[number] += len(some)
                sums[number] += some.sum(axis=0)
                squares[number] += np.square(some).sum(axis=0)
        with np.errstate(invalid="ignore"):
            means = sums / counts[:, None]
            spread = np.sqrt(np.maximum(squares / counts[:, None] - means**2, 0))
        result = frame.assign(tokens=counts, mean=list(means.astype(np.float32)), std=list(spread.astype(np.float32)))
        if out is not None:
            with atomic_path(out, overwrite=overwrite) as temporary:
                result.to_parquet(temporary)
        return result


def _grid_places(raster: Raster, points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(columns, rows), fractional, of points in the raster's CRS; not finite where a point has no place."""
    a, b, c, d, e, f = raster.transform
    x, y = points[:, 0] - c, points[:, 1] - f
    determinant = a * e - b * d
    with np.errstate(invalid="ignore"):
        return (e * x - b * y) / determinant, (a * y - d * x) / determinant


def _gather(raster: Raster, time: int, rows: NDArray[Any], columns: NDArray[Any]) -> NDArray[np.float32]:
    """Tokens (n, d) at places of the grid, NaN where they are not valid, shard by shard."""
    out = np.full((len(rows), raster.dimensions), np.nan, np.float32)
    height, width = raster.tiling.shard
    shards = (rows // height) * (raster.grid[1] // width + 1) + columns // width
    order = np.argsort(shards, kind="stable")
    for some in np.split(order, np.flatnonzero(np.diff(shards[order])) + 1):
        top, left = int(rows[some].min()), int(columns[some].min())
        window = slice(top, int(rows[some].max()) + 1), slice(left, int(columns[some].max()) + 1)
        wanted = np.zeros([axis.stop - axis.start for axis in window], bool)
        wanted[rows[some] - top, columns[some] - left] = True
        wanted &= raster.read_valid(time, *window)
        if wanted.any():
            out[some] = raster.frames(time).read(window, wanted=wanted)[rows[some] - top, columns[some] - left]
    return out


def _inside(raster: Raster, shapes: NDArray[Any]) -> Iterator[tuple[Window, list[tuple[int, Window, NDArray[Any]]]]]:
    """(window, [(polygon, its part of the window, its tokens there)]) of each shard that holds centres of polygons.

    Polygons are in grid units: x counts columns, y rows.
    """
    import shapely

    tree = shapely.STRtree(shapes)
    shapely.prepare(shapes)
    for shard in raster.tiling.all_shards():
        whole = raster.tiling.shard_window(*shard)
        found: list[tuple[int, Window, NDArray[Any]]] = []
        for number in tree.query(shapely.box(whole[1].start, whole[0].start, whole[1].stop, whole[0].stop)):
            left, top, right, bottom = shapely.bounds(shapes[number])
            rows = range(max(whole[0].start, math.floor(top)), min(whole[0].stop, math.ceil(bottom)))
            columns = range(max(whole[1].start, math.floor(left)), min(whole[1].stop, math.ceil(right)))
            mask = shapely.contains_xy(shapes[number], *np.meshgrid(np.array(columns) + 0.5, np.array(rows) + 0.5))
            if mask.any():
                found.append((int(number), (_slice(rows), _slice(columns)), mask))
        if found:
            axes = zip(*(part for _, part, _ in found), strict=True)
            window = tuple(slice(min(a.start for a in axis), max(a.stop for a in axis)) for axis in axes)
            yield window, [(number, tuple(map(_within, part, window)), mask) for number, part, mask in found]


def _slice(places: range) -> slice:
    return slice(places.start, places.stop)


def _within(part: slice, whole: slice) -> slice:
    return slice(part.start - whole.start, part.stop - whole.start)


def _make_map(
    raster: Raster,
    values_of: Callable[[Window], NDArray[Any]],
    out: str | Path | None,
    overwrite: bool,
    tags: Callable[[NDArray[np.float32]], dict[str, str]],
) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """(fields of a `ScoreMap`, its valid values) of a map that is made shard by shard."""
    values = np.full(raster.grid, np.nan, np.float32)
    with _map_writer(raster, out, overwrite) as finish:
        for shard in raster.tiling.all_shards():
            window = raster.tiling.shard_window(*shard)
            values[window] = values_of(window)
        some = values[~np.isnan(values)]
        finish(values, tags(some))
    ends = (float(some.min()), float(some.max())) if len(some) else (np.nan, np.nan)
    facts = {"rows": values.shape[0], "columns": values.shape[1], "valid": len(some), "least": ends[0], "most": ends[1]}
    kept = None if out is not None else values
    return {"values": kept, "out": None if out is None else str(out), **facts}, some


@contextmanager
def _map_writer(
    raster: Raster, out: str | Path | None, overwrite: bool
) -> Iterator[Callable[[NDArray[np.float32], dict[str, str]], None]]:
    """A function that writes a map with its tags as a Cloud Optimized GeoTIFF; `out` is checked at once."""
    if out is None:
        yield lambda values, tags: None
        return
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning
    except ImportError as error:
        missing_extra("rasterio", "geo", error)
    if Path(out).suffix not in (".tif", ".tiff"):
        raise InputError(f"{out}: the name of a map must end in .tif")
    with atomic_path(out, overwrite=overwrite) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)

        def write(values: NDArray[np.float32], tags: dict[str, str]) -> None:
            profile: dict[str, Any] = {
                "driver": "COG", "dtype": "float32", "count": 1, "nodata": np.nan, "compress": "deflate",
                "height": values.shape[0], "width": values.shape[1], "transform": rasterio.Affine(*raster.transform),
                "crs": raster.crs, "blocksize": _BLOCK,
            }  # fmt: skip
            with rasterio.open(temporary, "w", **profile) as file:
                file.write(values, 1)
                file.update_tags(**tags)
                file.set_band_description(1, tags["DESCRIPTION"])

        yield write
