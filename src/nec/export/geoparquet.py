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
from nec.export.describe import embedding_fields, quantization
from nec.files import atomic_path
from nec.store.georeference import corners, rasterio_crs
from nec.store.raster_reader import Product, iso

ROW_GROUP = 16_384
_POLYGON = np.dtype(
    [("order", "u1"), ("type", "<u4"), ("rings", "<u4"), ("points", "<u4"), ("ring", "<f8", (5, 2))]
)  # WKB


def write_geoparquet(
    product: Product, path: str | Path, *, chip: int = 8, time: Any = None, overwrite: bool = False
) -> int:
    """Write the chips of a date, or of all, and return their number.

    Columns: `geometry` (WKB), `bbox` (xmin, ymin, xmax, ymax), `time` (UTC), `row` and `column` of the chip's first
    token, `valid_fraction` (0 to 1), `embedding` (d float32). Chips without a valid token are left out. Memory: one
    shard and the chips of all dates that are written.

    Args:
        chip: tokens along a chip's side; 1 keeps every token.
        time: see `Product.index`; None for all dates, one after another.

    Raises:
        InputError: the product has no CRS, `chip` is not positive, no such date, or `path` exists.
        MissingExtraError: pyarrow or rasterio is not installed.
    """
    if chip < 1:
        raise InputError(f"chips of {chip} tokens: at least 1")
    if product.crs is None:
        raise InputError(f"{product.path} has no CRS: GeoParquet needs longitude and latitude")
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        missing_extra("pyarrow", "geo", error)
    indices = range(len(product.times)) if time is None else [product.index(time)]
    tables = [_table(product, index, chip) for index in indices]
    schema = tables[0].schema.with_metadata(_footer(product, chip, tables))
    with (
        atomic_path(path, overwrite=overwrite) as temporary,
        parquet.ParquetWriter(temporary, schema, compression="zstd") as writer,
    ):
        for table in tables:
            writer.write_table(table.cast(schema), row_group_size=ROW_GROUP)
    return sum(len(table) for table in tables)


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


def _table(product: Product, index: int, chip: int) -> Any:
    import pyarrow as pa

    rows, columns, fractions, vectors = _chips(product, index, chip)
    order = hilbert(columns // chip, rows // chip, max(1, math.ceil(math.log2(max(product.grid) / chip + 1)))).argsort()
    rows, columns, fractions, vectors = rows[order], columns[order], fractions[order], vectors[order]
    rings = _rings(product, rows, columns, chip)
    low, high = rings.min(axis=1), rings.max(axis=1)
    box = {"xmin": low[:, 0], "ymin": low[:, 1], "xmax": high[:, 0], "ymax": high[:, 1]}
    seconds = np.full(len(rows), product.times[index].astype(np.int64))
    flat = pa.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    return pa.table(
        {
            "geometry": pa.array(_wkb(rings), pa.binary()),
            "bbox": pa.StructArray.from_arrays([pa.array(values) for values in box.values()], names=list(box)),
            "time": pa.array(seconds, pa.timestamp("s", "UTC")).cast(pa.timestamp("ms", "UTC")),
            "row": pa.array(rows, pa.int32()),
            "column": pa.array(columns, pa.int32()),
            "valid_fraction": pa.array(fractions, pa.float32()),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, product.dimensions),
        }
    )


def _chips(product: Product, index: int, chip: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(first row, first column, part of valid tokens, mean (n, d)) of the chips of a date that have a valid token."""
    parts = [
        _pooled(product.read(index, rows, columns), rows.start, columns.start, chip)
        for rows, columns in _windows(product, chip)
    ]
    rows, columns, fractions, vectors = (np.concatenate(values) for values in zip(*parts, strict=True))
    return rows, columns, fractions, vectors


def _windows(product: Product, chip: int) -> Iterator[tuple[slice, slice]]:
    """Windows of about a shard that hold whole chips."""
    height, width = (max(chip, size // chip * chip) for size in product.tiling.shard)
    for top in range(0, product.grid[0], height):
        for left in range(0, product.grid[1], width):
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


def _rings(product: Product, rows: np.ndarray, columns: np.ndarray, chip: int) -> np.ndarray:
    """Longitude and latitude of the corners of chips, closed and counter-clockwise, (n, 5, 2)."""
    from rasterio.warp import transform

    assert product.crs is not None
    height, width = product.grid
    places = np.array(
        [
            corners(product.transform, slice(row, min(row + chip, height)), slice(column, min(column + chip, width)))
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        ]
    ).reshape(-1, 2)
    crs = rasterio_crs(product.crs)
    longitudes, latitudes = transform(crs, rasterio_crs("EPSG:4326"), places[:, 0].tolist(), places[:, 1].tolist())
    rings = np.stack([longitudes, latitudes], axis=1).reshape(-1, 4, 2)
    first, second = rings[:, 1] - rings[:, 0], rings[:, 2] - rings[:, 1]
    clockwise = first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0] < 0
    rings[clockwise] = rings[clockwise, ::-1]
    return np.concatenate([rings, rings[:, :1]], axis=1)


def _wkb(rings: np.ndarray) -> list[bytes]:
    polygons = np.zeros(len(rings), _POLYGON)
    polygons["order"], polygons["type"], polygons["rings"], polygons["points"] = 1, 3, 1, 5
    polygons["ring"] = rings
    return [polygon.tobytes() for polygon in polygons]


def _footer(product: Product, chip: int, tables: list[Any]) -> dict[str, str]:
    boxes = [table["bbox"].combine_chunks() for table in tables]
    low = [min((box.field(name).to_numpy().min() for box in boxes if len(box)), default=0) for name in ("xmin", "ymin")]
    high = [
        max((box.field(name).to_numpy().max() for box in boxes if len(box)), default=0) for name in ("xmax", "ymax")
    ]
    geometry = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "orientation": "counterclockwise",
        "bbox": [float(value) for value in (*low, *high)],
        "covering": {"bbox": {name: ["bbox", name] for name in ("xmin", "ymin", "xmax", "ymax")}},
    }
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
    emb = {
        "version": "0.0.1",
        **embedding_fields(product, chip),
        "emb:quantization": quantization(product),
        "model": product.attrs["model"],
        "source": product.attrs["source"],
        "bands": product.attrs["bands"],
        "license": product.conventions.get("license"),
        "times": [iso(time) + "Z" for time in product.times],
        "pooling": "mean of the chip's valid tokens",
        "column": "embedding",
    }
    return {"geo": json.dumps(geo), "emb": json.dumps(emb)}
