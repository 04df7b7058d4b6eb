"""A picture of a date: the first three principal components of its tokens as red, green and blue."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nec.errors import InputError, missing_extra
from nec.files import atomic_path
from nec.store.rasters import RasterStore

MOST = 2048  # pixels along the longer side
LEAST = 512  # of a PNG, by whole factors
_SAMPLE_WINDOWS, _SAMPLE_TOKENS = 64, 20_000
_STRETCH = (2, 98)  # percentiles that become 0 and 255


@dataclass(frozen=True)
class Colouring:
    """Three axes (3, d) through `mean` (d,), and the scores (3,) that become 0 and 255."""

    mean: np.ndarray
    axes: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def fit(cls, tokens: np.ndarray) -> Colouring:
        """From a sample (n, d), n >= 1. Deterministic: the largest entry of each axis is positive."""
        mean = tokens.mean(axis=0, dtype=np.float64)
        centred = tokens - mean
        _, vectors = np.linalg.eigh(centred.T @ centred)
        axes = np.zeros((3, tokens.shape[1]))
        found = vectors.T[::-1][:3]
        axes[: len(found)] = found * np.sign(found[np.arange(len(found)), np.abs(found).argmax(axis=1)])[:, None]
        low, high = np.percentile(centred @ axes.T, _STRETCH, axis=0)
        return cls(mean, axes, low, np.maximum(high, low + 1e-12))

    def apply(self, tokens: np.ndarray, valid: np.ndarray) -> np.ndarray:
        """uint8 (y, x, 4) of tokens (y, x, d): red, green, blue, and 255 where valid."""
        scores = (np.where(valid[..., None], tokens, self.mean) - self.mean) @ self.axes.T
        colours = np.clip((scores - self.low) / (self.high - self.low), 0, 1)
        return np.dstack([np.rint(255 * colours), 255 * valid]).astype(np.uint8) * valid[..., None]


def quicklook(store: RasterStore, time: Any = -1) -> tuple[np.ndarray, int]:
    """(uint8 (rows, columns, 4) red, green, blue, alpha; tokens a pixel) of a date: every n-th token where it is large.

    Raises:
        InputError: no such date, or it has no valid token.
    """
    index = store.index(time)
    colouring = Colouring.fit(_sample(store, index))
    step = math.ceil(max(store.grid) / MOST)
    picture = np.zeros((*(math.ceil(size / step) for size in store.grid), 4), np.uint8)
    for rows, columns, tokens, valid in store.windows(index):
        top, left = -rows.start % step, -columns.start % step
        part = colouring.apply(tokens[top::step, left::step], valid[top::step, left::step])
        y, x = (rows.start + top) // step, (columns.start + left) // step
        picture[y : y + part.shape[0], x : x + part.shape[1]] = part
    return picture, step


def write(store: RasterStore, out: str | Path, *, time: Any = -1, overwrite: bool = False) -> Path:
    """Write the quick-look as `.png` (small ones enlarged by a whole factor) or georeferenced `.tif`.

    Raises:
        InputError: another suffix, no such date, no valid token, or `out` exists.
        MissingExtraError: rasterio is not installed.
    """
    path = Path(out)
    if path.suffix not in (".png", ".tif", ".tiff"):
        raise InputError(f"{path}: the name of a quick-look must end in .png or .tif")
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning
    except ImportError as error:
        missing_extra("rasterio", "geo", error)
    picture, step = quicklook(store, time)
    if path.suffix == ".png":
        factor = max(1, math.ceil(LEAST / max(picture.shape)))
        picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
        profile: dict[str, Any] = {"driver": "PNG"}
    else:
        a, b, c, d, e, f = store.transform
        place = rasterio.Affine(a * step, b * step, c, d * step, e * step, f)
        profile = {"driver": "GTiff", "compress": "deflate", "photometric": "RGB", "alpha": "YES", "transform": place}
        profile |= {} if store.crs is None else {"crs": store.crs}
    profile |= {"height": picture.shape[0], "width": picture.shape[1], "count": 4, "dtype": "uint8"}
    with atomic_path(path, overwrite=overwrite) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(temporary, "w", **profile) as file:
            file.write(picture.transpose(2, 0, 1))
    return path


def _sample(store: RasterStore, time: int) -> np.ndarray:
    """Valid tokens (n, d) of chunks spread evenly over a date."""
    chunk, grid = store.tiling.chunk, store.grid
    places = [(y, x) for y in range(0, grid[0], chunk[0]) for x in range(0, grid[1], chunk[1])]
    chosen = places[:: math.ceil(len(places) / _SAMPLE_WINDOWS)]
    found = _valid_tokens(store, time, chosen) or _valid_tokens(store, time, places)
    if not found:
        raise InputError(f"{store.path}: date {time} has no valid token to show")
    tokens = np.concatenate(found)
    return tokens[:: math.ceil(len(tokens) / _SAMPLE_TOKENS)]


def _valid_tokens(store: RasterStore, time: int, places: list[tuple[int, int]]) -> list[np.ndarray]:
    chunk = store.tiling.chunk
    most = max(1, 4 * _SAMPLE_TOKENS // len(places))
    found = []
    for y, x in places:
        window = slice(y, y + chunk[0]), slice(x, x + chunk[1])
        valid = store.read_valid(time, *window)
        if valid.any():
            tokens = store.read(time, *window)[valid]
            found.append(tokens[:: math.ceil(len(tokens) / most)])
    return found
