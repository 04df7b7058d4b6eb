"""Images in folders, one a class: any such folder, EuroSAT, UC Merced, MillionAID, AID, NWPU-RESISC45."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.datasets.base import PARTS, Dataset, describe_listing, list_fields, list_lines, listed_split, seeded_split
from nec.datasets.images import AS_THEY_ARE, PixelOptions, georeference, is_plain
from nec.datasets.sources import Source, open_source
from nec.errors import InputError
from nec.scenes.rasters import printable


@dataclass(frozen=True)
class FolderLayout:
    """What a published dataset fixes.

    Attributes:
        classes: names of the class folders; None: any sub-folders, or none.
        percent: shares of train, val and test where no lists are there; None: no split.
        image_size: published side of the images in pixels.
        lists: published split lists, part -> file name; used where all of them lie in the dataset or beside it.
        tree: class folders may lie in folders that group them, and other images have no class.
        sensors: number of bands of the files -> the sensor whose they are.
    """

    kind: str
    classes: tuple[str, ...] | None = None
    percent: tuple[int, int, int] | None = None
    image_size: int | None = None
    about: str = ""
    lists: tuple[tuple[str, str], ...] = ()
    tree: bool = False
    sensors: tuple[tuple[int, str], ...] = ()


FOLDER = FolderLayout("folder", about="images, one sub-folder a class, or all in one folder without labels")

# Helber et al. 2019, EuroSAT_RGB.zip: EuroSAT_RGB/<Class>/<Class>_<n>.jpg, 27,000 images of 64 px
EUROSAT = FolderLayout(
    "eurosat",
    classes=(
        "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial",
        "Pasture", "PermanentCrop", "Residential", "River", "SeaLake",
    ),
    percent=(70, 10, 20),
    about="EuroSAT, folder or EuroSAT_RGB.zip; or its 13 bands as .tif",
    sensors=((13, "eurosat-ms"),),
)  # fmt: skip

# Yang & Newsam 2010, UCMerced_LandUse.zip: UCMerced_LandUse/Images/<class>/<class>NN.tif, 100 images a class of 256 px
# of which a few lack 1 to 3 rows or columns
UCMERCED = FolderLayout(
    "ucmerced",
    classes=(
        "agricultural", "airplane", "baseballdiamond", "beach", "buildings", "chaparral", "denseresidential",
        "forest", "freeway", "golfcourse", "harbor", "intersection", "mediumresidential", "mobilehomepark",
        "overpass", "parkinglot", "river", "runway", "sparseresidential", "storagetanks", "tenniscourt",
    ),
    percent=(60, 20, 20),
    image_size=256,
    about="UC Merced land use, folder or UCMerced_LandUse.zip",
    lists=tuple((part, f"uc_merced-{part}.txt") for part in PARTS),  # Neumann et al. 2020, which TorchGeo uses
)  # fmt: skip

# Cheng et al. 2017, NWPU-RESISC45.zip: NWPU-RESISC45/<class>/<class>_<nnn>.jpg, 700 images a class of 256 px
RESISC45 = FolderLayout(
    "resisc45",
    classes=(
        "airplane", "airport", "baseball_diamond", "basketball_court", "beach", "bridge", "chaparral", "church",
        "circular_farmland", "cloud", "commercial_area", "dense_residential", "desert", "forest", "freeway",
        "golf_course", "ground_track_field", "harbor", "industrial_area", "intersection", "island", "lake", "meadow",
        "medium_residential", "mobile_home_park", "mountain", "overpass", "palace", "parking_lot", "railway",
        "railway_station", "rectangular_farmland", "river", "roundabout", "runway", "sea_ice", "ship", "snowberg",
        "sparse_residential", "stadium", "storage_tank", "tennis_court", "terrace", "thermal_power_station", "wetland",
    ),
    percent=(60, 20, 20),
    image_size=256,
    about="NWPU-RESISC45, folder or NWPU-RESISC45.zip",
    lists=tuple((part, f"resisc45-{part}.txt") for part in PARTS),  # Neumann et al. 2020, which TorchGeo uses
)  # fmt: skip

# Xia et al. 2017, AID.zip: AID/<Class>/<class>_<n>.jpg, 220 to 420 images a class of 600 px, published to be split at
# random into halves
AID = FolderLayout(
    "aid",
    classes=(
        "Airport", "BareLand", "BaseballField", "Beach", "Bridge", "Center", "Church", "Commercial",
        "DenseResidential", "Desert", "Farmland", "Forest", "Industrial", "Meadow", "MediumResidential", "Mountain",
        "Park", "Parking", "Playground", "Pond", "Port", "RailwayStation", "Resort", "River", "School",
        "SparseResidential", "Square", "Stadium", "StorageTanks", "Viaduct",
    ),
    percent=(50, 0, 50),
    image_size=600,
    about="AID, folder or AID.zip",
)  # fmt: skip

# Long et al. 2021: train/<area>/[<group>/]<class>/P<n>.jpg (10,000 images), and test/P<n>.jpg (990,848 without class)
MILLIONAID = FolderLayout(
    "millionaid",
    classes=(
        "apartment", "apron", "bare_land", "baseball_field", "basketball_court", "beach", "bridge", "cemetery",
        "church", "commercial_area", "dam", "desert", "detached_house", "dry_field", "forest", "golf_course",
        "greenhouse", "ground_track_field", "helipad", "ice_land", "intersection", "island", "lake", "meadow", "mine",
        "mobile_home_park", "oil_field", "orchard", "paddy_field", "parking_lot", "pier", "quarry", "railway",
        "river", "road", "rock_land", "roundabout", "runway", "solar_power_plant", "sparse_shrub_land", "stadium",
        "storage_tank", "substation", "swimming_pool", "tennis_court", "terraced_field", "train_station", "viaduct",
        "wastewater_plant", "wind_turbine", "works",
    ),
    about="Million-AID, the folder around train and test, either of them, or a zip",
    lists=(("train", "train_labels.txt"), ("val", "valid_labels.txt")),  # of Remote-Sensing-RVSA, beside all_img
    tree=True,
)  # fmt: skip


class ImageFolder(Dataset):
    """Image files of a folder or zip, laid out as `layout` says; a folder around the class folders does no harm."""

    def __init__(
        self,
        path: str | Path,
        layout: FolderLayout = FOLDER,
        *,
        seed: int = 0,
        split_lists: Mapping[str, str | Path] | None = None,
        pixels: PixelOptions = AS_THEY_ARE,
    ) -> None:
        self.kind = layout.kind
        self.image_size = layout.image_size
        self.source: Source = open_source(Path(path))
        self._files = list(self.source.sizes)
        self.names = strip_wrappers(self._files)
        self.file_sizes = list(self.source.sizes.values())
        listing = describe_listing(self.names, self.file_sizes)
        self.description = {"kind": self.kind, "file": Path(path).resolve().name, **listing}
        lists = split_lists or _published_lists(Path(path), layout)
        self._pixels = self._of_sensor(pixels, layout)
        if pixels != AS_THEY_ARE:
            self.description["pixels"] = {key: value for key, value in asdict(pixels).items() if value is not None}
        self._set_labels(layout, str(path), lists)
        self._set_split(layout, seed, lists)

    def _of_sensor(self, pixels: PixelOptions, layout: FolderLayout) -> PixelOptions:
        """With the sensor that the layout knows for files of so many bands, unless one was given."""
        if pixels.sensor or not layout.sensors or not self._files[0].lower().endswith((".tif", ".tiff")):
            return pixels
        with AS_THEY_ARE.scene(self.source.read(self._files[0]), self._where(0)) as scene:
            return replace(pixels, sensor=dict(layout.sensors).get(len(scene.bands)))

    @property
    def bands(self) -> list[str] | None:
        """Names of the pixels' bands, of multi-band chips; common names where the sensor is known."""
        return self._first[0]

    @property
    def physical(self) -> bool:
        return self._first[1]

    @cached_property
    def _first(self) -> tuple[list[str] | None, bool]:
        """Bands of the first file, and whether its values are physical."""
        data = self.source.read(self._files[0])
        if self._pixels == AS_THEY_ARE and is_plain(data):
            return None, False
        with self._pixels.scene(data, self._where(0)) as scene:
            return [band.common or band.name for band in scene.bands], scene.physical

    def _where(self, index: int) -> str:
        return f"{self.source.path}/{self._files[index]}"

    def _set_labels(self, layout: FolderLayout, path: str, lists: Mapping[str, str | Path]) -> None:
        self._parts = None if layout.tree or lists else part_folders(self.names)
        names = self.names if self._parts is None else [name.partition("/")[2] for name in self.names]
        folders = tree_folders(names, layout, path) if layout.tree else class_folders(names, path)
        if layout.tree and folders is not None:
            listed = _listed_classes(self.names, lists)
            folders = [folder or listed.get(i, "") for i, folder in enumerate(folders)]
            if not any(folders):
                return
        self.class_names = _class_names(folders, layout, path)
        if folders is not None and self.class_names is not None:
            number = {"": -1} | {name: i for i, name in enumerate(self.class_names)}
            self.labels = np.array([number[folder] for folder in folders], dtype=np.int64)

    def _set_split(self, layout: FolderLayout, seed: int, lists: Mapping[str, str | Path]) -> None:
        if lists:
            self.split = listed_split(self.names, lists)
            files = {part: Path(path).name for part, path in lists.items()}
            self.description["split"] = {"method": "lists", "files": files}
        elif self._parts is not None:
            self.split = np.array(self._parts)
            self.description["split"] = {"method": "folders"}
        elif layout.percent is not None and self.labels is not None:
            self.split = seeded_split(self.names, self.labels, layout.percent, seed)
            self.description["split"] = {"method": "seeded", "percent": list(layout.percent), "seed": seed}

    def read(self, index: int) -> NDArray[Any]:
        """Image `index` as (height, width, bands); see `nec.datasets.images.PixelOptions` for bands and errors."""
        return self._pixels.read(self.source.read(self._files[index]), self._where(index))

    def georeference(self, index: int) -> dict[str, Any] | None:
        return georeference(self.source.read(self._files[index]), self._where(index))


#: Folders above the classes, as PyTorch's ImageFolder has them, and the part of the split that each stands for.
_PART_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def part_folders(names: Sequence[str]) -> list[str] | None:
    """Part of the split of each image, where all lie in folders train, val and test, at least two; else None."""
    above = [name.partition("/")[0].lower() if "/" in name else "" for name in names]
    if len(set(above)) < 2 or not set(above) <= set(_PART_FOLDERS):
        return None
    return [_PART_FOLDERS[folder] for folder in above]


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


def tree_folders(names: Sequence[str], layout: FolderLayout, path: str) -> list[str]:
    """Class folder of each image, "" of those in no folder, or in one that is no class at the dataset's top."""
    known = set(layout.classes or ())
    folders = []
    for name in names:
        parts = name.split("/")[:-1]
        folders.append(parts[-1] if parts and parts[-1] in known else "")
        if not folders[-1] and len(parts) > 1:
            raise InputError(
                f"{path} has the folder {'/'.join(parts)!r}, which is no class of {layout.kind}; try folder:{path}"
            )
    return folders


def _published_lists(path: Path, layout: FolderLayout) -> dict[str, Path]:
    """The layout's split lists where all of them lie in the dataset's folder or beside it, else none."""
    for folder in ([path] if path.is_dir() else []) + [path.parent]:
        found = {part: folder / name for part, name in layout.lists if (folder / name).is_file()}
        if layout.lists and len(found) == len(layout.lists):
            return found
    return {}


def _listed_classes(names: Sequence[str], lists: Mapping[str, str | Path]) -> dict[int, str]:
    """Position of an image -> its class, from the lines "file class ..." of split lists."""
    where = {name.rsplit("/", 1)[-1]: i for i, name in enumerate(names)}
    fields = (list_fields(line) for path in lists.values() for line in list_lines(Path(path)))
    return {where[line[0]]: line[1] for line in fields if len(line) > 1 and line[0] in where}


def _class_names(folders: list[str] | None, layout: FolderLayout, path: str) -> list[str] | None:
    if layout.classes is None:
        return None if folders is None else sorted(set(folders))
    if folders is None:
        raise InputError(f"{path} has no class folders, so it is not {layout.kind}; try folder:{path}")
    foreign = sorted(set(folders) - set(layout.classes) - {""})
    if foreign:
        raise InputError(f"{path} has the folder {foreign[0]!r}, which is no class of {layout.kind}; try folder:{path}")
    return list(layout.classes)


class ImageFiles(Dataset):
    """Image files (PNG, JPEG, TIFF, ...) of any size, by their file names. `InputError` for names that are alike."""

    kind = "files"

    def __init__(self, paths: Sequence[Path], pixels: PixelOptions = AS_THEY_ARE) -> None:
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
