"""What a producer says about the product it makes, checked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nec.errors import InputError
from nec.store.georeference import Transform, convention_attributes, normalised_crs, token_size
from nec.store.layout import FORMAT_VERSION
from nec.store.raster_tiling import RasterTiling
from nec.store.spec import as_json

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


@dataclass(frozen=True, kw_only=True)
class ProductSpec:
    """What `create_product` makes.

    Args:
        grid: (rows, columns) of tokens.
        dimensions: values a token (d); the codec's.
        codec: fitted codec of the embeddings.
        quality: what to code with; larger = finer.
        crs: code such as "EPSG:32632", or WKT; None where the scene has none.
        transform: six numbers of a *token* as in rasterio: x = a column + b row + c, y = d column + e row + f.
        patch_px: pixels of the model's input along a token's side.
        chunk: (rows, columns) of tokens that are decoded together.
        shard: (rows, columns) of chunks in a file.
        model: {"name", "sha256", and "url" where it can be found, ...} of the model that made the embeddings.
        source: free JSON on the imagery; "links" is a list of its URLs.
        bands: names of the bands that the model saw, in order.
        title, description, license: for people and catalogues; the licence as an SPDX identifier.
    """

    grid: tuple[int, int]
    dimensions: int
    codec: EmbeddingCodec
    quality: float
    crs: str | None
    transform: Transform
    patch_px: int
    chunk: tuple[int, int] = (64, 64)
    shard: tuple[int, int] = (4, 4)
    model: Mapping[str, Any] | None = None
    source: Mapping[str, Any] | None = None
    bands: Sequence[str] | None = None
    title: str | None = None
    description: str | None = None
    license: str | None = None

    def __post_init__(self) -> None:
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
        if not (math.isfinite(self.quality) and self.quality > 0):
            raise InputError(f"quality {self.quality}: it must be a positive number")
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
    def tiling(self) -> RasterTiling:
        """How the grid is cut; a grid that is smaller than a shard has a smaller shard, so that it is not padded."""
        rows, columns = (int(size) for size in self.grid)
        chunk = min(int(self.chunk[0]), rows), min(int(self.chunk[1]), columns)
        most = math.ceil(rows / chunk[0]), math.ceil(columns / chunk[1])
        shard = chunk[0] * min(int(self.shard[0]), most[0]), chunk[1] * min(int(self.shard[1]), most[1])
        return RasterTiling((rows, columns), chunk, shard)

    @cached_property
    def crs_names(self) -> tuple[str | None, str | None]:
        """(code or WKT2, WKT2) of the CRS; Nones without one. Raises `InputError` for an unknown one."""
        return (None, None) if self.crs is None else normalised_crs(self.crs)

    def conventions(self) -> dict[str, Any]:
        """The group's attributes beside "nec"."""
        named = {"title": self.title, "description": self.description, "license": self.license}
        attributes = convention_attributes(self.crs_names[0], self.affine, self.tiling.grid)
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
