"""Open a product for reading."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from nec.errors import CorruptError, IncompleteError, InputError, missing_extra
from nec.files import DAMAGE, Location, ZarrStore, checksum, open_location, parse_json, reachable, read_key
from nec.store.document import member, open_group, read_document
from nec.store.georeference import Transform, token_size, window_of
from nec.store.raster_tiling import (
    EMBEDDINGS,
    VALID,
    RasterTiling,
    Window,
    embeddings_key,
    list_key,
    tiling_of,
    valid_key,
)

if TYPE_CHECKING:
    import xarray

    from nec.codec import EmbeddingCodec


def open_product(location: Location, allow_incomplete: bool = False) -> Product:
    """Open a product: a folder, a URL (`https://`, `s3://`, ... through fsspec) or a Zarr store object.

    Args:
        location: for example "out/product.zarr" or "s3://bucket/product.zarr".
        allow_incomplete: open a product that has no finished date yet.

    Raises:
        InputError: there is no product, or it was made by a newer format version.
        IncompleteError: no date is finished.
        CorruptError: the metadata are damaged.
    """
    return Product(location, allow_incomplete=allow_incomplete)


class Product:
    """A raster of embeddings (time, embedding, y, x) with its place on Earth. Made by `open_product`.

    Attributes:
        path: where it was opened, as text.
        attrs: what the product says about itself: model, codec, quality, source, times, ...
        conventions: the group's other attributes: `proj:` and `spatial:`, title, licence.
        embeddings: lazy Zarr array float32 (time, embedding, y, x). Undefined where `valid` is false; `read` gives NaN.
        valid: lazy Zarr array bool (time, y, x).
        grid: (rows, columns) of tokens.
        dimensions: values a token (d).
        crs: code such as "EPSG:32632", WKT2, or None.
        transform: six numbers of a token, as in rasterio.
        tiling: how the grid is cut into chunks and shards.
    """

    def __init__(self, location: Location, *, allow_incomplete: bool = False) -> None:
        self.path = str(location)
        self.zarr_store: ZarrStore = open_location(location)
        document = read_document(self.zarr_store, self.path, "product")
        self.attrs: dict[str, Any] = document["attributes"]["nec"]
        self.conventions = {key: value for key, value in document["attributes"].items() if key != "nec"}
        self.metadata: dict[str, dict[str, Any]] = document["consolidated_metadata"]["metadata"]
        if not (self.attrs["times"] or allow_incomplete):
            raise IncompleteError(
                f"{self.path} is incomplete: its first date was not finished; run `nec encode --resume` on it"
            )
        self.group = open_group(self.zarr_store, self.path, document)
        self.embeddings: zarr.Array = member(self.group, EMBEDDINGS)
        self.valid: zarr.Array = member(self.group, VALID)
        self.tiling: RasterTiling = tiling_of(self.metadata[EMBEDDINGS])
        self.grid: tuple[int, int] = self.tiling.grid
        self.dimensions: int = self.attrs["dimensions"]
        self.patch_px: int = self.attrs["patch_px"]
        self.quality: float = self.attrs["quality"]
        self.crs: str | None = self.conventions.get("proj:code", self.conventions.get("proj:wkt2"))
        a, b, c, d, e, f = self.conventions["spatial:transform"]
        self.transform: Transform = (a, b, c, d, e, f)

    def __repr__(self) -> str:
        rows, columns = self.grid
        place = (self.crs or "no CRS")[:40]
        return f"<Product {self.path}: {len(self.times)} dates, {rows}x{columns} tokens of {self.dimensions}, {place}>"

    @property
    def complete(self) -> bool:
        """Whether it has dates and none is being added."""
        return bool(self.attrs["complete"])

    @property
    def times(self) -> np.ndarray:
        """Its dates, datetime64[s], in the order in which they were added."""
        return np.array([date(entry["time"]) for entry in self.attrs["times"]], "datetime64[s]")

    @property
    def pending(self) -> list[str]:
        """Dates that were begun and not finished."""
        return [entry["time"] for entry in self.attrs["pending"]]

    @property
    def codec(self) -> EmbeddingCodec:
        """The codec that the embeddings are coded with."""
        return self.embeddings.metadata.codecs[0].codecs[0].codec  # type: ignore[union-attr]

    @property
    def token_size(self) -> tuple[float, float] | None:
        """(height, width) of a token in metres; None where the CRS is not projected."""
        return token_size(self.crs, self.transform)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the embeddings' shards of all dates, indices included."""
        return sum(entry["stored_bytes"] for entry in self.attrs["times"])

    @property
    def valid_tokens(self) -> int:
        """Tokens of all dates that saw data."""
        return sum(entry["valid_tokens"] for entry in self.attrs["times"])

    def index(self, time: Any) -> int:
        """Index of a date: an index (negative: from the end), datetime64, datetime, or ISO text.

        Text may be cut short where it still means one date: "2026-05-01", "2026-05".
        """
        count = len(self.attrs["times"])
        if isinstance(time, int | np.integer):
            if not -count <= time < count:
                raise InputError(f"{self.path} has no date {time}: it has {count}")
            return int(time) % count
        names = [entry["time"] for entry in self.attrs["times"]]
        wanted = iso(date(time))
        found = [i for i, name in enumerate(names) if name == wanted]
        if not found and isinstance(time, str):
            found = [i for i, name in enumerate(names) if name.startswith(time)]
        if len(found) != 1:
            raise InputError(f"{self.path} has {len(found) or 'no'} dates {time}: it has {', '.join(names)}")
        return found[0]

    def window(self, box: tuple[float, float, float, float]) -> Window:
        """(rows, columns), slices, of the tokens that a box (xmin, ymin, xmax, ymax) in the CRS touches.

        Raises `InputError` for a box outside the product.
        """
        return window_of(self.transform, self.grid, box)

    def read(self, time: Any, rows: slice = slice(None), columns: slice = slice(None)) -> np.ndarray:
        """Embeddings of a window of a date, float32 (y, x, d), NaN where they are not valid.

        Only the chunks that the window touches are fetched and decoded.

        Args:
            time: see `index`.
            rows, columns: slices of the grid without a step.

        Raises:
            InputError: no such date, or a slice with a step.
            CorruptError: what the window touches is damaged or missing; the message names it.
        """
        index, (rows, columns) = self.index(time), self._whole(rows, columns)
        mask = self.read_valid(index, rows, columns)
        try:
            return self._decode(index, rows, columns, mask)
        except DAMAGE as error:
            reasons = ((place, self.fault(index, *place)) for place in self.tiling.shards_of(rows, columns))
            place, reason = next(((place, reason) for place, reason in reasons if reason), (None, str(error)))
            where = f"rows {rows}, columns {columns}" if place is None else f"shard {embeddings_key(index, *place)}"
            raise CorruptError(
                f"{self.path}: {where} is damaged: {reason}; `nec verify` lists all damage, copy the product again from"
                " its origin"
            ) from error

    def read_valid(self, time: Any, rows: slice = slice(None), columns: slice = slice(None)) -> np.ndarray:
        """Which tokens of a window of a date saw data, bool (y, x); raises as `read`."""
        index, (rows, columns) = self.index(time), self._whole(rows, columns)
        mask = np.zeros((rows.stop - rows.start, columns.stop - columns.start), bool)
        for place in self.tiling.shards_of(rows, columns):
            parts = self.tiling.shard_window(*place)
            inside = [
                slice(max(part.start, whole.start), min(part.stop, whole.stop))
                for part, whole in zip(parts, (rows, columns), strict=True)
            ]
            target = tuple(
                slice(part.start - whole.start, part.stop - whole.start)
                for part, whole in zip(inside, (rows, columns), strict=True)
            )
            mask[target] = self._valid_part(index, place, *inside)
        return mask

    def _valid_part(self, index: int, place: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
        """Validity of tokens of one shard, which is one file."""
        key = valid_key(index, *place)
        try:
            with reachable(self.path):
                part = np.asarray(self.valid[index, rows, columns])
        except DAMAGE as error:
            raise CorruptError(f"{self.path}/{key} is damaged: {error}; copy it again from its origin") from error
        if not part.any() and read_key(self.zarr_store, key) is None:  # plain Zarr reads a lost file as false
            raise CorruptError(f"{self.path}/{key} is missing; copy it again from its origin")
        return part

    def windows(self, time: Any) -> Iterator[tuple[slice, slice, np.ndarray, np.ndarray]]:
        """Yield (rows, columns, embeddings (y, x, d), valid (y, x)) shard by shard: a date within bounded memory."""
        for place in self.tiling.all_shards():
            rows, columns = self.tiling.shard_window(*place)
            yield rows, columns, self.read(time, rows, columns), self.read_valid(time, rows, columns)

    def fault(self, time: int, row: int, column: int) -> str | None:
        """Why a shard cannot be read, or None if it can."""
        try:
            window = self.tiling.shard_window(row, column)
            self._decode(time, *window, self.read_valid(time, *window))
        except DAMAGE as error:
            return str(error) or type(error).__name__
        return None

    def shard_list(self, time: int) -> dict[tuple[int, int], tuple[int, ...]]:
        """(row, column) to (bytes, CRC-32C, bytes and CRC-32C of its validity, valid tokens) of a finished date.

        Raises:
            CorruptError: the list is damaged or missing.
        """
        key = list_key(time)
        data = read_key(self.zarr_store, key)
        if data is None or checksum(data) != self.attrs["times"][time]["list"]:
            raise CorruptError(f"{self.path}/{key} is {'missing' if data is None else 'damaged'}")
        return dict(zip(self.tiling.all_shards(), map(tuple, parse_json(data, key)["shards"]), strict=True))

    def to_xarray(self, chunks: Any = None) -> xarray.Dataset:
        """The product as an xarray Dataset with coordinates and CRS (`.rio.crs` where rioxarray is installed).

        Nothing is read yet. The embeddings are NaN where `valid` is false, and what is damaged or lost raises, as in
        `read`; `xarray.open_zarr` alone does neither. `chunks` is xarray's: {} gives Dask arrays of a chunk each.
        """
        try:
            import xarray
        except ImportError as error:
            missing_extra("xarray", "geo", error)
        from nec.store.masked import mask_embeddings

        dataset = mask_embeddings(xarray.open_zarr(self.zarr_store, chunks=None), self)
        if chunks is None:
            return dataset
        own = dict(zip(dataset["embeddings"].dims, (1, self.dimensions, *self.tiling.chunk), strict=True))
        return dataset.chunk(chunks or own)

    def _decode(self, index: int, rows: slice, columns: slice, mask: np.ndarray) -> np.ndarray:
        with reachable(self.path):
            block = np.asarray(self.embeddings[index, :, rows, columns])
        tokens = np.ascontiguousarray(block.transpose(1, 2, 0))
        if np.isnan(tokens[..., 0][mask]).any():  # the codec stores no NaN: this is the fill value of a missing chunk
            raise CorruptError("missing")
        tokens[~mask] = np.nan
        return tokens

    def _whole(self, rows: slice, columns: slice) -> Window:
        parts = [part.indices(size) for part, size in zip((rows, columns), self.grid, strict=True)]
        if any(step != 1 for _, _, step in parts):
            raise InputError("read takes slices without a step: take every n-th token of what it returns")
        (top, bottom, _), (left, right, _) = parts
        return slice(top, max(top, bottom)), slice(left, max(left, right))


def date(time: Any) -> np.datetime64:
    """`time` (datetime64, datetime in UTC or without a zone, ISO text) to the second."""
    if isinstance(time, str) and time.endswith("Z"):
        time = time[:-1]
    if isinstance(time, datetime.datetime) and time.tzinfo is not None:
        time = time.astimezone(datetime.UTC).replace(tzinfo=None)
    try:
        when = np.datetime64(time, "s")
    except (ValueError, TypeError) as error:
        raise InputError(f"{time!r} is not a date: give ISO text such as 2026-05-01T10:30:00") from error
    if np.isnat(when):
        raise InputError("a date is needed, not NaT")
    return when


def iso(time: Any) -> str:
    """ISO text of a date, to the second."""
    return str(np.datetime64(time, "s"))
