"""Writes small rasters for the tests of scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

rasterio = pytest.importorskip("rasterio")

LEFT, TOP = 500000.0, 4600000.0


def write(
    path: Path,
    bands: np.ndarray,
    *,
    nodata: float | None = None,
    resolution: float = 10.0,
    names: tuple[str, ...] = (),
    tags: dict[str, str] | None = None,
    driver: str = "GTiff",
    **options: object,
) -> Path:
    """A raster of (bands, rows, columns), its upper left corner at (LEFT, TOP) of UTM zone 33N unless `crs` differs."""
    path.parent.mkdir(exist_ok=True, parents=True)
    profile = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype}
    transform = rasterio.Affine(resolution, 0, LEFT, 0, -resolution, TOP)
    placed = {"crs": "EPSG:32633", "transform": transform, "nodata": nodata, **profile, **options}
    with rasterio.open(path, "w", driver, **placed) as file:
        file.write(bands)
        for position, name in enumerate(names, 1):
            file.set_band_description(position, name)
        if tags:
            file.update_tags(**tags)
    return path


def noise(bands: int = 3, dtype: str = "uint16", rows: int = 20, columns: int = 30, low: int = 1) -> np.ndarray:
    """(bands, rows, columns) of numbers from `low` to low + 125, which every type holds."""
    return np.random.default_rng(bands).integers(low, low + 126, (bands, rows, columns)).astype(dtype)
