"""How a store's grid is cut into chunks and shards, and shards as bytes: the same wherever they are encoded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd  # type: ignore[import-untyped]

from nec.errors import CorruptError, InputError

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec

Shard = tuple[int, ...]
Window = tuple[slice, ...]


@dataclass(frozen=True)
class Tiling:
    """A grid in chunks of `chunk` items and shards of `shard` items along each axis.

    A store of images has one axis (images), a raster two (rows and columns of tokens). A shard is a whole number of
    chunks. Shards and chunks at the grid's end may hold fewer items.
    """

    grid: tuple[int, ...]
    chunk: tuple[int, ...]
    shard: tuple[int, ...]

    @classmethod
    def fit(cls, grid: tuple[int, ...], chunk: tuple[int, ...], slots: tuple[int, ...]) -> Tiling:
        """Chunks and `slots` chunks a shard as asked for; fewer where the grid is smaller, so that it is not padded."""
        chunk = tuple(min(int(size), whole) for size, whole in zip(chunk, grid, strict=True))
        most = (math.ceil(whole / size) for whole, size in zip(grid, chunk, strict=True))
        shard = tuple(size * min(int(count), end) for size, count, end in zip(chunk, slots, most, strict=True))
        return cls(tuple(grid), chunk, shard)

    @classmethod
    def of(cls, metadata: dict[str, Any], axes: slice) -> Tiling:
        """What the metadata document of a sharded array say of some of its axes."""
        shard = metadata["chunk_grid"]["configuration"]["chunk_shape"][axes]
        chunk = metadata["codecs"][0]["configuration"]["chunk_shape"][axes]
        return cls(tuple(metadata["shape"][axes]), tuple(chunk), tuple(shard))

    @property
    def shards(self) -> tuple[int, ...]:
        """Shards along each axis."""
        return tuple(math.ceil(whole / size) for whole, size in zip(self.grid, self.shard, strict=True))

    @property
    def slots(self) -> tuple[int, ...]:
        """Chunks in a whole shard along each axis."""
        return tuple(whole // size for whole, size in zip(self.shard, self.chunk, strict=True))

    @property
    def chunks(self) -> int:
        """Chunks in all."""
        return math.prod(math.ceil(whole / size) for whole, size in zip(self.grid, self.chunk, strict=True))

    def all_shards(self) -> list[Shard]:
        """Every shard, the last axis fastest."""
        return list(product(*map(range, self.shards)))

    def check_shard(self, *shard: int) -> None:
        """Raise `InputError` where there is no such shard."""
        if len(shard) != len(self.grid) or not all(0 <= at < end for at, end in zip(shard, self.shards, strict=True)):
            raise InputError(f"no shard {shard}: there are {' x '.join(map(str, self.shards))}")

    def shard_window(self, *shard: int) -> Window:
        """The items of a shard, as slices of the grid."""
        return tuple(map(_extent, shard, self.shard, self.grid))

    def chunks_of(self, *shard: int) -> tuple[int, ...]:
        """Chunks of a shard along each axis that lie in the grid, at least in part."""
        inside = self.shard_window(*shard)
        return tuple(math.ceil((axis.stop - axis.start) / size) for axis, size in zip(inside, self.chunk, strict=True))

    def chunk_windows(self, *shard: int) -> list[Window | None]:
        """The items of each chunk of a shard, as slices of the grid; None for one that lies outside.

        In the order in which the shard's index counts its chunks.
        """
        return [self._chunk_window(shard, chunk) for chunk in product(*map(range, self.slots))]

    def _chunk_window(self, shard: Shard, chunk: tuple[int, ...]) -> Window | None:
        whole = [at * slots + i for at, slots, i in zip(shard, self.slots, chunk, strict=True)]
        window = tuple(map(_extent, whole, self.chunk, self.grid))
        return window if all(axis.start < axis.stop for axis in window) else None

    def window_of_chunks(self, shard: Shard, chunks: Window) -> Window:
        """The items of some chunks of a shard, slices of its chunks, as slices of the grid."""
        return tuple(
            slice(whole.start + some.start * size, min(whole.start + some.stop * size, whole.stop))
            for whole, some, size in zip(self.shard_window(*shard), chunks, self.chunk, strict=True)
        )

    def shards_in(self, window: Window) -> Iterator[Shard]:
        """The shards that a window of the grid touches."""
        return product(
            *(
                range(axis.start // size, math.ceil(axis.stop / size)) if axis.start < axis.stop else range(0)
                for axis, size in zip(window, self.shard, strict=True)
            )
        )


def _extent(index: int, size: int, whole: int) -> slice:
    return slice(index * size, min((index + 1) * size, whole))


def overlap(one: Window, other: Window) -> Window | None:
    """What two windows share; None where they share nothing."""
    both = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True))
    return both if all(axis.start < axis.stop for axis in both) else None


def within(window: Window, whole: Window) -> Window:
    """A window as slices of `whole`, which holds it."""
    return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(window, whole, strict=True))


LEVEL = 12  # of Zstandard, for everything of a raster that is not embeddings
_ABSENT = np.uint64(2**64 - 1)  # offset and length of a chunk that a shard does not hold
Mark = tuple[int, int]


def mark(data: bytes) -> Mark:
    """(bytes, CRC-32C) of a file: what is noted of it."""
    return len(data), google_crc32c.value(data)


def compressed(values: np.ndarray) -> bytes:
    """A Zarr chunk of codecs bytes (little-endian), zstd, crc32c."""
    data = bytes(Zstd(level=LEVEL).encode(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()))
    return data + _crc(data)


def _crc(data: bytes) -> bytes:
    return google_crc32c.value(data).to_bytes(4, "little")


def pack_shard(chunks: Sequence[bytes | None]) -> bytes:
    """One file of Zarr's `sharding_indexed`: the chunks one after another, then their index and its CRC-32C.

    `chunks` has an entry for every slot of the shard, the last axis fastest; None where there is none.
    """
    index = np.full((len(chunks), 2), _ABSENT, "<u8")
    end = 0
    for slot, chunk in enumerate(chunks):
        if chunk is not None:
            index[slot] = end, len(chunk)
            end += len(chunk)
    table = index.tobytes()
    return b"".join([*filter(None, chunks), table, _crc(table)])


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
    if _crc(index[:-4]) != index[-4:]:
        raise CorruptError("its index is damaged (CRC-32C)")
    pairs = np.frombuffer(index[:-4], "<u8").reshape(-1, 2)
    return [None if pair[0] == _ABSENT else (int(pair[0]), int(pair[1])) for pair in pairs]


def chunks_in_shard(shard: bytes, slots: int) -> int:
    """Number of inner chunks that a shard's index lists; raises as `shard_index`."""
    return sum(extent is not None for extent in shard_index(shard, slots))


@dataclass(frozen=True)
class EncodedShard:
    """A shard's file of embeddings, and in rasters that of its validity.

    `embeddings` is empty where no token is valid: there is no such file then.
    """

    embeddings: bytes
    valid: bytes = b""
    valid_tokens: int = 0


@dataclass(frozen=True)
class EncodedChunks:
    """Some chunks of a shard, coded; `ShardEncoder.join` makes the shard of them.

    Attributes:
        chunks: which they are, as slices of the shard's chunks.
        frames: the bytes of each that holds a valid token, by its slot in the shard.
        valid: bool, of the items within the grid.
    """

    chunks: Window
    frames: dict[int, bytes]
    valid: np.ndarray


@dataclass(frozen=True)
class ShardEncoder:
    """Encodes shards anywhere: it can be pickled and needs no access to the store.

    Attributes:
        item: shape of what stands at a place of the grid: (y, x, d) of an image, (d,) of a token.
        names: of all images, for messages.
    """

    codec: EmbeddingCodec
    quality: float
    tiling: Tiling
    item: tuple[int, ...]
    names: tuple[str, ...] = ()

    @property
    def _has_validity(self) -> bool:
        return len(self.tiling.grid) > 1

    def encode(self, shard: Shard, values: np.ndarray, valid: np.ndarray | None = None) -> EncodedShard:
        """The files of a shard.

        Args:
            values: float (images, y, x, d), or of a raster (y, x, d): the shard's items within the grid. What stands
                where they are not valid (NaN, as a rule) does not matter.
            valid: bool (y, x), of a raster.

        Raises:
            InputError: there is no such shard, shapes differ from its, or what is valid holds NaN or infinity.
        """
        whole = tuple(slice(0, count) for count in self.tiling.slots)
        return self.join([self.encode_chunks(shard, whole, values, valid)])

    def encode_chunks(
        self, shard: Shard, chunks: Window, values: np.ndarray, valid: np.ndarray | None = None
    ) -> EncodedChunks:
        """Some chunks of a shard, so that nobody needs to hold all of it.

        Args:
            chunks: slices of the shard's chunks.
            values, valid: of these chunks within the grid; see `encode`.

        Raises:
            InputError: as `encode`.
        """
        self.tiling.check_shard(*shard)
        window = self.tiling.window_of_chunks(shard, chunks)
        values, mask = self._checked(shard, window, values, valid)
        frames: dict[int, bytes] = {}
        for slot, own in enumerate(self.tiling.chunk_windows(*shard)):
            at = np.unravel_index(slot, self.tiling.slots)
            if own is not None and all(some.start <= i < some.stop for i, some in zip(at, chunks, strict=True)):
                inside = within(own, window)
                frame = self._frame(values[inside], None if mask is None else mask[inside])
                if frame is not None:
                    frames[slot] = frame
        return EncodedChunks(chunks, frames, np.ones(1, bool) if mask is None else mask)

    def join(self, pieces: Iterable[EncodedChunks]) -> EncodedShard:
        """The files of a shard whose chunks are `pieces`, in any order."""
        frames: dict[int, bytes] = {}
        valid = np.zeros(self.tiling.shard, bool)
        for piece in pieces:
            frames |= piece.frames
            if self._has_validity:
                corner = (some.start * size for some, size in zip(piece.chunks, self.tiling.chunk, strict=True))
                sizes = zip(corner, piece.valid.shape, strict=True)
                valid[tuple(slice(at, at + count) for at, count in sizes)] = piece.valid
        embeddings = pack_shard([frames.get(slot) for slot in range(math.prod(self.tiling.slots))]) if frames else b""
        if not self._has_validity:
            return EncodedShard(embeddings)
        return EncodedShard(embeddings, compressed(valid), int(valid.sum()))

    def _checked(
        self, shard: Shard, window: Window, values: np.ndarray, valid: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        values = np.asarray(values)
        size = tuple(axis.stop - axis.start for axis in window)
        if values.shape != (*size, *self.item) or not np.issubdtype(values.dtype, np.floating):
            raise InputError(
                f"embeddings of shard {shard} have shape {values.shape} and dtype {values.dtype}: float"
                f" {(*size, *self.item)} expected"
            )
        mask = None if valid is None else np.asarray(valid)
        if (mask is not None) != self._has_validity or (mask is not None and (mask.shape, mask.dtype) != (size, bool)):
            kind = None if mask is None else (mask.shape, str(mask.dtype))
            raise InputError(f"valid is {kind}: {f'bool {size}' if self._has_validity else 'nothing'} expected")
        bad = ~np.isfinite(values).all(axis=tuple(range(len(size), values.ndim)))
        if mask is not None:
            bad &= mask
        if bad.any():
            at = [int(i) + axis.start for i, axis in zip(np.argwhere(bad)[0], window, strict=True)]
            raise InputError(f"the embedding of {self._name(at)} holds NaN or infinity")
        return values, mask

    def _name(self, at: list[int]) -> str:
        return f"image {self.names[at[0]]!r}" if self.names else f"row {at[0]}, column {at[1]}, which is valid,"

    def _frame(self, values: np.ndarray, mask: np.ndarray | None) -> bytes | None:
        """One frame; None for a chunk without a valid token, which Zarr reads as NaN."""
        if mask is None:
            return self.codec.encode(np.ascontiguousarray(values, np.float32), self.quality)
        if not mask.any():
            return None
        if not mask.all():
            values = np.where(mask[..., None], values, self._filler(mask.shape))
        return self.codec.encode(np.ascontiguousarray(values, np.float32)[None], self.quality)

    def _filler(self, shape: tuple[int, ...]) -> np.ndarray:
        """Tokens (y, x, d) whose symbols are all 0: the cheapest that can stand where nothing is valid."""
        zeros = np.zeros((1, *shape, self.codec.rank), np.int32)
        return self.codec.decode(self.codec.encode_symbols(zeros, self.quality))[0]
