"""Points, polygons and boxes of consumers, brought into the CRS of a raster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError, missing_extra

Box = tuple[float, float, float, float]
_COLUMNS = (("x", "y"), ("lon", "lat"), ("longitude", "latitude"), ("lng", "lat"), ("easting", "northing"))


def projected(points: NDArray[np.float64], crs: Any, to: str | None, where: str) -> NDArray[np.float64]:
    """Points (n, 2), x (longitude) first, from one CRS into that of a raster; not finite where they have no place.

    `crs` None: they are in the raster's own.
    """
    if crs is None or crs == to:
        return points
    transformer = _transformer(crs, to, where)
    return np.stack(transformer.transform(points[:, 0], points[:, 1]), axis=1)


def projected_box(box: Box, crs: Any, to: str | None, where: str) -> Box:
    """The box in a raster's CRS that holds a box (xmin, ymin, xmax, ymax) in another."""
    if crs is None or crs == to:
        return box
    xmin, ymin, xmax, ymax = _transformer(crs, to, where).transform_bounds(*box)
    if not np.isfinite([xmin, ymin, xmax, ymax]).all():
        raise InputError(f"the box {box} in {crs} has no place in the CRS of {where}")
    return xmin, ymin, xmax, ymax


def read_points(source: Any, crs: Any) -> tuple[NDArray[np.float64], Any, Any]:
    """(points (n, 2), their CRS, their table or None) of an array, a GeoDataFrame, or a file of points.

    Raises:
        InputError: no such file, not points, or points whose CRS is not known.
        MissingExtraError: a file needs geopandas.
    """
    if isinstance(source, str | Path):
        source = _read(Path(source), crs)
    if not hasattr(source, "geometry"):
        try:
            points = np.asarray(source, np.float64)
        except (TypeError, ValueError) as error:
            raise InputError(f"points must be numbers (n, 2): x or longitude, y or latitude ({error})") from error
        points = points[None] if points.shape == (2,) else points
        if points.ndim != 2 or points.shape[1] != 2 or not len(points):
            raise InputError(f"points have shape {points.shape}: give (n, 2), x or longitude first")
        return points, crs, None
    _check_frame(source, crs, ("Point",), "points")
    return np.stack([source.geometry.x, source.geometry.y], axis=1).astype(np.float64), source.crs, source


def read_polygons(source: Any, crs: Any) -> Any:
    """A GeoDataFrame of polygons out of one, a file, or shapely polygons in `crs`; raises as `read_points`."""
    if isinstance(source, str | Path):
        source = _read(Path(source), crs)
    elif not hasattr(source, "geometry") or not hasattr(source, "crs"):
        shapes = [source] if hasattr(source, "geom_type") else list(source)
        source = import_geopandas().GeoDataFrame(geometry=shapes, crs=crs)
    elif not hasattr(source, "columns"):  # a GeoSeries
        source = import_geopandas().GeoDataFrame(geometry=source)
    _check_frame(source, crs, ("Polygon", "MultiPolygon"), "polygons")
    return source


def _check_frame(frame: Any, crs: Any, types: tuple[str, ...], what: str) -> None:
    if not len(frame):
        raise InputError(f"there are no {what}")
    if frame.geometry.isna().any() or frame.geometry.is_empty.any():
        raise InputError(f"some {what} are empty: leave out the rows without a place")
    found = sorted(set(frame.geom_type))
    if not set(found) <= set(types):
        raise InputError(f"{what} are needed, and the geometry is {', '.join(found)}")
    if frame.crs is None and crs is not None:
        raise InputError(f"the {what} have no CRS: set it, for example with GeoDataFrame.set_crs")


def _read(path: Path, crs: Any) -> Any:
    """A GeoDataFrame out of CSV, (Geo)Parquet, GeoJSON or what else geopandas reads."""
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    geopandas = import_geopandas()
    import pandas

    try:
        if path.suffix == ".csv":
            return _with_points(pandas.read_csv(path), crs, path)
        if path.suffix in (".parquet", ".geoparquet"):
            import pyarrow.parquet as parquet

            if b"geo" in (parquet.read_schema(path).metadata or {}):
                return geopandas.read_parquet(path)
            return _with_points(pandas.read_parquet(path), crs, path)
        return geopandas.read_file(path)
    except InputError:
        raise
    except Exception as error:  # pyogrio, pyarrow, pandas and shapely have types of their own
        raise InputError(f"cannot read {path}: {' '.join(str(error).split())[:200]}") from error


def _with_points(table: Any, crs: Any, path: Path) -> Any:
    columns = {str(name).strip().lower(): name for name in table.columns}
    pair = next((pair for pair in _COLUMNS if {*pair} <= {*columns}), None)
    if pair is None:
        raise InputError(f"{path} has no columns of points: name them x and y, or lon and lat")
    x, y = (table[columns[name]].astype(float) for name in pair)
    geopandas = import_geopandas()
    known = None if crs is None else _known_crs(crs)
    return geopandas.GeoDataFrame(table, geometry=geopandas.points_from_xy(x, y), crs=known)


def import_geopandas() -> Any:
    """geopandas; `MissingExtraError` where it is not installed."""
    try:
        import geopandas
    except ImportError as error:
        missing_extra("geopandas", "geo", error)
    return geopandas


def _known_crs(crs: Any) -> Any:
    try:
        import pyproj
    except ImportError as error:
        missing_extra("pyproj", "geo", error)
    try:
        return pyproj.CRS.from_user_input(crs)
    except pyproj.exceptions.CRSError as error:
        raise InputError(f"{str(crs)[:60]!r} is not a CRS: give a code such as EPSG:4326, or WKT") from error


def _transformer(crs: Any, to: str | None, where: str) -> Any:
    if to is None:
        raise InputError(f"{where} has no CRS: give places in its own coordinates, and crs=None")
    source, target = _known_crs(crs), _known_crs(to)
    import pyproj

    return pyproj.Transformer.from_crs(source, target, always_xy=True)
