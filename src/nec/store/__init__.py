"""Embeddings on disk and object storage: one Zarr v3 group, compressed, self-describing, checked."""

from nec.labels import IGNORE
from nec.store.check import VerifyReport, verify
from nec.store.facts import Info, info
from nec.store.images import Embeddings, ImageStore, Masks
from nec.store.location import CountingStore
from nec.store.opening import open, open_product, open_store
from nec.store.query import Sampled, Zones, change, sample, search, similar, zonal
from nec.store.rasters import RasterStore
from nec.store.shards import EncodedShard, ShardEncoder
from nec.store.spec import ImageSpec, RasterSpec
from nec.store.unpack import decode
from nec.store.writer import ImageWriter, RasterWriter

__all__ = [
    "IGNORE",
    "CountingStore",
    "Embeddings",
    "EncodedShard",
    "ImageSpec",
    "ImageStore",
    "ImageWriter",
    "Info",
    "Masks",
    "RasterSpec",
    "RasterStore",
    "RasterWriter",
    "Sampled",
    "ShardEncoder",
    "VerifyReport",
    "Zones",
    "change",
    "decode",
    "info",
    "open",
    "open_product",
    "open_store",
    "sample",
    "search",
    "similar",
    "verify",
    "zonal",
]
