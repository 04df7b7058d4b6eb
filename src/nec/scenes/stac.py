"""STAC Items as scenes: which assets are bands, and how their numbers become reflectance. Needs pystac (`[geo]`)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nec.errors import InputError, NecError, missing_extra
from nec.scenes.rasters import RASTER_SUFFIXES, existing, gdal_path, public_link, read_header
from nec.scenes.scene import Band, Contents, Layer
from nec.scenes.sensors import (
    LANDSAT_SURFACE,
    band_in_name,
    band_key,
    channel,
    find_sensor,
    parse_baseline,
    parse_time,
    sentinel_2_offset,
)

if TYPE_CHECKING:
    from pystac import Asset, Item

_NO_IMAGE = {"thumbnail", "overview", "visual", "metadata"}


def looks_like_item(text: str) -> bool:
    """Whether a path or URL names STAC JSON: a file of that ending, or the address of an Item at an API."""
    if "://" not in text:
        path = existing(text) or Path(text.partition("#")[0])
        return not path.is_dir() and path.suffix.lower() in (".json", ".geojson")
    bare = text.partition("#")[0].partition("?")[0].lower()
    items = bare.startswith(("http://", "https://")) and "/items/" in bare and not bare.endswith(RASTER_SUFFIXES)
    return items or bare.endswith((".json", ".geojson"))


def as_item(source: Any) -> Item:
    """A `pystac.Item`, or a dict of one; `InputError` for anything else."""
    pystac = _pystac()
    if isinstance(source, pystac.Item):
        return source
    if not isinstance(source, Mapping):
        raise InputError(f"a scene is opened from a path, a URL, a list of them or a STAC Item, not {type(source)}")
    try:
        return pystac.Item.from_dict(dict(source), preserve_dict=True)
    except Exception as error:  # pystac raises KeyError, STACTypeError, ValueError, ...
        raise InputError(f"what was given is no STAC Item: {error!r}") from error


def read_item(source: str) -> Item:
    """The Item at a path or URL; in a catalogue or collection the one that "#ID" names, or the only one there is.

    Raises:
        InputError: nothing there, no STAC, no such Item, or several without "#ID".
    """
    pystac = _pystac()
    place, _, wanted = (source, "", "") if existing(source) else source.partition("#")
    try:
        if "://" in place:
            found = pystac.read_file(place)
        else:  # pystac takes "#" and "?" in a path for those of a URL
            path = os.path.abspath(os.path.expanduser(place))
            found = pystac.read_dict(json.loads(Path(path).read_bytes()), href=path)
        if isinstance(found, pystac.Item):
            return found
        if isinstance(found, pystac.Catalog):
            return _in_catalog(found, wanted, place)
    except InputError:
        raise
    except Exception as error:  # pystac raises nearly anything: OSError, URLError, KeyError, JSONDecodeError, ...
        raise InputError(f"{place} is not readable as a STAC Item or catalogue: {error}") from error
    raise InputError(f"{place} is a {type(found).__name__}; give a STAC Item or a catalogue with #ID")


def _in_catalog(catalog: Any, wanted: str, place: str) -> Item:
    seen: list[str] = []
    only: Item | None = None
    for item in catalog.get_items(recursive=True):
        if item.id == wanted:
            return item
        only = item
        seen.append(item.id)
        if not wanted and len(seen) > 10:
            break
    if only is not None and not wanted and len(seen) == 1:
        return only
    listed = ", ".join(seen[:10]) + (", …" if len(seen) > 10 else "")
    problem = f"has no Item {wanted!r}" if wanted else f"has {'several Items' if seen else 'no Item'}"
    raise InputError(f"{place} {problem}; name one as {place}#ID" + (f": {listed}" if seen else ""))


def item_contents(item: Item, bands: Sequence[str | int] | None) -> Contents:
    """Bands of an Item's assets. Without `bands`, assets that name no band are left out where others do.

    Raises `InputError` where no asset holds an image, or the metadata are not as STAC has them.
    """
    try:
        return _contents(item, bands)
    except NecError:
        raise
    except Exception as error:  # of whatever an asset holds in place of lists, dicts and text
        raise InputError(f"the STAC Item {item.id} is malformed: {error!r}") from error


def _contents(item: Item, bands: Sequence[str | int] | None) -> Contents:
    images = {key: asset for key, asset in item.assets.items() if _is_image(key, asset)}
    silent = not any(_described(asset) for asset in images.values())
    layers: list[Layer] = []
    classes: Layer | None = None
    # The sort is stable: the finest of a band comes first. Some catalogues list a COG and a JPEG 2000 of each.
    for key in sorted(images, key=lambda key: _metres(key, images[key])):
        for layer in _asset_layers(item, key, images[key], silent):
            if layer.band.name == "SCL":
                classes = classes or layer
            elif band_key(layer.band.name) not in [band_key(other.band.name) for other in layers]:
                layers.append(layer)
    order = [layer.band.name for key in images for layer in layers if layer.path == _path(images[key])]
    layers.sort(key=lambda layer: order.index(layer.band.name))
    spectral = [layer for layer in layers if layer.band.common or layer.band.wavelength_um]
    if bands is None and spectral:
        layers = spectral
    if not layers:
        raise InputError(
            f"the STAC Item {item.id} has no asset with an image; it has {', '.join(item.assets) or 'none'}"
        )
    return Contents(
        name=item.id,
        layers=tuple(layers),
        datetime=_time(item),
        links=tuple(_links(item)),
        classes=classes,
    )


def _is_image(key: str, asset: Asset) -> bool:
    media = (asset.media_type or "").lower()
    image = "tiff" in media or "jp2" in media or asset.href.partition("?")[0].lower().endswith(RASTER_SUFFIXES)
    roles = set(asset.roles or ())
    return image and (not roles & _NO_IMAGE or "data" in roles) and key not in _NO_IMAGE


def _described(asset: Asset) -> list[dict[str, Any]]:
    return list(asset.extra_fields.get("bands") or asset.extra_fields.get("eo:bands") or [])


def _path(asset: Asset) -> str:
    return gdal_path(asset.get_absolute_href() or asset.href)


def _metres(key: str, asset: Asset) -> float:
    """Side of an asset's pixels where it is told; catalogues list a band of Sentinel-2 at 10, 20 and 60 m."""
    words = [f"_{key}", *(str(role) for role in asset.roles or ())]
    told = next((float(found[1]) for word in words if (found := re.search(r"[_:](\d+)m$", word))), 0.0)
    return told or _number(asset.extra_fields.get("gsd", asset.extra_fields.get("raster:spatial_resolution")), key) or 0


def _asset_layers(item: Item, key: str, asset: Asset, silent: bool) -> Iterator[Layer]:
    """Bands of an asset; where no asset of the Item describes any (`silent`), those that its file has."""
    fields, path = asset.extra_fields, _path(asset)
    described = _described(asset) or [{}] * (len(read_header(path).dtypes) if silent else 1)
    raster = list(fields.get("raster:bands") or [])
    sensor = _sensor(item)
    for position, band in enumerate(described):
        facts = {**fields, **band, **(raster[position] if position < len(raster) else {})}
        name = str(band.get("name") or (key if len(described) == 1 else f"{key}_{position + 1}"))
        nodata = _number(facts.get("nodata"), f"{item.id}: nodata of {name}")
        if band_in_name(key.upper()) == "SCL":
            yield Layer(path, position + 1, Band("SCL"), nodata, 1.0, 0.0)
            continue
        common = band.get("eo:common_name") or band.get("common_name")
        words = [word for word in (name, key, re.sub(r"_\d+m$", "", key), common) if word and sensor]
        known = next((found for word in words if (found := channel(str(sensor), word))), None)
        wavelength = band.get("eo:center_wavelength") or band.get("center_wavelength")
        spectral = known is not None or common is not None or wavelength is not None
        scale, offset, convention = _scaling(item, facts, sensor if spectral else None, name)
        ours = known if known is not None and str(sensor).startswith("sentinel-2") else None
        yield Layer(
            path,
            position + 1,
            Band(
                ours.name if ours else name,
                wavelength or (known.wavelength_um if known else None),
                common=known.common if known else common,
            ),
            nodata,
            scale,
            offset,
            convention,
        )


def _sensor(item: Item) -> str | None:
    properties = item.properties
    words = " ".join(str(properties.get(key, "")) for key in ("platform", "constellation", "s2:product_type"))
    words = f"{words} {item.collection_id or ''}".replace("_", "-")
    sensor = find_sensor(words)
    if sensor and sensor.startswith("sentinel-2"):
        return "sentinel-2-l1c" if re.search(r"l1c|msi1c", words, re.IGNORECASE) else "sentinel-2-l2a"
    return sensor


def _scaling(
    item: Item, facts: Mapping[str, Any], sensor: str | None, name: str
) -> tuple[float | None, float | None, tuple[float, float]]:
    """Scale and offset of a band by its metadata (None where silent), and those of the sensor's convention.

    Earth Search's `boa_offset_applied` counts more than the offset in its raster:bands, which stays at -0.1 where the
    pixels are shifted already (its maintainers: github.com/Element84/earth-search/issues/9).
    """
    where = f"{item.id}: scale or offset of {name}"
    scale = _number(facts.get("raster:scale", facts.get("scale")), where)
    offset = _number(facts.get("raster:offset", facts.get("offset")), where)
    properties = item.properties
    if sensor is None or not sensor.startswith("sentinel-2"):
        surface = re.search(r"landsat-?c2-?l2", item.collection_id or "") or "_L2SP_" in item.id
        reflectance = sensor is not None and sensor.startswith("landsat") and surface
        return scale, offset, LANDSAT_SURFACE if reflectance else (1.0, 0.0)
    if properties.get("earthsearch:boa_offset_applied", properties.get("sentinel:boa_offset_applied")):
        return scale, 0.0, (1e-4, 0.0)
    told = (properties.get(f"{key}:processing_baseline") for key in ("s2", "sentinel"))
    baseline = next((text for text in (*told, properties.get("processing:version")) if text), None)
    return scale, offset, (1e-4, sentinel_2_offset(parse_baseline(baseline), scale or 1e-4))


def _number(value: Any, where: str) -> float | None:
    """A number of STAC, where not-a-number and the infinities are strings."""
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where} is {value!r}, which is no number") from error


def _time(item: Item) -> np.datetime64 | None:
    moment = item.datetime or item.common_metadata.start_datetime
    return None if moment is None else parse_time(moment)


def _links(item: Item) -> Iterator[dict[str, str]]:
    href = item.get_self_href()
    if href:
        yield {"rel": "derived_from", "href": public_link(href), "type": "application/geo+json"}
    if item.collection_id and (link := item.get_single_link("collection")) and link.get_absolute_href():
        yield {"rel": "collection", "href": public_link(str(link.get_absolute_href())), "type": "application/json"}


def _pystac() -> Any:
    try:
        import pystac
    except ImportError as error:
        missing_extra("pystac", "geo", error)
    return pystac
