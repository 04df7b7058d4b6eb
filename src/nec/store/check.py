"""Check a whole store."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nec.errors import CorruptError
from nec.files import parse_json
from nec.progress import Progress
from nec.report import Report
from nec.store.document import MASKS, TIME, Store, X, Y, list_key, member, side_arrays, valid_key
from nec.store.frames import Frames
from nec.store.georeference import centres
from nec.store.images import ImageStore
from nec.store.location import DAMAGE, Location, read_key
from nec.store.opening import open as open_any
from nec.store.rasters import RasterStore
from nec.store.shards import Mark, Shard, chunks_in_shard, mark

Fault = dict[str, Any]


@dataclass(frozen=True)
class VerifyReport(Report):
    """What `nec.verify` found.

    Attributes:
        ok: whether nothing is damaged.
        chunks: how many there must be; of a raster, those with a valid token.
        found: how many of them decode.
        corrupt: {"where": path in the store, "reason": text} of each fault, and where known "images" [first, last] or
            "tokens" [row, column].
    """

    ok: bool
    chunks: int
    found: int
    corrupt: list[Fault] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        """Whether something is damaged."""
        return not self.ok

    def __str__(self) -> str:
        lines = []
        for fault in self.corrupt:
            place = " images {} to {}".format(*fault["images"]) if "images" in fault else ""
            place += " tokens from row {}, column {}".format(*fault["tokens"]) if "tokens" in fault else ""
            lines.append(f"corrupt: {fault['where']}{place}: {fault['reason']}")
        return "\n".join([*lines, f"{self.found} of {self.chunks} chunks are whole: {'ok' if self.ok else 'DAMAGED'}"])


def verify(location: Location, *, progress: bool = False) -> VerifyReport:
    """Read and decode every chunk of a store and check every checksum.

    Args:
        location: what `nec.open` takes.
        progress: show on stderr how far it is.

    Returns:
        What is damaged; `ok` if nothing is.

    Raises:
        InputError: there is no store.
        IncompleteError: its writing has not finished.
        NecError: it cannot be reached.
    """
    try:
        store = open_any(location)
    except CorruptError as error:
        return VerifyReport(False, 0, 0, [{"where": "zarr.json", "reason": str(error)}])
    of_raster = isinstance(store, RasterStore)
    total, unit = (len(store) * len(store.tiling.all_shards()), "shards") if of_raster else (len(store), "images")
    with Progress(total, "verifying", unit, quiet=not progress) as bar:
        check = _Check(store, bar)
        if isinstance(store, RasterStore):
            check.raster(store)
        else:
            check.images(store)
    return VerifyReport(not check.corrupt, check.chunks, check.found, check.corrupt)


class _Check:
    """Counts and faults of one store."""

    def __init__(self, store: Store, progress: Progress) -> None:
        self.store, self.progress = store, progress
        self.chunks = self.found = 0
        self.corrupt: list[Fault] = list(_metadata_faults(store))

    def images(self, store: ImageStore) -> None:
        for name in side_arrays(store.metadata):
            try:
                getattr(store, name)
            except CorruptError as error:
                self.corrupt.append({"where": name, "reason": str(error)})
        masks = store.masks
        for chunk in range(0 if masks is None else masks.tiling.chunks):
            assert masks is not None
            (images,) = masks.tiling.shard_window(chunk)
            try:
                masks.read(images.start, images.stop)
            except CorruptError as error:
                where = {"where": f"{MASKS}/c.{chunk}.0.0", "images": [images.start, images.stop - 1]}
                self.corrupt.append({**where, "reason": str(error)})
        for shard in store.tiling.all_shards():
            slots = [slot for slot, window in enumerate(store.tiling.chunk_windows(*shard)) if window is not None]
            self._shard(store.embeddings.frames, shard, slots, store.written(shard))
            window = store.tiling.shard_window(*shard)[0]
            self.progress.update(window.stop - window.start)

    def raster(self, store: RasterStore) -> None:
        self.corrupt += _coordinate_faults(store)
        for time in range(len(store)):
            frames = store.frames(time)
            try:
                listed = store.shard_list(time)
            except CorruptError as error:
                self.corrupt.append({"where": list_key(time), "reason": str(error)})
                listed = {}
            for shard in store.tiling.all_shards():
                self._raster_shard(store, frames, time, shard, listed.get(shard))
                self.progress.update()

    def _raster_shard(
        self, store: RasterStore, frames: Frames, time: int, shard: Shard, listed: tuple[int, ...] | None
    ) -> None:
        key = valid_key((time, *shard))
        try:
            windows = enumerate(store.tiling.chunk_windows(*shard))
            slots = [slot for slot, window in windows if window and store.read_valid(time, *window).any()]
        except DAMAGE as error:
            self.corrupt.append({"where": key, "reason": str(error)})
            return
        written, valid = (None, None) if listed is None else (listed[:2], listed[2:4])
        whole = self._shard(frames, shard, slots, written)  # type: ignore[arg-type]
        if whole and valid is not None and mark(read_key(store.zarr_store, key) or b"") != valid:
            self.corrupt.append({"where": key, "reason": _EXCHANGED})

    def _shard(self, frames: Frames, shard: Shard, slots: list[int], written: Mark | None) -> bool:
        """Decode the chunks at `slots`, which must be all that a shard holds -> whether they are whole."""
        key = frames.key(shard)
        self.chunks += len(slots)
        faults = [
            {"where": key, **_place(frames, shard, slot), "reason": reason}
            for slot, reason in frames.faults(shard, slots)
        ]
        self.found += len(slots) - len(faults)
        self.corrupt += faults
        if faults or written is None:
            return not faults
        data = read_key(self.store.zarr_store, key) or b""
        if mark(data) != written:
            self.corrupt.append({"where": key, "reason": _EXCHANGED})
        elif data and chunks_in_shard(data, math.prod(frames.tiling.slots)) != len(slots):
            self.corrupt.append({"where": key, "reason": "holds another number of chunks than the store needs"})
        return True


_EXCHANGED = "decodes, but is not what was written (size or CRC-32C differs)"


def _place(frames: Frames, shard: Shard, slot: int) -> Fault:
    window = frames.tiling.chunk_windows(*shard)[slot]
    assert window is not None
    if len(window) == 1:
        return {"images": [window[0].start, window[0].stop - 1]}
    return {"tokens": [axis.start for axis in window]}


def _metadata_faults(store: Store) -> Iterator[Fault]:
    """The arrays' own documents must be those of the group, which its checksum covers."""
    for name, expected in store.metadata.items():
        where = f"{name}/zarr.json"
        data = read_key(store.zarr_store, where)
        try:
            intact = data is not None and parse_json(data, where) == expected
        except CorruptError:
            intact = False
        if not intact:
            yield {"where": where, "reason": "missing" if data is None else "damaged: differs from zarr.json"}


def _coordinate_faults(store: RasterStore) -> Iterable[Fault]:
    """The coordinates must be what the checked metadata say."""
    places = centres(store.transform, store.grid) or (None, None)
    expected = {TIME: store.times.astype(np.int64), X: places[0], Y: places[1]}
    expected |= {"embedding": np.arange(store.dimensions)}
    for name, values in expected.items():
        if values is None or name not in store.metadata:
            continue
        try:
            intact = np.array_equal(np.asarray(member(store.group, name)[...]), values)
        except DAMAGE:
            intact = False
        if not intact or (values.size and read_key(store.zarr_store, f"{name}/c.0") is None):
            yield {"where": name, "reason": "damaged or missing: not the values that the metadata give"}
