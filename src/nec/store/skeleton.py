"""A store without embeddings: its metadata, and of images their names, labels, splits, groups and masks."""

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
from nec.labels import IGNORE, SPLITS
from nec.store.document import (
    EMBEDDINGS,
    GROUPS,
    LABELS,
    MASKS,
    NAMES,
    SPATIAL_REF,
    SPLIT,
    TIME,
    VALID,
    X,
    Y,
    group_document,
    mask_tiling,
)
from nec.store.georeference import centres, grid_mapping
from nec.store.shards import LEVEL, compressed
from nec.store.spec import ImageSpec, RasterSpec, StoreSpec

CHUNK_KEYS = {"name": "default", "separator": "."}
IMAGE_AXES = ("image", "y", "x", "embedding")
MASK_AXES = ("image", "row", "column")  # pixels, not the tokens of the axes y and x
SIDE_CHUNK = 65536  # images a chunk of labels, names, split and groups
TIME_CHUNK = 1024  # dates in a file
UNITS = {"units": "seconds since 1970-01-01T00:00:00", "calendar": "proleptic_gregorian"}
_RASTER_FRAMES = ("n", "c", "y", "x")  # the axes (time, embedding, y, x), as `nec.embedding` calls them
_MAPPED = {"grid_mapping": SPATIAL_REF, "coordinates": SPATIAL_REF}  # the second makes it a coordinate in xarray


def write_skeleton(folder: Path, spec: StoreSpec) -> None:
    """Write everything but the shards, marked incomplete."""
    attributes, conventions = spec.attributes(), spec.conventions()  # raise before anything is written
    group = zarr.create_group(zarr.storage.LocalStore(folder))
    if isinstance(spec, RasterSpec):
        _create_rasters(group, spec)
        _create_coordinates(group, spec)
    elif isinstance(spec, ImageSpec):
        chunks, shards = ((*sizes, *spec.shape[1:]) for sizes in (spec.tiling.chunk, spec.tiling.shard))
        _array(group, EMBEDDINGS, IMAGE_AXES, shape=spec.shape, chunks=chunks, shards=shards, **_coded(spec))
        for name, values in spec.side_values().items():
            _create_side(group, name, values, spec)
        _create_masks(group, spec)
    arrays: dict[str, dict[str, Any]] = {}
    for name in sorted(name for name, _ in group.members()):
        arrays[name] = json.loads((folder / name / "zarr.json").read_bytes())
    for key, data in metadata_files(attributes, arrays, conventions):
        write_bytes(folder / key, data)


def metadata_files(
    nec: dict[str, Any], arrays: dict[str, dict[str, Any]], attributes: dict[str, Any]
) -> Iterator[tuple[str, bytes]]:
    """(key, bytes) of all metadata documents; the group's, which readers go by, comes last."""
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
        some = seconds[start : start + TIME_CHUNK]
        chunk[: len(some)] = some
        yield f"{TIME}/c.{start // TIME_CHUNK}", compressed(chunk)


def _array(
    group: zarr.Group, name: str, axes: tuple[str, ...], values: np.ndarray | None = None, **how: Any
) -> zarr.Array:
    """An array of one of our forms: its chunks are files with dots in their names."""
    if values is not None:
        how = {"shape": values.shape, "config": {"write_empty_chunks": True}, **how}
    if "serializer" not in how:
        how = {"compressors": [ZstdCodec(level=LEVEL), Crc32cCodec()], **how}
    array = group.create_array(name, dimension_names=axes, chunk_key_encoding=CHUNK_KEYS, **how)  # type: ignore[arg-type]
    if values is not None:
        array[...] = values
    return array


def _coded(spec: ImageSpec | RasterSpec, axes: tuple[str, ...] | None = None) -> dict[str, Any]:
    """How embeddings are stored."""
    from nec.codec.zarr_codec import NecEmbeddingCodec

    codec = NecEmbeddingCodec(spec.codec, spec.quality, *(() if axes is None else (axes,)))
    return {"dtype": "float32", "serializer": codec, "compressors": None, "fill_value": float("nan")}


def _create_rasters(group: zarr.Group, spec: RasterSpec) -> None:
    tiling, d = spec.tiling, spec.dimensions
    _array(
        group,
        EMBEDDINGS,
        (TIME, "embedding", Y, X),
        shape=(0, d, *tiling.grid),
        chunks=(1, d, *tiling.chunk),
        shards=(1, d, *tiling.shard),
        attributes={"long_name": "embedding of the token; what it is where `valid` is false is undefined", **_MAPPED},
        **_coded(spec, _RASTER_FRAMES),
    )
    _array(
        group,
        VALID,
        (TIME, Y, X),
        shape=(0, *tiling.grid),
        dtype="bool",
        chunks=(1, *tiling.shard),
        fill_value=False,
        attributes={"long_name": "whether the token saw data", **_MAPPED},
    )


def _create_coordinates(group: zarr.Group, spec: RasterSpec) -> None:
    _coordinate(group, TIME, np.zeros(0, np.int64), {"standard_name": "time", "axis": "T", **UNITS}, TIME_CHUNK)
    _coordinate(group, "embedding", np.arange(spec.dimensions, dtype=np.int32), {"long_name": "embedding dimension"})
    mapping = group.create_array(
        SPATIAL_REF, shape=(), dtype="int64", attributes=grid_mapping(spec.crs_names[1], spec.affine)
    )
    mapping[...] = 0
    places = centres(spec.affine, (int(spec.grid[0]), int(spec.grid[1])))
    if places is None:
        return
    for name, values, axis in zip((X, Y), places, ("X", "Y"), strict=True):
        words = {"standard_name": f"projection_{name}_coordinate", "long_name": "centre of the token", "axis": axis}
        _coordinate(group, name, values, words)


def _coordinate(
    group: zarr.Group, name: str, values: np.ndarray, attributes: dict[str, str], chunk: int | None = None
) -> None:
    chunks, words = (chunk or len(values),), dict(attributes)
    _array(group, name, (name,), values, dtype=values.dtype, chunks=chunks, fill_value=0, attributes=words)


def _create_side(group: zarr.Group, name: str, values: Any, spec: ImageSpec) -> None:
    text = {"dtype": zarr.dtype.VariableLengthUTF8(), "fill_value": ""}
    how: dict[str, Any] = {
        NAMES: {**text, "attributes": {"long_name": "name of the image"}},
        LABELS: {"dtype": "int64", "fill_value": -1,
                 "attributes": _flags(spec.class_names, "class of the image, -1: none")},
        SPLIT: {"dtype": "int8", "fill_value": 0,
                "attributes": _flags(["unassigned", *SPLITS[1:]], "part of the dataset that the image belongs to")},
        GROUPS: {**text, "attributes": {"long_name": "tile or scene that the image was cut from"}},
    }[name]  # fmt: skip
    stored = np.array(values, dtype=object) if name in (NAMES, GROUPS) else values
    chunks, compressors = (min(len(values), SIDE_CHUNK),), [ZstdCodec(level=19), Crc32cCodec()]
    _array(group, name, IMAGE_AXES[:1], stored, chunks=chunks, compressors=compressors, **how)


def _create_masks(group: zarr.Group, spec: ImageSpec) -> None:
    if spec.masks is None:
        return
    array = _array(
        group,
        MASKS,
        MASK_AXES,
        shape=spec.masks.shape,
        dtype="uint8",
        chunks=(*mask_tiling(spec.masks.shape).chunk, *spec.masks.shape[1:]),
        fill_value=IGNORE,
        attributes=_flags(spec.mask_classes, f"class of the pixel, {IGNORE}: none"),
        config={"write_empty_chunks": True},
    )
    for start, block in spec.mask_blocks():
        array[start : start + len(block)] = block


def _flags(meanings: Any, long_name: str) -> dict[str, Any]:
    """CF attributes that name the values 0, 1, ... (blanks, which CF uses as separators, become underscores)."""
    if meanings is None:
        return {"long_name": long_name}
    words = " ".join("_".join(str(meaning).split()) for meaning in meanings)
    return {"long_name": long_name, "flag_values": list(range(len(meanings))), "flag_meanings": words}
