"""How the pixels of a scene become the input of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError
from nec.scenes.scene import Scene


class PixelConfig(Protocol):
    """What `match` needs to know of a model; `nec.models.ModelConfig` is one.

    Attributes:
        in_channels: how many bands the model takes.
        mean, std: of each band, of images scaled to 0..1.
        bands: names or common names of the bands in the model's order, or None where nobody wrote them down.
        reflectance: the reflectances that 0 and 1 of the scaled images stand for, or None for 0 and 1.
    """

    @property
    def in_channels(self) -> int: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...
    @property
    def bands(self) -> tuple[str, ...] | None: ...
    @property
    def reflectance(self) -> tuple[float, float] | None: ...


@dataclass(frozen=True)
class Normalization:
    """(clip(pixel * scale + offset) - mean) / std, band by band.

    Attributes:
        mean, std: of each band, of images scaled to 0..1.
        scale, offset: pixel * scale + offset is the scaled image.
        clip: whether the scaled image is limited to 0..1, as that of a model trained on bytes is.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1.0
    offset: float = 0.0
    clip: bool = False

    def __call__(self, pixels: NDArray[np.floating]) -> NDArray[np.float32]:
        """Pixels (..., rows, columns, bands), NaN where invalid -> model input (..., bands, rows, columns) float32.

        Invalid pixels become 0, which is the mean. Raises `InputError` for another number of bands.
        """
        if pixels.shape[-1] != len(self.mean):
            raise InputError(f"pixels of {pixels.shape[-1]} band(s); the model takes {len(self.mean)}")
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        values = pixels.astype(np.float32) * np.float32(self.scale) + np.float32(self.offset)
        if self.clip:
            np.clip(values, 0, 1, out=values)
        values -= mean
        values /= std
        np.nan_to_num(values, copy=False, nan=0.0)
        return np.ascontiguousarray(np.moveaxis(values, -1, -3))


def match(
    scene: Scene, config: PixelConfig, *, bands: Sequence[str | int] | None = None
) -> tuple[Scene, Normalization]:
    """The bands of a scene that a model takes, and how they become its input.

    Bands are chosen by `bands`, else by the names in the model's configuration; a scene of just as many bands whose
    files do not name them is taken as it is. Physical values are taken for reflectances, bytes for 0..1 by 255.

    Raises:
        InputError: bands are missing or of another number; numbers whose scale nothing tells.
    """
    chosen = list(bands) if bands is not None else _bands(scene, config)
    if chosen is not None:
        scene = scene.select(chosen)
    if len(scene.bands) != config.in_channels:
        names = ", ".join(band.name for band in scene.bands)
        raise InputError(
            f"{scene.name} has {len(scene.bands)} band(s) ({names}), and the model takes {config.in_channels}; choose "
            "so many by name, or by position from 1"
        )
    if scene.physical:
        low, high = config.reflectance or (0.0, 1.0)
        scale, offset = 1 / (high - low), -low / (high - low)
    elif set(scene.dtypes) == {"uint8"}:
        scale, offset = 1 / 255, 0.0
    else:
        raise InputError(
            f"{scene.name} has {'/'.join(sorted(set(scene.dtypes)))} pixels without a scale: give scale "
            "(and offset) such that number * scale + offset is the reflectance (numbers up to 10000: 1e-4)"
        )
    return scene, Normalization(config.mean, config.std, scale, offset, clip=config.reflectance is not None)


def _bands(scene: Scene, config: PixelConfig) -> list[str] | None:
    unnamed = all(band.common is None and band.name == f"band{i}" for i, band in enumerate(scene.bands, 1))
    if config.bands is None or (unnamed and len(scene.bands) == config.in_channels):
        return None
    return list(config.bands)
