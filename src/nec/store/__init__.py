"""Embedding products on disk and object storage: one Zarr v3 group, compressed, self-describing, checked."""

from nec.store.check import info, verify
from nec.store.embeddings import Embeddings
from nec.store.reader import Store, open_store
from nec.store.spec import StoreSpec
from nec.store.writer import StoreWriter

__all__ = ["Embeddings", "Store", "StoreSpec", "StoreWriter", "info", "open_store", "verify"]
