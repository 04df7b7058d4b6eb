"""Open a store for reading."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nec.errors import CorruptError, IncompleteError
from nec.files import (
    DAMAGE,
    Location,
    ZarrStore,
    is_url,
    open_location,
    reachable,
    size_of_key,
)
from nec.store import assets
from nec.store.coarse import read_coarse
from nec.store.document import member, open_group, read_document
from nec.store.embeddings import Embeddings
from nec.store.layout import (
    EMBEDDINGS,
    GROUPS,
    LABELS,
    MASKS,
    NAMES,
    SPLIT,
    SPLITS,
    mask_tiling,
    side_arrays,
    side_keys,
    tiling_of,
    values_checksum,
)
from nec.store.masks import Masks

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec


def open_store(location: Location, allow_incomplete: bool = False) -> Store:
    """Open a store: a folder, a URL (`https://`, `s3://`, ... through fsspec), a Zarr store object, or a shipped name.

    Args:
        location: for example "eurosat", "out/product.zarr" or "s3://bucket/product.zarr".
        allow_incomplete: open a store whose writing has not finished; reading what is not written yet then raises.

    Raises:
        InputError: there is no store, it is not one of ours, or it was made by a newer format version.
        IncompleteError: writing has not finished.
        CorruptError: the metadata are damaged.
    """
    if isinstance(location, str | Path) and not is_url(location):
        location = assets.resolve(location)
    return Store(location, allow_incomplete=allow_incomplete)


class Store:
    """Compressed embeddings of `len(store)` images with what belongs to them. Made by `open_store`.

    Attributes:
        path: where it was opened, as text.
        attrs: what the store says about itself: model, codec, quality, provenance, figures, ...
        embeddings: float32 (n, y, x, d), decoded when indexed.
        grid: (y, x) tokens an image.
        dimensions: values a token (d).
        quality: what it was coded with.
    """

    def __init__(self, location: Location, *, allow_incomplete: bool = False) -> None:
        self.path = str(location)
        self.zarr_store: ZarrStore = open_location(location)
        document = read_document(self.zarr_store, self.path, "store")
        self.attrs: dict[str, Any] = document["attributes"]["nec"]
        self.metadata: dict[str, dict[str, Any]] = document["consolidated_metadata"]["metadata"]
        if not (self.complete or allow_incomplete):
            raise IncompleteError(
                f"{self.path} is incomplete: its writing was interrupted; run `nec encode --resume` on it"
            )
        self.group = open_group(self.zarr_store, self.path, document)
        array = member(self.group, EMBEDDINGS)
        self.tiling = tiling_of(self.metadata[EMBEDDINGS])
        self.embeddings = Embeddings(array, self.tiling, self.path)
        self.grid: tuple[int, int] = (array.shape[1], array.shape[2])
        self.dimensions: int = array.shape[3]
        self.quality: float = self.attrs["quality"]

    def __len__(self) -> int:
        return self.tiling.images

    def __repr__(self) -> str:
        y, x = self.grid
        size = f"{self.bytes_per_image:.0f} bytes an image"
        return f"<Store {self.path}: {len(self)} images, {y}x{x}x{self.dimensions}, {size}>"

    @property
    def complete(self) -> bool:
        """Whether its writing has finished."""
        return bool(self.attrs["complete"])

    @property
    def codec(self) -> EmbeddingCodec:
        """The codec that the embeddings are coded with."""
        return self.group[EMBEDDINGS].metadata.codecs[0].codecs[0].codec  # type: ignore[union-attr]

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
        """Part each image belongs to, (n,) of "train", "val", "test" or ""; None for a store without a split."""
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
        array = member(self.group, MASKS)
        return Masks(array, mask_tiling(array.shape), self.attrs["checksums"][MASKS], self.path)

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
        return read_coarse(self.zarr_store, self.codec, self.tiling, self.grid, (start, stop), spacing, self.path)

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
        return sum(size_of_key(self.zarr_store, self.tiling.shard_key(i)) for i in range(self.tiling.shards))

    @property
    def bytes_per_image(self) -> float:
        """`stored_bytes` an image."""
        return self.stored_bytes / len(self)

    def side_information(self) -> dict[str, int]:
        """Bytes of everything in the store that is not the embeddings' shards, by part.

        "codec" is the codec's tables and basis as written in the metadata (twice: in the array's document and in the
        group's consolidated copy), "metadata" the rest of these documents; then labels, names, split, groups and masks.
        """
        arrays = side_arrays(self.metadata)
        documents = ["zarr.json", *(f"{name}/zarr.json" for name in (EMBEDDINGS, *arrays))]
        metadata = sum(size_of_key(self.zarr_store, key) for key in documents)
        coder = self.metadata[EMBEDDINGS]["codecs"][0]["configuration"]["codecs"][0]
        codec = 2 * len(json.dumps(coder, separators=(",", ":")))
        parts = {"codec": codec, "metadata": metadata - codec}
        for name in arrays:
            parts[name] = sum(size_of_key(self.zarr_store, key) for key in side_keys(name, self.metadata[name]))
        return parts
