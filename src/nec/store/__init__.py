"""Embedding products on disk and object storage: one Zarr v3 group, compressed, self-describing, checked."""

from nec.store.check import info, verify
from nec.store.counting import CountingStore
from nec.store.embeddings import Embeddings
from nec.store.layout import IGNORE
from nec.store.masks import Masks
from nec.store.product import Product, ProductSpec, ProductWriter, create_product, open_product
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
    "Store",
    "StoreSpec",
    "StoreWriter",
    "create_product",
    "info",
    "open_product",
    "open_store",
    "verify",
]
