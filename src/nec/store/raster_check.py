"""Check a whole product, and say what it is."""

from __future__ import annotations

import json
from typing import Any

import google_crc32c
import numpy as np

from nec.errors import CorruptError
from nec.files import DAMAGE, read_key, size_of_key
from nec.progress import Progress
from nec.store.document import metadata_faults
from nec.store.layout import chunks_in_shard
from nec.store.raster_reader import Product
from nec.store.raster_tiling import EMBEDDINGS, VALID, X, Y, embeddings_key, list_key, valid_key

Fault = dict[str, Any]


def verify(product: Product, *, progress: Progress | None = None) -> dict[str, Any]:
    """Read and decode every chunk of a product and check every checksum.

    Returns:
        {"ok": bool, "chunks": how many there must be (those with a valid token), "found": how many decode, "corrupt":
        [{"where": path in the product, "reason": text}, ...]}.
    """
    corrupt = metadata_faults(product.zarr_store, product.metadata) + _coordinate_faults(product)
    chunks = found = 0
    if progress is not None:
        progress.total, progress.unit = len(product.times) * len(product.tiling.all_shards()), "shards"
    for time in range(len(product.times)):
        try:
            listed = product.shard_list(time)
        except CorruptError as error:
            corrupt.append({"where": list_key(time), "reason": str(error)})
            listed = {}
        for place in product.tiling.all_shards():
            needed, whole, faults = _check_shard(product, time, place, listed.get(place))
            chunks, found, corrupt = chunks + needed, found + whole, corrupt + faults
            if progress is not None:
                progress.update()
    return {"ok": not corrupt, "chunks": chunks, "found": found, "corrupt": corrupt}


def _coordinate_faults(product: Product) -> list[Fault]:
    """The coordinates must be what the sealed metadata say."""
    from nec.store.georeference import centres

    places = centres(product.transform, product.grid) or (None, None)
    seconds = product.times.astype(np.int64)
    faults = []
    for name, expected in (("time", seconds), (X, places[0]), (Y, places[1])):
        if expected is None:
            continue
        try:
            intact = np.array_equal(np.asarray(product.group[name][...]), expected)  # type: ignore[index]
        except DAMAGE:
            intact = False
        if not intact:
            faults.append({"where": name, "reason": "damaged or missing: not the values that the metadata give"})
    return faults


def _check_shard(
    product: Product, time: int, place: tuple[int, int], expected: tuple[int, ...] | None
) -> tuple[int, int, list[Fault]]:
    """(chunks with a valid token, those of them that decode, faults) of a shard."""
    top, left = (part.start for part in product.tiling.shard_window(*place))
    windows = [
        (slice(top + rows.start, top + rows.stop), slice(left + columns.start, left + columns.stop))
        for rows, columns in filter(None, product.tiling.chunk_windows(*place))
    ]
    try:
        needed = [window for window in windows if product.read_valid(time, *window).any()]
    except DAMAGE as error:
        return 0, 0, [{"where": valid_key(time, *place), "reason": str(error)}]
    where = embeddings_key(time, *place)
    if product.fault(time, *place) is None:
        return len(needed), len(needed), _file_faults(product, time, place, len(needed), expected)
    faults = []
    for rows, columns in needed:
        try:
            product.read(time, rows, columns)
        except DAMAGE as error:
            reason = str(error.__cause__ or error)
            faults.append({"where": where, "tokens": [rows.start, columns.start], "reason": reason})
    return len(needed), len(needed) - len(faults), faults


def _file_faults(
    product: Product, time: int, place: tuple[int, int], needed: int, expected: tuple[int, ...] | None
) -> list[Fault]:
    """A shard that decodes must also be the one that was written: not another date's, nothing added."""
    if expected is None:
        return []
    faults = []
    for key, recorded in (
        (embeddings_key(time, *place), expected[:2]), (valid_key(time, *place), expected[2:4])
    ):  # fmt: skip
        data = read_key(product.zarr_store, key) or b""
        if (len(data), google_crc32c.value(data)) != recorded:
            faults.append({"where": key, "reason": "decodes, but is not what was written (size or CRC-32C differs)"})
        elif key.startswith(EMBEDDINGS) and data and chunks_in_shard(data, _slots(product)) != needed:
            faults.append({"where": key, "reason": "holds another number of chunks than the product needs"})
    return faults


def _slots(product: Product) -> int:
    rows, columns = product.tiling.slots
    return rows * columns


def info(product: Product) -> dict[str, Any]:
    """What a product is, as JSON: sizes in bytes; `side_information` and `stored_bytes` (embeddings) are all there is.

    `bytes_per_token` and `bits_per_value` are of valid tokens; `bytes_per_km2` is None without a projected CRS.
    """
    stored, tokens = product.stored_bytes, product.valid_tokens
    size = product.token_size
    area = None if size is None else tokens * size[0] * size[1] / 1e6
    return {
        "kind": "product",
        "path": product.path,
        "complete": product.complete,
        "format_version": product.attrs["format_version"],
        "title": product.conventions.get("title"),
        "times": [entry["time"] for entry in product.attrs["times"]],
        "pending": product.pending,
        "grid": list(product.grid),
        "dimensions": product.dimensions,
        "valid_tokens": tokens,
        "stored_bytes": stored,
        "bytes_per_token": stored / tokens if tokens else None,
        "bits_per_value": 8 * stored / (tokens * product.dimensions) if tokens else None,
        "bytes_per_km2": stored / area if area else None,
        "side_information": side_information(product),
        "quality": product.quality,
        "model": product.attrs["model"],
        "codec": product.attrs["codec"],
        "crs": product.crs,
        "transform": list(product.transform),
        "token_metres": None if size is None else list(size),
        "patch_px": product.patch_px,
        "bands": product.attrs["bands"],
        "chunk": list(product.tiling.chunk),
        "shard": list(product.tiling.shard),
        "source": product.attrs["source"],
    }


def side_information(product: Product) -> dict[str, int]:
    """Bytes of everything in the product that is not the embeddings' shards, by part.

    "codec" is the codec's tables and basis as written in the metadata (twice: in the array's document and in the
    group's consolidated copy), "metadata" the rest of these documents; then validity, coordinates and lists of files.
    """
    documents = ["zarr.json", *(f"{name}/zarr.json" for name in product.metadata)]
    metadata = sum(size_of_key(product.zarr_store, key) for key in documents)
    coder = product.metadata[EMBEDDINGS]["codecs"][0]["configuration"]["codecs"][0]
    codec = 2 * len(json.dumps(coder, separators=(",", ":")))
    times = range(len(product.times))
    lists = sum(size_of_key(product.zarr_store, list_key(time)) for time in times)
    keys = [f"{name}/c.0" for name in ("time", "embedding", X, Y) if name in product.metadata] + ["spatial_ref/c"]
    coordinates = sum(size_of_key(product.zarr_store, key) for key in keys)
    validity = sum(numbers[2] for time in times for numbers in product.shard_list(time).values())
    return {
        "codec": codec, "metadata": metadata - codec, VALID: validity, "coordinates": coordinates, "lists": lists
    }  # fmt: skip
