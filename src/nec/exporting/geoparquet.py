"""Chip vectors of a product as GeoParquet: a row for each chip, the mean of its valid tokens.

GeoParquet 1.1 (https://geoparquet.org): WKB polygons in longitude and latitude (OGC:CRS84), a `bbox` column that the
footer `geo` names as covering, rows along a Hilbert curve so that row groups are compact. The footer `emb` says what
the embeddings are, with the words of the STAC extension.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nec.errors import InputError, missing_extra
from nec.exporting.footprint import cut, lonlat
from nec.exporting.stac import embedding_fields, quantization
from nec.files import atomic_path
from nec.store.georeference import corners
from nec.store.rasters import RasterStore, iso

ROW_GROUP = 16_384


def write(store: RasterStore, out: str | Path, *, chip: int = 8, time: Any = None, overwrite: bool = False) -> Path:
    """Write the chips of a date, or of all.

    Columns: `geometry` (WKB), `bbox` (xmin, ymin, xmax, ymax), `time` (UTC), `row` and `column` of the chip's first
    token, `valid_fraction` (0 to 1), `embedding` (d float32). Left out: chips without a valid token, and those of which
    a corner has no place on Earth. Memory: one shard and the chips of all dates that are written.

    Args:
        chip: tokens along a chip's side; 1 keeps every token.
        time: see `RasterStore.index`; None for all dates, one after another.

    Raises:
        InputError: the product has no CRS, `chip` is not positive, no such date, or `out` exists.
        MissingExtraError: pyarrow, pyproj, shapely or antimeridian is not installed.
    """
    if chip < 1:
        raise InputError(f"chips of {chip} tokens: at least 1")
    if store.crs is None:
        raise InputError(f"{store.path} has no CRS: GeoParquet needs longitude and latitude")
    try:
        import pyarrow.parquet as parquet
        import shapely  # noqa: F401
    except ImportError as error:
        missing_extra("pyarrow and shapely", "geo", error)
    indices = range(len(store)) if time is None else [store.index(time)]
    tables = [_table(store, index, chip) for index in indices]
    schema = tables[0].schema.with_metadata(_footer(store, chip, tables))
    with (
        atomic_path(out, overwrite=overwrite) as temporary,
        parquet.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for table in tables:
            writer.write_table(table.cast(schema), row_group_size=ROW_GROUP)
    return Path(out)


def hilbert(x: np.ndarray, y: np.ndarray, order: int) -> np.ndarray:
    """Place of each cell (x, y) of a square of 2^order cells along the Hilbert curve, int64."""
    x, y = np.array(x, np.int64), np.array(y, np.int64)
    place = np.zeros(x.shape, np.int64)
    side = 1 << (order - 1) if order else 0
    while side:
        right, upper = (x & side) > 0, (y & side) > 0
        place += side * side * ((3 * right) ^ upper)
        flip = right & ~upper  # the quadrant's curve is mirrored and turned
        x, y = (
            np.where(flip, side - 1 - (x & (side - 1)), x & (side - 1)),
            np.where(flip, side - 1 - (y & (side - 1)), y & (side - 1)),
        )
        x, y = np.where(upper, x, y), np.where(upper, y, x)
        side >>= 1
    return place


def _table(store: RasterStore, index: int, chip: int) -> Any:
    import pyarrow as pa
    import shapely

    rows, columns, fractions, vectors = _chips(store, index, chip)
    order = hilbert(columns // chip, rows // chip, max(1, math.ceil(math.log2(max(store.grid) / chip + 1)))).argsort()
    rows, columns, fractions, vectors = rows[order], columns[order], fractions[order], vectors[order]
    polygons, some = _polygons(store, rows, columns, chip)
    rows, columns, fractions, vectors = rows[some], columns[some], fractions[some], vectors[some]
    box = dict(zip(("xmin", "ymin", "xmax", "ymax"), shapely.bounds(polygons).T, strict=True))
    seconds = np.full(len(rows), store.times[index].astype(np.int64))
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    return pa.table(
        {
            "geometry": pa.array(shapely.to_wkb(polygons), pa.binary()),
            "bbox": pa.StructArray.from_arrays([pa.array(values) for values in box.values()], names=list(box)),
            "time": pa.array(seconds, pa.timestamp("s", "UTC")).cast(pa.timestamp("ms", "UTC")),
            "row": pa.array(rows, pa.int32()),
            "column": pa.array(columns, pa.int32()),
            "valid_fraction": pa.array(fractions, pa.float32()),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, store.dimensions),
        }
    )


def _chips(store: RasterStore, index: int, chip: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(first row, first column, part of valid tokens, mean (n, d)) of the chips of a date that have a valid token."""
    parts = [
        _pooled(store.read(index, rows, columns), rows.start, columns.start, chip)
        for rows, columns in _windows(store, chip)
    ]
    rows, columns, fractions, vectors = (np.concatenate(values) for values in zip(*parts, strict=True))
    return rows, columns, fractions, vectors


def _windows(store: RasterStore, chip: int) -> Iterator[tuple[slice, slice]]:
    """Windows of about a shard that hold whole chips."""
    height, width = (max(chip, size // chip * chip) for size in store.tiling.shard)
    for top in range(0, store.grid[0], height):
        for left in range(0, store.grid[1], width):
            yield slice(top, top + height), slice(left, left + width)


def _pooled(
    tokens: np.ndarray, top: int, left: int, chip: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    height, width, d = tokens.shape
    valid = ~np.isnan(tokens[..., 0])
    starts = np.arange(0, height, chip), np.arange(0, width, chip)
    sums = np.add.reduceat(np.where(valid[..., None], tokens, 0).astype(np.float64), starts[0], axis=0)
    sums = np.add.reduceat(sums, starts[1], axis=1).reshape(-1, d)
    counts = np.add.reduceat(np.add.reduceat(valid.astype(int), starts[0], axis=0), starts[1], axis=1)
    sizes = np.multiply.outer(*(np.diff([*part, end]) for part, end in zip(starts, (height, width), strict=True)))
    rows, columns = np.meshgrid(starts[0] + top, starts[1] + left, indexing="ij")
    some = (counts > 0).ravel()
    means = sums[some] / counts.ravel()[some, None]
    return rows.ravel()[some], columns.ravel()[some], (counts / sizes).ravel()[some], means


def _polygons(store: RasterStore, rows: np.ndarray, columns: np.ndarray, chip: int) -> tuple[np.ndarray, np.ndarray]:
    """(polygons of the chips in longitude and latitude, which chips have one)."""
    import shapely

    height, width = store.grid
    places = np.array(
        [
            corners(store.transform, slice(row, min(row + chip, height)), slice(column, min(column + chip, width)))
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        ]
    ).reshape(-1, 2)
    rings = lonlat(store, places).reshape(-1, 4, 2)
    some = np.asarray(np.isfinite(rings.reshape(-1, 8)).all(axis=1))
    if len(some) and not some.any():
        raise InputError(f"{store.path}: no chip of it has a longitude and latitude")
    rings = np.concatenate([rings, rings[:, :1]], axis=1)[some]
    polygons = shapely.orient_polygons(shapely.polygons(rings))
    longitudes = rings[..., 0]
    for i in np.flatnonzero((np.abs(longitudes).max(axis=1) > 180) | (np.ptp(longitudes, axis=1) > 180)):
        polygons[i] = cut(polygons[i])
    return polygons, some


def _footer(store: RasterStore, chip: int, tables: list[Any]) -> dict[str, str]:
    boxes = [table["bbox"].combine_chunks() for table in tables]
    kinds = {bytes(wkb)[1] for table in tables for wkb in table["geometry"].to_pylist()}
    edges = [[box.field(i).to_numpy() for box in boxes] for i in range(4)]
    ends = [
        float(end(np.concatenate(edge)))
        for end, edge in zip((np.min, np.min, np.max, np.max), edges, strict=True)
        if any(map(len, edge))
    ]
    geometry = {
        "encoding": "WKB",
        "geometry_types": ["Polygon", "MultiPolygon"] if 6 in kinds else ["Polygon"],
        "orientation": "counterclockwise",
        **({"bbox": ends} if ends else {}),
        "covering": {"bbox": {name: ["bbox", name] for name in ("xmin", "ymin", "xmax", "ymax")}},
    }
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
    emb = {
        "version": "0.0.1",
        **embedding_fields(store, chip),
        "emb:quantization": quantization(store),
        "model": store.attrs["model"],
        "source": store.attrs["source"],
        "bands": store.attrs["bands"],
        "license": store.conventions.get("license"),
        "times": [iso(time) + "Z" for time in store.times],
        "pooling": "mean of the chip's valid tokens",
        "column": "embedding",
    }
    return {"geo": json.dumps(geo), "emb": json.dumps(emb)}
