"""What a producer says about the store it makes, checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nec.errors import InputError
from nec.store.layout import FORMAT_VERSION, LABELS, NAMES, SPLIT, SPLITS, Tiling, values_checksum

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec


@dataclass(frozen=True, kw_only=True)
class StoreSpec:
    """The keywords of `StoreWriter.create` and `StoreWriter.resume`.

    Args:
        codec: fitted codec of the embeddings; it decides d.
        quality: what to code with; larger = finer.
        names: one name an image; their number is n.
        grid: (y, x) tokens an image.
        labels: class of each image (n,), -1 where it has none.
        class_names: names of the classes 0, 1, ...
        split: "train", "val", "test" or "" for each image.
        model: {"name": ..., "sha256": ..., ...} of the model that made the embeddings.
        provenance: free JSON: source dataset, its bytes, seeds, software versions. Not compared when resuming.
        images_per_chunk: images decoded together.
        chunks_per_shard: chunks in one file.
    """

    codec: EmbeddingCodec
    quality: float
    names: Sequence[str]
    grid: tuple[int, int]
    labels: Sequence[int] | np.ndarray | None = None
    class_names: Sequence[str] | None = None
    split: Sequence[str] | np.ndarray | None = None
    model: Mapping[str, Any] | None = None
    provenance: Mapping[str, Any] | None = None
    images_per_chunk: int = 128
    chunks_per_shard: int = 8

    def __post_init__(self) -> None:
        if not len(self.names):
            raise InputError("a store needs at least one image: `names` is empty")
        if not (math.isfinite(self.quality) and self.quality > 0):
            raise InputError(f"quality {self.quality}: it must be a positive number")
        if len(self.grid) != 2 or min(self.grid) < 1:
            raise InputError(f"grid {self.grid}: it must be (y, x) tokens, both at least 1")
        if self.images_per_chunk < 1 or self.chunks_per_shard < 1:
            raise InputError("images_per_chunk and chunks_per_shard must be at least 1")
        self._check_labels()
        self._check_split()

    def _check_labels(self) -> None:
        if self.labels is None:
            return
        labels = np.asarray(self.labels)
        if labels.shape != (len(self.names),) or not np.issubdtype(labels.dtype, np.integer):
            raise InputError(
                f"labels have shape {labels.shape} and dtype {labels.dtype}: {len(self.names)} integers expected"
            )
        top = np.iinfo(np.int64).max if self.class_names is None else len(self.class_names)
        if labels.min() < -1 or labels.max() >= top:
            raise InputError(
                f"labels reach from {labels.min()} to {labels.max()}: 0 to {top - 1} expected, or -1 for none"
            )

    def _check_split(self) -> None:
        if self.split is None:
            return
        unknown = sorted({str(part) for part in self.split} - set(SPLITS))
        if len(self.split) != len(self.names) or unknown:
            raise InputError(
                f"split has {len(self.split)} entries ({', '.join(map(repr, unknown)) or 'all known'});"
                f" {len(self.names)} expected, each one of {', '.join(map(repr, SPLITS))}"
            )

    @property
    def tiling(self) -> Tiling:
        """How the images are cut into chunks and shards."""
        return Tiling.fit(len(self.names), self.images_per_chunk, self.chunks_per_shard)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, y, x, d)."""
        return len(self.names), int(self.grid[0]), int(self.grid[1]), self.codec.dimensions

    def side_values(self) -> dict[str, Any]:
        """The arrays beside the embeddings as they are stored: names; labels int64 and split int8 where given."""
        values: dict[str, Any] = {NAMES: [str(name) for name in self.names]}
        if self.labels is not None:
            values[LABELS] = np.asarray(self.labels, np.int64)
        if self.split is not None:
            values[SPLIT] = np.array([SPLITS.index(str(part)) for part in self.split], np.int8)
        return values

    def attributes(self) -> dict[str, Any]:
        """The "nec" attributes of the store before anything is written.

        Raises:
            InputError: model or provenance is not JSON.
        """
        return {
            "format_version": FORMAT_VERSION,
            "complete": False,
            "images": len(self.names),
            "quality": float(self.quality),
            "codec": {"prior": self.codec.prior, "id": self.codec.id},
            "model": _json(self.model, "model"),
            "classes": None if self.class_names is None else [str(name) for name in self.class_names],
            "checksums": {name: values_checksum(values) for name, values in self.side_values().items()},
            "provenance": _json(self.provenance, "provenance"),
        }


def _json(value: Mapping[str, Any] | None, what: str) -> dict[str, Any] | None:
    """`value` as it comes back from JSON, so that what is compared is what was stored."""
    if value is None:
        return None
    try:
        return json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} cannot be stored as JSON: {error}") from error
