"""Stores of images: compressed embeddings with names, labels, splits, groups and masks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from nec.errors import CorruptError
from nec.labels import SPLITS
from nec.store.arrays import Embeddings, Masks
from nec.store.document import (
    EMBEDDINGS,
    GROUPS,
    LABELS,
    MASKS,
    NAMES,
    SPLIT,
    image_key,
    member,
    side_arrays,
    side_keys,
    values_checksum,
)
from nec.store.frames import Frames
from nec.store.location import DAMAGE, Location, reachable, size_of_key
from nec.store.reader import Store
from nec.store.shards import Mark
from nec.store.tiling import Shard, Tiling


class ImageStore(Store):
    """Compressed embeddings of `len(store)` images with what belongs to them. Made by `nec.open`.

    `store[i]` is `store.embeddings[i]`.

    Attributes:
        embeddings: float32 (n, y, x, d), decoded when indexed.
        grid: (y, x) tokens an image.
        dimensions: values a token (d).
    """

    kind: ClassVar[str] = "store"
    _unfinished: ClassVar[str] = "its writing was interrupted"

    def __init__(self, location: Location, *, allow_incomplete: bool = False) -> None:
        super().__init__(location, allow_incomplete=allow_incomplete)
        self.tiling = Tiling.of(self.metadata[EMBEDDINGS], slice(0, 1))
        rows, columns, self.dimensions = self.metadata[EMBEDDINGS]["shape"][1:]
        self.grid: tuple[int, int] = (rows, columns)
        item = (rows, columns, self.dimensions)
        frames = Frames(self.zarr_store, self.path, self.codec, self.tiling, item, image_key, self.written)
        self.embeddings = Embeddings(frames)

    def __len__(self) -> int:
        return self.tiling.grid[0]

    def __repr__(self) -> str:
        y, x = self.grid
        size = f"{self.bytes_per_image:.0f} bytes an image"
        return f"<ImageStore {self.path}: {len(self)} images, {y}x{x}x{self.dimensions}, {size}>"

    def __getitem__(self, key: Any) -> np.ndarray:
        return self.embeddings[key]

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.embeddings)

    @property
    def images_per_chunk(self) -> int:
        """Images that are decoded together."""
        return self.tiling.chunk[0]

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes that `labels` counts, or None."""
        return self.attrs["classes"]

    @cached_property
    def names(self) -> list[str]:
        """Name of each image."""
        return [str(name) for name in self._side(NAMES)]

    @cached_property
    def labels(self) -> np.ndarray | None:
        """Class of each image, int64 (n,), -1 where it has none; None for a store without labels."""
        return self._side(LABELS) if LABELS in self.metadata else None

    @cached_property
    def split(self) -> np.ndarray | None:
        """Split that each image belongs to, (n,) of "train", "val", "test" or ""; None for a store without a split."""
        return np.array(SPLITS)[self._side(SPLIT)] if SPLIT in self.metadata else None

    @cached_property
    def groups(self) -> np.ndarray | None:
        """Whole tile or scene that each image was cut from, (n,) of text; None for a store that names none."""
        return np.array(self._side(GROUPS).tolist()) if GROUPS in self.metadata else None

    @cached_property
    def masks(self) -> Masks | None:
        """Class of each pixel, uint8 (n, h, w), 255 where it has none, read when indexed; None without masks."""
        if MASKS not in self.metadata:
            return None
        return Masks(member(self.group, MASKS), self.attrs["checksums"][MASKS], self.path)

    @property
    def mask_classes(self) -> list[str] | None:
        """Names of the classes that `masks` counts, or None."""
        return (self.attrs.get(MASKS) or {}).get("classes")

    @property
    def mask_colors(self) -> list[tuple[int, int, int]] | None:
        """(red, green, blue) in bytes of each class of `masks`, or None."""
        colors = (self.attrs.get(MASKS) or {}).get("colors")
        return None if colors is None else [(red, green, blue) for red, green, blue in colors]

    def coarse(self, spacing: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Small grids of images [start, stop): float32 (m, ceil(y / spacing), ceil(x / spacing), d).

        Frames are progressive, so the beginnings of their bytes are read and no more: for the shipped store at the
        spacing of its whole grid one token an image. They are means of cells, or the tokens at multiples of
        `spacing`; see `EmbeddingCodec.decode_coarse`. A frame's checksum covers the whole frame, so damage is found
        here only where it breaks the code; `nec verify` finds it all.

        Raises:
            InputError: `spacing` is not a power of 2 from 1 to the larger side of the grid, rounded up to one.
            CorruptError: a frame is damaged, cut or missing; the message names it.
        """
        start, stop, _ = slice(start, stop).indices(len(self))
        if spacing == 1:
            return self.embeddings.read(start, stop)
        if stop <= start:
            return np.empty((0, *(-(-size // spacing) for size in self.grid), self.dimensions), np.float32)
        return self.embeddings.frames.coarse(slice(start, stop), spacing)

    def _side(self, name: str) -> np.ndarray:
        """Read labels, names, split or groups and check them against the checksum in the sealed attributes."""
        try:
            with reachable(self.path):
                values = np.asarray(member(self.group, name)[:])
            text = [str(value) for value in values] if name in (NAMES, GROUPS) else values
            intact = values_checksum(text) == self.attrs["checksums"][name]
        except DAMAGE as error:
            raise CorruptError(
                f"{self.path}: {name} are damaged ({error}); copy the store again from its origin"
            ) from error
        if not intact:
            raise CorruptError(f"{self.path}: {name} are damaged or missing; copy the store again from its origin")
        return values

    def batches(self, size: int, indices: Any = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (indices (m,), embeddings (m, y, x, d)) of at most `size` images; see `Embeddings.batches`."""
        return self.embeddings.batches(size, indices)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the embeddings' shards, indices included; of those written so far in an incomplete store."""
        if self.complete:
            return self.attrs["figures"]["stored_bytes"]
        return sum(size_of_key(self.zarr_store, image_key(shard)) for shard in self.tiling.all_shards())

    @property
    def bytes_per_image(self) -> float:
        """`stored_bytes` an image."""
        return self.stored_bytes / len(self)

    def written(self, shard: Shard) -> Mark | None:
        """(bytes, CRC-32C) of a shard's file as its writer noted them; None in an incomplete store."""
        noted = self.attrs.get("shards")
        return (noted["bytes"][shard[0]], noted["crc32c"][shard[0]]) if noted else None

    def _side_bytes(self) -> dict[str, int]:
        """Bytes of labels, names, split, groups and masks."""
        return {
            name: sum(size_of_key(self.zarr_store, key) for key in side_keys(name, self.metadata[name]))
            for name in side_arrays(self.metadata)
        }
