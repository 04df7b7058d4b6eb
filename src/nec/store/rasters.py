"""Rasters of embeddings over time, georeferenced."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import zarr

from nec.errors import CorruptError, InputError, missing_extra
from nec.files import checksum, parse_json
from nec.search import SearchableRaster
from nec.search.places import projected_box
from nec.store.document import EMBEDDINGS, TIME, VALID, Store, X, Y, embeddings_key, list_key, member, valid_key
from nec.store.frames import Frames
from nec.store.georeference import Transform, bounds, token_size, window_of
from nec.store.location import DAMAGE, Location, reachable, read_key, size_of_key
from nec.store.shards import Mark, Shard, Tiling, Window, overlap, within

if TYPE_CHECKING:
    import xarray


class RasterStore(SearchableRaster, Store):
    """A raster of embeddings (time, embedding, y, x) with its place on Earth. Made by `nec.open`.

    `len(store)` is the number of dates; `store[t]` is `store.read(t)`, and iterating reads date by date.

    Attributes:
        conventions: the group's other attributes: `proj:` and `spatial:`, title, licence.
        embeddings: lazy Zarr array float32 (time, embedding, y, x). Undefined where `valid` is false; `read` gives NaN.
        valid: lazy Zarr array bool (time, y, x).
        grid: (rows, columns) of tokens.
        dimensions: values a token (d).
        crs: code such as "EPSG:32632", WKT2, or None.
        transform: six numbers of a token, as in rasterio.
    """

    kind: ClassVar[str] = "product"
    _unfinished: ClassVar[str] = "its first date was not finished"

    def __init__(self, location: Location, *, allow_incomplete: bool = False) -> None:
        super().__init__(location, allow_incomplete=allow_incomplete)
        self.embeddings: zarr.Array = member(self.group, EMBEDDINGS)
        self.valid: zarr.Array = member(self.group, VALID)
        self.tiling = Tiling.of(self.metadata[EMBEDDINGS], slice(2, 4))
        rows, columns = self.tiling.grid
        self.grid: tuple[int, int] = (rows, columns)
        self.dimensions: int = self.attrs["dimensions"]
        self.patch_px: int = self.attrs["patch_px"]
        self.crs: str | None = self.conventions.get("proj:code", self.conventions.get("proj:wkt2"))
        a, b, c, d, e, f = self.conventions["spatial:transform"]
        self.transform: Transform = (a, b, c, d, e, f)
        self._lists: dict[int, dict[Shard, tuple[int, ...]]] = {}

    def __len__(self) -> int:
        return len(self.attrs["times"])

    def __repr__(self) -> str:
        rows, columns = self.grid
        place = (self.crs or "no CRS")[:40]
        return f"<RasterStore {self.path}: {len(self)} dates, {rows}x{columns} tokens of {self.dimensions}, {place}>"

    def __getitem__(self, time: Any) -> np.ndarray:
        return self.read(time)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.read(time) for time in range(len(self)))

    @property
    def _is_readable(self) -> bool:
        return bool(self.attrs["times"])

    @property
    def times(self) -> np.ndarray:
        """Its dates, datetime64[s], in the order in which they were added."""
        return np.array([date(entry["time"]) for entry in self.attrs["times"]], "datetime64[s]")

    @property
    def pending(self) -> list[str]:
        """Dates that were begun and not finished."""
        return [entry["time"] for entry in self.attrs["pending"]]

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(xmin, ymin, xmax, ymax) in the CRS."""
        return bounds(self.transform, self.grid)

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

    def window(self, box: tuple[float, float, float, float], crs: Any = None) -> Window:
        """(rows, columns), slices, of the tokens that a box (xmin, ymin, xmax, ymax) in a CRS (its own) touches.

        Raises `InputError` for a box outside the product.
        """
        return window_of(self.transform, self.grid, projected_box(box, crs, self.crs, self.path))

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
        index, window = self.index(time), self._whole(rows, columns)
        return self.frames(index).read(window, wanted=self.read_valid(index, *window))

    def frames(self, time: int) -> Frames:
        """The reader of a date's embeddings."""

        def key(shard: Shard) -> str:
            return embeddings_key((time, *shard))

        def written(shard: Shard) -> Mark:
            if time not in self._lists:
                self._lists[time] = self.shard_list(time)
            size, crc, *_ = self._lists[time][shard]
            return size, crc

        return Frames(self.zarr_store, self.path, self.codec, self.tiling, (self.dimensions,), key, written)

    def read_valid(self, time: Any, rows: slice = slice(None), columns: slice = slice(None)) -> np.ndarray:
        """Which tokens of a window of a date saw data, bool (y, x); raises as `read`."""
        index, window = self.index(time), self._whole(rows, columns)
        mask = np.zeros([axis.stop - axis.start for axis in window], bool)
        for shard in self.tiling.shards_in(window):
            both = overlap(self.tiling.shard_window(*shard), window)
            if both is not None:
                mask[within(both, window)] = self._valid_of(index, shard, both)
        return mask

    def _valid_of(self, index: int, shard: Shard, window: Window) -> np.ndarray:
        """Validity of tokens of one shard, which is one file."""
        key = valid_key((index, *shard))
        try:
            with reachable(self.path):
                mask = np.asarray(self.valid[index, window[0], window[1]])
        except DAMAGE as error:
            raise CorruptError(f"{self.path}/{key} is damaged: {error}; copy it again from its origin") from error
        if not mask.any() and read_key(self.zarr_store, key) is None:  # plain Zarr reads a lost file as false
            raise CorruptError(f"{self.path}/{key} is missing; copy it again from its origin")
        return mask

    def windows(self, time: Any) -> Iterator[tuple[slice, slice, np.ndarray, np.ndarray]]:
        """Yield (rows, columns, embeddings (y, x, d), valid (y, x)) shard by shard: a date within bounded memory."""
        for shard in self.tiling.all_shards():
            rows, columns = self.tiling.shard_window(*shard)
            yield rows, columns, self.read(time, rows, columns), self.read_valid(time, rows, columns)

    def shard_list(self, time: int) -> dict[Shard, tuple[int, ...]]:
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

    def _side_bytes(self) -> dict[str, int]:
        """Bytes of validity, coordinates and lists of files."""
        times = range(len(self))
        keys = [f"{name}/c.0" for name in (TIME, "embedding", X, Y) if name in self.metadata] + ["spatial_ref/c"]
        return {
            VALID: sum(numbers[2] for time in times for numbers in self.shard_list(time).values()),
            "coordinates": sum(size_of_key(self.zarr_store, key) for key in keys),
            "lists": sum(size_of_key(self.zarr_store, list_key(time)) for time in times),
        }

    def _whole(self, rows: slice, columns: slice) -> Window:
        axes = [axis.indices(size) for axis, size in zip((rows, columns), self.grid, strict=True)]
        if any(step != 1 for _, _, step in axes):
            raise InputError("read takes slices without a step: take every n-th token of what it returns")
        (top, bottom, _), (left, right, _) = axes
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
