"""STAC Items as scenes: which assets are bands, and how their numbers become reflectance. Needs pystac (`[geo]`)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nec.errors import InputError, missing_extra
from nec.scenes.rasters import RASTER_SUFFIXES, gdal_path, read_header
from nec.scenes.scene import Band, Contents, Layer
from nec.scenes.sensors import Channel, band_key, channel, sentinel_2_offset

if TYPE_CHECKING:
    from pystac import Asset, Item

_NO_IMAGE = {"thumbnail", "overview", "visual", "metadata"}


def looks_like_item(text: str) -> bool:
    """Whether a path or URL names STAC JSON: by its ending, or as the address of an Item at an API."""
    bare = text.partition("#")[0].partition("?")[0]
    if bare.lower().endswith((".json", ".geojson")):
        return True
    return bare.startswith(("http://", "https://")) and "/items/" in bare and not bare.endswith(RASTER_SUFFIXES)


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
    place, _, wanted = source.partition("#")
    try:
        found = pystac.read_file(str(Path(place).expanduser()) if "://" not in place else place)
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

    Raises `InputError` where no asset holds an image.
    """
    layers: list[Layer] = []
    images = {key: asset for key, asset in item.assets.items() if _is_image(key, asset)}
    silent = not any(_described(asset) for asset in images.values())
    for key, asset in images.items():
        layers += [layer for layer in _asset_layers(item, key, asset, silent) if not _repeats(layer, layers)]
    classes = next((layer for layer in layers if layer.band.name.upper() == "SCL"), None)
    layers = [layer for layer in layers if layer is not classes]
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


def _repeats(layer: Layer, layers: list[Layer]) -> bool:
    """Whether the band is there already: some catalogues list a COG and a JPEG 2000 of each."""
    name = band_key(layer.band.name)
    return any(band_key(other.band.name) == name for other in layers)


def _described(asset: Asset) -> list[dict[str, Any]]:
    return list(asset.extra_fields.get("bands") or asset.extra_fields.get("eo:bands") or [])


def _asset_layers(item: Item, key: str, asset: Asset, silent: bool) -> Iterator[Layer]:
    """Bands of an asset; where no asset of the Item describes any (`silent`), those that its file has."""
    fields = asset.extra_fields
    path = gdal_path(asset.get_absolute_href() or asset.href)
    described = _described(asset) or [{}] * (len(read_header(path).dtypes) if silent else 1)
    raster = list(fields.get("raster:bands") or [])
    sensor = _sentinel_2(item)
    classes = key.upper() == "SCL"
    for position, band in enumerate(described):
        facts = {**fields, **band, **(raster[position] if position < len(raster) else {})}
        name = str(band.get("name") or (key if len(described) == 1 else f"{key}_{position + 1}"))
        common = band.get("eo:common_name") or band.get("common_name")
        known = _known(sensor, name, common, key)
        wavelength = band.get("eo:center_wavelength") or band.get("center_wavelength")
        spectral = known is not None or common is not None or wavelength is not None
        scale, offset = (1.0, 0.0) if classes else _scaling(item, facts, bool(sensor) and spectral)
        yield Layer(
            path,
            position + 1,
            Band(
                "SCL" if classes else known.name if known else name,
                wavelength or (known.wavelength_um if known else None),
                scale,
                offset,
                known.common if known else common,
            ),
            _number(facts.get("nodata")),
        )


def _known(sensor: str | None, name: str, common: str | None, key: str) -> Channel | None:
    """The sensor's band of an asset: by its name, the asset's key, or the common name."""
    if sensor is None:
        return None
    return next((found for word in (name, key, common) if word and (found := channel(sensor, word))), None)


def _sentinel_2(item: Item) -> str | None:
    properties = item.properties
    words = " ".join(str(properties.get(key, "")) for key in ("platform", "constellation", "s2:product_type"))
    words = f"{words} {item.collection_id or ''}".lower()
    if not re.search(r"sentinel-?2|s2msi", words):
        return None
    return "sentinel-2-l1c" if re.search(r"l1c|msi1c", words) else "sentinel-2-l2a"


def _scaling(item: Item, facts: Mapping[str, Any], sentinel_2: bool) -> tuple[float, float]:
    """(scale, offset) of a band from its metadata, of Sentinel-2 also from the processing baseline.

    Earth Search's `boa_offset_applied` counts more than the offset in its raster:bands, which stays at -0.1 where the
    pixels are shifted already (its maintainers: github.com/Element84/earth-search/issues/9).
    """
    scale = _number(facts.get("raster:scale", facts.get("scale")))
    offset = _number(facts.get("raster:offset", facts.get("offset")))
    if not sentinel_2:
        return (1.0 if scale is None else scale), (offset or 0.0)
    scale = 1e-4 if scale is None else scale
    properties = item.properties
    applied = properties.get("earthsearch:boa_offset_applied", properties.get("sentinel:boa_offset_applied"))
    if applied:
        return scale, 0.0
    if offset is not None:
        return scale, offset
    baseline = properties.get("s2:processing_baseline") or properties.get("sentinel:processing_baseline")
    baseline = baseline or properties.get("processing:version")
    return scale, sentinel_2_offset(float(baseline or 0), scale)


def _number(value: Any) -> float | None:
    """A number of STAC, where not-a-number and the infinities are strings."""
    return None if value is None else float(value)


def _time(item: Item) -> np.datetime64 | None:
    moment = item.datetime or item.common_metadata.start_datetime
    return None if moment is None else np.datetime64(moment.replace(tzinfo=None), "ms")


def _links(item: Item) -> Iterator[dict[str, str]]:
    href = item.get_self_href()
    if href:
        yield {"rel": "derived_from", "href": href, "type": "application/geo+json"}
    if item.collection_id and (link := item.get_single_link("collection")) and link.get_absolute_href():
        yield {"rel": "collection", "href": str(link.get_absolute_href()), "type": "application/json"}


def _pystac() -> Any:
    try:
        import pystac
    except ImportError as error:
        missing_extra("pystac", "geo", error)
    return pystac
