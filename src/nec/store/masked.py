"""A raster's embeddings as xarray reads them lazily, NaN where they are not valid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing

if TYPE_CHECKING:
    import xarray

    from nec.store.rasters import RasterStore


class MaskedEmbeddings(BackendArray):
    """float32 (time, embedding, y, x), read by `RasterStore.read` when it is used: what is lost raises, too."""

    def __init__(self, store: RasterStore) -> None:
        self.store = store
        self.shape = (len(store.times), store.dimensions, *store.grid)
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[int | slice, ...]) -> np.ndarray:
        """The values at integers, whose axes vanish, and slices, which may have steps of either sign."""
        times, channels, rows, columns = (
            range(size)[axis] if isinstance(axis, slice) else range(axis, axis + 1)
            for axis, size in zip(key, self.shape, strict=True)
        )
        out = np.empty((len(times), len(channels), len(rows), len(columns)), np.float32)
        if out.size:
            for i, time in enumerate(times):
                tokens = self.store.read(time, _hull(rows), _hull(columns))
                tokens = tokens[_within(rows)][:, _within(columns)]
                out[i] = tokens[..., np.array(channels)].transpose(2, 0, 1)
        return out[tuple(slice(None) if isinstance(axis, slice) else 0 for axis in key)]


def mask_embeddings(dataset: xarray.Dataset, store: RasterStore) -> xarray.Dataset:
    """`dataset`, which xarray opened of `store`, with masked embeddings."""
    import xarray

    plain = dataset["embeddings"]
    attributes = {**plain.attrs, "long_name": "embedding of the token, NaN where `valid` is false"}
    values = indexing.LazilyIndexedArray(MaskedEmbeddings(store))
    return dataset.assign(embeddings=xarray.Variable(plain.dims, values, attributes))


def _hull(places: range) -> slice:
    return slice(min(places), max(places) + 1)


def _within(places: range) -> np.ndarray:
    return np.array(places) - min(places)
