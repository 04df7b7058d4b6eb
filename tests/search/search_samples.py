"""The small store and raster of these tests, and how they are written."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import nec
from nec.store import ImageSpec, ImageWriter, RasterSpec, RasterWriter

IMAGES, D = 60, 6
CLASSES = ["Forest", "Sea", "Highway"]
GRID = (21, 30)
TRANSFORM = (160.0, 0.0, 500_000.0, 0.0, -160.0, 5_000_000.0)
TIMES = ["2026-05-01T10:30:00", "2026-06-01T10:30:00"]


def write_images(
    path: Path, grid: tuple[int, int] = (4, 4), spatial: str | None = "haar", prior: str = "hierarchical", seed: int = 7
) -> Path:
    rng = np.random.default_rng(seed)
    tokens = rng.normal(size=(IMAGES, 1, 1, D)) + 0.4 * rng.normal(size=(IMAGES, *grid, D)) + 1
    tokens = (tokens * np.geomspace(3, 0.5, D)).astype(np.float32)
    spec = ImageSpec(
        codec=nec.EmbeddingCodec.fit(tokens, prior=prior, spatial=spatial), quality=2.0,
        names=[f"image_{i}.jpg" for i in range(IMAGES)],
        grid=grid, labels=np.arange(IMAGES) % 3 - (np.arange(IMAGES) == 4) * 2, class_names=CLASSES,
        split=np.array(["train", "val", "test", ""])[np.arange(IMAGES) % 4], model={"name": "toy", "sha256": "ab" * 32},
        images_per_chunk=4, chunks_per_shard=3,
    )  # fmt: skip
    with ImageWriter.create(path, spec) as writer:
        for start, stop in writer.missing():
            writer.write(start, tokens[start:stop])
        writer.finish()
    return path


def write_raster(path: Path, crs: str | None = "EPSG:32632") -> Path:
    """Chunks of 4x4 tokens, shards of 8x8. The second date is the first with noise, and a block that is changed."""
    rng = np.random.default_rng(3)
    first = np.kron(rng.normal(size=(6, 8, D)), np.ones((4, 4, 1)))[: GRID[0], : GRID[1]]
    first = (first + 0.3 * rng.normal(size=(*GRID, D))).astype(np.float32)
    second = first + 0.05 * rng.normal(size=first.shape).astype(np.float32)
    second[2:5, 20:26] *= -1
    valid = np.ones((2, *GRID), bool)
    valid[:, :8, :8] = False
    valid[0, 12:, 15:] = np.random.default_rng(4).random((9, 15)) > 0.4
    valid[1, 16:20, 4:8] = False
    codec = nec.EmbeddingCodec.fit(np.stack([first, second]))
    spec = RasterSpec(
        grid=GRID, dimensions=D, codec=codec, quality=2.0, crs=crs, transform=TRANSFORM, patch_px=16, chunk=(4, 4),
        shard=(2, 2), model={"name": "toy", "sha256": "ab" * 32}, source={}, bands=["B02"], title="Toy", license="CC0",
    )  # fmt: skip
    RasterWriter.create(path, spec).close()
    with RasterWriter.resume(path, spec) as writer:
        for time, tokens, mask in zip(TIMES, (first, second), valid, strict=True):
            index = writer.append_time(time)
            for shard in writer.missing(index):
                window = writer.tiling.shard_window(*shard[1:])
                part = np.where(mask[window][..., None], tokens[window], np.nan)
                writer.write(shard, part, mask[window])
            writer.finish(index)
    return path
