"""Masks of a dataset on their way into a store."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nec.datasets import Dataset


class DatasetMasks:
    """Masks of the images `order` of a dataset, (n, h, w) uint8, read when sliced: all of them may not fit in memory.

    `size`: (height, width) that the images are cropped and resized to, and the masks with them, or None.

    Raises `InputError` where masks differ in size.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, dataset: Dataset, order: NDArray[np.int64], size: tuple[int, int] | None) -> None:
        self._dataset = dataset
        self._order = order
        self._size = size
        self.shape: tuple[int, ...] = (len(order), *self[:1].shape[1:])

    def __getitem__(self, part: slice) -> NDArray[np.uint8]:
        return self._dataset.masks(self._order[part], self._size)
