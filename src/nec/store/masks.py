"""The class masks of a store's images, read in slices and checked chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import zarr

from nec.errors import CorruptError
from nec.files import DAMAGE, checksum, reachable
from nec.store.images import ImageArray
from nec.store.layout import Tiling


class Masks(ImageArray):
    """Array-like (n, h, w) uint8 of class indices, 255 (`nec.store.IGNORE`) where there is no label; see `ImageArray`.

    Each chunk read is compared with its CRC-32C in the store's sealed attributes, so a damaged, lost or exchanged chunk
    raises `CorruptError`.
    """

    def __init__(self, array: zarr.Array, tiling: Tiling, checksums: Sequence[str], where: str) -> None:
        super().__init__(tuple(array.shape), np.uint8, tiling, where)
        self._array = array
        self._checksums = checksums

    def read(self, start: int, stop: int) -> np.ndarray:
        """Images [start, stop) as uint8 (stop - start, h, w).

        Raises:
            CorruptError: a chunk among them is damaged or missing; the message names it.
        """
        if stop <= start:
            return np.empty((0, *self.shape[1:]), np.uint8)
        per_chunk = self.tiling.per_chunk
        chunks = range(start // per_chunk, (stop - 1) // per_chunk + 1)
        values = np.concatenate([self._chunk(chunk) for chunk in chunks])
        return values[start - chunks[0] * per_chunk :][: stop - start]

    def fault(self, chunk: int) -> str | None:
        """Why a chunk cannot be read, or None if it can."""
        try:
            self._chunk(chunk)
        except CorruptError as error:
            return str(error)
        return None

    def _chunk(self, chunk: int) -> np.ndarray:
        start, stop = self.tiling.chunk_images(chunk)
        place = f"{self._where}: the masks of images {start} to {stop - 1}"
        try:
            with reachable(self._where):
                values = np.asarray(self._array[start:stop])
        except DAMAGE as error:
            raise CorruptError(f"{place} are damaged ({error}); copy the store again from its origin") from error
        if checksum(values.tobytes()) != self._checksums[chunk]:
            raise CorruptError(f"{place} are damaged or missing; copy the store again from its origin")
        return values
