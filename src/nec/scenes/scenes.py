"""From a path, a URL or a STAC Item to a scene."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nec.errors import InputError
from nec.scenes import stac
from nec.scenes.rasters import RASTER_SUFFIXES, Header, gdal_path, numbers
from nec.scenes.safe import read_safe
from nec.scenes.scene import Band, Contents, Layer, Mask, Scene, choose, make_scene, read_headers
from nec.scenes.sensors import (
    SCL_CLASSES,
    SCL_HIDDEN,
    SENSORS,
    band_in_name,
    channel,
    check_sensor,
    scl_values,
    sentinel_2_offset,
    sentinel_2_product,
)

if TYPE_CHECKING:
    from pystac import Item


def open_scene(
    source: str | Path | Sequence[str | Path] | Item | Mapping[str, Any],
    *,
    bands: Sequence[str | int] | None = None,
    scale: float | Sequence[float] | None = None,
    offset: float | Sequence[float] | None = None,
    nodata: float | None = None,
    mask: str | Path | Sequence[str] | None = None,
    resolution: float | None = None,
    crs: str | None = None,
    sensor: str | None = None,
) -> Scene:
    """Open a scene; only headers are read. `docs/rasters.md` has examples and the conventions.

    Args:
        source: path or URL (http, https, s3, gs, az) of a GeoTIFF, COG or JPEG 2000; a list of those whose bands make
            one scene; a folder of them or a Sentinel-2 .SAFE; a STAC Item as path or URL of its JSON, as a dict or as
            a `pystac.Item`; "catalog.json#ID" for the Item ID of a catalogue or collection.
        bands: names ("B04"), common names ("red") or positions from 1; None takes all (of a STAC Item: those that
            have a common name or wavelength).
        scale, offset: value = number * scale + offset, one for all bands or one for each band taken. They replace what
            metadata, or the convention of the sensor, say, each for itself.
        nodata: number of invalid pixels, in place of the files' own.
        mask: "scl" hides what Sentinel-2's scene classification takes for cloud, shadow or defective; names of its
            classes (`nec.scenes.sensors.SCL_CLASSES`) hide those; a path or URL hides where that raster is 0.
        resolution: side of the pixels, in units of the CRS; bilinear, or averaged where pixels become coarser.
        crs: coordinate reference system to resample to ("EPSG:32633" or WKT).
        sensor: names the bands of files that do not, by their order: one of `nec.scenes.sensors.SENSORS`. One of
            Sentinel-2 also makes reflectance of the numbers (1/10000; since baseline 04.00, where known, less 0.1).

    Raises:
        InputError: nothing there, not readable, no such band, class or sensor, grids that cannot be brought together.
        MissingExtraError: rasterio, or for STAC pystac, is not installed.
    """
    if sensor is not None:
        check_sensor(sensor)
    contents, headers = _contents(source, sensor, bands)
    if bands is not None:
        contents = replace(contents, layers=choose(contents.layers, bands, contents.name))
    layers = [replace(layer, nodata=nodata if nodata is not None else layer.nodata) for layer in contents.layers]
    contents = replace(contents, layers=_rescaled(layers, scale, offset))
    scaled = all((layer.band.scale, layer.band.offset) != (1.0, 0.0) for layer in contents.layers)
    contents = replace(contents, physical=scaled or scale is not None or offset is not None)
    return make_scene(contents, mask=_mask(mask, contents), resolution=resolution, crs=crs, headers=headers)


def _contents(source: Any, sensor: str | None, bands: Sequence[str | int] | None) -> tuple[Contents, dict[str, Header]]:
    if not isinstance(source, str | Path):
        if isinstance(source, Sequence):
            return _files([str(path) for path in source], sensor)
        return stac.item_contents(stac.as_item(source), bands), {}
    text = str(source)
    if stac.looks_like_item(text):
        return stac.item_contents(stac.read_item(text), bands), {}
    if "://" not in text and Path(text).expanduser().is_dir():
        return _folder(Path(text).expanduser(), sensor)
    return _files([source], sensor)


def _folder(folder: Path, sensor: str | None) -> tuple[Contents, dict[str, Header]]:
    safe = read_safe(folder)
    if safe is not None:
        return safe, {}
    files = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in RASTER_SUFFIXES and not path.name.startswith(".")
    )
    if not files:
        raise InputError(f"{folder} holds no rasters ({', '.join(RASTER_SUFFIXES)}) and no Sentinel-2 product")
    contents, headers = _files([str(file) for file in files], sensor)
    return replace(contents, name=folder.name), headers


def _files(sources: Sequence[str | Path], sensor: str | None) -> tuple[Contents, dict[str, Header]]:
    if not sources:
        raise InputError("no raster was given")
    paths = [gdal_path(source) for source in sources]
    if len(set(paths)) != len(paths):
        raise InputError(f"{next(path for path in paths if paths.count(path) > 1)} is given twice")
    headers = read_headers(paths)
    layers = [layer for path in paths for layer in _layers(headers[path], sensor, alone=len(paths) == 1)]
    layers, classes = _without_classes(layers)
    if not layers:
        raise InputError(f"{paths[0]} holds classes only, and no band of an image")
    stem = _stem(paths[0])
    return (
        Contents(
            name=stem if len(paths) == 1 else _common_name(paths),
            layers=tuple(_distinct(layers)),
            datetime=_datetime(stem, headers[paths[0]].tags),
            links=tuple({"rel": "derived_from", "href": str(source)} for source in sources),
            classes=classes,
        ),
        headers,
    )


def _layers(header: Header, sensor: str | None, alone: bool) -> list[Layer]:
    stem = _stem(header.path)
    product = sentinel_2_product(" ".join([stem, header.path, *header.tags.values()]))
    kind = sensor or (product[0] if product else None)
    names = _names(header, stem, kind, alone)
    declared = any(scale != 1 for scale in header.scales) or any(offset != 0 for offset in header.offsets)
    convention = None if declared else _sentinel_2_scaling(header.tags, kind, product)
    layers = []
    for position, name in enumerate(names):
        known = _known(kind, name)
        scale, offset = convention or (header.scales[position], header.offsets[position])
        if band_in_name(name) == "SCL":
            scale, offset = 1.0, 0.0
        band = Band(
            known.name if known else name,
            header.wavelengths[position] or (known.wavelength_um if known else None),
            scale,
            offset,
            known.common if known else name if name in ("red", "green", "blue", "nir") else None,
        )
        layers.append(Layer(header.path, position + 1, band))
    return layers


def _names(header: Header, stem: str, sensor: str | None, alone: bool) -> list[str]:
    """Names of a file's bands: its own, the sensor's order, a Sentinel-2 band in the file's name, or a number."""
    count = len(header.names)
    given = [name for name in header.names if name]
    in_stem = band_in_name(stem)
    if count == 1 and in_stem:
        return [in_stem]
    if sensor and len(given) < count:
        if len(SENSORS[sensor]) != count:
            raise InputError(
                f"{header.path} has {count} band(s) without names, and {sensor} has {len(SENSORS[sensor])}; leave "
                "sensor out and choose bands by position"
            )
        return [known.name for known in SENSORS[sensor]]
    if count == 1 and not alone:
        return [given[0] if given else stem]
    return [name or f"band{position}" for position, name in enumerate(header.names, 1)]


def _known(sensor: str | None, name: str) -> Any:
    if sensor:
        return channel(sensor, name)
    # Sentinel-2's names are its own; "B4" may also be Landsat's, so only its two-digit form tells.
    return channel("sentinel-2-l1c", name) if re.fullmatch(r"B(0[1-9]|8A|1[0-2])", name) else None


def _sentinel_2_scaling(
    tags: Mapping[str, str], sensor: str | None, product: tuple[str, str, float] | None
) -> tuple[float, float] | None:
    """(scale, offset) of Sentinel-2 from the tags of the product's metadata, its name, or the bare convention."""
    spacecraft = " ".join([tags.get("SPACECRAFT_NAME", ""), tags.get("PRODUCT_TYPE", "")])
    if not (sensor or "").startswith("sentinel-2") and not re.search(r"Sentinel-2|S2MSI", spacecraft):
        return None
    scale = 1 / float(tags.get("BOA_QUANTIFICATION_VALUE") or tags.get("QUANTIFICATION_VALUE") or 10000)
    added = tags.get("BOA_ADD_OFFSET") or tags.get("RADIO_ADD_OFFSET")
    if added is not None:
        return scale, float(added) * scale
    baseline = tags.get("PROCESSING_BASELINE")
    return scale, sentinel_2_offset(float(baseline) if baseline else product[2] if product else 0.0, scale)


def _without_classes(layers: list[Layer]) -> tuple[list[Layer], Layer | None]:
    classes = next((layer for layer in layers if layer.band.name.upper() == "SCL"), None)
    return [layer for layer in layers if layer is not classes], classes


def _distinct(layers: list[Layer]) -> list[Layer]:
    """Bands of the same name in several files are told apart by the file's name."""
    names = [layer.band.name for layer in layers]
    if len(set(names)) == len(names):
        return layers
    return [
        replace(layer, band=replace(layer.band, name=f"{_stem(layer.path)}_{layer.band.name}"))
        if names.count(layer.band.name) > 1
        else layer
        for layer in layers
    ]


def _rescaled(layers: list[Layer], scale: Any, offset: Any) -> tuple[Layer, ...]:
    scales = numbers(scale, len(layers), "scale") or [layer.band.scale for layer in layers]
    offsets = numbers(offset, len(layers), "offset") or [layer.band.offset for layer in layers]
    return tuple(
        replace(layer, band=replace(layer.band, scale=s, offset=o))
        for layer, s, o in zip(layers, scales, offsets, strict=True)
    )


def _mask(mask: str | Path | Sequence[str] | None, contents: Contents) -> Mask | None:
    if mask is None:
        return None
    if isinstance(mask, Path) or (isinstance(mask, str) and mask != "scl" and mask not in SCL_CLASSES):
        return Mask(Layer(gdal_path(mask), 1, Band("mask")), frozenset({0}))
    names = SCL_HIDDEN if mask == "scl" else [mask] if isinstance(mask, str) else mask
    if contents.classes is None:
        raise InputError(f"{contents.name} has no scene classification (SCL); leave mask out, or give a mask file")
    return Mask(contents.classes, scl_values(list(names)))


def _datetime(stem: str, tags: Mapping[str, str]) -> np.datetime64 | None:
    """From the sensing time in a file's name, or TIFF's own tag; a tag that is no date counts as none."""
    found = re.search(r"(\d{4})(\d{2})(\d{2})T(\d{2})(\d{2})(\d{2})", stem)
    text = "{}-{}-{}T{}:{}:{}".format(*found.groups()) if found else ""
    tag = re.fullmatch(r"(\d{4}):(\d{2}):(\d{2}) (\d{2}:\d{2}:\d{2})", tags.get("TIFFTAG_DATETIME", "").strip("\0 "))
    if not text and tag:
        text = "{}-{}-{}T{}".format(*tag.groups())
    try:
        return np.datetime64(text, "ms") if text else None
    except ValueError:
        return None


def _stem(path: str) -> str:
    return Path(path.partition("?")[0]).stem


def _common_name(paths: Sequence[str]) -> str:
    """What the names of several files begin with, or the folder of the first."""
    stems = [_stem(path) for path in paths]
    shared = 0
    while all(len(stem) > shared and stem[shared] == stems[0][shared] for stem in stems):
        shared += 1
    return stems[0][:shared].rstrip("_.-bB0") or Path(paths[0]).parent.name
