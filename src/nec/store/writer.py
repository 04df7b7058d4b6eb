"""Write a store shard by shard, to a folder or a bucket, so that a killed run is completed to the same bytes."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeVar

import numpy as np

from nec.errors import CorruptError, IncompleteError, InputError
from nec.files import checksum, json_bytes
from nec.store.backend import Folder, backend_of
from nec.store.document import embeddings_key, group_document, image_key, list_key, valid_key
from nec.store.images import ImageStore
from nec.store.rasters import RasterStore, date, iso
from nec.store.shards import EncodedShard, Mark, Shard, ShardEncoder, chunks_in_shard, mark
from nec.store.skeleton import metadata_files, time_files, with_dates, write_skeleton
from nec.store.spec import ImageSpec, RasterSpec, StoreSpec, as_json

if TYPE_CHECKING:
    from nec.store.backend import WriterLock
    from nec.store.bucket import Bucket, BucketLock

FailedTile = tuple[int, int, int]  # first row, first column and side, in pixels of the scene
_Store = TypeVar("_Store", ImageStore, RasterStore)
_Spec = TypeVar("_Spec", bound=StoreSpec)


class ShardWriter(Generic[_Store, _Spec]):
    """Writes one store; hold it in a `with` block, so that another writer may follow.

    Each file appears whole and is noted, with its size and CRC-32C, in a journal. After a kill, even -9, `resume` goes
    on, and what is not noted, or is damaged, is written again. Methods may be called from several threads.

    Attributes:
        path: the store, as `nec.open` takes it.
        store: what is there, open for reading.
    """

    _reader: ClassVar[type]
    _same: ClassVar[tuple[str, ...]]  # attributes that must not differ when a store is resumed
    _numbers: ClassVar[int]  # that are noted of a shard

    def __init__(self, backend: Folder | Bucket, lock: WriterLock | BucketLock) -> None:
        self._backend = backend
        self._lock = lock
        self.path = backend.path
        try:
            self.store: _Store = self._reader(str(backend.path), allow_incomplete=True)
            self.tiling = self.store.tiling
            self._attrs: dict[str, Any] = self.store.attrs
            axes = len(self.tiling.shards) if isinstance(self.store, ImageStore) else 3
            self._noted: dict[Shard, tuple[int, ...]] = {
                tuple(entry[:axes]): tuple(entry[axes:]) for entry in backend.journal.entries(axes + self._numbers)
            }
        except BaseException:
            self.close()
            raise
        self._threads = threading.RLock()

    @classmethod
    def create(cls, path: str | Path, spec: _Spec, *, overwrite: bool = False) -> Self:
        """Begin a store at `path`, a folder or the URL of a bucket.

        Raises:
            InputError: `path` exists and is not a store of ours, or is one and `overwrite` is not given, or another
                writer has it open; or what `spec` describes cannot be stored; or nothing can be written to the URL.
            MissingExtraError: a raster has a CRS, and rasterio, which knows them, is not installed; or obstore is not.
            NecError: the bucket cannot be reached, or refuses, after several attempts; methods raise it too.
        """
        backend = backend_of(path)
        return cls(backend, backend.begin(partial(write_skeleton, spec=spec), overwrite=overwrite))

    @classmethod
    def resume(cls, path: str | Path, spec: _Spec | None = None) -> Self:
        """Go on with a store that an earlier run began, or repair one, or add dates to a raster.

        `spec`: where given, the store must have been made with it.

        Raises:
            InputError: there is no store, another writer has it open, or it was made with another codec, quality,
                model, grid, ...; the message says which.
            CorruptError: its metadata are damaged.
        """
        backend = backend_of(path)
        if spec is not None:
            cls._check_same(cls._reader(str(backend.path), allow_incomplete=True), spec)
        return cls(backend, backend.lock())

    @classmethod
    def _check_same(cls, store: _Store, spec: _Spec) -> None:
        wanted = spec.attributes()
        differ = [key for key in cls._same if store.attrs.get(key) != wanted.get(key)]
        differ += cls._other_grid(store, spec)
        if differ:
            raise InputError(
                f"{store.path} was begun with something else ({', '.join(differ)} differ):"
                " resume with the same, or write to another name"
            )

    @classmethod
    def _other_grid(cls, store: _Store, spec: _Spec) -> list[str]:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another writer in. What is written stays; what is not finished can be resumed."""
        self._lock.release()

    def destroy(self) -> bool:
        """Remove a store that was closed -> whether it is gone."""
        return self._backend.destroy()

    @property
    def encoder(self) -> ShardEncoder:
        """Makes the bytes that `write_encoded` writes; it can be pickled, so that workers encode and one writes."""
        raise NotImplementedError

    def _keys(self, shard: Shard) -> tuple[str, ...]:
        """The files of a shard: of its embeddings, and of a raster its validity."""
        raise NotImplementedError

    def _check(self, shard: Shard, embeddings: bytes) -> None:
        """`CorruptError` where what was sent is no whole shard."""
        raise NotImplementedError

    def _put(self, shard: Shard, encoded: EncodedShard, failed: Iterable[FailedTile] = ()) -> None:
        """Write a shard's files and note them."""
        self._check(shard, encoded.embeddings)
        numbers: tuple[int, ...] = ()
        for key, data in zip(self._keys(shard), (encoded.embeddings, encoded.valid), strict=False):
            if data:  # an empty file is none
                self._backend.write(key, data)
            else:
                self._backend.remove(key)
            numbers += mark(data)
        if len(numbers) < self._numbers:
            numbers += (encoded.valid_tokens,)
        with self._threads:
            self._noted[shard] = numbers
            for row, column, side in failed:
                self._backend.journal.note((shard[0], row, column, side))
            self._backend.journal.note(shard, numbers)

    def _intact(self, shards: Iterable[Shard]) -> set[Shard]:
        """Those that are noted, and of which there is what was noted (in a bucket: so many bytes)."""
        marks: dict[Shard, dict[str, Mark]] = {}
        for shard in shards:
            if shard in self._noted:
                numbers = self._noted[shard]
                marks[shard] = dict(
                    zip(self._keys(shard), zip(numbers[::2], numbers[1::2], strict=False), strict=False)
                )
        intact = self._backend.intact({key: noted for files in marks.values() for key, noted in files.items()})
        return {shard for shard, files in marks.items() if files.keys() <= intact}


class ImageWriter(ShardWriter[ImageStore, ImageSpec]):
    """Writes a store of images.

    >>> with ImageWriter.create(path, ImageSpec(codec=codec, quality=1.0, names=names, grid=(8, 8))) as writer:
    ...     for start, stop in writer.missing():  # doctest: +SKIP
    ...         writer.write(start, embeddings[start:stop])
    ...     writer.finish()
    """

    _reader = ImageStore
    _same = ("format_version", "images", "quality", "codec", "model", "classes", "masks", "checksums")
    _numbers = 2

    def __init__(self, backend: Folder | Bucket, lock: WriterLock | BucketLock) -> None:
        super().__init__(backend, lock)
        if self.store.complete:
            listed = {shard: self.store.written(shard) or () for shard in self.tiling.all_shards()}
            self._noted = {**listed, **self._noted}

    @classmethod
    def _other_grid(cls, store: ImageStore, spec: ImageSpec) -> list[str]:
        shape = (len(store), *store.grid, store.dimensions)
        differ = ["grid or dimensions"] if shape[1:] != spec.shape[1:] else []
        return differ + (["images_per_chunk or chunks_per_shard"] if store.tiling != spec.tiling else [])

    @property
    def encoder(self) -> ShardEncoder:
        item = (*self.store.grid, self.store.dimensions)
        return ShardEncoder(self.store.codec, self.store.quality, self.tiling, item, tuple(self.store.names))

    def missing(self) -> list[tuple[int, int]]:
        """[start, stop) of the images of each shard that is not written yet, or is damaged."""
        intact = self._intact(self.tiling.all_shards())
        windows = [self.tiling.shard_window(*shard)[0] for shard in self.tiling.all_shards() if shard not in intact]
        return [(window.start, window.stop) for window in windows]

    def write(self, start: int, embeddings: np.ndarray) -> None:
        """Encode one whole shard, a range out of `missing()`.

        Args:
            start: first image of the range.
            embeddings: float (stop - start, y, x, d), finite.

        Raises:
            InputError: the range is not a shard's, or the embeddings have another shape or hold NaN or infinity.
        """
        self.write_encoded(start, self.encoder.encode(self.shard_at(start), embeddings))

    def write_encoded(self, start: int, encoded: EncodedShard) -> None:
        """Write a shard that `encoder` made, here or elsewhere; `start`: its first image."""
        self._put(self.shard_at(start), encoded)

    def shard_at(self, start: int) -> Shard:
        """The shard, as `encoder` takes it, whose first image is `start`; `InputError` where none begins."""
        shard, rest = divmod(start, self.tiling.shard[0])
        if rest or not 0 <= shard < self.tiling.shards[0]:
            raise InputError(f"image {start}: shards begin at multiples of {self.tiling.shard[0]}: use missing()")
        return (shard,)

    def finish(self) -> None:
        """Check that every chunk is there, record sizes and checksums, and mark the store complete in one step.

        Raises:
            IncompleteError: some shards are not written.
            CorruptError: a shard lacks chunks.
        """
        shards = self.tiling.all_shards()
        missing = len(shards) - len(self._intact(shards))
        if missing:
            raise IncompleteError(f"{self.path}: {missing} of {len(shards)} shards are not written yet")
        sizes, checksums = zip(*(self._noted[shard] for shard in shards), strict=True)
        self._attrs = {
            **self._attrs,
            "complete": True,
            "figures": {"stored_bytes": sum(sizes), "bytes_per_image": sum(sizes) / len(self.store)},
            "shards": {"bytes": list(sizes), "crc32c": list(checksums)},
        }
        document = group_document(self._attrs, self.store.metadata, self.store.conventions)
        self._backend.publish([("zarr.json", json_bytes(document))])
        self._backend.journal.remove()
        self.close()

    def _keys(self, shard: Shard) -> tuple[str, ...]:
        return (image_key(shard),)

    def _check(self, shard: Shard, embeddings: bytes) -> None:
        found = chunks_in_shard(embeddings, math.prod(self.tiling.slots))
        if found != math.prod(self.tiling.chunks_of(*shard)):
            raise CorruptError(f"the shard {image_key(shard)} that was sent holds {found} chunks")


class RasterWriter(ShardWriter[RasterStore, RasterSpec]):
    """Writes a raster, date by date. Shards are (time, row, column).

    >>> with RasterWriter.create(path, spec) as writer:  # doctest: +SKIP
    ...     time = writer.append_time(np.datetime64("2026-05-01"))
    ...     for shard in writer.missing(time):
    ...         writer.write(shard, tokens, valid)
    ...     writer.finish(time)

    Readers do not see a date before `finish`, so a published raster stays readable while one is added.
    """

    _reader = RasterStore
    _same = ("format_version", "dimensions", "patch_px", "quality", "codec", "model", "bands")
    _numbers = 5

    @classmethod
    def _other_grid(cls, store: RasterStore, spec: RasterSpec) -> list[str]:
        differ = ["grid, chunk or shard"] if store.tiling != spec.tiling else []
        return differ + (
            ["crs or transform"] if (store.crs, store.transform) != (spec.crs_names[0], spec.affine) else []
        )

    @property
    def encoder(self) -> ShardEncoder:
        return ShardEncoder(self.store.codec, self.store.quality, self.tiling, (self.store.dimensions,))

    @property
    def times(self) -> np.ndarray:
        """The dates in the raster, finished and then pending, datetime64[s]."""
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
            self._backend.publish(self._metadata())
            return len(self._attrs["times"])

    def discard(self, time: int) -> None:
        """Forget the pending date `time` and remove what was written of it."""
        self._check_time(time)
        if time != len(self._attrs["times"]):
            raise InputError(f"{self.path}: only a date that is not finished can be discarded")
        for shard in self._shards(time):
            for key in self._keys(shard):
                self._backend.remove(key)
            self._noted.pop(shard, None)
        self._backend.journal.remove()
        self._attrs = {**self._attrs, "complete": bool(self._attrs["times"]), "pending": []}
        self._backend.publish(self._metadata())

    def done(self, time: int) -> set[Shard]:
        """The shards of a date that are written and undamaged (in a bucket: of the size noted)."""
        self._check_time(time)
        self._load_list(time)
        return self._intact(self._shards(time))

    def missing(self, time: int) -> list[Shard]:
        """The shards (time, row, column) of a date that are not written yet, or damaged, row by row."""
        done = self.done(time)
        return [shard for shard in self._shards(time) if shard not in done]

    def write(self, shard: Shard, tokens: np.ndarray, valid: np.ndarray) -> None:
        """Encode one whole shard and write it.

        Args:
            shard: (time, row, column), out of `missing`.
            tokens: float (y, x, d) of the shard's tokens within the grid, NaN where they are not valid.
            valid: bool (y, x).

        Raises:
            InputError: no such shard, shapes differ from its, or a valid token holds NaN or infinity.
        """
        self.write_encoded(shard, self.encoder.encode(shard[1:], tokens, valid))

    def write_encoded(self, shard: Shard, encoded: EncodedShard, failed: Iterable[FailedTile] = ()) -> None:
        """Write a shard that `encoder` made, here or elsewhere.

        `failed`: tiles that could not be read, whose tokens are not valid for that reason; see `failed`.

        Raises:
            CorruptError: what was sent is no whole shard.
        """
        self._check_time(shard[0])
        self.tiling.check_shard(*shard[1:])
        self._put(shard, encoded, failed)

    def failed(self, time: int) -> list[FailedTile]:
        """The tiles of a date that could not be read, of all runs that wrote to it, in order."""
        self._check_time(time)
        run = self._entries()[time].get("run") or {}
        noted = {(row, column, side) for t, row, column, side in self._backend.journal.entries(4) if t == time}
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
                f"{self.path}: {len(missing)} of {len(self._shards(time))} shards of date {time} are not"
                f" written yet, the first at row and column {missing[0][1:]}"
            )
        with self._threads:
            self._finish(time, as_json(run, "run"))

    def _finish(self, time: int, run: dict[str, Any] | None) -> None:
        noted = [self._noted[shard] for shard in self._shards(time)]
        listed = json_bytes({"shards": [list(numbers) for numbers in noted]})
        begun = self._entries()[time]
        entry = {
            "time": begun["time"],
            "source": begun["source"],
            "run": run if run is not None else begun.get("run"),
            "stored_bytes": sum(numbers[0] for numbers in noted),
            "valid_tokens": sum(numbers[4] for numbers in noted),
            "list": checksum(listed),
        }
        times = list(self._attrs["times"])
        times[time : time + 1] = [entry]
        pending = [] if time == len(self._attrs["times"]) else self._attrs["pending"]
        self._attrs = {**self._attrs, "complete": not pending, "times": times, "pending": pending}
        coordinates = time_files(self.times[: len(times)])
        self._backend.publish([(list_key(time), listed), *coordinates, *self._metadata()])
        if not pending:
            self._backend.journal.remove()

    def _keys(self, shard: Shard) -> tuple[str, ...]:
        return embeddings_key(shard), valid_key(shard)

    def _check(self, shard: Shard, embeddings: bytes) -> None:
        if embeddings:
            chunks_in_shard(embeddings, math.prod(self.tiling.slots))

    def _shards(self, time: int) -> list[Shard]:
        return [(time, *shard) for shard in self.tiling.all_shards()]

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
            listed = self.store.shard_list(time)
        except CorruptError:  # a damaged list: its shards are written again
            return
        for shard, numbers in listed.items():
            self._noted.setdefault((time, *shard), numbers)

    def _metadata(self) -> list[tuple[str, bytes]]:
        arrays = with_dates(self.store.metadata, len(self._attrs["times"]))
        return list(metadata_files(self._attrs, arrays, self.store.conventions))
