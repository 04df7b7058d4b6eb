"""A shard of a product as bytes: the same tokens give the same bytes, wherever they are encoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numcodecs.zstd import Zstd  # type: ignore[import-untyped]

from nec.errors import InputError
from nec.store.files import checksum
from nec.store.layout import pack_shard
from nec.store.product.tiling import RasterTiling, Window

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
        values, mask = self._checked(row, column, tokens, valid)
        windows = self.tiling.chunk_windows(row, column)
        chunks = [None if part is None else self._chunk(values, mask, part) for part in windows]
        some = any(chunk is not None for chunk in chunks)
        padded = np.zeros(self.tiling.shard, bool)
        padded[: mask.shape[0], : mask.shape[1]] = mask
        return EncodedShard(pack_shard(chunks) if some else b"", compressed(padded), int(mask.sum()))

    def _checked(self, row: int, column: int, tokens: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.tiling.check_shard(row, column)
        values, mask = np.asarray(tokens), np.asarray(valid)
        rows, columns = self.tiling.shard_window(row, column)
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


def compressed(values: np.ndarray) -> bytes:
    """A Zarr chunk of codecs bytes (little-endian), zstd, crc32c."""
    data = Zstd(level=LEVEL).encode(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes())
    return bytes(data) + int(checksum(data), 16).to_bytes(4, "little")
