"""A made-up but plausible piece of land as Sentinel-2 might see it in RGB at 10 m, written as a georeferenced TIFF.

Procedural and seeded: fields, a forest, a river with a lake, a motorway, lanes, a town and an industrial estate.
Colours follow EuroSAT's scaling (reflectance 0-0.275 to 0-255). It contains no data of anybody.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.errors import missing_extra

PIXEL_METRES = 10.0
CRS = "EPSG:32632"
ORIGIN = (600_000.0, 5_340_000.0)  # easting, northing of the upper left corner: a round place in southern Germany

Image = NDArray[np.float32]
CROPS = np.array(
    [[178, 138, 122], [196, 152, 132], [150, 122, 112], [112, 98, 98], [70, 96, 82], [58, 92, 74], [92, 112, 84]],
    np.float32,
)
MEADOW, WOOD, WATER = (np.array(c, np.float32) for c in ([64, 92, 92], [37, 60, 70], [46, 76, 94]))
ASPHALT, LANE, GARDEN = (np.array(c, np.float32) for c in ([134, 132, 134], [150, 132, 118], [76, 90, 90]))
ROOFS = np.array([[150, 108, 98], [128, 112, 112], [172, 160, 156], [104, 100, 108]], np.float32)
HALLS = np.array([[208, 210, 216], [150, 160, 176], [236, 232, 228], [120, 122, 132]], np.float32)


def make_scene(size: int = 512, seed: int = 0) -> NDArray[np.uint8]:
    """Draw a scene (size, size, 3), uint8, north up, 10 m a pixel."""
    painter = _Painter(size, np.random.default_rng(seed))
    painter.fields()
    painter.wood()
    painter.town(centre=(0.30, 0.70), radius=0.17)
    painter.estate(centre=(0.64, 0.78), halls=60)
    painter.motorway()
    painter.river()
    return painter.finish()


def write_scene(path: str | Path, scene: NDArray[np.uint8]) -> None:
    """Write `scene` (y, x, 3) as a GeoTIFF in UTM zone 32N with 10 m pixels."""
    height, width, bands = scene.shape
    rasterio = _rasterio()
    profile = {"driver": "GTiff", "height": height, "width": width, "count": bands, "dtype": "uint8"}
    where = rasterio.Affine(PIXEL_METRES, 0, ORIGIN[0], 0, -PIXEL_METRES, ORIGIN[1])
    with rasterio.open(path, "w", **profile, crs=CRS, transform=where, compress="deflate", photometric="RGB") as file:
        file.write(np.moveaxis(scene, -1, 0))


def _rasterio() -> Any:
    try:
        import rasterio

    except ImportError as error:
        missing_extra("rasterio", "geo", error)
    return rasterio


def _noise(rng: np.random.Generator, size: int, cells: int) -> Image:
    """Smooth noise (size, size) of about unit variance: random values on a grid of `cells`, bilinear in between."""
    values = rng.normal(size=(cells + 1, cells + 1)).astype(np.float32)
    at = np.linspace(0, cells, size, endpoint=False, dtype=np.float32)
    low = at.astype(int)
    part = (at - low) ** 2 * (3 - 2 * (at - low))
    rows = values[low] * (1 - part)[:, None] + values[low + 1] * part[:, None]
    return 1.5 * (rows[:, low] * (1 - part) + rows[:, low + 1] * part)


@dataclass
class _Painter:
    """The picture while it is drawn; positions are shares of its side, first down, then right."""

    size: int
    rng: np.random.Generator

    def __post_init__(self) -> None:
        self.image = np.empty((self.size, self.size, 3), np.float32)
        self.y, self.x = np.mgrid[: self.size, : self.size].astype(np.float32) / self.size
        self.grain = self.rng.normal(size=(self.size, self.size)).astype(np.float32)
        self.relief = _noise(self.rng, self.size, 6)

    def fields(self) -> None:
        """Parcels: a rotated square halved again and again, each piece one crop with rows, and lanes between some."""
        turn = 0.35
        u = self.y * np.cos(turn) + self.x * np.sin(turn)
        v = self.x * np.cos(turn) - self.y * np.sin(turn)
        pieces = [(float(u.min()), float(u.max()) + 1e-3, float(v.min()), float(v.max()) + 1e-3)]
        while pieces:
            u0, u1, v0, v1 = pieces.pop()
            longest, area = max(u1 - u0, v1 - v0), (u1 - u0) * (v1 - v0)
            if area > self.rng.uniform(0.0015, 0.02) or longest > 0.25:
                cut = self.rng.uniform(0.35, 0.65)
                if (u1 - u0) * self.rng.uniform(0.7, 1.4) > v1 - v0:
                    middle = u0 + cut * (u1 - u0)
                    pieces += [(u0, middle, v0, v1), (middle, u1, v0, v1)]
                else:
                    middle = v0 + cut * (v1 - v0)
                    pieces += [(u0, u1, v0, middle), (u0, u1, middle, v1)]
                continue
            inside = (u >= u0) & (u < u1) & (v >= v0) & (v < v1)
            self._parcel(inside, u if u1 - u0 < v1 - v0 else v)
            if self.rng.random() < 0.5:
                edge = inside & ((u - u0 < 1.3 / self.size) | (v - v0 < 1.3 / self.size))
                self._blend(edge, LANE if self.rng.random() < 0.5 else WOOD, 0.6)

    def _parcel(self, inside: NDArray[np.bool_], across: Image) -> None:
        meadow = self.rng.random() < 0.75 * (
            1 / (1 + np.exp(3 * float(self.relief[inside].mean() if inside.any() else 0)))
        )
        colour = MEADOW if meadow else CROPS[self.rng.integers(len(CROPS))]
        shade = 1 + 0.07 * self.rng.normal() + 0.03 * self.relief[inside]
        rows = 0.025 * np.sin(across[inside] * self.size * self.rng.uniform(1.2, 2.4)) * (not meadow)
        self.image[inside] = colour * (shade + rows + 0.02 * self.grain[inside])[:, None]

    def wood(self) -> None:
        """Forest where smooth noise is high and in the north-west, with crowns as fine texture and ragged borders."""
        height = _noise(self.rng, self.size, 5) + 0.35 * _noise(self.rng, self.size, 32)
        trees = height - 3.2 * (self.y + self.x) + 1.9 > 0
        texture = 1 + 0.06 * self.grain + 0.05 * _noise(self.rng, self.size, 128) + 0.05 * self.relief
        self.image[trees] = (WOOD * texture[..., None])[trees]

    def town(self, centre: tuple[float, float], radius: float) -> None:
        """Streets on a slightly turned grid, houses of some pixels in gardens, denser towards the centre."""
        far = np.hypot(self.y - centre[0], self.x - centre[1]) / radius + 0.18 * _noise(self.rng, self.size, 8)
        turn = 0.2
        u = (self.y * np.cos(turn) + self.x * np.sin(turn)) * self.size
        v = (self.x * np.cos(turn) - self.y * np.sin(turn)) * self.size
        inside = far < 1
        self._blend(inside, GARDEN, 0.9)
        plot = (u // 3).astype(int) * 7919 + (v // 3).astype(int) * 104_729
        draw = np.random.default_rng(self.rng.integers(2**31)).random(4096)[plot % 4096]
        houses = inside & (draw < 0.95 - 0.4 * far) & (u % 3 < 2.3) & (v % 3 < 2.3)
        roofs = ROOFS[(plot // 7) % len(ROOFS)]
        self.image[houses] = (roofs * (1 + 0.12 * self.grain)[..., None])[houses]
        self._blend(inside & ((u % 13 < 1.2) | (v % 19 < 1.2)), ASPHALT, 0.7)

    def estate(self, centre: tuple[float, float], halls: int) -> None:
        """Flat-roofed halls on paved ground."""
        away = np.maximum(np.abs(self.y - centre[0]) / 0.10, np.abs(self.x - centre[1]) / 0.14)
        self._blend(away + 0.1 * _noise(self.rng, self.size, 12) < 1, ASPHALT * 0.9, 0.9)
        for _ in range(halls):
            tall, wide = self.rng.integers(4, 15), self.rng.integers(5, 20)
            top = int((centre[0] + self.rng.uniform(-0.09, 0.08)) * self.size)
            left = int((centre[1] + self.rng.uniform(-0.13, 0.11)) * self.size)
            roof = HALLS[self.rng.choice(len(HALLS), p=[0.4, 0.25, 0.15, 0.2])] * self.rng.uniform(0.85, 1.1)
            self.image[top + 1 : top + tall + 1, left + 1 : left + wide + 1] *= 0.55  # shadow to the south-east
            self.image[top : top + tall, left : left + wide] = roof

    def motorway(self) -> None:
        """Two carriageways in a gentle curve from west to east, and a road that leaves it for the town."""
        line = 0.52 + 0.05 * np.sin(4 * self.x + 0.6) - 0.06 * self.x
        away = np.abs(self.y - line) * self.size
        self._blend(away < 4.5, MEADOW, 0.8)
        self._blend((away > 0.8) & (away < 3.2), ASPHALT * 1.1, 0.95)
        road = np.abs(self.x - 0.68 - 0.04 * np.sin(7 * self.y)) * self.size
        self._blend((road < 1.2) & (self.y > 0.2), ASPHALT, 0.8)

    def river(self) -> None:
        """A meandering river from north to south with wooded banks, widening into a lake."""
        course = 0.30 + 0.07 * np.sin(6.5 * self.y + 1) + 0.03 * np.sin(15 * self.y)
        away = np.abs(self.x - course)
        width = 0.013 + 0.003 * np.sin(9 * self.y)
        lake = np.hypot((self.y - 0.83) / 0.13, (self.x - 0.27) / 0.17) + 0.22 * _noise(self.rng, self.size, 6)
        bank = (away < width + 0.012 + 0.006 * _noise(self.rng, self.size, 24)) | (lake < 1.1)
        bridge = np.abs(self.y - (0.52 + 0.05 * np.sin(4 * self.x + 0.6) - 0.06 * self.x)) * self.size < 3.2
        self._blend(bank & ~bridge, WOOD * 1.1, 0.75)
        water = ((away < width) | (lake < 1)) & ~bridge
        self.image[water] = (WATER * (1 + 0.012 * self.grain + 0.03 * self.relief)[..., None])[water]

    def _blend(self, inside: NDArray[np.bool_], colour: Image, share: float) -> None:
        target = colour * (1 + 0.03 * self.grain[inside])[:, None]
        self.image[inside] = (1 - share) * self.image[inside] + share * target

    def finish(self) -> NDArray[np.uint8]:
        """Blur by about the sensor's point spread, add noise, round."""
        image: NDArray[Any] = self.image
        for axis in (0, 1):
            padded = np.pad(image, [(1, 1) if i == axis else (0, 0) for i in range(3)], mode="edge")
            before, here, after = (padded.take(range(i, i + self.size), axis=axis) for i in range(3))
            image = 0.18 * before + 0.64 * here + 0.18 * after
        image = image + self.rng.normal(scale=1.0, size=image.shape)
        return np.clip(np.rint(image), 0, 255).astype(np.uint8)
