"""A store's embeddings as plain float32: .npy, .npz or plain Zarr, a chunk or a band of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZIP_STORED, ZipFile

import numpy as np
import zarr

from nec.errors import InputError
from nec.files import atomic_path
from nec.progress import Progress
from nec.store.images import ImageArray, ImageStore
from nec.store.location import Location
from nec.store.opening import open as open_any
from nec.store.rasters import RasterStore


def decode(location: Location, out: str | Path, *, overwrite: bool = False, progress: bool = False) -> Path:
    """Write a store's embeddings as plain float32.

    Args:
        location: what `nec.open` takes.
        out: .npy: embeddings (n, y, x, d) float32; .npz and .zarr: these, names, labels, split, groups and masks; of a
            raster (time, y, x, d), NaN where not valid, and in .zarr (time, d, y, x) with coordinates.
        overwrite: replace `out` if it exists.
        progress: show on stderr how far it is.

    Returns:
        `out`, which appears whole or not at all.

    Raises:
        InputError: there is no store, `out` has another suffix, or it exists.
        CorruptError: the store is damaged.
    """
    out = Path(out)
    if out.suffix not in _WRITERS:
        raise InputError(f"--out {out}: the name must end in {', '.join(_WRITERS)}")
    store = open_any(location)
    of_raster = isinstance(store, RasterStore)
    total, unit = (len(store) * store.grid[0], "rows") if of_raster else (len(store), "images")
    with (
        Progress(total, "decoding", unit, quiet=not progress) as bar,
        atomic_path(out, overwrite=overwrite) as temporary,
    ):
        _WRITERS[out.suffix][of_raster](store, temporary, bar)
    return out


def _images_npy(store: ImageStore, path: Path, progress: Progress) -> None:
    with path.open("wb") as file:
        _stream_images(store.embeddings, file, progress)


def _images_npz(store: ImageStore, path: Path, progress: Progress) -> None:
    with ZipFile(path, "w", ZIP_STORED) as archive:
        with archive.open("embeddings.npy", "w", force_zip64=True) as file:
            _stream_images(store.embeddings, file, progress)
        if store.masks is not None:
            with archive.open("masks.npy", "w", force_zip64=True) as file:
                _stream_images(store.masks, file)
        for name, values in _side(store).items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, values, allow_pickle=False)


def _images_zarr(store: ImageStore, path: Path, progress: Progress) -> None:
    group = zarr.create_group(zarr.storage.LocalStore(path))
    _copy(store.embeddings, group, "embeddings", ("image", "y", "x", "embedding"), progress)
    if store.masks is not None:
        _copy(store.masks, group, "masks", ("image", "row", "column"))
    for name, values in _side(store).items():
        dtype: Any = zarr.dtype.VariableLengthUTF8() if values.dtype.kind == "U" else values.dtype
        array = group.create_array(name, shape=values.shape, dtype=dtype, dimension_names=("image",))
        array[:] = values.astype(object) if values.dtype.kind == "U" else values


def _side(store: ImageStore) -> dict[str, np.ndarray]:
    names = np.array(store.names, dtype=np.str_)
    values = {"names": names, "labels": store.labels, "split": store.split, "groups": store.groups}
    return {name: value for name, value in values.items() if value is not None}


def _stream_images(values: ImageArray, file: BinaryIO | Any, progress: Progress | None = None) -> None:
    """Write an array as one .npy, a chunk at a time."""
    stored = values.dtype.newbyteorder("<")
    header = {"descr": np.lib.format.dtype_to_descr(stored), "fortran_order": False, "shape": values.shape}
    np.lib.format.write_array_header_1_0(file, header)
    for _, block in values.batches(values.tiling.chunk[0]):
        file.write(np.ascontiguousarray(block, stored).data)
        if progress is not None:
            progress.update(len(block))


def _copy(
    values: ImageArray, group: zarr.Group, name: str, dimensions: tuple[str, ...], progress: Progress | None = None
) -> None:
    """Write an array into a Zarr group, a chunk at a time."""
    chunks = (values.tiling.chunk[0], *values.shape[1:])
    array = group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=chunks, dimension_names=dimensions)
    for indices, block in values.batches(values.tiling.chunk[0]):
        array[indices[0] : indices[-1] + 1] = block
        if progress is not None:
            progress.update(len(block))


def _bands(store: RasterStore) -> Iterator[tuple[int, slice]]:
    """(date, rows of a row of chunks)."""
    height = store.tiling.chunk[0]
    for time in range(len(store)):
        for top in range(0, store.grid[0], height):
            yield time, slice(top, min(top + height, store.grid[0]))


def _stream_raster(store: RasterStore, file: BinaryIO | Any, progress: Progress) -> None:
    """Write the tokens (time, y, x, embedding) as one .npy."""
    shape = (len(store), *store.grid, store.dimensions)
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    for time, rows in _bands(store):
        file.write(np.ascontiguousarray(store.read(time, rows), "<f4").data)
        progress.update(rows.stop - rows.start)


def _raster_npy(store: RasterStore, path: Path, progress: Progress) -> None:
    with path.open("wb") as file:
        _stream_raster(store, file, progress)


def _raster_npz(store: RasterStore, path: Path, progress: Progress) -> None:
    valid = np.stack([store.read_valid(time) for time in range(len(store))])
    beside = {"valid": valid, "time": store.times, "transform": np.array(store.transform)}
    with ZipFile(path, "w", ZIP_STORED) as archive:
        with archive.open("embeddings.npy", "w", force_zip64=True) as file:
            _stream_raster(store, file, progress)
        for name, values in beside.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, values, allow_pickle=False)


def _raster_zarr(store: RasterStore, path: Path, progress: Progress) -> None:
    """Plain Zarr with the same arrays, attributes and coordinates; embeddings NaN where they are not valid."""
    group = zarr.create_group(zarr.storage.LocalStore(path), attributes=store.conventions)
    chunk = (1, store.dimensions, *store.tiling.chunk)
    for name in store.metadata:
        source: Any = store.group[name]
        target = group.create_array(
            name,
            shape=source.shape,
            dtype=source.dtype,
            chunks=chunk if name == "embeddings" else source.chunks or "auto",
            fill_value=source.fill_value,
            dimension_names=source.metadata.dimension_names,
            attributes=source.attrs.asdict(),
            config={"write_empty_chunks": True},
        )
        if name != "embeddings":
            target[...] = source[...]
    embeddings: Any = group["embeddings"]
    for time, rows in _bands(store):
        embeddings[time, :, rows] = store.read(time, rows).transpose(2, 0, 1)
        progress.update(rows.stop - rows.start)


_WRITERS: dict[str, tuple[Any, Any]] = {
    ".npy": (_images_npy, _raster_npy),
    ".npz": (_images_npz, _raster_npz),
    ".zarr": (_images_zarr, _raster_zarr),
}
