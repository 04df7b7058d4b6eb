"""How `nec decode` writes a product: .npy, .npz or plain Zarr, a band of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from zipfile import ZIP_STORED, ZipFile

import numpy as np

from nec.progress import Progress

if TYPE_CHECKING:
    from nec.store import Product


def _bands(product: Product) -> Iterator[tuple[int, slice]]:
    """(date, rows of a row of chunks)."""
    height = product.tiling.chunk[0]
    for time in range(len(product.times)):
        for top in range(0, product.grid[0], height):
            yield time, slice(top, min(top + height, product.grid[0]))


def _stream(product: Product, file: BinaryIO | Any, progress: Progress) -> None:
    """Write the tokens (time, y, x, embedding) as one .npy."""
    shape = (len(product.times), *product.grid, product.dimensions)
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    for time, rows in _bands(product):
        file.write(np.ascontiguousarray(product.read(time, rows), "<f4").data)
        progress.update(rows.stop - rows.start)


def _write_npy(product: Product, path: Path, progress: Progress) -> None:
    with path.open("wb") as file:
        _stream(product, file, progress)


def _write_npz(product: Product, path: Path, progress: Progress) -> None:
    valid = np.stack([product.read_valid(time) for time in range(len(product.times))])
    beside = {"valid": valid, "time": product.times, "transform": np.array(product.transform)}
    with ZipFile(path, "w", ZIP_STORED) as archive:
        with archive.open("embeddings.npy", "w", force_zip64=True) as file:
            _stream(product, file, progress)
        for name, values in beside.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, values, allow_pickle=False)


def _write_zarr(product: Product, path: Path, progress: Progress) -> None:
    """Plain Zarr with the same arrays, attributes and coordinates; embeddings NaN where they are not valid."""
    import zarr

    group = zarr.create_group(zarr.storage.LocalStore(path), attributes=product.conventions)
    chunk = (1, product.dimensions, *product.tiling.chunk)
    for name in product.metadata:
        source: Any = product.group[name]
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
    for time, rows in _bands(product):
        embeddings[time, :, rows] = product.read(time, rows).transpose(2, 0, 1)
        progress.update(rows.stop - rows.start)


WRITERS: dict[str, Callable[[Product, Path, Progress], None]] = {
    ".npy": _write_npy,
    ".npz": _write_npz,
    ".zarr": _write_zarr,
}
