"""What a producer says about the store it makes, checked."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from nec.errors import InputError
from nec.files import checksum
from nec.store.layout import (
    FORMAT_VERSION,
    GROUPS,
    IGNORE,
    LABELS,
    MASKS,
    NAMES,
    SPLIT,
    SPLITS,
    Tiling,
    mask_tiling,
    values_checksum,
)

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec


class MaskSource(Protocol):
    """An array (n, h, w) of bytes, or what is sliced like one and reads only then."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, part: slice, /) -> np.ndarray: ...


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
        groups: whole tile or scene that each image was cut from (n,).
        masks: class of each pixel (n, h, w) uint8, 255 where it has none; stored losslessly.
        mask_classes: names of the classes 0, 1, ... of the masks, which need them.
        mask_colors: (red, green, blue) in bytes of each of these classes.
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
    groups: Sequence[str] | np.ndarray | None = None
    masks: MaskSource | None = None
    mask_classes: Sequence[str] | None = None
    mask_colors: Sequence[tuple[int, int, int]] | None = None
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
        self._check_masks()
        if self.groups is not None and len(self.groups) != len(self.names):
            raise InputError(f"groups have {len(self.groups)} entries, and there are {len(self.names)} images")

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

    def _check_masks(self) -> None:
        if self.masks is None:
            return
        shape, dtype = self.masks.shape, self.masks.dtype
        if len(shape) != 3 or shape[0] != len(self.names) or not min(shape) or dtype != np.uint8:
            raise InputError(f"masks have shape {shape} and dtype {dtype}: uint8 ({len(self.names)}, h, w) expected")
        count = len(self.mask_classes or ())
        if not 1 <= count <= IGNORE:
            raise InputError(f"masks need the names of their classes, 1 to {IGNORE}; mask_classes has {count}")
        colors = [tuple(color) for color in self.mask_colors or ()]
        inside = all(len(color) == 3 and 0 <= min(color) <= max(color) <= 255 for color in colors)
        if self.mask_colors is not None and not (len(colors) == count and inside):
            raise InputError(f"mask_colors must be (red, green, blue) in 0 to 255 for each of the {count} classes")

    @cached_property
    def mask_checksums(self) -> list[str]:
        """CRC-32C of the pixels of each chunk of the masks. Raises `InputError` for an index that names no class."""
        return [checksum(block.tobytes()) for _, block in self.mask_blocks()]

    def mask_blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first image, pixels) of each chunk of the masks, checked."""
        if self.masks is None:
            return
        tiling = mask_tiling(self.masks.shape)
        count = len(self.mask_classes or ())
        for start, stop in map(tiling.chunk_images, range(tiling.chunks)):
            block = np.ascontiguousarray(self.masks[start:stop])
            wrong = (block >= count) & (block != IGNORE)
            if wrong.any():
                image, row, column = np.argwhere(wrong)[0]
                raise InputError(
                    f"the mask of {self.names[start + image]!r} holds {block[image, row, column]} at row {row}, column"
                    f" {column}: 0 to {count - 1} expected, or {IGNORE} for none"
                )
            yield start, block

    @property
    def tiling(self) -> Tiling:
        """How the images are cut into chunks and shards."""
        return Tiling.fit(len(self.names), self.images_per_chunk, self.chunks_per_shard)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, y, x, d)."""
        return len(self.names), int(self.grid[0]), int(self.grid[1]), self.codec.dimensions

    def side_values(self) -> dict[str, Any]:
        """The arrays beside the embeddings as they are stored: names; labels int64, split int8 and groups where given.

        Masks are apart (`mask_blocks`): they may be large.
        """
        values: dict[str, Any] = {NAMES: [str(name) for name in self.names]}
        if self.labels is not None:
            values[LABELS] = np.asarray(self.labels, np.int64)
        if self.split is not None:
            values[SPLIT] = np.array([SPLITS.index(str(part)) for part in self.split], np.int8)
        if self.groups is not None:
            values[GROUPS] = [str(group) for group in self.groups]
        return values

    def attributes(self) -> dict[str, Any]:
        """The "nec" attributes of the store before anything is written.

        Raises:
            InputError: model or provenance is not JSON, or a mask holds what is no class.
        """
        checksums: dict[str, Any] = {name: values_checksum(values) for name, values in self.side_values().items()}
        described: dict[str, Any] = {}
        if self.masks is not None:
            checksums[MASKS] = self.mask_checksums
            colors = None if self.mask_colors is None else [[int(v) for v in color] for color in self.mask_colors]
            described[MASKS] = {"classes": [str(name) for name in self.mask_classes or ()], "colors": colors}
        return {
            "format_version": FORMAT_VERSION,
            "complete": False,
            "images": len(self.names),
            "quality": float(self.quality),
            "codec": {"prior": self.codec.prior, "id": self.codec.id},
            "model": as_json(self.model, "model"),
            "classes": None if self.class_names is None else [str(name) for name in self.class_names],
            **described,
            "checksums": checksums,
            "provenance": as_json(self.provenance, "provenance"),
        }


def as_json(value: Mapping[str, Any] | None, what: str) -> dict[str, Any] | None:
    """`value` as it comes back from JSON, so that what is compared is what was stored."""
    if value is None:
        return None
    try:
        return json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} cannot be stored as JSON: {error}") from error
