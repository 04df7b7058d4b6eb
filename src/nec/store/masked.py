"""A product's embeddings as xarray reads them lazily, NaN where they are not valid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing

if TYPE_CHECKING:
    import xarray

    from nec.store.raster_reader import Product


class MaskedEmbeddings(BackendArray):
    """float32 (time, embedding, y, x), read by `Product.read` when it is used: what is lost raises, too."""

    def __init__(self, product: Product) -> None:
        self.product = product
        self.shape = (len(product.times), product.dimensions, *product.grid)
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[int | slice, ...]) -> np.ndarray:
        """The values at integers, whose axes vanish, and slices, which may have steps of either sign."""
        times, channels, rows, columns = (
            range(size)[part] if isinstance(part, slice) else range(part, part + 1)
            for part, size in zip(key, self.shape, strict=True)
        )
        out = np.empty((len(times), len(channels), len(rows), len(columns)), np.float32)
        if out.size:
            for i, time in enumerate(times):
                tokens = self.product.read(time, _hull(rows), _hull(columns))
                tokens = tokens[_within(rows)][:, _within(columns)]
                out[i] = tokens[..., np.array(channels)].transpose(2, 0, 1)
        return out[tuple(slice(None) if isinstance(part, slice) else 0 for part in key)]


def mask_embeddings(dataset: xarray.Dataset, product: Product) -> xarray.Dataset:
    """`dataset`, which xarray opened of `product`, with masked embeddings."""
    import xarray

    plain = dataset["embeddings"]
    attributes = {**plain.attrs, "long_name": "embedding of the token, NaN where `valid` is false"}
    values = indexing.LazilyIndexedArray(MaskedEmbeddings(product))
    return dataset.assign(embeddings=xarray.Variable(plain.dims, values, attributes, plain.encoding))


def _hull(places: range) -> slice:
    return slice(min(places), max(places) + 1)


def _within(places: range) -> np.ndarray:
    return np.array(places) - min(places)
