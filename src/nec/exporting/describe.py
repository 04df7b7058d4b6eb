"""What a product is in the words of the STAC extension `emb`, version 0.0.1."""

from __future__ import annotations

import math
from typing import Any

from nec.store.rasters import RasterStore
from nec.store.spec import NAME

METHOD = {
    "rel": "about",
    "href": "https://doi.org/10.48550/arXiv.2403.17886",
    "title": "Neural Embedding Compression: uniform quantisation of decorrelated channels, entropy-coded",
}


def embedding_fields(store: RasterStore, chip: int = 1) -> dict[str, Any]:
    """`emb:type`, `emb:dimensions`, `data_type`, `gsd` and `emb:chip_layout` of squares of `chip` tokens."""
    pixels = store.patch_px * chip
    fields: dict[str, Any] = {
        "emb:type": "pixel" if pixels == 1 else "chip",
        "emb:dimensions": store.dimensions,
        "data_type": "float32",
    }
    size = store.token_size
    if size is not None:
        fields["gsd"] = round(math.sqrt(size[0] * size[1]) * chip, 6)
    if pixels > 1:
        side = [pixels, pixels]
        fields["emb:chip_layout"] = {"layout_type": "regular_grid", "chip_size": side, "stride": side}
    return fields


def quantization(store: RasterStore) -> dict[str, Any]:
    """`emb:quantization`: the codec's step is the scale of every channel after its transform."""
    return {
        "method": NAME,
        "original_dtype": "float32",
        "quantized_dtype": "int32",
        "scale": [store.codec.step(store.quality)],
        "link": dict(METHOD),
    }
