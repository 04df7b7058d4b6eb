"""A product as a STAC Collection with an Item a date, by the extension `emb` version 0.0.1.

The extension: https://stac-extensions.github.io/embeddings/v0.0.1/schema.json, which builds on STAC 1.0.0.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nec.errors import InputError
from nec.export.describe import embedding_fields, quantization
from nec.files import atomic_path, is_url, write_json
from nec.store.georeference import corners, rasterio_crs
from nec.store.raster_reader import Product

STAC_VERSION = "1.0.0"
EMBEDDINGS_EXTENSION = "https://stac-extensions.github.io/embeddings/v0.0.1/schema.json"
PROJECTION_EXTENSION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"
PROCESSING_EXTENSION = "https://stac-extensions.github.io/processing/v1.2.0/schema.json"
ITEM_ASSETS_EXTENSION = "https://stac-extensions.github.io/item-assets/v1.0.0/schema.json"
MEDIA_TYPE = "application/vnd.zarr; version=3"
_EDGE_POINTS = 8  # of the footprint, a side: straight lines of the CRS are not straight in longitude and latitude
_RUN_FIELDS = {"energy": "emb:energy", "preprocessing": "emb:preprocessing", "postprocessing": "emb:postprocessing"}


def write_stac(
    product: Product,
    folder: str | Path,
    *,
    name: str | None = None,
    href: str | None = None,
    model_url: str | None = None,
    source_urls: Sequence[str] = (),
) -> list[Path]:
    """Write `collection.json` and an Item a date into a new folder; returns their paths, the collection's first.

    Args:
        name: id of the collection; the product's file name by default.
        href: URL of the published product; by default its path relative to `folder`.
        model_url: link to the model; by default the product's `model["url"]`, or its SHA-256 as a URN.
        source_urls: links to the imagery; by default those that the product and its dates name.

    Raises:
        InputError: the product has no CRS, names no model or no source and none is given, or the folder is in use.
    """
    folder = Path(folder)
    if product.crs is None:
        raise InputError(f"{product.path} has no CRS: a catalogue needs longitude and latitude")
    name = name or re.sub(r"[^\w.-]+", "-", Path(product.path).name.removesuffix(".zarr"))
    href = href or _href(product, folder)
    items = [_item(product, index, name, href) for index in range(len(product.times))]
    collection = _collection(product, items, name, _links(product, href, model_url, source_urls))
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        write_json(temporary / "collection.json", collection)
        for item in items:
            write_json(temporary / f"{item['id']}.json", item)
    return [folder / "collection.json", *(folder / f"{item['id']}.json" for item in items)]


def _href(product: Product, folder: Path) -> str:
    if is_url(product.path):
        return product.path
    return Path(os.path.relpath(Path(product.path).absolute(), folder.absolute())).as_posix()


def _links(product: Product, href: str, model_url: str | None, source_urls: Sequence[str]) -> list[dict[str, str]]:
    model = product.attrs["model"] or {}
    model_url = model_url or model.get("url") or (f"urn:sha256:{model['sha256']}" if model.get("sha256") else None)
    if model_url is None:
        raise InputError(f"{product.path} names no model: give --model-url, the extension asks for a link to it")
    stated = [*_source_links(product.attrs["source"])]
    for entry in product.attrs["times"]:
        stated += _source_links(entry["source"])
    sources = list(dict.fromkeys(source_urls or stated))
    if not sources:
        raise InputError(f"{product.path} names no source imagery: give --source-url, the extension asks for a link")
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


def _item(product: Product, index: int, collection: str, href: str) -> dict[str, Any]:
    entry = product.attrs["times"][index]
    run = entry["run"] or {}
    ring, box = _footprint(product)
    extensions = [EMBEDDINGS_EXTENSION, PROJECTION_EXTENSION]
    properties: dict[str, Any] = {"datetime": entry["time"] + "Z", **_projection(product)}
    parameters = {"patch_px": product.patch_px, "bands": product.attrs["bands"], "quality": product.quality}
    properties["emb:runtime_parameters"] = {**parameters, **run.get("parameters", {})}
    properties["emb:quantization"] = quantization(product)
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
        "bbox": box,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": properties,
        "links": [
            _link("root", "./collection.json"),
            _link("parent", "./collection.json"),
            _link("collection", "./collection.json"),
            *(_link("emb:source-data", url) for url in _source_links(entry["source"])),
            _decoder(href),
        ],
        "assets": {"embeddings": {"href": href, **_asset(product)}},
    }


def _asset(product: Product) -> dict[str, Any]:
    title = product.conventions.get("title") or "Embeddings"
    return {"type": MEDIA_TYPE, "roles": ["data"], "title": f"{title} (time, embedding, y, x), Zarr v3"}


def _projection(product: Product) -> dict[str, Any]:
    """The fields of the projection extension."""
    assert product.crs is not None
    fields = {key: product.conventions[key] for key in ("proj:code", "proj:wkt2") if key in product.conventions}
    return {
        **fields,
        "proj:shape": list(product.grid),
        "proj:transform": list(product.transform),
        "proj:bbox": product.conventions["spatial:bbox"],
    }


def _footprint(product: Product) -> tuple[list[list[float]], list[float]]:
    """(closed ring of [longitude, latitude], counter-clockwise; bounding box) of the grid, to 7 decimals (1 cm)."""
    from rasterio.warp import transform

    assert product.crs is not None
    places = corners(product.transform, slice(0, product.grid[0]), slice(0, product.grid[1]))
    around = [
        (start[0] + part / _EDGE_POINTS * (stop[0] - start[0]), start[1] + part / _EDGE_POINTS * (stop[1] - start[1]))
        for start, stop in zip(places, [*places[1:], places[0]], strict=True)
        for part in range(_EDGE_POINTS)
    ]
    xs, ys = ([place[axis] for place in around] for axis in (0, 1))
    longitudes, latitudes = transform(rasterio_crs(product.crs), rasterio_crs("EPSG:4326"), xs, ys)
    ring = [[round(x, 7), round(y, 7)] for x, y in zip(longitudes, latitudes, strict=True)]
    area = sum(a[0] * b[1] - b[0] * a[1] for a, b in zip(ring, [*ring[1:], ring[0]], strict=True))
    ring = ring if area > 0 else ring[::-1]
    xs, ys = ([place[axis] for place in ring] for axis in (0, 1))
    return [*ring, ring[0]], [min(xs), min(ys), max(xs), max(ys)]


def _collection(
    product: Product, items: list[dict[str, Any]], name: str, links: list[dict[str, str]]
) -> dict[str, Any]:
    times = sorted(item["properties"]["datetime"] for item in items)
    title = product.conventions.get("title")
    return {
        "type": "Collection",
        "stac_version": STAC_VERSION,
        "stac_extensions": [EMBEDDINGS_EXTENSION, ITEM_ASSETS_EXTENSION],
        "id": name,
        **({} if title is None else {"title": title}),
        "description": product.conventions.get("description") or f"Compressed embeddings: {title or name}",
        "license": product.conventions.get("license") or "proprietary",
        "extent": {
            "spatial": {"bbox": [items[0]["bbox"]]},
            "temporal": {"interval": [[times[0], times[-1]]]},
        },
        **embedding_fields(product),
        "emb:temporal_resolution": "single_acquisition",
        "links": [
            _link("root", "./collection.json"),
            *(_link("item", f"./{item['id']}.json", "application/geo+json") for item in items),
            *links,
        ],
        "item_assets": {"embeddings": _asset(product)},
        "summaries": {"emb:dimensions": [product.dimensions], "data_type": ["float32"]},
    }
