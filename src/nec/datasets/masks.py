"""Label masks of images: from colours or class numbers in a file to class indices, and to coarser grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nec.datasets.images import decode_image, open_image
from nec.errors import InputError
from nec.labels import IGNORE

_UNKNOWN = 254  # while colours are looked up; so a dataset has at most 254 classes

Color = tuple[int, int, int]


@dataclass(frozen=True)
class MaskCoding:
    """How the masks of a dataset are coded.

    Attributes:
        classes: names in the order of the class indices.
        colors: (red, green, blue) of each class, to read masks by or to draw them with; None where none are published.
        ignored: colours that mean no label.
        values: "colors", "numbers", or "either": numbers in masks of one band (unless all class colours are grey),
            colours in the others.
        first: number of the first class; lower numbers mean no label.
        faulty: parts of the names of published files whose colours, all of them corners of the colour cube, are
            blurred. Pixels near a corner count as it, all others as ignored.
    """

    classes: tuple[str, ...]
    colors: tuple[Color, ...] | None = None
    ignored: tuple[Color, ...] = ()
    values: Literal["colors", "numbers", "either"] = "colors"
    first: int = 0
    faulty: tuple[str, ...] = ()

    def decode(self, data: bytes, name: str) -> NDArray[np.uint8]:
        """Bytes of a mask file -> class indices (height, width), `IGNORE` where there is no label.

        Raises:
            InputError: no image, or a colour or number that is no class; it names the file, the value and how often.
        """
        if self.values == "colors" or (self.values == "either" and self._by_color(open_image(data, name).mode)):
            return self._from_colors(decode_image(data, name), name)
        return self._from_numbers(data, name)

    def _by_color(self, mode: str) -> bool:
        if self.colors is None:
            return False
        grey = all(len(set(color)) == 1 for color in self.colors)
        return grey or mode not in ("L", "I", "I;16", "I;16B", "1")

    def _from_colors(self, pixels: NDArray[Any], name: str) -> NDArray[np.uint8]:
        if pixels.dtype != np.uint8:
            raise InputError(f"{name} has {pixels.dtype} pixels; a mask of class colours has bytes")
        faulty = any(part in name for part in self.faulty)
        if faulty:
            unclear = ((pixels >= 64) & (pixels < 192)).any(axis=-1)
            pixels = np.where(pixels >= 128, np.uint8(255), np.uint8(0))
        packed = np.zeros(pixels.shape[:2], np.uint32)
        for band in range(3):
            packed = packed << 8 | pixels[..., min(band, pixels.shape[2] - 1)]
        mask = _lookup(self)[packed]
        if faulty:
            mask[unclear | (mask == _UNKNOWN)] = IGNORE
        unknown = packed[mask == _UNKNOWN]
        if unknown.size:
            values, counts = np.unique(unknown, return_counts=True)
            others = f" and {unknown.size - counts.max()} of {len(values) - 1} other colours" if len(values) > 1 else ""
            raise InputError(
                f"{name} has {counts.max()} pixel(s) of the colour #{values[counts.argmax()]:06X}{others}, which is no "
                f"class ({self._known()}); if the mask was compressed with loss (JPEG) or resized smoothly, use the "
                "original"
            )
        return mask

    def _known(self) -> str:
        return ", ".join(
            f"{label} #{red:02X}{green:02X}{blue:02X}"
            for label, (red, green, blue) in zip(self.classes, self.colors or (), strict=True)
        )

    def _from_numbers(self, data: bytes, name: str) -> NDArray[np.uint8]:
        numbers = read_numbers(data, name)
        last = self.first + len(self.classes) - 1
        wrong = ((numbers > last) & (numbers != IGNORE)) | (numbers < 0)
        if wrong.any():
            value = int(numbers[wrong][0])
            raise InputError(
                f"{name} has {int((numbers == value).sum())} pixel(s) of the number {value}, which is no class: "
                f"{self.first} to {last} are ({', '.join(self.classes)}), and {IGNORE} is ignored"
            )
        absent = (numbers == IGNORE) | (numbers < self.first)
        return np.where(absent, IGNORE, numbers - self.first).astype(np.uint8)


@lru_cache(maxsize=4)
def _lookup(coding: MaskCoding) -> NDArray[np.uint8]:
    """Class index of each of the 2**24 colours."""
    table = np.full(2**24, _UNKNOWN, np.uint8)
    for index, (red, green, blue) in enumerate(coding.colors or ()):
        table[red << 16 | green << 8 | blue] = index
    for red, green, blue in coding.ignored:
        table[red << 16 | green << 8 | blue] = IGNORE
    return table


def read_numbers(data: bytes, name: str) -> NDArray[np.int64]:
    """Bytes of a mask of class numbers -> (height, width); of a palette image the positions in its palette."""
    image = open_image(data, name)
    if image.mode not in ("L", "P", "I", "I;16", "I;16B", "1"):
        raise InputError(
            f"{name} has colours ({image.mode}) where class numbers are expected; give one band of numbers"
        )
    return np.asarray(image).astype(np.int64)


def check_coding(classes: Sequence[str], colors: Sequence[Color] | None, where: str) -> None:
    """`InputError` for no or too many classes, or names or colours that occur twice."""
    if not 1 <= len(classes) < _UNKNOWN:
        raise InputError(f"{where} has {len(classes)} classes; 1 to {_UNKNOWN - 1} are possible")
    for values, what in ((classes, "name"), (colors or (), "colour")):
        twice = next((value for value in values if list(values).count(value) > 1), None)
        if twice is not None:
            raise InputError(f"{where} has the {what} {twice} twice")


def downscale_image(image: NDArray[Any], factor: int) -> NDArray[Any]:
    """(height, width, bands) -> means of `factor` x `factor` pixels in the same dtype; what is left over is cut off."""
    if factor == 1:
        return image
    height, width = image.shape[0] // factor, image.shape[1] // factor
    exact = image.dtype in (np.uint8, np.uint16)
    total = np.zeros((height, width, image.shape[2]), np.uint32 if exact else np.float64)
    for row in range(factor):
        for column in range(factor):
            total += image[row : height * factor : factor, column : width * factor : factor]
    if exact:
        return ((total + factor**2 // 2) // factor**2).astype(image.dtype)
    mean = total / factor**2
    return (np.rint(mean) if image.dtype.kind in "iu" else mean).astype(image.dtype)


def downscale_mask(mask: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """(height, width) -> the most frequent class of `factor` x `factor` pixels, the lowest index of equals.

    A block that holds an ignored pixel is ignored, so that no such pixel becomes part of a class.
    """
    if factor == 1:
        return mask
    height, width = mask.shape[0] // factor, mask.shape[1] // factor
    # One array for each place in a block: much faster than sums over short axes.
    places = [mask[row : height * factor : factor, column : width * factor : factor]
              for row in range(factor) for column in range(factor)]  # fmt: skip
    out, best = places[0].copy(), np.zeros((height, width), np.uint16)
    for value in np.flatnonzero(np.bincount(mask.ravel(), minlength=IGNORE)[:IGNORE]):
        count = np.zeros((height, width), np.uint16)
        for place in places:
            count += place == value
        better = count > best
        out[better], best[better] = value, count[better]
    for place in places:
        out[place == IGNORE] = IGNORE
    return out


def resize_mask(mask: NDArray[np.uint8], size: int | tuple[int, int]) -> NDArray[np.uint8]:
    """(height, width) -> `size` by nearest neighbours, cropped as `nec.datasets.images.resize` crops the image."""
    height, width = (size, size) if isinstance(size, int) else size
    rows, columns = mask.shape
    scale = min(rows / height, columns / width)
    places = [
        np.clip(((length - side * scale) / 2 + (np.arange(side) + 0.5) * scale).astype(int), 0, length - 1)
        for length, side in ((rows, height), (columns, width))
    ]
    return mask[np.ix_(*places)]
