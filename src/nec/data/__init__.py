"""Datasets: images with names, labels, classes and recorded splits, from folders, zips and GeoTIFFs.

`open_dataset("eurosat:EuroSAT_RGB.zip")` opens one; `ArrayDataset` wraps images in memory.
`open_scene("scene.tif")` opens a raster to be read window by window. Pillow comes with the extra `[torch]` or
`[bench]`, rasterio with `[geo]`.
"""

from nec.data.base import ArrayDataset, Dataset
from nec.data.files import ImageFiles
from nec.data.masks import IGNORE
from nec.data.open import open_dataset
from nec.data.scene import Band, Scene
from nec.data.scenes import open_scene
from nec.data.splits import group_folds

__all__ = [
    "IGNORE",
    "ArrayDataset",
    "Band",
    "Dataset",
    "ImageFiles",
    "Scene",
    "group_folds",
    "open_dataset",
    "open_scene",
]
