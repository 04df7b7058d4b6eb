"""`nec decode`: write a store's embeddings as plain float32."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from zipfile import ZIP_STORED, ZipFile

import numpy as np

from nec.cli._products import WRITERS as PRODUCT_WRITERS
from nec.errors import InputError
from nec.progress import Progress

if TYPE_CHECKING:
    import zarr

    from nec.store import Store
    from nec.store.images import ImageArray

HELP = "decode the embeddings of a store or a product to .npy, .npz or plain .zarr"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `nec decode`."""
    parser.add_argument("store", metavar="STORE", help="store or product, its URL, or a shipped name")
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help=".npy: embeddings (n, y, x, d) float32; .npz and .zarr: these, names, labels, split, groups and masks;"
        " of a product (time, y, x, d), NaN where not valid, and in .zarr (time, d, y, x) with coordinates",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def run(args: argparse.Namespace) -> int:
    """Decode shard by shard into a temporary that becomes `args.out` when it is whole."""
    from nec.files import atomic_path
    from nec.store import Product
    from nec.store.check import open_any

    out = Path(args.out)
    if out.suffix not in _WRITERS:
        raise InputError(f"--out {out}: the name must end in {', '.join(_WRITERS)}")
    store = open_any(args.store)
    total, unit = (len(store.times) * store.grid[0], "rows") if isinstance(store, Product) else (len(store), "images")
    with (
        Progress(total, "decoding", unit, quiet=args.quiet) as progress,
        atomic_path(out, overwrite=args.overwrite) as temporary,
    ):
        if isinstance(store, Product):
            PRODUCT_WRITERS[out.suffix](store, temporary, progress)
        else:
            _WRITERS[out.suffix](store, temporary, progress)
    return 0


def _write_npy(store: Store, path: Path, progress: Progress) -> None:
    with path.open("wb") as file:
        _stream(store.embeddings, file, progress)


def _write_npz(store: Store, path: Path, progress: Progress) -> None:
    with ZipFile(path, "w", ZIP_STORED) as archive:
        with archive.open("embeddings.npy", "w", force_zip64=True) as file:
            _stream(store.embeddings, file, progress)
        if store.masks is not None:
            with archive.open("masks.npy", "w", force_zip64=True) as file:
                _stream(store.masks, file)
        for name, values in _side(store).items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, values, allow_pickle=False)


def _write_zarr(store: Store, path: Path, progress: Progress) -> None:
    import zarr

    group = zarr.create_group(zarr.storage.LocalStore(path))
    _copy(store.embeddings, group, "embeddings", ("image", "y", "x", "embedding"), progress)
    if store.masks is not None:
        _copy(store.masks, group, "masks", ("image", "row", "column"))
    for name, values in _side(store).items():
        dtype: Any = zarr.dtype.VariableLengthUTF8() if values.dtype.kind == "U" else values.dtype
        part = group.create_array(name, shape=values.shape, dtype=dtype, dimension_names=("image",))
        part[:] = values.astype(object) if values.dtype.kind == "U" else values


def _side(store: Store) -> dict[str, np.ndarray]:
    names = np.array(store.names, dtype=np.str_)
    values = {"names": names, "labels": store.labels, "split": store.split, "groups": store.groups}
    return {name: value for name, value in values.items() if value is not None}


def _stream(values: ImageArray, file: BinaryIO | Any, progress: Progress | None = None) -> None:
    """Write an array as one .npy, a chunk at a time."""
    stored = values.dtype.newbyteorder("<")
    header = {"descr": np.lib.format.dtype_to_descr(stored), "fortran_order": False, "shape": values.shape}
    np.lib.format.write_array_header_1_0(file, header)
    for _, block in values.batches(values.tiling.per_chunk):
        file.write(np.ascontiguousarray(block, stored).data)
        if progress is not None:
            progress.update(len(block))


def _copy(
    values: ImageArray, group: zarr.Group, name: str, dimensions: tuple[str, ...], progress: Progress | None = None
) -> None:
    """Write an array into a Zarr group, a chunk at a time."""
    chunks = (values.tiling.per_chunk, *values.shape[1:])
    array = group.create_array(name, shape=values.shape, dtype=values.dtype, chunks=chunks, dimension_names=dimensions)
    for indices, block in values.batches(values.tiling.per_chunk):
        array[indices[0] : indices[-1] + 1] = block
        if progress is not None:
            progress.update(len(block))


_WRITERS: dict[str, Callable[[Store, Path, Progress], None]] = {
    ".npy": _write_npy,
    ".npz": _write_npz,
    ".zarr": _write_zarr,
}
