"""Images in folders, one a class: any such folder, EuroSAT, UC Merced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.data.base import Dataset, describe_listing
from nec.data.images import decode_image
from nec.data.sources import Source, open_source
from nec.data.splits import listed_split, seeded_split
from nec.errors import InputError


@dataclass(frozen=True)
class Layout:
    """What a published dataset fixes. `classes` None: any sub-folders, or none."""

    kind: str
    classes: tuple[str, ...] | None = None
    percent: tuple[int, int, int] | None = None
    image_size: int | None = None
    about: str = ""


FOLDER = Layout("folder", about="images, one sub-folder a class, or all in one folder without labels")

# Helber et al. 2019, EuroSAT_RGB.zip: EuroSAT_RGB/<Class>/<Class>_<n>.jpg, 27,000 images of 64 px
EUROSAT = Layout(
    "eurosat",
    classes=(
        "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial",
        "Pasture", "PermanentCrop", "Residential", "River", "SeaLake",
    ),
    percent=(70, 10, 20),
    about="EuroSAT RGB, folder or EuroSAT_RGB.zip",
)  # fmt: skip

# Yang & Newsam 2010, UCMerced_LandUse.zip: UCMerced_LandUse/Images/<class>/<class>NN.tif, 100 images a class of 256 px
# of which a few lack 1 to 3 rows or columns
UCMERCED = Layout(
    "ucmerced",
    classes=(
        "agricultural", "airplane", "baseballdiamond", "beach", "buildings", "chaparral", "denseresidential",
        "forest", "freeway", "golfcourse", "harbor", "intersection", "mediumresidential", "mobilehomepark",
        "overpass", "parkinglot", "river", "runway", "sparseresidential", "storagetanks", "tenniscourt",
    ),
    percent=(60, 20, 20),
    image_size=256,
    about="UC Merced land use, folder or UCMerced_LandUse.zip",
)  # fmt: skip


class ImageFolder(Dataset):
    """Image files of a folder or zip, laid out as `layout` says; a folder around the class folders does no harm."""

    def __init__(
        self,
        path: str | Path,
        layout: Layout = FOLDER,
        *,
        seed: int = 0,
        split_lists: Mapping[str, str | Path] | None = None,
    ) -> None:
        self.kind = layout.kind
        self.image_size = layout.image_size
        self.source: Source = open_source(Path(path))
        self._files = list(self.source.sizes)
        self.names = strip_wrappers(self._files)
        folders = class_folders(self.names, str(path))
        self.class_names = _class_names(folders, layout, str(path))
        if folders is not None and self.class_names is not None:
            number = {name: i for i, name in enumerate(self.class_names)}
            self.labels = np.array([number[folder] for folder in folders], dtype=np.int64)
        self.file_sizes = list(self.source.sizes.values())
        listing = describe_listing(self.names, self.file_sizes)
        self.description = {"kind": self.kind, "file": Path(path).resolve().name, **listing}
        self._set_split(layout, seed, split_lists)

    def _set_split(self, layout: Layout, seed: int, split_lists: Mapping[str, str | Path] | None) -> None:
        if split_lists:
            self.split = listed_split(self.names, split_lists)
            files = {part: Path(path).name for part, path in split_lists.items()}
            self.description["split"] = {"method": "lists", "files": files}
        elif layout.percent is not None and self.labels is not None:
            self.split = seeded_split(self.names, self.labels, layout.percent, seed)
            self.description["split"] = {"method": "seeded", "percent": list(layout.percent), "seed": seed}

    def read(self, index: int) -> NDArray[Any]:
        """Image `index` as (height, width, bands); see `nec.data.images.decode_image` for bands and errors."""
        file = self._files[index]
        return decode_image(self.source.read(file), f"{self.source.path}/{file}")


def strip_wrappers(files: list[str]) -> list[str]:
    """Paths without the leading folders that all share, down to <class>/<file> at most."""
    parts = [file.split("/") for file in files]
    while min(map(len, parts)) > 2 and len({part[0] for part in parts}) == 1:
        parts = [part[1:] for part in parts]
    return ["/".join(part) for part in parts]


def class_folders(names: Sequence[str], path: str) -> list[str] | None:
    """Folder of each image, or None where all lie in one folder. `InputError` where depths mix or exceed one."""
    parts = [name.split("/") for name in names]
    depths = {len(part) for part in parts}
    if depths == {1}:
        return None
    if depths == {2}:
        return [part[0] for part in parts]
    odd = max(names, key=lambda name: name.count("/"))
    raise InputError(f"{path} must hold one sub-folder a class, or images only; {odd} lies at another depth")


def _class_names(folders: list[str] | None, layout: Layout, path: str) -> list[str] | None:
    if layout.classes is None:
        return None if folders is None else sorted(set(folders))
    if folders is None:
        raise InputError(f"{path} has no class folders, so it is not {layout.kind}; try folder:{path}")
    foreign = sorted(set(folders) - set(layout.classes))
    if foreign:
        raise InputError(f"{path} has the folder {foreign[0]!r}, which is no class of {layout.kind}; try folder:{path}")
    return list(layout.classes)
