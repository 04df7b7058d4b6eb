"""A shard of a store of images as bytes: the same embeddings give the same bytes, wherever they are encoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nec.errors import InputError
from nec.store.layout import Tiling, pack_shard

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec


@dataclass(frozen=True)
class StoreShardEncoder:
    """Encodes shards anywhere: it can be pickled and needs no access to the store.

    Attributes:
        shape: (images, y, x, d) of the whole store.
        names: of all images, for messages.
    """

    codec: EmbeddingCodec
    quality: float
    tiling: Tiling
    shape: tuple[int, ...]
    names: tuple[str, ...]

    def encode(self, start: int, embeddings: np.ndarray) -> bytes:
        """The file of the shard whose first image is `start`.

        Args:
            embeddings: float (images of the shard, y, x, d), finite.

        Raises:
            InputError: no shard begins there, or the embeddings have another shape or hold NaN or infinity.
        """
        start, stop = self.tiling.shard_images(self.tiling.shard_at(start))
        values = self._checked(embeddings, start, stop)
        per_chunk = self.tiling.per_chunk
        chunks: list[bytes | None] = [
            self.codec.encode(values[first : first + per_chunk], self.quality)
            for first in range(0, len(values), per_chunk)
        ]
        return pack_shard(chunks + [None] * (self.tiling.chunks_per_shard - len(chunks)))

    def _checked(self, embeddings: np.ndarray, start: int, stop: int) -> np.ndarray:
        values = np.asarray(embeddings)
        expected = (stop - start, *self.shape[1:])
        if values.shape != expected or not np.issubdtype(values.dtype, np.floating):
            raise InputError(
                f"embeddings of images {start} to {stop - 1} have shape {values.shape} and dtype {values.dtype}:"
                f" float {expected} expected"
            )
        bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
        if bad.any():
            raise InputError(f"the embedding of image {self.names[start + int(bad.argmax())]!r} holds NaN or infinity")
        return np.ascontiguousarray(values, np.float32)
