"""Class maps as files: PNG with a palette, GeoTIFF with a colour table."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.errors import missing_extra

Color = tuple[int, int, int]


def colors_of(classes: int, given: Sequence[Color] | None) -> list[Color]:
    """The classes' own colours, or as many that differ in hue."""
    if given is not None:
        return list(given)
    shares = (colorsys.hsv_to_rgb(i * 0.618 % 1, 0.7, 0.9) for i in range(classes))
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in shares]


def write_png(path: Path, classes: NDArray[np.uint8], colors: Sequence[Color]) -> None:
    """Class indices (height, width) as a PNG whose palette holds the classes' colours."""
    try:
        from PIL import Image
    except ImportError as error:
        missing_extra("Pillow", "torch", error)
    image = Image.fromarray(classes, mode="P")
    image.putpalette([value for color in colors for value in color])
    image.save(path, format="PNG", optimize=True)


def write_geotiff(
    path: Path, classes: NDArray[np.uint8], colors: Sequence[Color], names: Sequence[str], reference: dict[str, Any]
) -> None:
    """Class indices (height, width) as a GeoTIFF with a colour table, and the classes' names as tags of the band.

    `reference`: {"crs": text or None, "transform": [a, b, c, d, e, f]} with x = a*column + b*row + c, and so on.
    """
    try:
        import rasterio
    except ImportError as error:
        missing_extra("rasterio", "geo", error)
    height, width = classes.shape
    profile = {
        "driver": "GTiff", "height": height, "width": width, "count": 1, "dtype": "uint8", "compress": "deflate",
        "crs": reference["crs"], "transform": rasterio.Affine(*reference["transform"]),
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(classes, 1)
        file.write_colormap(1, {i: (*color, 255) for i, color in enumerate(colors)})
        file.update_tags(1, **{f"class_{i}": name for i, name in enumerate(names)})
