"""Datasets: images with names, labels, classes and recorded splits, from folders, zips and files.

`open_dataset("eurosat:EuroSAT_RGB.zip")` opens one, `ArrayDataset` wraps images in memory, and `open_input` decides
whether something is a dataset or scenes.
Pillow comes with the extra `[torch]` or `[bench]`, rasterio with `[geo]`.
"""

from nec.datasets.base import ArrayDataset, Dataset, group_folds
from nec.datasets.folders import ImageFiles
from nec.datasets.masks import IGNORE
from nec.datasets.open import open_dataset, open_input, what_is

__all__ = [
    "IGNORE",
    "ArrayDataset",
    "Dataset",
    "ImageFiles",
    "group_folds",
    "open_dataset",
    "open_input",
    "what_is",
]
