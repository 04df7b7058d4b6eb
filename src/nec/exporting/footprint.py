"""Where a raster lies in longitude and latitude, across the 180th meridian, around a pole, or in part only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError, missing_extra
from nec.store.georeference import corners
from nec.store.rasters import RasterStore

_EDGE_POINTS = 8  # a side: straight lines of a CRS are not straight in longitude and latitude
_INNER_POINTS = 64  # a side, where the edge has no place on Earth


def footprint(store: RasterStore) -> tuple[Any, list[float]]:
    """(shapely polygon in longitude and latitude, bounding box [west, south, east, north]) of a raster's grid.

    The polygon is cut at the 180th meridian, where west is greater than east (RFC 7946, 5.2), and holds a pole that the
    grid holds. Where part of the grid has no place on Earth, it is the hull of the rest.

    Raises:
        InputError: the raster has no CRS, or one without longitude and latitude, or lies nowhere on Earth.
        MissingExtraError: pyproj, shapely or antimeridian is not installed.
    """
    try:
        import shapely
    except ImportError as error:
        missing_extra("shapely", "geo", error)
    edge = _points(store, _EDGE_POINTS)
    ring = lonlat(store, edge)
    if not np.isfinite(ring).all():
        ring = _hull(lonlat(store, _points(store, _INNER_POINTS, inner=True)), store)
    polygon = cut(shapely.Polygon(np.round(ring, 7)), *(_holds(store, latitude) for latitude in (90, -90)))
    return polygon, bbox(polygon)


def lonlat(store: RasterStore, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Longitude and latitude (n, 2) of places (n, 2) in a raster's CRS, not finite where they have none."""
    transformer = _transformer(store)
    return np.stack(transformer.transform(points[:, 0], points[:, 1]), axis=1)


def cut(polygon: Any, north: bool = False, south: bool = False) -> Any:
    """A polygon cut at the 180th meridian, with a pole that it holds; counter-clockwise."""
    try:
        import antimeridian
        import shapely
    except ImportError as error:
        missing_extra("antimeridian", "geo", error)
    west, _, east, _ = polygon.bounds
    if north or south or west < -180 or east > 180 or east - west > 180:
        polygon = antimeridian.fix_polygon(
            shapely.orient_polygons(polygon) if not (north or south) else polygon,
            force_north_pole=north, force_south_pole=south, fix_winding=not (north or south), great_circle=False,
        )  # fmt: skip
    return shapely.orient_polygons(polygon)


def bbox(polygon: Any) -> list[float]:
    """[west, south, east, north]; west is greater than east where a polygon is cut at the 180th meridian."""
    west, south, east, north = polygon.bounds
    pieces = [piece.bounds for piece in getattr(polygon, "geoms", [])]
    if len(pieces) > 1 and (west, east) == (-180, 180):
        west = min(piece[0] for piece in pieces if piece[2] == 180)
        east = max(piece[2] for piece in pieces if piece[0] == -180)
    return [float(value) for value in (west, south, east, north)]


def _transformer(store: RasterStore) -> Any:
    if store.crs is None:
        raise InputError(f"{store.path} has no CRS: this needs longitude and latitude")
    try:
        import pyproj
    except ImportError as error:
        missing_extra("pyproj", "geo", error)
    try:
        return pyproj.Transformer.from_crs(store.crs, "OGC:CRS84", always_xy=True)
    except pyproj.exceptions.ProjError as error:
        raise InputError(f"{store.path}: its CRS has no longitude and latitude ({store.crs[:60]})") from error


def _points(store: RasterStore, count: int, inner: bool = False) -> NDArray[np.float64]:
    """Places (n, 2) along the grid's edge, or all over it, `count` a side."""
    if inner:
        rows, columns = (axis.ravel() for axis in np.meshgrid(*(np.linspace(0, size, count) for size in store.grid)))
        a, b, c, d, e, f = store.transform
        return np.stack([a * columns + b * rows + c, d * columns + e * rows + f], axis=1)
    ends = np.array(corners(store.transform, slice(0, store.grid[0]), slice(0, store.grid[1])))
    steps = np.arange(count)[:, None] / count
    return np.concatenate(
        [start + steps * (stop - start) for start, stop in zip(ends, np.roll(ends, -1, 0), strict=True)]
    )


def _hull(points: NDArray[np.float64], store: RasterStore) -> NDArray[np.float64]:
    import shapely

    points = points[np.isfinite(points).all(axis=1)]
    if len(points) < 3:
        raise InputError(f"{store.path}: no part of it has a longitude and latitude")
    around = np.degrees(np.angle(np.exp(1j * np.radians(points[:, 0])).sum()))
    points[:, 0] = around + (points[:, 0] - around + 180) % 360 - 180  # as one piece, maybe beyond 180 degrees
    return np.array(shapely.MultiPoint(points).convex_hull.exterior.coords)[:-1]


def _holds(store: RasterStore, latitude: float) -> bool:
    """Whether a pole lies within the grid, of a CRS in which poles are points."""
    import pyproj

    transformer = _transformer(store)
    if pyproj.CRS(store.crs).is_geographic:
        return False
    x, y = transformer.transform(np.array([0.0, 90.0]), np.full(2, latitude), direction="INVERSE")
    if not np.isfinite([*x, *y]).all() or np.hypot(x[0] - x[1], y[0] - y[1]) > 1:
        return False
    west, south, east, north = store.bounds
    return bool(west < x[0] < east and south < y[0] < north)
