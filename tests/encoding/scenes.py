"""Scenes for tests: a generated GeoTIFF, and a scene with faults. A module, so that workers can import it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
from tiny import smooth

from nec.scenes import Scene, open_scene

ROWS, COLUMNS = 90, 118  # pixels: no whole number of 4 px patches
#: With the tiny model (tiles of 4 tokens, halo 1): 23 x 30 tokens in 3 x 4 shards.
LAYOUT: dict[str, Any] = {"chunk": (4, 4), "shard": (2, 2), "batch_size": 5}


def pixels() -> np.ndarray:
    """A smooth scene (rows, columns, 3), bytes, with 24 x 24 px of 0 in its lower right."""
    values = np.maximum(smooth(1, COLUMNS, 3, seed=3)[0, :ROWS], 1)
    values[-24:, -24:] = 0
    return values


def write_scene(path: Path, values: np.ndarray | None = None, **options: Any) -> Path:
    """`values` as a tiled GeoTIFF of 10 m pixels, 0 is nodata; each band of a block lies in a place of its own."""
    import rasterio

    values = pixels() if values is None else values
    rows, columns, bands = values.shape
    profile = {
        "driver": "GTiff", "height": rows, "width": columns, "count": bands, "dtype": values.dtype, "nodata": 0,
        "crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 500000, 0, -10, 4600000),
        "tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate", **options,
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(values.transpose(2, 0, 1))
    return path


class FaultyScene(Scene):
    """A scene with a fault at every window that holds one pixel, as long as the file `fault` is there.

    The file holds the fault, "timeout", "damage", "interrupt" or "kill", and how often it comes (always if left out).
    """

    fault: Path
    at: tuple[int, int]

    def read(self, row: int, column: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        y, x = self.at
        if row <= y < row + rows and column <= x < column + columns and self.fault.exists():
            self._fail(self.fault.read_text().split())
        return super().read(row, column, rows, columns)

    def _fail(self, words: list[str]) -> None:
        from nec.errors import InputError

        kind, times = words[0], int(words[1]) if len(words) > 1 else None
        if times is not None:
            if times == 0:
                return
            self.fault.write_text(f"{kind} {times - 1}")
        if kind == "kill":
            self.fault.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "interrupt":
            raise KeyboardInterrupt
        reason = "HTTP response code: 503" if kind == "timeout" else "TIFFReadEncodedTile failed"
        raise InputError(f"{self.name} cannot be read: {reason}")


def faulty(path: Path, fault: Path, at: tuple[int, int], text: str) -> Scene:
    """The scene at `path` with a fault."""
    scene = open_scene(path)
    scene.__class__ = FaultyScene
    scene.fault, scene.at = fault, at  # type: ignore[attr-defined]
    fault.write_text(text)
    return scene
