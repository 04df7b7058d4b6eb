"""What a producer says about the store it makes, checked: `ImageSpec` and `RasterSpec`."""

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
from nec.labels import IGNORE, SPLITS
from nec.store.document import (
    FORMAT_VERSION,
    GROUPS,
    LABELS,
    MASKS,
    NAMES,
    SPLIT,
    mask_tiling,
    values_checksum,
)
from nec.store.georeference import Transform, convention_attributes, normalised_crs, token_size
from nec.store.shards import Tiling

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec

NAME = "nec.embedding"
GEOEMB_CONVENTION = {
    "schema_url": "https://raw.githubusercontent.com/geo-embeddings/embeddings-zarr-convention/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/geo-embeddings/embeddings-zarr-convention/blob/v1/README.md",
    "uuid": "61c12cc5-0e28-4056-999a-480cf3fb7e4c",
    "name": "geoemb:",
    "description": "Geoembeddings convention for geospatial embedding arrays with model provenance",
}


class MaskSource(Protocol):
    """An array (n, h, w) of bytes, or what is sliced like one and reads only then."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def __getitem__(self, images: slice, /) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True)
class StoreSpec:
    """What both kinds of store are made with.

    Args:
        codec: fitted codec of the embeddings; it decides d.
        quality: what to code with; larger = finer.
        model: {"name": ..., "sha256": ..., ...} of the model that made the embeddings; of a raster also "url" where it
            can be found.
    """

    codec: EmbeddingCodec
    quality: float
    model: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.quality) and self.quality > 0):
            raise InputError(f"quality {self.quality}: it must be a positive number")

    @property
    def tiling(self) -> Tiling:
        """How the grid is cut into chunks and shards."""
        raise NotImplementedError

    def attributes(self) -> dict[str, Any]:
        """The "nec" attributes of the store before anything is written; `InputError` for what is not JSON."""
        raise NotImplementedError

    def conventions(self) -> dict[str, Any]:
        """The group's attributes beside "nec"."""
        return {}


@dataclass(frozen=True, kw_only=True)
class ImageSpec(StoreSpec):
    """A store of images, as `ImageWriter` makes it.

    Args:
        names: one name an image; their number is n.
        grid: (y, x) tokens an image.
        labels: class of each image (n,), -1 where it has none.
        class_names: names of the classes 0, 1, ...
        split: "train", "val", "test" or "" for each image.
        groups: whole tile or scene that each image was cut from (n,).
        masks: class of each pixel (n, h, w) uint8, 255 where it has none; stored losslessly.
        mask_classes: names of the classes 0, 1, ... of the masks, which need them.
        mask_colors: (red, green, blue) in bytes of each of these classes.
        provenance: free JSON: source dataset, its bytes, seeds, software versions. Not compared when resuming.
        images_per_chunk: images decoded together.
        chunks_per_shard: chunks in one file.
    """

    names: Sequence[str]
    grid: tuple[int, int]
    labels: Sequence[int] | np.ndarray | None = None
    class_names: Sequence[str] | None = None
    split: Sequence[str] | np.ndarray | None = None
    groups: Sequence[str] | np.ndarray | None = None
    masks: MaskSource | None = None
    mask_classes: Sequence[str] | None = None
    mask_colors: Sequence[tuple[int, int, int]] | None = None
    provenance: Mapping[str, Any] | None = None
    images_per_chunk: int = 128
    chunks_per_shard: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(self.names):
            raise InputError("a store needs at least one image: `names` is empty")
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
        unknown = sorted({str(name) for name in self.split} - set(SPLITS))
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
        for (images,) in map(tiling.shard_window, range(tiling.chunks)):
            block = np.ascontiguousarray(self.masks[images])
            wrong = (block >= count) & (block != IGNORE)
            if wrong.any():
                image, row, column = np.argwhere(wrong)[0]
                raise InputError(
                    f"the mask of {self.names[images.start + image]!r} holds {block[image, row, column]} at row {row},"
                    f" column {column}: 0 to {count - 1} expected, or {IGNORE} for none"
                )
            yield images.start, block

    @property
    def tiling(self) -> Tiling:
        """How the images are cut into chunks and shards."""
        return Tiling.fit((len(self.names),), (self.images_per_chunk,), (self.chunks_per_shard,))

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
            values[SPLIT] = np.array([SPLITS.index(str(name)) for name in self.split], np.int8)
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


@dataclass(frozen=True, kw_only=True)
class RasterSpec(StoreSpec):
    """A raster, as `RasterWriter` makes it.

    Args:
        grid: (rows, columns) of tokens.
        dimensions: values a token (d); the codec's.
        crs: code such as "EPSG:32632", or WKT; None where the scene has none.
        transform: six numbers of a *token* as in rasterio: x = a column + b row + c, y = d column + e row + f.
        patch_px: pixels of the model's input along a token's side.
        chunk: (rows, columns) of tokens that are decoded together.
        shard: (rows, columns) of chunks in a file.
        source: free JSON on the imagery; "links" is a list of its URLs.
        bands: names of the bands that the model saw, in order.
        title, description, license: for people and catalogues; the licence as an SPDX identifier.
    """

    grid: tuple[int, int]
    dimensions: int
    crs: str | None
    transform: Transform
    patch_px: int
    chunk: tuple[int, int] = (64, 64)
    shard: tuple[int, int] = (4, 4)
    source: Mapping[str, Any] | None = None
    bands: Sequence[str] | None = None
    title: str | None = None
    description: str | None = None
    license: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("grid", "chunk", "shard"):
            value = getattr(self, name)
            if len(value) != 2 or min(value) < 1:
                raise InputError(f"{name} {value}: it must be (rows, columns), both at least 1")
        if self.patch_px < 1:
            raise InputError(f"patch_px {self.patch_px}: it must be at least 1")
        if self.dimensions != self.codec.dimensions:
            raise InputError(
                f"the codec is for embeddings of {self.codec.dimensions} values, and dimensions is {self.dimensions}"
            )
        self._check_transform()

    def _check_transform(self) -> None:
        a, b, _, d, e, _ = values = tuple(float(value) for value in self.transform)[:6]
        if len(self.transform) not in (6, 9) or not all(map(math.isfinite, values)) or a * e - b * d == 0:
            raise InputError(
                f"transform {tuple(self.transform)}: six finite numbers (a, b, c, d, e, f) expected that give a token"
                " a place and a size"
            )

    @property
    def affine(self) -> Transform:
        """The transform as six floats."""
        a, b, c, d, e, f = (float(value) for value in tuple(self.transform)[:6])
        return a, b, c, d, e, f

    @property
    def tiling(self) -> Tiling:
        """How the grid is cut; a grid that is smaller than a shard has a smaller shard, so that it is not padded."""
        rows, columns = (int(size) for size in self.grid)
        return Tiling.fit((rows, columns), self.chunk, self.shard)

    @cached_property
    def crs_names(self) -> tuple[str | None, str | None]:
        """(code or WKT2, WKT2) of the CRS; Nones without one. Raises `InputError` for an unknown one."""
        return (None, None) if self.crs is None else normalised_crs(self.crs)

    def conventions(self) -> dict[str, Any]:
        """The group's attributes beside "nec"."""
        named = {"title": self.title, "description": self.description, "license": self.license}
        attributes = convention_attributes(self.crs_names[0], self.affine, (int(self.grid[0]), int(self.grid[1])))
        described = self._geoemb()
        if described:
            attributes["zarr_conventions"] = [*attributes["zarr_conventions"], GEOEMB_CONVENTION]
        return {**{key: value for key, value in named.items() if value is not None}, **attributes, **described}

    def _geoemb(self) -> dict[str, Any]:
        """The attributes of `geoemb:`; none where its mandatory links to model and source are not known."""
        url = (self.model or {}).get("url")
        links = [str(link) for link in (self.source or {}).get("links", []) if "://" in str(link)]
        if not (url and links):
            return {}
        side = [int(self.patch_px)] * 2
        fields: dict[str, Any] = {
            "geoemb:type": "pixel" if self.patch_px == 1 else "chip",
            "geoemb:dimensions": int(self.dimensions),
            "geoemb:model": str(url),
            "geoemb:source_data": links,
            "geoemb:data_type": "float32",
            "geoemb:chip_layout": {"layout_type": "regular_grid", "chip_size": side, "stride": side},
            "geoemb:quantization": {"method": NAME, "original_dtype": "float32"},
        }
        size = token_size(self.crs_names[0], self.affine)
        return fields if size is None else {**fields, "geoemb:gsd": math.sqrt(size[0] * size[1])}

    def attributes(self) -> dict[str, Any]:
        """The "nec" attributes of the product before anything is written.

        Raises:
            InputError: model or source is not JSON.
        """
        return {
            "kind": "product",
            "format_version": FORMAT_VERSION,
            "complete": False,
            "dimensions": int(self.dimensions),
            "patch_px": int(self.patch_px),
            "quality": float(self.quality),
            "codec": {"prior": self.codec.prior, "id": self.codec.id},
            "model": as_json(self.model, "model"),
            "source": as_json(self.source, "source"),
            "bands": None if self.bands is None else [str(name) for name in self.bands],
            "times": [],
            "pending": [],
        }


def as_json(value: Mapping[str, Any] | None, what: str) -> dict[str, Any] | None:
    """`value` as it comes back from JSON, so that what is compared is what was stored."""
    if value is None:
        return None
    try:
        return json.loads(json.dumps(dict(value), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} cannot be stored as JSON: {error}") from error
