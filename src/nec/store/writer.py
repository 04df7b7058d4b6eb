"""Write a store, shard by shard, so that an interrupted one can be completed to the same bytes."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec

from nec.errors import CorruptError, IncompleteError, InputError
from nec.files import PARTIAL, remove, write_bytes, write_json
from nec.store.begin import begin, local_path
from nec.store.journal import Journal, Mark, is_intact, mark
from nec.store.layout import (
    CHUNK_KEYS,
    DIMENSIONS,
    EMBEDDINGS,
    GROUPS,
    IGNORE,
    LABELS,
    MASKS,
    NAMES,
    SIDE_CHUNK,
    SPLIT,
    SPLITS,
    chunks_in_shard,
    group_document,
    mask_tiling,
)
from nec.store.lock import WriterLock
from nec.store.reader import Store
from nec.store.shard import StoreShardEncoder
from nec.store.spec import StoreSpec

MASK_LEVEL = 12  # of Zstandard
MASK_DIMENSIONS = ("image", "row", "column")  # pixels, not the tokens of the axes y and x
_IDENTITY = ("format_version", "images", "quality", "codec", "model", "classes", "masks", "checksums")


class StoreWriter:
    """Writes one local store; hold it in a `with` block, so that another writer may follow.

    >>> with StoreWriter.create(path, codec=codec, quality=1.0, names=names, grid=(8, 8)) as writer:  # doctest: +SKIP
    ...     for start, stop in writer.missing():
    ...         writer.write(start, embeddings[start:stop])
    ...     writer.finish()

    Each shard is a file that appears whole (written under another name, then renamed) and is then noted, with its size
    and CRC-32C, in a journal. After a kill, even -9, `resume` writes what is not noted, or is damaged, again.
    """

    def __init__(self, path: Path, spec: StoreSpec, lock: WriterLock) -> None:
        self.path = path
        self.spec = spec
        self.tiling = spec.tiling
        self._lock = lock
        self._store = Store(path, allow_incomplete=True)
        self._journal = Journal(path)
        self._written = self._recorded()

    @classmethod
    def create(cls, path: str | Path, *, overwrite: bool = False, **keywords: Any) -> Self:
        """Begin a store at `path`; `keywords` are those of `StoreSpec`.

        Raises:
            InputError: a keyword is wrong; `path` exists and is not a store, or is one and `overwrite` is not given, or
                another writer has it open.
        """
        path = local_path(path)
        spec = StoreSpec(**keywords)
        return cls._open(path, spec, begin(path, partial(_write_skeleton, spec=spec), overwrite=overwrite))

    @classmethod
    def resume(cls, path: str | Path, **keywords: Any) -> Self:
        """Go on with a store that an earlier run began with the same `keywords`, or repair a complete one.

        Raises:
            InputError: there is no store, another writer has it open, or it was begun with another codec, quality,
                model, list of images, labels, split, groups, masks or tiling; the message says which.
            CorruptError: its metadata are damaged.
        """
        path = local_path(path)
        spec = StoreSpec(**keywords)
        _check_identity(Store(path, allow_incomplete=True), spec)
        return cls._open(path, spec, WriterLock(path))

    @classmethod
    def _open(cls, path: Path, spec: StoreSpec, lock: WriterLock) -> Self:
        try:
            return cls(path, spec, lock)
        except BaseException:
            lock.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let another writer in. What is written stays; a store that is not finished stays incomplete."""
        self._lock.release()

    def missing(self) -> list[tuple[int, int]]:
        """[start, stop) of the images of each shard that is not written yet, or is damaged."""
        return [self.tiling.shard_images(shard) for shard in range(self.tiling.shards) if not self._is_written(shard)]

    def write(self, start: int, embeddings: np.ndarray) -> None:
        """Encode one whole shard, a range out of `missing()`.

        Args:
            start: first image of the range.
            embeddings: float (stop - start, y, x, d), finite.

        Raises:
            InputError: the range is not a shard's, or the embeddings have another shape or hold NaN or infinity.
        """
        self.write_encoded(start, self.encoder.encode(start, embeddings))

    @property
    def encoder(self) -> StoreShardEncoder:
        """Makes the bytes that `write_encoded` writes; it can be pickled, so that workers encode and one writes."""
        return StoreShardEncoder(
            self.spec.codec, self.spec.quality, self.tiling, self.spec.shape, tuple(self.spec.names)
        )

    def write_encoded(self, start: int, data: bytes) -> None:
        """Write a shard that `encoder` made, here or elsewhere; `start`: its first image."""
        shard = self.tiling.shard_at(start)
        write_bytes(self._file(shard), data)
        self._note(shard, data)

    def finish(self) -> None:
        """Check that every chunk is there, record sizes and checksums, and mark the store complete in one step.

        Raises:
            IncompleteError: some shards are not written.
            CorruptError: a shard on disk lacks chunks or is damaged.
        """
        missing = self.missing()
        if missing:
            raise IncompleteError(f"{self.path}: {len(missing)} of {self.tiling.shards} shards are not written yet")
        for shard in range(self.tiling.shards):
            self._check_chunks(shard)
        for leftover in [*self.path.rglob(f"*{PARTIAL}"), *self.path.rglob(".*.tmp")]:
            remove(leftover)
        write_json(self.path / "zarr.json", group_document(self._final_attributes(), self._store.metadata))
        self._journal.remove()
        self.close()

    def _file(self, shard: int) -> Path:
        return self.path / self.tiling.shard_key(shard)

    def _note(self, shard: int, data: bytes) -> None:
        self._written[shard] = mark(data)
        self._journal.note((shard,), self._written[shard])

    def _recorded(self) -> dict[int, Mark]:
        """Shard to (bytes, CRC-32C): what a complete store lists, then what the journal adds."""
        shards = self._store.attrs.get("shards", {"bytes": [], "crc32c": []})
        records = dict(enumerate(zip(shards["bytes"], shards["crc32c"], strict=True)))
        for shard, size, crc in self._journal.entries(3):
            records[shard] = (size, crc)
        return records

    def _is_written(self, shard: int) -> bool:
        return is_intact(self._file(shard), self._written.get(shard))

    def _check_chunks(self, shard: int) -> None:
        found = chunks_in_shard(self._file(shard).read_bytes(), self.tiling.chunks_per_shard)
        if found != len(self.tiling.shard_chunks(shard)):
            raise CorruptError(f"{self._file(shard)} holds {found} of {len(self.tiling.shard_chunks(shard))} chunks")

    def _final_attributes(self) -> dict[str, Any]:
        sizes, checksums = zip(*(self._written[shard] for shard in range(self.tiling.shards)), strict=True)
        figures = {"stored_bytes": sum(sizes), "bytes_per_image": sum(sizes) / self.tiling.images}
        return {
            **self._store.attrs,
            "complete": True,
            "figures": figures,
            "shards": {"bytes": list(sizes), "crc32c": list(checksums)},
        }


def _write_skeleton(folder: Path, spec: StoreSpec) -> None:
    """Write everything but the shards: metadata, labels, names, split, groups and masks, marked incomplete."""
    group = zarr.create_group(zarr.storage.LocalStore(folder))
    _create_embeddings(group, spec)
    for name, values in spec.side_values().items():
        _create_side(group, name, values, spec)
    _create_masks(group, spec)
    arrays: dict[str, dict[str, Any]] = {}
    for name in sorted(name for name, _ in group.members()):
        file = folder / name / "zarr.json"
        arrays[name] = json.loads(file.read_bytes())
        write_json(file, arrays[name])  # compact: the tables in it are long
    write_json(folder / "zarr.json", group_document(spec.attributes(), arrays))


def _create_embeddings(group: zarr.Group, spec: StoreSpec) -> None:
    from nec.codec.zarr_codec import NecEmbeddingCodec

    tiling = spec.tiling
    group.create_array(
        EMBEDDINGS,
        shape=spec.shape,
        dtype="float32",
        chunks=(tiling.per_chunk, *spec.shape[1:]),
        shards=(tiling.per_shard, *spec.shape[1:]),
        serializer=NecEmbeddingCodec(spec.codec, spec.quality),
        compressors=None,
        fill_value=float("nan"),
        dimension_names=DIMENSIONS,
        chunk_key_encoding=CHUNK_KEYS,  # type: ignore[arg-type]
    )


def _create_side(group: zarr.Group, name: str, values: Any, spec: StoreSpec) -> None:
    dtype, fill, attributes = {
        NAMES: (zarr.dtype.VariableLengthUTF8(), "", {"long_name": "name of the image"}),
        LABELS: (zarr.dtype.Int64(), -1, _flags(spec.class_names, "class of the image, -1: none")),
        SPLIT: (
            zarr.dtype.Int8(),
            0,
            _flags(["unassigned", *SPLITS[1:]], "part of the dataset that the image belongs to"),
        ),
        GROUPS: (zarr.dtype.VariableLengthUTF8(), "", {"long_name": "tile or scene that the image was cut from"}),
    }[name]
    array = group.create_array(
        name,
        shape=(len(values),),
        dtype=dtype,  # type: ignore[arg-type]
        chunks=(min(len(values), SIDE_CHUNK),),
        compressors=[ZstdCodec(level=19), Crc32cCodec()],
        fill_value=fill,
        dimension_names=DIMENSIONS[:1],
        chunk_key_encoding=CHUNK_KEYS,  # type: ignore[arg-type]
        attributes=attributes,
        config={"write_empty_chunks": True},
    )
    array[:] = np.array(values, dtype=object) if name in (NAMES, GROUPS) else values


def _create_masks(group: zarr.Group, spec: StoreSpec) -> None:
    if spec.masks is None:
        return
    array = group.create_array(
        MASKS,
        shape=spec.masks.shape,
        dtype="uint8",
        chunks=(mask_tiling(spec.masks.shape).per_chunk, *spec.masks.shape[1:]),
        compressors=[ZstdCodec(level=MASK_LEVEL), Crc32cCodec()],
        fill_value=IGNORE,
        dimension_names=MASK_DIMENSIONS,
        chunk_key_encoding=CHUNK_KEYS,  # type: ignore[arg-type]
        attributes=_flags(spec.mask_classes, f"class of the pixel, {IGNORE}: none"),
        config={"write_empty_chunks": True},
    )
    for start, block in spec.mask_blocks():
        array[start : start + len(block)] = block


def _flags(meanings: Any, long_name: str) -> dict[str, Any]:
    """CF attributes that name the values 0, 1, ... (blanks, which CF uses as separators, become underscores)."""
    if meanings is None:
        return {"long_name": long_name}
    words = " ".join("_".join(str(meaning).split()) for meaning in meanings)
    return {"long_name": long_name, "flag_values": list(range(len(meanings))), "flag_meanings": words}


def _check_identity(store: Store, spec: StoreSpec) -> None:
    """`InputError` naming what differs between a store and what it is to be resumed with."""
    wanted = spec.attributes()
    differ = [key for key in _IDENTITY if store.attrs.get(key) != wanted.get(key)]
    if (*store.grid, store.dimensions) != spec.shape[1:]:
        differ.append("grid or dimensions")
    if store.tiling != spec.tiling:
        differ.append("images_per_chunk or chunks_per_shard")
    if differ:
        raise InputError(
            f"{store.path} was begun with something else ({', '.join(differ)} differ):"
            " resume with the same, or write to another name"
        )
