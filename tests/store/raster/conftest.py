"""A small product of two dates with a hole, and what it must give back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from product_samples import GRID, TIMES, TRANSFORM, D, write_date

import nec
from nec.store import RasterSpec, RasterWriter


@pytest.fixture(scope="session")
def rasters() -> np.ndarray:
    """Smooth tokens of two dates, float32 (2, 21, 30, 5)."""
    rng = np.random.default_rng(3)
    coarse = np.kron(rng.normal(size=(2, 6, 8, D)), np.ones((1, 4, 4, 1)))[:, : GRID[0], : GRID[1]]
    return ((coarse + 0.3 * rng.normal(size=(2, *GRID, D))) * np.geomspace(3, 0.2, D)).astype(np.float32)


@pytest.fixture(scope="session")
def valid() -> np.ndarray:
    """bool (2, 21, 30): a wholly empty shard in the upper left, scattered holes in the lower right, a lone chunk."""
    mask = np.ones((2, *GRID), bool)
    mask[:, :8, :8] = False
    mask[0, 12:, 15:] = np.random.default_rng(4).random((9, 15)) > 0.4
    mask[1, 16:20, 4:8] = False
    return mask


@pytest.fixture(scope="session")
def codec(rasters: np.ndarray) -> nec.EmbeddingCodec:
    return nec.EmbeddingCodec.fit(rasters)


@pytest.fixture(scope="session")
def spec(codec: nec.EmbeddingCodec) -> RasterSpec:
    """Chunks of 4x4 tokens, shards of 8x8: 3 rows of 4 shards, cut at the lower and right edge."""
    pytest.importorskip("rasterio")
    return RasterSpec(
        grid=GRID,
        dimensions=D,
        codec=codec,
        quality=2.0,
        crs="EPSG:32632",
        transform=TRANSFORM,
        patch_px=16,
        chunk=(4, 4),
        shard=(2, 2),
        model={"name": "toy", "sha256": "ab" * 32, "url": "https://example.org/models/toy"},
        source={"links": ["https://example.org/collections/sentinel-2-l2a"]},
        bands=["B02", "B03", "B04"],
        title="Toy embeddings",
        license="CC-BY-4.0",
    )


@pytest.fixture(scope="session")
def build(spec: RasterSpec, rasters: np.ndarray, valid: np.ndarray) -> Callable[..., Path]:
    """Write the product at a path."""

    def make(path: Path, dates: int = 2) -> Path:
        RasterWriter.create(path, spec).close()
        with RasterWriter.resume(path, spec) as writer:
            for time in range(dates):
                write_date(writer, TIMES[time], rasters[time], valid[time])
        return path

    return make


@pytest.fixture(scope="session")
def product_path(tmp_path_factory: pytest.TempPathFactory, build: Callable[..., Path]) -> Path:
    """The product, which tests only read."""
    return build(tmp_path_factory.mktemp("product") / "toy.zarr")


@pytest.fixture(scope="session")
def decoded(spec: RasterSpec, rasters: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Chunks that are wholly valid through the codec alone, without Zarr; NaN elsewhere. float32 (2, 21, 30, 5)."""
    out = np.full_like(rasters, np.nan)
    for t in range(2):
        for y in range(0, GRID[0], 4):
            for x in range(0, GRID[1], 4):
                part = slice(y, y + 4), slice(x, x + 4)
                if valid[t][part].all():
                    out[t][part] = spec.codec.decode(spec.codec.encode(rasters[t][part][None], 2.0))[0]
    return out
