"""Begin a product, add dates to it, resume after a kill."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from nec.errors import CorruptError, IncompleteError, InputError
from nec.files import checksum, json_bytes
from nec.store.home import home_of
from nec.store.journal import Mark, mark
from nec.store.layout import chunks_in_shard
from nec.store.patience import patiently
from nec.store.raster_reader import Product, date, iso
from nec.store.raster_shard import EncodedShard, ShardEncoder
from nec.store.raster_skeleton import metadata_files, time_files, with_dates, write_skeleton
from nec.store.raster_spec import ProductSpec
from nec.store.raster_tiling import embeddings_key, list_key, valid_key
from nec.store.spec import as_json

_IDENTITY = ("format_version", "dimensions", "patch_px", "quality", "codec", "model", "bands")
Place = tuple[int, int, int]
FailedTile = tuple[int, int, int]  # first row, first column and side, in pixels of the scene


def create_product(path: str | Path, spec: ProductSpec, *, overwrite: bool = False) -> None:
    """Begin a product without dates at `path`, a folder or the URL of a bucket; `ProductWriter` then fills it.

    Raises:
        InputError: `path` exists and is not a store of ours, or is one and `overwrite` is not given, or another writer
            has it open; or the CRS is unknown; or the URL is none that can be written to.
        MissingExtraError: there is a CRS, and rasterio, which knows them, is not installed; or what the URL needs.
        NecError: the bucket cannot be reached, or refuses.
    """
    home_of(path).begin(partial(write_skeleton, spec=spec), overwrite=overwrite)


class _Record:
    """What is noted of a shard's two files."""

    def __init__(self, embeddings: Mark, valid: Mark, valid_tokens: int) -> None:
        self.embeddings, self.valid, self.valid_tokens = embeddings, valid, valid_tokens

    @property
    def numbers(self) -> tuple[int, ...]:
        return (*self.embeddings, *self.valid, self.valid_tokens)

    def marks(self, time: int, row: int, column: int) -> dict[str, Mark]:
        """What was noted of each of the two files, by their keys."""
        return {embeddings_key(time, row, column): self.embeddings, valid_key(time, row, column): self.valid}


class ProductWriter:
    """Adds dates to a product, shard by shard; hold it in a `with` block, so that another writer may follow.

    >>> with ProductWriter(path) as writer:  # doctest: +SKIP
    ...     time = writer.append_time(np.datetime64("2026-05-01"))
    ...     for row, column in writer.missing(time):
    ...         writer.write_shard(time, row, column, tokens, valid)
    ...     writer.finish(time)

    Each file appears whole and is noted in a journal, so after a kill, even -9, what is not noted is written again.
    Readers do not see a date before `finish`, so a published product stays readable while one is added. Methods may be
    called from several threads.

    Args:
        path: a product that `create_product` made, in a folder or a bucket.
        spec: where given, the product must have been made with it (grid, CRS, codec, quality, model, ...).

    Raises:
        InputError: there is no product, another writer has it open, or it was made with another spec.
        CorruptError: its metadata are damaged.
        NecError: the bucket cannot be reached, or refuses, after several attempts; methods raise it too.
    """

    def __init__(self, path: str | Path, spec: ProductSpec | None = None) -> None:
        self._home = home_of(path)
        self.path = self._home.path
        if spec is not None:
            _check_identity(self._opened(), spec)
        self._lock = self._home.lock()
        try:
            self.product = self._opened()
            self._attrs: dict[str, Any] = self.product.attrs
            self._notes = self._home.notes
            self._records: dict[Place, _Record] = {
                (t, row, column): _Record((size, crc), (valid_size, valid_crc), tokens)
                for t, row, column, size, crc, valid_size, valid_crc, tokens in self._notes.entries(8)
            }
        except BaseException:
            self.close()
            raise
        self._threads = threading.RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another writer in. What is written stays; a date that is not finished can be resumed."""
        self._lock.release()

    def destroy(self) -> bool:
        """Remove a product that was closed -> whether it is gone."""
        return self._home.destroy()

    @property
    def encoder(self) -> ShardEncoder:
        """Makes the bytes that `write_encoded` writes; it can be pickled, so that workers encode and one writes."""
        return ShardEncoder(self.product.codec, self.product.quality, self.product.tiling)

    @property
    def times(self) -> np.ndarray:
        """The dates in the product, finished and then pending, datetime64[s]."""
        return np.array([date(entry["time"]) for entry in self._entries()], "datetime64[s]")

    def append_time(self, time: Any, *, source: Mapping[str, Any] | None = None) -> int:
        """Begin a date, or go on with one that an earlier run began or finished.

        Args:
            time: datetime64, datetime or ISO text; in UTC, kept to the second.
            source: free JSON on the imagery of this date; "links" is a list of its URLs.

        Returns:
            The date's index.

        Raises:
            InputError: another date was begun and is not finished, or this one was begun from another source.
        """
        when, described = date(time), as_json(source, "source")
        with self._threads:
            for index, entry in enumerate(self._entries()):
                if date(entry["time"]) == when:
                    if entry["source"] != described:
                        raise InputError(f"{self.path} has {iso(when)} already, from another source: {entry['source']}")
                    return index
            if self._attrs["pending"]:
                other = self._attrs["pending"][0]["time"]
                raise InputError(f"{self.path}: {other} was begun and not finished: finish or discard it first")
            self._attrs = {**self._attrs, "complete": False, "pending": [{"time": iso(when), "source": described}]}
            self._write_metadata()
            return len(self._attrs["times"])

    def discard(self, time: int) -> None:
        """Forget the pending date `time` and remove what was written of it."""
        self._check_time(time)
        if time != len(self._attrs["times"]):
            raise InputError(f"{self.path}: only a date that is not finished can be discarded")
        for row, column in self.product.tiling.all_shards():
            self._home.remove(embeddings_key(time, row, column))
            self._home.remove(valid_key(time, row, column))
            self._records.pop((time, row, column), None)
        self._notes.remove()
        self._attrs = {**self._attrs, "complete": bool(self._attrs["times"]), "pending": []}
        self._write_metadata()

    def done(self, time: int) -> set[tuple[int, int]]:
        """(row, column) of the shards of a date that are written and undamaged (in a bucket: of the size noted)."""
        self._check_time(time)
        self._load_list(time)
        records = {place: self._records.get((time, *place)) for place in self.product.tiling.all_shards()}
        marks = {place: record.marks(time, *place) for place, record in records.items() if record is not None}
        intact = self._home.intact({key: mark for pair in marks.values() for key, mark in pair.items()})
        return {place for place, pair in marks.items() if pair.keys() <= intact}

    def missing(self, time: int) -> list[tuple[int, int]]:
        """(row, column) of the shards of a date that are not written yet, or damaged, row by row."""
        done = self.done(time)
        return [place for place in self.product.tiling.all_shards() if place not in done]

    def write_shard(self, time: int, row: int, column: int, tokens: np.ndarray, valid: np.ndarray) -> None:
        """Encode one whole shard and write it; see `ShardEncoder.encode` for the arguments.

        Args:
            tokens: float (y, x, d) of the shard's tokens within the grid, NaN where they are not valid.
            valid: bool (y, x).
        """
        self.write_encoded(time, row, column, self.encoder.encode(row, column, tokens, valid))

    def write_encoded(
        self, time: int, row: int, column: int, shard: EncodedShard, failed: Iterable[FailedTile] = ()
    ) -> None:
        """Write a shard that `encoder` made, here or elsewhere.

        `failed`: tiles that could not be read, whose tokens are not valid for that reason; see `failed`.

        Raises:
            CorruptError: what was sent is no whole shard.
        """
        self._check_time(time)
        self.product.tiling.check_shard(row, column)
        self._home.write(valid_key(time, row, column), shard.valid)
        if shard.embeddings:
            chunks_in_shard(shard.embeddings, int(np.prod(self.product.tiling.slots)))
            self._home.write(embeddings_key(time, row, column), shard.embeddings)
        else:
            self._home.remove(embeddings_key(time, row, column))
        record = _Record(mark(shard.embeddings), mark(shard.valid), shard.valid_tokens)
        with self._threads:
            self._records[time, row, column] = record
            for tile in failed:
                self._notes.note((time, *tile))
            self._notes.note((time, row, column), record.numbers)

    def failed(self, time: int) -> list[FailedTile]:
        """The tiles of a date that could not be read, of all runs that wrote to it, in order."""
        self._check_time(time)
        run = self._entries()[time].get("run") or {}
        noted = {(row, column, side) for t, row, column, side in self._notes.entries(4) if t == time}
        return sorted(noted | {tuple(tile) for tile in run.get("failed_tiles", [])})

    def finish(self, time: int, *, run: Mapping[str, Any] | None = None) -> None:
        """Check that every shard of a date is there, list sizes and checksums, and show it to readers in one step.

        Args:
            run: free JSON on how it was made, for catalogues: "datetime", "parameters", "energy" (docs/products.md).
                Leave out what differs between runs where two runs must give the same bytes.

        Raises:
            IncompleteError: some shards are not written, or damaged.
        """
        missing = self.missing(time)
        if missing:
            raise IncompleteError(
                f"{self.path}: {len(missing)} of {len(self.product.tiling.all_shards())} shards of date {time} are not"
                f" written yet, the first at row and column {missing[0]}"
            )
        with self._threads:
            self._seal(time, as_json(run, "run"))

    def _seal(self, time: int, run: dict[str, Any] | None) -> None:
        records = {place: self._records[time, *place] for place in self.product.tiling.all_shards()}
        listed = json_bytes({"shards": [list(record.numbers) for record in records.values()]})
        self._home.write(list_key(time), listed)
        begun = self._entries()[time]
        entry = {
            "time": begun["time"],
            "source": begun["source"],
            "run": run if run is not None else begun.get("run"),
            "stored_bytes": sum(record.embeddings[0] for record in records.values()),
            "valid_tokens": sum(record.valid_tokens for record in records.values()),
            "list": checksum(listed),
        }
        times = list(self._attrs["times"])
        times[time : time + 1] = [entry]
        pending = [] if time == len(self._attrs["times"]) else self._attrs["pending"]
        self._home.tidy()
        self._attrs = {**self._attrs, "complete": not pending, "times": times, "pending": pending}
        for key, data in time_files(self.times[: len(times)]):
            self._home.write(key, data)
        self._write_metadata()
        if not pending:
            self._notes.remove()

    def _opened(self) -> Product:
        return patiently(partial(Product, self.path, allow_incomplete=True))

    def _entries(self) -> list[dict[str, Any]]:
        return [*self._attrs["times"], *self._attrs["pending"]]

    def _check_time(self, time: int) -> None:
        if not 0 <= time < len(self._entries()):
            raise InputError(f"{self.path} has no date {time}: begin it with append_time")

    def _load_list(self, time: int) -> None:
        """Take what a finished date's list says, unless the journal knows better."""
        if time >= len(self._attrs["times"]):
            return
        try:
            listed = self.product.shard_list(time)
        except CorruptError:  # a damaged list: its shards are written again
            return
        for place, numbers in listed.items():
            size, crc, valid_size, valid_crc, tokens = numbers
            self._records.setdefault((time, *place), _Record((size, crc), (valid_size, valid_crc), tokens))

    def _write_metadata(self) -> None:
        arrays = with_dates(self.product.metadata, len(self._attrs["times"]))
        for key, data in metadata_files(self._attrs, arrays, self.product.conventions):
            self._home.write(key, data)


def _check_identity(product: Product, spec: ProductSpec) -> None:
    """`InputError` naming what differs between a product and what it is to be resumed with."""
    wanted = spec.attributes()
    differ = [key for key in _IDENTITY if product.attrs.get(key) != wanted[key]]
    if product.tiling != spec.tiling:
        differ.append("grid, chunk or shard")
    if (product.crs, product.transform) != (spec.crs_names[0], spec.affine):
        differ.append("crs or transform")
    if differ:
        raise InputError(
            f"{product.path} was begun with something else ({', '.join(differ)} differ):"
            " resume with the same, or write to another name"
        )
