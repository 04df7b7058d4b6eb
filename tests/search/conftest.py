"""A small store of images and a small raster of two dates with holes, and what they hold, decoded by Zarr."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from search_samples import write_images, write_raster

import nec
from nec.store import ImageStore, RasterStore


@pytest.fixture(scope="session")
def images_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "toy.zarr")


@pytest.fixture
def images(images_path: Path) -> ImageStore:
    return nec.open_store(images_path)


@pytest.fixture(scope="session")
def means(images_path: Path) -> np.ndarray:
    """Mean token of each image, of what plain Zarr decodes; float64 (60, 6)."""
    import zarr

    return zarr.open_group(images_path)["embeddings"][:].astype(np.float64).mean(axis=(1, 2))


@pytest.fixture(scope="session")
def raster_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("rasterio")
    return write_raster(tmp_path_factory.mktemp("raster") / "toy.zarr")


@pytest.fixture
def raster(raster_path: Path) -> RasterStore:
    return nec.open_product(raster_path)


@pytest.fixture(scope="session")
def tokens(raster_path: Path) -> np.ndarray:
    """What plain Zarr decodes, NaN where it is not valid; float32 (2, 21, 30, 6)."""
    import zarr

    group = zarr.open_group(raster_path)
    values = np.moveaxis(group["embeddings"][:], 1, -1)
    return np.where(group["valid"][:][..., None], values, np.nan)
