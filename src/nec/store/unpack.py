"""A store's embeddings as plain float32: .npy, .npz or plain Zarr, a chunk or a band of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
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

_SUFFIXES = (".npy", ".npz", ".zarr")


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
    if out.suffix not in _SUFFIXES:
        raise InputError(f"--out {out}: the name must end in {', '.join(_SUFFIXES)}")
    store = open_any(location)
    total, unit = (len(store) * store.grid[0], "rows") if isinstance(store, RasterStore) else (len(store), "images")
    with (
        Progress(total, "decoding", unit, quiet=not progress) as bar,
        atomic_path(out, overwrite=overwrite) as temporary,
    ):
        if out.suffix == ".npy":
            with temporary.open("wb") as file:
                _stream(*_large(store, bar)["embeddings"], file)
        elif out.suffix == ".npz":
            _write_npz(store, temporary, bar)
        elif isinstance(store, RasterStore):
            _write_raster_zarr(store, temporary, bar)
        else:
            _write_images_zarr(store, temporary, bar)
    return out


_Blocks = Iterator[np.ndarray]


def _large(store: ImageStore | RasterStore, bar: Progress) -> dict[str, tuple[tuple[int, ...], _Blocks]]:
    """(shape, blocks in order) of the arrays that may not fit into memory."""
    if isinstance(store, RasterStore):
        tokens = (block for _, _, block in _bands(store, bar))
        return {"embeddings": ((len(store), *store.grid, store.dimensions), tokens)}
    found = {"embeddings": (store.embeddings.shape, _blocks(store.embeddings, bar))}
    return found if store.masks is None else {**found, "masks": (store.masks.shape, _blocks(store.masks))}


def _small(store: ImageStore | RasterStore) -> dict[str, np.ndarray]:
    """What belongs to the embeddings and fits into memory."""
    if isinstance(store, RasterStore):
        valid = np.stack([store.read_valid(time) for time in range(len(store))])
        return {"valid": valid, "time": store.times, "transform": np.array(store.transform)}
    names = np.array(store.names, dtype=np.str_)
    values = {"names": names, "labels": store.labels, "split": store.split, "groups": store.groups}
    return {name: value for name, value in values.items() if value is not None}


def _blocks(values: ImageArray, bar: Progress | None = None) -> _Blocks:
    for _, block in values.batches(values.tiling.chunk[0]):
        yield block
        if bar is not None:
            bar.update(len(block))


def _bands(store: RasterStore, bar: Progress) -> Iterator[tuple[int, slice, np.ndarray]]:
    """(date, rows, tokens (y, x, d)) of each row of chunks."""
    height = store.tiling.chunk[0]
    for time in range(len(store)):
        for top in range(0, store.grid[0], height):
            rows = slice(top, min(top + height, store.grid[0]))
            yield time, rows, store.read(time, rows)
            bar.update(rows.stop - rows.start)


def _stream(shape: tuple[int, ...], blocks: _Blocks, file: Any) -> None:
    """Write blocks as one .npy."""
    for i, block in enumerate(blocks):
        dtype = block.dtype.newbyteorder("<")
        if not i:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
        file.write(np.ascontiguousarray(block, dtype).data)


def _write_npz(store: ImageStore | RasterStore, path: Path, bar: Progress) -> None:
    with ZipFile(path, "w", ZIP_STORED) as archive:
        for name, (shape, blocks) in _large(store, bar).items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                _stream(shape, blocks, file)
        for name, values in _small(store).items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, values, allow_pickle=False)


def _write_images_zarr(store: ImageStore, path: Path, bar: Progress) -> None:
    group = zarr.create_group(zarr.storage.LocalStore(path))
    axes = {"embeddings": ("image", "y", "x", "embedding"), "masks": ("image", "row", "column")}
    for name, (shape, blocks) in _large(store, bar).items():
        source: ImageArray = getattr(store, name)
        chunks = (source.tiling.chunk[0], *shape[1:])
        array = group.create_array(name, shape=shape, dtype=source.dtype, chunks=chunks, dimension_names=axes[name])
        start = 0
        for block in blocks:
            array[start : start + len(block)] = block
            start += len(block)
    for name, values in _small(store).items():
        dtype: Any = zarr.dtype.VariableLengthUTF8() if values.dtype.kind == "U" else values.dtype
        array = group.create_array(name, shape=values.shape, dtype=dtype, dimension_names=("image",))
        array[:] = values.astype(object) if values.dtype.kind == "U" else values


def _write_raster_zarr(store: RasterStore, path: Path, bar: Progress) -> None:
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
    for time, rows, tokens in _bands(store, bar):
        embeddings[time, :, rows] = tokens.transpose(2, 0, 1)
