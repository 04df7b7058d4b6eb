"""Where a raster lies: CRS and affine transform, by the Zarr conventions `proj:` and `spatial:`, and CF for xarray.

Version 1 of https://github.com/zarr-conventions/geo-proj and of https://github.com/zarr-conventions/spatial.
A transform is six numbers (a, b, c, d, e, f) as in rasterio: x = a column + b row + c, y = d column + e row + f, where
(0, 0) is the outer corner of the first token.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from nec.errors import InputError, missing_extra

Transform = tuple[float, float, float, float, float, float]
_CODE = re.compile(r"^[A-Z]+:[0-9]+$")
PROJ_CONVENTION = {
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/geo-proj/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/geo-proj/blob/v1/README.md",
    "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
    "name": "proj:",
    "description": "Coordinate reference system information for geospatial data",
}
SPATIAL_CONVENTION = {
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/spatial/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/spatial/blob/v1/README.md",
    "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
    "name": "spatial",
    "description": "Spatial coordinate information",
}


def rasterio_crs(crs: str) -> Any:
    """`crs` (a code such as "EPSG:32632", or WKT) as rasterio's CRS.

    Raises:
        InputError: it is neither.
        MissingExtraError: rasterio is not installed.
    """
    try:
        from rasterio.crs import CRS
        from rasterio.errors import CRSError
    except ImportError as error:
        missing_extra("rasterio", "geo", error)
    try:
        return CRS.from_user_input(crs)
    except CRSError as error:
        raise InputError(f"CRS {crs[:60]!r} is neither a known code such as EPSG:32632 nor WKT") from error


def normalised_crs(crs: str) -> tuple[str, str]:
    """(code or WKT2, WKT2) of a CRS: the code where an authority has one for it, since every reader knows that."""
    parsed = rasterio_crs(crs)
    authority = parsed.to_authority()
    code = ":".join(authority) if authority else ""
    wkt = parsed.to_wkt(version="WKT2_2019")
    return (code if _CODE.match(code) else wkt), wkt


def convention_attributes(crs: str | None, transform: Transform, grid: tuple[int, int]) -> dict[str, Any]:
    """The attributes of `proj:` and `spatial:` for a normalised CRS and a grid of (rows, columns)."""
    attributes: dict[str, Any] = {"zarr_conventions": [SPATIAL_CONVENTION]}
    if crs is not None:
        attributes["zarr_conventions"] = [PROJ_CONVENTION, SPATIAL_CONVENTION]
        attributes["proj:code" if _CODE.match(crs) else "proj:wkt2"] = crs
    return {
        **attributes,
        "spatial:dimensions": ["y", "x"],
        "spatial:shape": list(grid),
        "spatial:bbox": list(bounds(transform, grid)),
        "spatial:transform_type": "affine",
        "spatial:transform": list(transform),
        "spatial:registration": "pixel",
    }


def grid_mapping(wkt: str | None, transform: Transform) -> dict[str, Any]:
    """Attributes of the CF variable `spatial_ref`, as GDAL and rioxarray write and read it."""
    a, b, c, d, e, f = transform
    attributes: dict[str, Any] = {"GeoTransform": " ".join(repr(float(value)) for value in (c, a, b, f, d, e))}
    return attributes if wkt is None else {"crs_wkt": wkt, "spatial_ref": wkt, **attributes}


def corners(transform: Transform, rows: slice, columns: slice) -> list[tuple[float, float]]:
    """(x, y) of the outer corners of a window: upper left, lower left, lower right, upper right."""
    a, b, c, d, e, f = transform
    places = [
        (rows.start, columns.start), (rows.stop, columns.start), (rows.stop, columns.stop), (rows.start, columns.stop)
    ]  # fmt: skip
    return [(a * column + b * row + c, d * column + e * row + f) for row, column in places]


def bounds(transform: Transform, grid: tuple[int, int]) -> tuple[float, float, float, float]:
    """(xmin, ymin, xmax, ymax) of a whole grid."""
    xs, ys = zip(*corners(transform, slice(0, grid[0]), slice(0, grid[1])), strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def centres(transform: Transform, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray] | None:
    """(x of each column, y of each row) of the tokens' centres; None for a rotated grid, where neither has one."""
    a, b, c, d, e, f = transform
    if b or d:
        return None
    return a * (np.arange(grid[1]) + 0.5) + c, e * (np.arange(grid[0]) + 0.5) + f


def window_of(
    transform: Transform, grid: tuple[int, int], box: tuple[float, float, float, float]
) -> tuple[slice, slice]:
    """(rows, columns) of the tokens that a box (xmin, ymin, xmax, ymax) in the grid's CRS touches.

    Raises:
        InputError: the box lies outside the grid, or is none.
    """
    xmin, ymin, xmax, ymax = box
    if not (xmin < xmax and ymin < ymax):
        raise InputError(f"the box {box} is empty: give xmin, ymin, xmax, ymax")
    a, b, c, d, e, f = transform
    places = np.linalg.solve(
        np.array([[a, b], [d, e]]), np.array([[xmin - c, xmin - c, xmax - c, xmax - c], [ymin - f, ymax - f] * 2])
    )
    near = 1e-6  # of a token: the box of a token must not touch its neighbours
    first = np.floor(places.min(axis=1) + near).astype(int)
    last = np.ceil(places.max(axis=1) - near).astype(int)
    columns, rows = (slice(max(0, first[i]), min(int(last[i]), grid[1 - i])) for i in (0, 1))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        raise InputError(f"the box {box} lies outside the raster, which covers {bounds(transform, grid)}")
    return slice(int(rows.start), int(rows.stop)), slice(int(columns.start), int(columns.stop))


def metres(crs: str | None) -> float | None:
    """Metres in a unit of the CRS; None for degrees, or without a CRS."""
    if crs is None:
        return None
    parsed = rasterio_crs(crs)
    return float(parsed.linear_units_factor[1]) if parsed.is_projected else None


def token_size(crs: str | None, transform: Transform) -> tuple[float, float] | None:
    """(height, width) of a token in metres; None where the CRS is not projected."""
    unit = metres(crs)
    if unit is None:
        return None
    a, b, _, d, e, _ = transform
    return unit * float(np.hypot(b, e)), unit * float(np.hypot(a, d))
