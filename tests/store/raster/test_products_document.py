"""The consumer's walk-through of docs/products.md runs as it stands, on a product behind a real server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from product_samples import write_date

import nec
from nec.store import RasterSpec, RasterWriter, open_product

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "products.md"
GRID, TRANSFORM = (70, 60), (160.0, 0.0, 500_000.0, 0.0, -160.0, 5_000_000.0)


def walk_through() -> str:
    part = DOCUMENT.read_text(encoding="utf-8").split("## Reading a product")[1].split("\n## ")[0]
    return "\n".join(re.findall(r"```python\n(.*?)```", part, re.DOTALL))


@pytest.fixture
def cover() -> np.ndarray:
    """Three classes in patches, int (70, 60)."""
    rng = np.random.default_rng(5)
    return np.kron(rng.integers(0, 3, (10, 10)), np.ones((7, 6), int))


@pytest.fixture
def product(tmp_path: Path, cover: np.ndarray) -> Path:
    rng = np.random.default_rng(6)
    tokens = (rng.normal(size=(3, 12))[cover] * 2 + 0.5 * rng.normal(size=(*GRID, 12))).astype(np.float32)
    spec = RasterSpec(
        grid=GRID, dimensions=12, codec=nec.EmbeddingCodec.fit(tokens[None]), quality=1.0, crs="EPSG:32632",
        transform=TRANSFORM, patch_px=16, chunk=(10, 10), shard=(2, 2),
    )  # fmt: skip
    valid = np.ones(GRID, bool)
    valid[30:33, 20:25] = False
    RasterWriter.create(tmp_path / "served" / "product.zarr", spec).close()
    with RasterWriter.resume(tmp_path / "served" / "product.zarr") as writer:
        write_date(writer, "2026-05-01", tokens, valid)
    return tmp_path / "served" / "product.zarr"


def test_the_consumer_s_walk_through(tmp_path: Path, product: Path, cover: np.ndarray) -> None:
    rasterio = pytest.importorskip("rasterio")
    for package in ("aiohttp", "fsspec", "xarray", "rioxarray"):
        pytest.importorskip(package)
    rows, columns = open_product(product).window((502_000, 4_994_000, 505_000, 4_998_000))
    rng = np.random.default_rng(7)
    y, x = rng.integers(rows.start, rows.stop, 80), rng.integers(columns.start, columns.stop, 80)
    inside = open_product(product).read_valid(0)[y, x]
    y, x = y[inside], x[inside]
    points = np.stack([500_080 + 160 * x, 4_999_920 - 160 * y, cover[y, x]], axis=1)
    np.savetxt(tmp_path / "points.csv", points, fmt="%d", delimiter=",", header="x,y,class", comments="")
    server = [
        sys.executable,
        str(Path(__file__).with_name("range_server.py")),
        str(product.parent),
        str(tmp_path / "log"),
    ]
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            code = walk_through().replace("localhost:8000", f"127.0.0.1:{process.stdout.readline().strip()}")
            environment = {**os.environ, "PYTHONPATH": str(Path(nec.__file__).parents[1])}
            result = subprocess.run(
                [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
            )
        finally:
            process.terminate()
    assert result.returncode == 0, result.stderr
    with rasterio.open(tmp_path / "land_cover.tif") as file:
        found = file.read(1)
        assert file.crs.to_epsg() == 32632
        assert file.transform @ (0, 0) == (500_000 + 160 * columns.start, 5_000_000 - 160 * rows.start)
    truth = cover[rows, columns]
    seen = open_product(product).read_valid(0)[rows, columns]
    assert (found[~seen] == 255).all()
    assert (found[seen] == truth[seen]).mean() > 0.95
    travelled = int(result.stdout.split("tokens with ")[1].split()[0].replace(",", ""))
    opened = int(result.stdout.split("opened with ")[1].split()[0].replace(",", ""))
    assert travelled - opened < 0.5 * open_product(product).stored_bytes
