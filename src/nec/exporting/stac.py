"""A product as a STAC Collection with an Item a date, by the extension `emb` version 0.0.1.

The extension: https://stac-extensions.github.io/embeddings/v0.0.1/schema.json, which builds on STAC 1.0.0.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nec.errors import InputError
from nec.exporting.footprint import footprint
from nec.files import atomic_path, write_json
from nec.store.location import is_url
from nec.store.rasters import RasterStore
from nec.store.spec import NAME

STAC_VERSION = "1.0.0"
EMBEDDINGS_EXTENSION = "https://stac-extensions.github.io/embeddings/v0.0.1/schema.json"
PROJECTION_EXTENSION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
PROCESSING_EXTENSION = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
ITEM_ASSETS_EXTENSION = "https://stac-extensions.github.io/item-assets/v1.0.0/schema.json"
MEDIA_TYPE = "application/vnd.zarr; version=3"
_RUN_FIELDS = {"energy": "emb:energy", "preprocessing": "emb:preprocessing", "postprocessing": "emb:postprocessing"}


def write(
    store: RasterStore,
    out: str | Path,
    *,
    name: str | None = None,
    href: str | None = None,
    model_url: str | None = None,
    source_url: Sequence[str] = (),
    overwrite: bool = False,
) -> Path:
    """Write `collection.json` and an Item a date into a new folder.

    Args:
        name: id of the collection; the product's file name by default.
        href: URL of the published product; by default its path relative to `out`.
        overwrite: without effect: the folder must be new.
        model_url: link to the model; by default the product's `model["url"]`, or its SHA-256 as a URN.
        source_url: links to the imagery; by default those that the product and its dates name.

    Raises:
        InputError: the product has no CRS, names no model or no source and none is given, or the folder is in use.
    """
    folder = Path(out)
    if store.crs is None:
        raise InputError(f"{store.path} has no CRS: a catalogue needs longitude and latitude")
    name = name or re.sub(r"[^\w.-]+", "-", Path(store.path).name.removesuffix(".zarr"))
    beside = Path(os.path.relpath(Path(store.path).absolute(), folder.absolute())).as_posix()
    href = href or (store.path if is_url(store.path) else beside)
    polygon, box = footprint(store)
    import shapely

    place = {"bbox": box, "geometry": json.loads(shapely.to_geojson(polygon))}
    items = [_item(store, index, name, href, place) for index in range(len(store))]
    collection = _collection(store, items, name, _links(store, href, model_url, source_url))
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        write_json(temporary / "collection.json", collection)
        for item in items:
            write_json(temporary / f"{item['id']}.json", item)
    return folder


def _links(store: RasterStore, href: str, model_url: str | None, source_urls: Sequence[str]) -> list[dict[str, str]]:
    model = store.attrs["model"] or {}
    model_url = model_url or model.get("url") or (f"urn:sha256:{model['sha256']}" if model.get("sha256") else None)
    if model_url is None:
        raise InputError(f"{store.path} names no model: give --model-url, the extension asks for a link to it")
    stated = [*_source_links(store.attrs["source"])]
    for entry in store.attrs["times"]:
        stated += _source_links(entry["source"])
    sources = list(dict.fromkeys(source_urls or stated))
    if not sources:
        raise InputError(f"{store.path} names no source imagery: give --source-url, the extension asks for a link")
    return [
        _link("emb:model", model_url, title=str(model.get("name", "model"))),
        *(_link("emb:source-data", url) for url in sources),
        _decoder(href),
    ]


def _source_links(source: dict[str, Any] | None) -> list[str]:
    return [str(link) for link in (source or {}).get("links", [])]


def _link(rel: str, href: str, type: str = "application/json", **more: str) -> dict[str, str]:
    return {"rel": rel, "href": href, "type": type, **more}


def _decoder(href: str) -> dict[str, str]:
    """The codec in the array's metadata is all that decoding takes."""
    return _link("emb:decoder", f"{href}/embeddings/zarr.json", title="codec nec.embedding with its tables and basis")


def _item(store: RasterStore, index: int, collection: str, href: str, place: dict[str, Any]) -> dict[str, Any]:
    entry = store.attrs["times"][index]
    run = entry["run"] or {}
    extensions = [EMBEDDINGS_EXTENSION, PROJECTION_EXTENSION]
    properties: dict[str, Any] = {"datetime": entry["time"] + "Z", **_projection(store)}
    parameters = {"patch_px": store.patch_px, "bands": store.attrs["bands"], "quality": store.quality}
    properties["emb:runtime_parameters"] = {**parameters, **run.get("parameters", {})}
    properties["emb:quantization"] = quantization(store)
    properties |= {field: run[key] for key, field in _RUN_FIELDS.items() if key in run}
    processing = {key: run[key] for key in ("datetime", "version") if key in run}
    if processing or {"preprocessing", "postprocessing"} & run.keys():
        extensions.append(PROCESSING_EXTENSION)
        properties |= {f"processing:{key}": value for key, value in processing.items()}
    return {
        "type": "Feature",
        "stac_version": STAC_VERSION,
        "stac_extensions": extensions,
        "id": f"{collection}-{re.sub(r'[^0-9T]', '', entry['time'])}",
        "collection": collection,
        **place,
        "properties": properties,
        "links": [
            _link("root", "./collection.json"),
            _link("parent", "./collection.json"),
            _link("collection", "./collection.json"),
            *(_link("emb:source-data", url) for url in _source_links(entry["source"])),
            _decoder(href),
        ],
        "assets": {"embeddings": {"href": href, **_asset(store)}},
    }


def _asset(store: RasterStore) -> dict[str, Any]:
    title = store.conventions.get("title") or "Embeddings"
    return {"type": MEDIA_TYPE, "roles": ["data"], "title": f"{title} (time, embedding, y, x), Zarr v3"}


def _projection(store: RasterStore) -> dict[str, Any]:
    """The fields of the projection extension."""
    assert store.crs is not None
    fields = {key: store.conventions[key] for key in ("proj:code", "proj:wkt2") if key in store.conventions}
    return {
        **fields,
        "proj:shape": list(store.grid),
        "proj:transform": list(store.transform),
        "proj:bbox": store.conventions["spatial:bbox"],
    }


def _collection(
    store: RasterStore, items: list[dict[str, Any]], name: str, links: list[dict[str, str]]
) -> dict[str, Any]:
    times = sorted(item["properties"]["datetime"] for item in items)
    title = store.conventions.get("title")
    return {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "stac_extensions": [EMBEDDINGS_EXTENSION, ITEM_ASSETS_EXTENSION],
        "id": name,
        **({} if title is None else {"title": title}),
        "description": store.conventions.get("description") or f"Compressed embeddings: {title or name}",
        "license": store.conventions.get("license") or "proprietary",
        "extent": {
            "spatial": {"bbox": [items[0]["bbox"]]},
            "temporal": {"interval": [[times[0], times[-1]]]},
        },
        **embedding_fields(store),
        "emb:temporal_resolution": "single_acquisition",
        "links": [
            _link("root", "./collection.json"),
            *(_link("item", f"./{item['id']}.json", "application/geo+json") for item in items),
            *links,
        ],
        "item_assets": {"embeddings": _asset(store)},
        "summaries": {"emb:dimensions": [store.dimensions], "data_type": ["float32"]},
    }


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
