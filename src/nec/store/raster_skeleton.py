"""The arrays of a product, and its metadata as dates are added."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from nec.files import json_bytes, write_bytes
from nec.store.georeference import centres, grid_mapping
from nec.store.layout import CHUNK_KEYS, group_document
from nec.store.raster_shard import AXES, LEVEL, compressed
from nec.store.raster_spec import ProductSpec
from nec.store.raster_tiling import EMBEDDINGS, SPATIAL_REF, TIME, VALID, X, Y

TIME_CHUNK = 1024  # dates in a file
UNITS = {"units": "seconds since 1970-01-01T00:00:00", "calendar": "proleptic_gregorian"}
_MAPPED = {"grid_mapping": SPATIAL_REF, "coordinates": SPATIAL_REF}  # the second makes it a coordinate in xarray


def write_skeleton(folder: Path, spec: ProductSpec) -> None:
    """Write a product without dates."""
    attributes, conventions = spec.attributes(), spec.conventions()  # raise before anything is written
    group = zarr.create_group(zarr.storage.LocalStore(folder))
    _create_rasters(group, spec)
    _create_coordinates(group, spec)
    arrays: dict[str, dict[str, Any]] = {}
    for name in sorted(name for name, _ in group.members()):
        arrays[name] = json.loads((folder / name / "zarr.json").read_bytes())
    for key, data in metadata_files(attributes, arrays, conventions):
        write_bytes(folder / key, data)


def metadata_files(
    nec: dict[str, Any], arrays: dict[str, dict[str, Any]], attributes: dict[str, Any]
) -> Iterator[tuple[str, bytes]]:
    """(key, bytes) of all metadata documents; the group's, which readers of products go by, comes last."""
    for name, document in arrays.items():
        yield f"{name}/zarr.json", json_bytes(document)  # compact: the tables in it are long
    yield "zarr.json", json_bytes(group_document(nec, arrays, attributes))


def with_dates(arrays: dict[str, dict[str, Any]], count: int) -> dict[str, dict[str, Any]]:
    """The arrays' documents for `count` dates."""
    arrays = copy.deepcopy(arrays)
    for name in (EMBEDDINGS, VALID, TIME):
        arrays[name]["shape"][0] = count
    return arrays


def time_files(times: np.ndarray) -> Iterator[tuple[str, bytes]]:
    """(key, bytes) of the coordinate `time`, datetime64[s]. Values beyond the array's shape are not read."""
    seconds = times.astype("datetime64[s]").astype(np.int64)
    for start in range(0, len(seconds), TIME_CHUNK):
        chunk = np.zeros(TIME_CHUNK, np.int64)
        part = seconds[start : start + TIME_CHUNK]
        chunk[: len(part)] = part
        yield f"{TIME}/c.{start // TIME_CHUNK}", compressed(chunk)


def _create_rasters(group: zarr.Group, spec: ProductSpec) -> None:
    from nec.codec.zarr_codec import NecEmbeddingCodec

    tiling, d = spec.tiling, spec.dimensions
    group.create_array(
        EMBEDDINGS,
        shape=(0, d, *tiling.grid),
        dtype="float32",
        chunks=(1, d, *tiling.chunk),
        shards=(1, d, *tiling.shard),
        serializer=NecEmbeddingCodec(spec.codec, spec.quality, AXES),
        compressors=None,
        fill_value=float("nan"),
        dimension_names=(TIME, "embedding", Y, X),
        chunk_key_encoding=CHUNK_KEYS,  # type: ignore[arg-type]
        attributes={"long_name": "embedding of the token; what it is where `valid` is false is undefined", **_MAPPED},
    )
    group.create_array(
        VALID,
        shape=(0, *tiling.grid),
        dtype="bool",
        chunks=(1, *tiling.shard),
        compressors=[ZstdCodec(level=LEVEL), Crc32cCodec()],
        fill_value=False,
        dimension_names=(TIME, Y, X),
        chunk_key_encoding=CHUNK_KEYS,  # type: ignore[arg-type]
        attributes={"long_name": "whether the token saw data", **_MAPPED},
    )


def _create_coordinates(group: zarr.Group, spec: ProductSpec) -> None:
    _coordinate(group, TIME, np.zeros(0, np.int64), {"standard_name": "time", "axis": "T", **UNITS}, TIME_CHUNK)
    _coordinate(group, "embedding", np.arange(spec.dimensions, dtype=np.int32), {"long_name": "embedding dimension"})
    mapping = group.create_array(
        SPATIAL_REF, shape=(), dtype="int64", attributes=grid_mapping(spec.crs_names[1], spec.affine)
    )
    mapping[...] = 0
    places = centres(spec.affine, spec.tiling.grid)
    if places is None:
        return
    for name, values, axis in zip((X, Y), places, ("X", "Y"), strict=True):
        words = {"standard_name": f"projection_{name}_coordinate", "long_name": "centre of the token", "axis": axis}
        _coordinate(group, name, values, words)


def _coordinate(
    group: zarr.Group, name: str, values: np.ndarray, attributes: dict[str, str], chunk: int | None = None
) -> None:
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=(chunk or len(values),),
        compressors=[ZstdCodec(level=LEVEL), Crc32cCodec()],
        fill_value=0,
        dimension_names=(name,),
        chunk_key_encoding=CHUNK_KEYS,  # type: ignore[arg-type]
        attributes=dict(attributes),
        config={"write_empty_chunks": True},
    )
    array[...] = values
