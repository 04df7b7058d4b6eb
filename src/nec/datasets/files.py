"""Image files given one by one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nec.datasets.base import Dataset, describe_listing
from nec.datasets.chips import AS_THEY_ARE, Pixels, georeference
from nec.errors import InputError
from nec.scenes.rasters import printable


class ImageFiles(Dataset):
    """Image files (PNG, JPEG, TIFF, ...) of any size, by their file names. `InputError` for names that are alike."""

    kind = "files"

    def __init__(self, paths: Sequence[Path], pixels: Pixels = AS_THEY_ARE) -> None:
        self.paths, self._pixels = list(paths), pixels
        self.names = [printable(path.name) for path in paths]
        if len(set(self.names)) != len(self.names):
            raise InputError("two of the image files have the same name: give them in two runs")
        self.file_sizes = [path.stat().st_size for path in paths]
        self.description = {"kind": self.kind, **describe_listing(self.names, self.file_sizes)}

    def read(self, index: int) -> NDArray[Any]:
        return self._pixels.read(self.paths[index].read_bytes(), str(self.paths[index]))

    def georeference(self, index: int) -> dict[str, Any] | None:
        return georeference(self.paths[index].read_bytes(), str(self.paths[index]))
