"""What a source is: a dataset of images, or scenes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from nec.datasets import Dataset, open_input, what_is
from nec.encoding.options import Reading
from nec.errors import InputError

if TYPE_CHECKING:
    from nec.scenes import Scene

Source = Any
"""A path, `KIND:PATH` or `scene:PATH`, or several; a `Dataset`; a `Scene`, or several; images (n, h, w, bands)."""


def open_source(source: Source, reading: Reading, seed: int = 0) -> Dataset | list[Scene]:
    """The dataset or the scenes that a source is.

    Raises:
        InputError: nothing there, a mixture, or options that do not fit what it is.
    """
    if what_is(source) is None:
        return open_images(source, reading, seed)
    reading.check_scenes()
    names = ("mask", "nodata", "resolution", "crs", "sensor", "scale")
    given = {name: getattr(reading, name) for name in names}
    return open_input(source, **given, offset=reading.offset or None)


def open_images(source: Source, reading: Reading, seed: int = 0) -> Dataset:
    """The dataset that a source is; `InputError` where it is none."""
    reading.check_images()
    if what_is(source) is not None:
        raise InputError(f"{source} is a scene, and images are needed: give a dataset (KIND:PATH)")
    opened = open_input(
        source, seed=seed, split_lists=reading.split_files, tile=reading.tile, downscale=reading.downscale,
        bands=reading.chosen_bands, sensor=reading.sensor, nodata=reading.nodata,
    )  # fmt: skip
    return cast(Dataset, opened)
