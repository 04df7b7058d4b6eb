"""The lazily decoded embeddings of a store: NumPy indexing that never returns what was not stored."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
import zarr

from nec.errors import CorruptError, InputError, NecError
from nec.files import DAMAGE, reachable
from nec.store.images import ImageArray
from nec.store.layout import Tiling


class Embeddings(ImageArray):
    """Array-like (n, y, x, d) float32, decoded when indexed, see `ImageArray`.

    Every read checks what it decoded: a damaged or missing chunk raises `CorruptError`. (Plain Zarr would return the
    fill value, NaN, for a missing file.)
    """

    def __init__(self, array: zarr.Array, tiling: Tiling, where: str) -> None:
        super().__init__(tuple(array.shape), np.float32, tiling, where)
        self._array = array

    def read(self, start: int, stop: int, window: tuple[slice, slice, slice] | None = None) -> np.ndarray:
        """Images [start, stop) as float32 (stop - start, y, x, d), or a `window` (rows, columns, channels) of each.

        Embeddings are computed for the window alone (slices of step 1); chunks are read whole.

        Raises:
            CorruptError: a chunk among them is damaged or missing; the message names it.
            InputError: the window has nothing in it, or another step.
        """
        window = (slice(None),) * 3 if window is None else window
        inside = [len(range(size)[axis]) for axis, size in zip(window, self.shape[1:], strict=True)]
        if 0 in inside or any(axis.step not in (None, 1) for axis in window):
            raise InputError(f"a window is three slices of step 1 with something in them, not {window!r}")
        if stop <= start:
            return np.empty((0, *inside), np.float32)
        try:
            block = self._decode(start, stop, window)
        except DAMAGE as error:
            self._raise_fault(start, stop, error)
        if np.isnan(block[:, 0, 0, 0]).any():  # the codec stores no NaN: this is the fill value of a missing chunk
            self._raise_fault(start, stop, None)
        return block

    def fault(self, chunk: int) -> str | None:
        """Why a chunk cannot be read, or None if it can."""
        try:
            block = self._decode(*self.tiling.chunk_images(chunk), (slice(None),) * 3)
        except DAMAGE as error:
            return str(error) or type(error).__name__
        return "missing" if np.isnan(block[:, 0, 0, 0]).any() else None

    def _decode(self, start: int, stop: int, window: tuple[slice, slice, slice]) -> np.ndarray:
        with reachable(self._where):
            return np.asarray(self._array[(slice(start, stop), *window)])

    def _raise_fault(self, start: int, stop: int, error: Exception | None) -> NoReturn:
        """Name the first chunk at fault among images [start, stop)."""
        for chunk in range(start // self.tiling.per_chunk, (stop - 1) // self.tiling.per_chunk + 1):
            reason = self.fault(chunk)
            if reason is not None:
                raise CorruptError(
                    f"{self._where}: {self.tiling.describe_chunk(chunk)} is damaged: {reason};"
                    " `nec verify` lists all damage, copy the store again from its origin"
                ) from error
        if error is None or isinstance(error, NecError):
            raise CorruptError(f"{self._where}: images {start} to {stop - 1} did not read the same twice") from error
        raise error
