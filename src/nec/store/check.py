"""Check a whole store, and say what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from nec.errors import CorruptError
from nec.files import Location, is_url, open_location, read_key
from nec.progress import Progress
from nec.store import assets
from nec.store.document import kind_of, metadata_faults, read_document
from nec.store.layout import MASKS, chunks_in_shard, side_arrays
from nec.store.raster_check import info as product_info
from nec.store.raster_check import verify as verify_product
from nec.store.raster_reader import Product
from nec.store.reader import Store


def open_any(location: Location, allow_incomplete: bool = False) -> Store | Product:
    """Open a store or a product, whichever it is; raises as `open_store`."""
    if isinstance(location, str | Path) and not is_url(location):
        location = assets.resolve(location)
    kind = kind_of(read_document(open_location(location), str(location), None))
    return (Product if kind == "product" else Store)(location, allow_incomplete=allow_incomplete)


def verify(location: Location, *, progress: Progress | None = None) -> dict[str, Any]:
    """Read and decode every chunk of a store, or of a product, and check every checksum.

    Returns:
        {"ok": bool, "chunks": how many there must be, "found": how many decode, "corrupt": [{"where": path in the
        store, "reason": text, "images": [first, last] where known}, ...]}.

    Raises:
        InputError: there is no store.
        IncompleteError: its writing has not finished.
    """
    try:
        store = open_any(location)
    except CorruptError as error:
        return {"ok": False, "chunks": 0, "found": 0, "corrupt": [{"where": "zarr.json", "reason": str(error)}]}
    if isinstance(store, Product):
        return verify_product(store, progress=progress)
    corrupt = [*metadata_faults(store.zarr_store, store.metadata), *_side_faults(store)]
    found = 0
    if progress is not None:
        progress.total = len(store)
    for shard in range(store.tiling.shards):
        faults = _chunk_faults(store, shard)
        found += len(store.tiling.shard_chunks(shard)) - len(faults)
        corrupt += faults or _file_faults(store, shard)
        if progress is not None:
            start, stop = store.tiling.shard_images(shard)
            progress.update(stop - start)
    return {"ok": not corrupt, "chunks": store.tiling.chunks, "found": found, "corrupt": corrupt}


def _side_faults(store: Store) -> list[dict[str, Any]]:
    faults = []
    for name in side_arrays(store.metadata):
        try:
            getattr(store, name)
        except CorruptError as error:
            faults.append({"where": name, "reason": str(error)})
    return faults + _mask_faults(store)


def _mask_faults(store: Store) -> list[dict[str, Any]]:
    masks = store.masks
    if masks is None:
        return []
    faults = []
    for chunk in range(masks.tiling.chunks):
        reason = masks.fault(chunk)
        if reason is not None:
            first, stop = masks.tiling.chunk_images(chunk)
            faults.append({"where": f"{MASKS}/c.{chunk}.0.0", "images": [first, stop - 1], "reason": reason})
    return faults


def _chunk_faults(store: Store, shard: int) -> list[dict[str, Any]]:
    """Decode a shard at once, and chunk by chunk only if that fails."""
    try:
        store.embeddings.read(*store.tiling.shard_images(shard))
        return []
    except CorruptError:
        pass
    faults = []
    for chunk in store.tiling.shard_chunks(shard):
        reason = store.embeddings.fault(chunk)
        if reason is not None:
            first, stop = store.tiling.chunk_images(chunk)
            faults.append({"where": store.tiling.shard_key(shard), "images": [first, stop - 1], "reason": reason})
    return faults


def _file_faults(store: Store, shard: int) -> list[dict[str, Any]]:
    """A shard that decodes must also be the one that was written: not another store's, nothing added."""
    key = store.tiling.shard_key(shard)
    data = read_key(store.zarr_store, key) or b""
    recorded = store.attrs["shards"]
    if (len(data), google_crc32c.value(data)) != (recorded["bytes"][shard], recorded["crc32c"][shard]):
        return [{"where": key, "reason": "decodes, but is not the shard that was written (size or CRC-32C differs)"}]
    if chunks_in_shard(data, store.tiling.chunks_per_shard) != len(store.tiling.shard_chunks(shard)):
        return [{"where": key, "reason": "holds another number of chunks than the store needs"}]
    return []


def info(location: Location) -> dict[str, Any]:
    """What a store is, as JSON: sizes in bytes; `side_information` and the embeddings' `stored_bytes` are all there is.

    An incomplete store has `complete` false and counts what is written so far. `kind` says "store" or "product".
    """
    store = open_any(location, allow_incomplete=True)
    if isinstance(store, Product):
        return product_info(store)
    values = len(store) * store.grid[0] * store.grid[1] * store.dimensions
    stored = store.stored_bytes
    return {
        "kind": "store",
        "path": store.path,
        "complete": store.complete,
        "format_version": store.attrs["format_version"],
        "images": len(store),
        "grid": list(store.grid),
        "dimensions": store.dimensions,
        "stored_bytes": stored,
        "bytes_per_image": stored / len(store),
        "bits_per_value": 8 * stored / values,
        "side_information": store.side_information(),
        "quality": store.quality,
        "model": store.attrs["model"],
        "codec": store.attrs["codec"],
        "classes": store.class_names,
        "split": _counts(store),
        "masks": _describe_masks(store),
        "groups": None if store.groups is None else len(np.unique(store.groups)),
        "chunks": store.tiling.chunks,
        "shards": store.tiling.shards,
        "provenance": store.attrs["provenance"],
    }


def _describe_masks(store: Store) -> dict[str, Any] | None:
    if store.masks is None:
        return None
    return {"size": list(store.masks.shape[1:]), "classes": store.mask_classes}


def _counts(store: Store) -> dict[str, int] | None:
    if store.split is None:
        return None
    parts, counts = np.unique(store.split, return_counts=True)
    return {part or "unassigned": count for part, count in zip(parts.tolist(), counts.tolist(), strict=True)}
