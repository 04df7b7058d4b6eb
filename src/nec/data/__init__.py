"""Datasets: images with names, labels, classes and recorded splits, from folders, zips and GeoTIFFs.

`open_dataset("eurosat:EuroSAT_RGB.zip")` opens one; `ArrayDataset` wraps images in memory. Pillow comes with the extra
`[torch]` or `[bench]`, rasterio with `[geo]`.
"""

from nec.data.base import ArrayDataset, Dataset
from nec.data.files import ImageFiles
from nec.data.masks import IGNORE
from nec.data.open import open_dataset
from nec.data.splits import group_folds

__all__ = ["IGNORE", "ArrayDataset", "Dataset", "ImageFiles", "group_folds", "open_dataset"]
