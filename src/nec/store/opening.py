"""Open a store, whichever kind it is."""

from __future__ import annotations

from pathlib import Path

from nec.store import assets
from nec.store.images import ImageStore
from nec.store.location import Location, is_url
from nec.store.rasters import RasterStore
from nec.store.reader import kind_at


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
    return _KINDS.get(kind_at(where), ImageStore)(where, allow_incomplete=allow_incomplete)


def open_store(location: Location, allow_incomplete: bool = False) -> ImageStore:
    """`nec.open` for what must be a store of images; `InputError` for a raster."""
    return ImageStore(_resolved(location), allow_incomplete=allow_incomplete)


def open_product(location: Location, allow_incomplete: bool = False) -> RasterStore:
    """`nec.open` for what must be a raster; `InputError` for a store of images."""
    return RasterStore(_resolved(location), allow_incomplete=allow_incomplete)


_KINDS: dict[str, type[ImageStore] | type[RasterStore]] = {"store": ImageStore, "product": RasterStore}


def _resolved(location: Location) -> Location:
    """A shipped name as its folder, everything else as it is."""
    return assets.resolve(location) if isinstance(location, str | Path) and not is_url(location) else location
