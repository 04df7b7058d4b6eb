"""Embedding products on disk and object storage: one Zarr v3 group, compressed, self-describing, checked."""

from nec.store.check import info, verify
from nec.store.counting import CountingStore
from nec.store.embeddings import Embeddings
from nec.store.layout import IGNORE
from nec.store.masks import Masks
from nec.store.raster_reader import Product, open_product
from nec.store.raster_shard import ShardEncoder
from nec.store.raster_spec import ProductSpec
from nec.store.raster_writer import ProductWriter, create_product
from nec.store.reader import Store, open_store
from nec.store.spec import StoreSpec
from nec.store.writer import StoreWriter

__all__ = [
    "IGNORE",
    "CountingStore",
    "Embeddings",
    "Masks",
    "Product",
    "ProductSpec",
    "ProductWriter",
    "ShardEncoder",
    "Store",
    "StoreSpec",
    "StoreWriter",
    "create_product",
    "info",
    "open_product",
    "open_store",
    "verify",
]
