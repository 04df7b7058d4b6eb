"""Open a store, whichever kind it is, by its place or by the name that it ships under."""

from __future__ import annotations

import os
from pathlib import Path

import nec
from nec.errors import InputError
from nec.store.document import kind_of, read_document
from nec.store.images import ImageStore
from nec.store.location import Location, is_url, open_location
from nec.store.rasters import RasterStore


def open(location: Location, *, allow_incomplete: bool = False) -> ImageStore | RasterStore:
    """Open a store of images or a raster for reading.

    >>> store = nec.open("eurosat")
    >>> store.embeddings[:2].shape
    (2, 8, 8, 192)

    Args:
        location: the name of a shipped store ("eurosat"), a folder, a .zip of one, a URL (`https://`, `s3://`, `gs://`,
            `az://`, others through fsspec), a Zarr store object, or a Zarr group or array that is open.
        allow_incomplete: open a store whose writing has not finished; reading what is not written yet then raises.

    Returns:
        An `ImageStore` or a `RasterStore`.

    Raises:
        InputError: there is no store, it is not one of ours, or it was made by a newer format version.
        IncompleteError: writing has not finished; of a raster, no date has.
        CorruptError: the metadata are damaged.
        MissingExtraError: a URL needs a package that is not installed.
    """
    where = _resolved(location)
    kind = kind_of(read_document(open_location(where), str(where), None))
    return _KINDS.get(kind, ImageStore)(where, allow_incomplete=allow_incomplete)


def open_store(location: Location, allow_incomplete: bool = False) -> ImageStore:
    """`nec.open` for what must be a store of images; `InputError` for a raster."""
    return ImageStore(_resolved(location), allow_incomplete=allow_incomplete)


def open_product(location: Location, allow_incomplete: bool = False) -> RasterStore:
    """`nec.open` for what must be a raster; `InputError` for a store of images."""
    return RasterStore(_resolved(location), allow_incomplete=allow_incomplete)


_KINDS: dict[str, type[ImageStore] | type[RasterStore]] = {"store": ImageStore, "product": RasterStore}


def _resolved(location: Location) -> Location:
    """A shipped name as its folder, everything else as it is."""
    return resolve(location) if isinstance(location, str | Path) and not is_url(location) else location


_SUFFIX = {"stores": ".zarr", "models": ""}


def shipped(kind: str) -> dict[str, Path]:
    """Name to folder of what ships: `kind` is "stores" or "models"."""
    folder = Path(nec.__file__).parent / "assets" / kind
    if not folder.is_dir():
        return {}
    suffix = _SUFFIX[kind]
    found = sorted(path for path in folder.iterdir() if path.is_dir() and path.name.endswith(suffix))
    return {path.name.removesuffix(suffix): path for path in found if not path.name.startswith(("_", "."))}


def resolve(location: str | Path, kind: str = "stores") -> Path:
    """Folder that `location` means: a path that exists, else the name of a shipped store or model.

    A shipped name wins over a folder of the same name that holds no store (a dataset's folder, say).

    Raises:
        InputError: neither; the message lists the shipped names.
    """
    path = Path(location)
    marker = {"stores": "zarr.json", "models": "config.json"}[kind]
    if (path / marker).is_file():
        return path
    names = shipped(kind)
    if isinstance(location, str) and location in names:
        return names[location]
    if path.exists():
        return path
    if os.sep in str(location):
        raise InputError(f"no such {kind[:-1]}: {location}")
    raise InputError(
        f"no {kind[:-1]} at {location!r}, and none of that name ships (shipped: {', '.join(names) or 'none'})"
    )
