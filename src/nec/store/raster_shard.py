"""A shard of a product as bytes: the same tokens give the same bytes, wherever they are encoded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numcodecs.zstd import Zstd  # type: ignore[import-untyped]

from nec.errors import InputError
from nec.files import checksum
from nec.store.layout import pack_shard
from nec.store.raster_tiling import RasterTiling, Window

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec

AXES = ("n", "c", "y", "x")
LEVEL = 12  # of Zstandard, for everything that is not embeddings


@dataclass(frozen=True)
class EncodedShard:
    """The two files of a shard. `embeddings` is empty where no token is valid: there is no such file then."""

    embeddings: bytes
    valid: bytes
    valid_tokens: int


@dataclass(frozen=True)
class EncodedChunks:
    """Some chunks of a shard, coded; `ShardEncoder.join` makes the shard of them.

    Attributes:
        part: which they are, as slices of the shard's chunks.
        frames: the bytes of each that holds a valid token, by its slot in the shard.
        valid: bool (y, x) of their tokens within the grid.
    """

    part: Window
    frames: dict[int, bytes]
    valid: np.ndarray


@dataclass(frozen=True)
class ShardEncoder:
    """Encodes shards anywhere: it can be pickled and needs no access to the product."""

    codec: EmbeddingCodec
    quality: float
    tiling: RasterTiling

    def encode(self, row: int, column: int, tokens: np.ndarray, valid: np.ndarray) -> EncodedShard:
        """The files of shard (row, column).

        Args:
            tokens: float (y, x, d), the shard's tokens within the grid; what stands at tokens that are not valid
                (NaN, as a rule) does not matter.
            valid: bool (y, x).

        Raises:
            InputError: there is no such shard, shapes differ from its, or a valid token holds NaN or infinity.
        """
        rows, columns = self.tiling.slots
        return self.join([self.encode_chunks(row, column, (slice(0, rows), slice(0, columns)), tokens, valid)])

    def encode_chunks(
        self, row: int, column: int, part: Window, tokens: np.ndarray, valid: np.ndarray
    ) -> EncodedChunks:
        """Some chunks of shard (row, column), so that nobody needs to hold all of its tokens.

        Args:
            part: slices of the shard's chunks.
            tokens: float (y, x, d), the tokens of these chunks within the grid; see `encode`.
            valid: bool (y, x).

        Raises:
            InputError: as `encode`.
        """
        values, mask = self._checked(row, column, part, tokens, valid)
        top, left = part[0].start * self.tiling.chunk[0], part[1].start * self.tiling.chunk[1]
        frames: dict[int, bytes] = {}
        for slot, window in enumerate(self.tiling.chunk_windows(row, column)):
            i, j = divmod(slot, self.tiling.slots[1])
            if window is not None and part[0].start <= i < part[0].stop and part[1].start <= j < part[1].stop:
                frame = self._chunk(values, mask, (_moved(window[0], -top), _moved(window[1], -left)))
                if frame is not None:
                    frames[slot] = frame
        return EncodedChunks(part, frames, mask)

    def join(self, parts: Iterable[EncodedChunks]) -> EncodedShard:
        """The files of a shard whose chunks are `parts`, in any order."""
        frames: dict[int, bytes] = {}
        valid = np.zeros(self.tiling.shard, bool)
        for each in parts:
            frames |= each.frames
            corner = (side.start * size for side, size in zip(each.part, self.tiling.chunk, strict=True))
            valid[tuple(slice(at, at + count) for at, count in zip(corner, each.valid.shape, strict=True))] = each.valid
        chunks = [frames.get(slot) for slot in range(int(np.prod(self.tiling.slots)))]
        return EncodedShard(pack_shard(chunks) if frames else b"", compressed(valid), int(valid.sum()))

    def _checked(
        self, row: int, column: int, part: Window, tokens: np.ndarray, valid: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        self.tiling.check_shard(row, column)
        values, mask = np.asarray(tokens), np.asarray(valid)
        rows, columns = self.tiling.part_window(row, column, part)
        expected = (rows.stop - rows.start, columns.stop - columns.start)
        if values.shape != (*expected, self.codec.dimensions) or not np.issubdtype(values.dtype, np.floating):
            raise InputError(
                f"tokens of shard ({row}, {column}) have shape {values.shape} and dtype {values.dtype}: float"
                f" {(*expected, self.codec.dimensions)} expected"
            )
        if mask.shape != expected or mask.dtype != bool:
            raise InputError(f"valid has shape {mask.shape} and dtype {mask.dtype}: bool {expected} expected")
        bad = mask & ~np.isfinite(values).all(axis=2)
        if bad.any():
            y, x = np.argwhere(bad)[0]
            raise InputError(
                f"the token at row {rows.start + y}, column {columns.start + x} holds NaN or infinity and is marked"
                " as valid"
            )
        return values, mask

    def _chunk(self, values: np.ndarray, mask: np.ndarray, window: Window) -> bytes | None:
        """One frame; None for a chunk without a valid token, which Zarr reads as NaN."""
        part, inside = values[window], mask[window]
        if not inside.any():
            return None
        if not inside.all():
            part = np.where(inside[..., None], part, self._filler(part.shape[:2]))
        from nec.codec.zarr_codec import NecEmbeddingCodec

        chunk = np.ascontiguousarray(part, np.float32).transpose(2, 0, 1)[None]
        return NecEmbeddingCodec(self.codec, self.quality, AXES).encode_chunk(chunk)

    def _filler(self, shape: tuple[int, ...]) -> np.ndarray:
        """Tokens (y, x, d) whose symbols are all 0: the cheapest that can stand where nothing is valid."""
        zeros = np.zeros((1, *shape, self.codec.rank), np.int32)
        return self.codec.decode(self.codec.encode_symbols(zeros, self.quality))[0]


def _moved(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)


def compressed(values: np.ndarray) -> bytes:
    """A Zarr chunk of codecs bytes (little-endian), zstd, crc32c."""
    data = Zstd(level=LEVEL).encode(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes())
    return bytes(data) + int(checksum(data), 16).to_bytes(4, "little")
