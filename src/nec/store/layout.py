"""What a store looks like on disk: the arrays, the shards, the metadata document and its seal.

A store is one Zarr v3 group, specified in docs/store.md:

    zarr.json               group; attributes "nec"; consolidated metadata of the arrays
    embeddings/c.<s>.0.0.0  one shard of images; inner chunks coded by `nec.embedding`
    labels/ names/ split/ groups/   one value an image
    masks/                  class indices of every pixel, chunks of whole images
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nec.errors import CorruptError, InputError
from nec.files import checksum

FORMAT_VERSION = 1
EMBEDDINGS, LABELS, NAMES, SPLIT, GROUPS, MASKS = "embeddings", "labels", "names", "split", "groups", "masks"
#: In masks: a pixel whose label is absent, ignored or unknown. It enters no loss and no metric.
IGNORE = 255
SPLITS = ("", "train", "val", "test")
DIMENSIONS = ("image", "y", "x", "embedding")
SIDE_CHUNK = 65536  # images a chunk of labels, names, split and groups
MASK_CHUNK_BYTES = 4 * 2**20  # pixels a chunk of masks, at most, if an image is no larger
CHUNK_KEYS = {"name": "default", "separator": "."}
_ABSENT = np.uint64(2**64 - 1)  # offset and length of a chunk that a shard does not hold
# Another writer may add attributes to the arrays; what decides how bytes are read is sealed.
_SEALED = ("shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs", "dimension_names")


@dataclass(frozen=True)
class Tiling:
    """How `images` images are cut into chunks (decoded together) and shards (one file each)."""

    images: int
    per_chunk: int
    chunks_per_shard: int

    @classmethod
    def fit(cls, images: int, per_chunk: int, chunks_per_shard: int) -> Tiling:
        """The tiling asked for, made smaller where there are fewer images, so that small stores are not padded."""
        per_chunk = min(per_chunk, images)
        return cls(images, per_chunk, min(chunks_per_shard, math.ceil(images / per_chunk)))

    @property
    def per_shard(self) -> int:
        """Images in a whole shard."""
        return self.per_chunk * self.chunks_per_shard

    @property
    def chunks(self) -> int:
        """Chunks in the store; the last may hold fewer images."""
        return math.ceil(self.images / self.per_chunk)

    @property
    def shards(self) -> int:
        """Shards in the store; the last may hold fewer chunks."""
        return math.ceil(self.images / self.per_shard)

    def shard_at(self, image: int) -> int:
        """The shard that begins at `image`; `InputError` where none does."""
        shard, rest = divmod(image, self.per_shard)
        if rest or not 0 <= shard < self.shards:
            raise InputError(f"image {image}: shards begin at multiples of {self.per_shard}: use missing()")
        return shard

    def shard_images(self, shard: int) -> tuple[int, int]:
        """[start, stop) of the images in a shard."""
        return shard * self.per_shard, min((shard + 1) * self.per_shard, self.images)

    def chunk_images(self, chunk: int) -> tuple[int, int]:
        """[start, stop) of the images in a chunk."""
        return chunk * self.per_chunk, min((chunk + 1) * self.per_chunk, self.images)

    def shard_chunks(self, shard: int) -> range:
        """The chunks in a shard, numbered over the store."""
        return range(shard * self.chunks_per_shard, min((shard + 1) * self.chunks_per_shard, self.chunks))

    def shard_key(self, shard: int) -> str:
        """Path of a shard inside the store."""
        return f"{EMBEDDINGS}/c.{shard}.0.0.0"

    def describe_chunk(self, chunk: int) -> str:
        """The words that error messages use for a chunk."""
        start, stop = self.chunk_images(chunk)
        key = self.shard_key(chunk // self.chunks_per_shard)
        return f"chunk {chunk} (images {start} to {stop - 1}, in {key})"


def tiling_of(metadata: dict[str, Any]) -> Tiling:
    """Tiling written in the metadata document of the embeddings array."""
    shard = metadata["chunk_grid"]["configuration"]["chunk_shape"][0]
    chunk = metadata["codecs"][0]["configuration"]["chunk_shape"][0]
    return Tiling(metadata["shape"][0], chunk, shard // chunk)


def pack_shard(chunks: Sequence[bytes | None]) -> bytes:
    """One file of Zarr's `sharding_indexed`: the chunks one after another, then their index and its CRC-32C.

    `chunks` has an entry for every slot of the shard, row by row; None where there is none.
    """
    index = np.full((len(chunks), 2), _ABSENT, "<u8")
    end = 0
    for slot, chunk in enumerate(chunks):
        if chunk is not None:
            index[slot] = end, len(chunk)
            end += len(chunk)
    table = index.tobytes()
    return b"".join([*filter(None, chunks), table, int(checksum(table), 16).to_bytes(4, "little")])


def chunks_in_shard(shard: bytes, slots: int) -> int:
    """Number of inner chunks that a shard's index (at its end, CRC-32C) lists.

    Raises:
        CorruptError: the shard is cut short or its index is damaged.
    """
    return sum(place is not None for place in shard_index(shard, slots))


def index_bytes(slots: int) -> int:
    """Bytes of the index at the end of a shard."""
    return 16 * slots + 4


def shard_index(shard: bytes, slots: int) -> list[tuple[int, int] | None]:
    """(offset, length) of each inner chunk, None where there is none, from a shard or its last `index_bytes`.

    Raises:
        CorruptError: the shard is cut short or its index is damaged.
    """
    size = index_bytes(slots)
    index = shard[-size:]
    if len(index) < size:
        raise CorruptError(f"cut short: {len(shard)} bytes do not hold the {size} of its index")
    if int(checksum(index[:-4]), 16) != int.from_bytes(index[-4:], "little"):
        raise CorruptError("its index is damaged (CRC-32C)")
    pairs = np.frombuffer(index[:-4], "<u8").reshape(-1, 2)
    return [None if pair[0] == _ABSENT else (int(pair[0]), int(pair[1])) for pair in pairs]


def side_arrays(arrays: dict[str, Any]) -> list[str]:
    """Names of the arrays beside the embeddings that are there, in a fixed order."""
    return [name for name in (LABELS, NAMES, SPLIT, GROUPS, MASKS) if name in arrays]


def side_keys(name: str, metadata: dict[str, Any]) -> Iterator[str]:
    """Paths of the chunks of one array beside the embeddings, of which `metadata` is the document."""
    shape, chunk = metadata["shape"], metadata["chunk_grid"]["configuration"]["chunk_shape"]
    rest = ".0" * (len(shape) - 1)  # chunks hold whole images
    return (f"{name}/c.{i}{rest}" for i in range(math.ceil(shape[0] / chunk[0])))


def mask_tiling(shape: tuple[int, ...]) -> Tiling:
    """How masks (n, h, w) are cut into chunks; a chunk is a file."""
    n, height, width = shape
    return Tiling.fit(n, max(1, MASK_CHUNK_BYTES // (height * width)), 1)


def values_checksum(values: Sequence[str] | np.ndarray) -> str:
    """Checksum of labels, names, split or groups as read, so that a lost or exchanged chunk is found."""
    if isinstance(values, np.ndarray):
        return checksum(values.astype("<i8").tobytes())
    return checksum("\0".join(values).encode())


def seal(nec: dict[str, Any], arrays: dict[str, dict[str, Any]], attributes: dict[str, Any] | None = None) -> str:
    """Checksum of the "nec" attributes (but "seal"), of what decides how the arrays are read, and of `attributes`."""
    sealed: dict[str, Any] = {
        "nec": {key: value for key, value in nec.items() if key != "seal"},
        "arrays": {name: {key: meta.get(key) for key in _SEALED} for name, meta in arrays.items()},
    }
    if attributes:
        sealed["attributes"] = attributes
    return checksum(json.dumps(sealed, sort_keys=True, separators=(",", ":")).encode())


def sealed_attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    """The group's attributes beside "nec" that its seal covers: where a product lies."""
    if attributes["nec"].get("kind") != "product":
        return {}
    return {key: value for key, value in attributes.items() if key.startswith(("proj:", "spatial:"))}


def group_document(
    nec: dict[str, Any], arrays: dict[str, dict[str, Any]], attributes: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The group's zarr.json: sealed attributes, and the arrays' metadata so that a remote reader asks once.

    `attributes` are those beside "nec".
    """
    beside = attributes or {}
    whole = {**nec, "seal": seal(nec, arrays, sealed_attributes({**beside, "nec": nec}))}
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {**beside, "nec": whole},
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": arrays},
    }
