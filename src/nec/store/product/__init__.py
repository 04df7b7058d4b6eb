"""Products: rasters of embeddings over time, georeferenced, in one Zarr v3 group. See docs/products.md."""

from nec.store.product.check import info, verify
from nec.store.product.reader import Product, open_product
from nec.store.product.shard import EncodedShard, ShardEncoder
from nec.store.product.spec import ProductSpec
from nec.store.product.writer import ProductWriter, create_product

__all__ = [
    "EncodedShard",
    "Product",
    "ProductSpec",
    "ProductWriter",
    "ShardEncoder",
    "create_product",
    "info",
    "open_product",
    "verify",
]
