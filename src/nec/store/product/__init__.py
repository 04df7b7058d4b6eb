"""Products: rasters of embeddings over time, georeferenced, in one Zarr v3 group. See docs/products.md."""

from nec.store.product.check import info, verify
from nec.store.product.reader import Product, open_product
from nec.store.product.shard import EncodedShard, encode_shard
from nec.store.product.spec import ProductSpec
from nec.store.product.writer import ProductWriter, create_product

__all__ = [
    "EncodedShard",
    "Product",
    "ProductSpec",
    "ProductWriter",
    "create_product",
    "encode_shard",
    "info",
    "open_product",
    "verify",
]
