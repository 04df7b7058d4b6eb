"""From a path, a URL, a STAC Item or a Sentinel-2 product as ESA delivers it (.SAFE) to a scene."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from nec.errors import InputError
from nec.scenes import stac
from nec.scenes.rasters import (
    RASTER_SUFFIXES,
    Header,
    existing,
    gdal_path,
    grid_like,
    is_remote,
    local_path,
    numbers,
    public_link,
    target_grid,
)
from nec.scenes.scene import Band, Contents, Layer, Mask, Scene, choose, read_headers
from nec.scenes.sensors import (
    LANDSAT_SURFACE,
    SCL_CLASSES,
    SCL_HIDDEN,
    SENSORS,
    band_in_name,
    channel,
    check_sensor,
    find_channel,
    find_sensor,
    parse_baseline,
    parse_time,
    scl_values,
    sentinel_2_offset,
    sentinel_2_product,
    time_in_name,
    time_in_tag,
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
    align: Any = None,
    sensor: str | None = None,
) -> Scene:
    """Open a scene; only headers are read. `docs/rasters.md` has examples and the conventions.

    Args:
        source: path or URL (http, https, s3, gs, az) of a GeoTIFF, COG or JPEG 2000; a list of those
            whose bands make one scene, also as text with commas between; a folder of them or a Sentinel-2 .SAFE; a
            STAC Item as path or URL of its JSON, as a dict or as a `pystac.Item`; "catalog.json#ID" for the Item ID of
            a catalogue or collection.
        bands: names ("B04"), common names ("red") or positions from 1; None takes all (of a STAC Item: those that
            have a common name or wavelength).
        scale, offset: value = number * scale + offset, one for all bands or one for each band taken. They replace what
            metadata, or the convention of the sensor, say, each for itself.
        nodata: number of invalid pixels, in place of the files' own.
        mask: "scl" hides what Sentinel-2's scene classification takes for cloud, shadow or defective; names of its
            classes (`nec.scenes.sensors.SCL_CLASSES`) hide those; a path or URL hides where that raster is 0.
        resolution: side of the pixels, in units of the CRS; bilinear, or averaged where pixels become coarser.
        crs: coordinate reference system to resample to ("EPSG:32633" or WKT).
        align: a grid to resample to instead: an odc-geo `GeoBox`, a scene, a raster store, or anything with `crs`,
            `transform` and `shape`. What the scene does not cover is not valid.
        sensor: names the bands of files that do not, by their order: one of `nec.scenes.sensors.SENSORS`. One of
            Sentinel-2 also makes reflectance of the numbers (1/10000; since baseline 04.00, where known, less 0.1).

    Raises:
        InputError: nothing there, not readable, no such band, class or sensor, grids that cannot be brought together.
        MissingExtraError: rasterio, or for STAC pystac, is not installed.
    """
    if sensor is not None:
        check_sensor(sensor)
    if align is not None and (resolution is not None or crs is not None):
        raise InputError("align gives a grid, so resolution and crs cannot be given as well")
    contents, headers = _contents(source, sensor, bands)
    if bands is not None:
        contents = replace(contents, layers=choose(contents.layers, bands, contents.name))
    hides = _mask(mask, contents)
    paths = list(dict.fromkeys([layer.path for layer in contents.layers] + ([hides.layer.path] if hides else [])))
    headers = {**headers, **read_headers([path for path in paths if path not in headers])}
    layers = [replace(layer, nodata=nodata if nodata is not None else layer.nodata) for layer in contents.layers]
    layers = _scaled(layers, headers, scale, offset)
    scaled = all((layer.band.scale, layer.band.offset) != (1.0, 0.0) for layer in layers)
    physical = scaled or scale is not None or offset is not None
    finest = min((headers[layer.path].grid for layer in layers), key=lambda grid: grid.pixel_size)
    grid = target_grid(finest, crs, resolution) if align is None else grid_like(align)
    for path in paths:
        own = headers[path].grid
        if not own.same(grid) and (own.crs is None or grid.crs is None):
            raise InputError(
                f"{path} has another pixel grid than the scene, and without a coordinate reference system in both "
                "it cannot be resampled; assign one first"
            )
    contents = replace(contents, layers=tuple(layers), physical=physical)
    return Scene(contents, grid, {path: headers[path] for path in paths}, hides)


def _contents(source: Any, sensor: str | None, bands: Sequence[str | int] | None) -> tuple[Contents, dict[str, Header]]:
    if not isinstance(source, str | Path):
        if isinstance(source, Sequence):
            return _files([str(path) for path in source], sensor)
        return stac.item_contents(stac.as_item(source), bands), {}
    source = local_path(source)
    path = existing(source)
    listed = [] if path is not None or isinstance(source, Path) else source.split(",")
    if len(listed) > 1 and all(_is_a_raster(part) for part in listed):  # a URL's query may hold commas, too
        return _files(listed, sensor)
    if path is not None and path.is_dir():
        return _folder(path, sensor)
    if stac.looks_like_item(str(source)):
        return stac.item_contents(stac.read_item(str(source)), bands), {}
    return _files([source], sensor)


def _is_a_raster(text: str) -> bool:
    return "://" in text or text.lower().endswith(RASTER_SUFFIXES) or existing(text) is not None


def _folder(folder: Path, sensor: str | None) -> tuple[Contents, dict[str, Header]]:
    safe = read_safe(folder)
    if safe is not None:
        return safe, {}
    files = rasters_in(folder)
    if not files:
        raise InputError(f"{folder} holds no rasters ({', '.join(RASTER_SUFFIXES)}) and no Sentinel-2 product")
    contents, headers = _files([str(file) for file in files], sensor)
    return replace(contents, name=folder.name), headers


def rasters_in(folder: Path) -> list[Path]:
    """The raster files that lie in a folder itself, in order; what programs leave beside them is none."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in RASTER_SUFFIXES and not p.name.startswith("."))


def _files(sources: Sequence[str | Path], sensor: str | None) -> tuple[Contents, dict[str, Header]]:
    if not sources:
        raise InputError("no raster was given")
    paths = [gdal_path(source) for source in sources]
    if len(set(paths)) != len(paths):
        raise InputError(f"{next(path for path in paths if paths.count(path) > 1)} is given twice")
    headers = read_headers(paths)
    named = [name for path in paths for name in (*headers[path].names, band_in_name(_stem(path))) if name]
    told = find_sensor(" ".join(word for path in paths for word in (path, *headers[path].tags.values())), named)
    layers = [layer for path in paths for layer in _layers(headers[path], sensor, told, alone=len(paths) == 1)]
    classes = next((layer for layer in layers if layer.band.name.upper() == "SCL"), None)
    layers = [layer for layer in layers if layer is not classes]
    if not layers:
        raise InputError(f"{paths[0]} holds classes only, and no band of an image")
    stem = _stem(paths[0])
    return (
        Contents(
            name=stem if len(paths) == 1 else _common_name(paths),
            layers=tuple(_distinct(layers)),
            datetime=_datetime(paths[0], headers[paths[0]].tags),
            links=tuple({"rel": "derived_from", "href": public_link(str(source))} for source in sources),
            classes=classes,
        ),
        headers,
    )


def _layers(header: Header, sensor: str | None, told: str | None, alone: bool) -> list[Layer]:
    """Bands of a file. `sensor`: whose they are; `told`: whose they seem to be, which names them and no more."""
    stem = _stem(header.path)
    product = sentinel_2_product(" ".join([stem, header.path, *header.tags.values()]))
    kind = sensor or (product[0] if product else None)
    surface = "_L2SP_" in stem and "SR_B" in stem and (told or "").startswith("landsat")
    convention = LANDSAT_SURFACE if surface else _sentinel_2_scaling(header.tags, kind, product) or (1.0, 0.0)
    if set(header.dtypes) == {"uint8"}:  # a picture made of the product, such as its TCI
        convention = (1.0, 0.0)
    layers = []
    for position, name in enumerate(_names(header, stem, kind, alone, asked=sensor is not None), 1):
        if position == header.alpha and len(header.names) > 1 and name == f"band{position}":
            continue
        known = find_channel(sensor or told, name)
        band = Band(
            known.name if known and (sensor or told or "").startswith(("sentinel", "eurosat", "naip")) else name,
            header.wavelengths[position - 1] or (known.wavelength_um if known else None),
            common=known.common if known else name if name in ("red", "green", "blue", "nir") else None,
        )
        if band_in_name(name) == "SCL":
            layers.append(Layer(header.path, position, band, scale=1.0, offset=0.0))
        else:
            layers.append(Layer(header.path, position, band, convention=convention))
    return layers


def _names(header: Header, stem: str, sensor: str | None, alone: bool, asked: bool) -> list[str]:
    """Names of a file's bands: its own, the sensor's order, a Sentinel-2 band in the file's name, or a number."""
    count = len(header.names)
    given = [name for name in header.names if name]
    in_stem = band_in_name(stem)
    if count == 1 and in_stem:
        return [in_stem]
    if sensor and len(given) < count:
        if len(SENSORS[sensor]) == count:
            return [known.name for known in SENSORS[sensor]]
        if asked:
            raise InputError(
                f"{header.path} has {count} band(s) without names, and {sensor} has {len(SENSORS[sensor])}; leave "
                "sensor out and choose bands by position"
            )
    if count == 1 and not alone:
        return [given[0] if given else stem]
    return [name or f"band{position}" for position, name in enumerate(header.names, 1)]


def _sentinel_2_scaling(
    tags: Mapping[str, str], sensor: str | None, product: tuple[str, str, float] | None
) -> tuple[float, float] | None:
    """(scale, offset) of Sentinel-2 from the tags of the product's metadata, its name, or the bare convention."""
    spacecraft = " ".join([tags.get("SPACECRAFT_NAME", ""), tags.get("PRODUCT_TYPE", "")])
    if not (sensor or "").startswith(("sentinel-2", "eurosat-ms")) and not re.search(r"Sentinel-2|S2MSI", spacecraft):
        return None
    added = tags.get("BOA_ADD_OFFSET") or tags.get("RADIO_ADD_OFFSET")
    try:
        scale = 1 / float(tags.get("BOA_QUANTIFICATION_VALUE") or tags.get("QUANTIFICATION_VALUE") or 10000)
        if added is not None:
            return scale, float(added) * scale
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"tags of Sentinel-2 that are no numbers: {error}; give scale and offset") from error
    baseline = parse_baseline(tags.get("PROCESSING_BASELINE"))
    return scale, sentinel_2_offset(baseline if baseline is not None or not product else product[2], scale)


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


def _scaled(layers: list[Layer], headers: Mapping[str, Header], scale: Any, offset: Any) -> list[Layer]:
    none: list[None] = [None] * len(layers)
    scales, offsets = numbers(scale, len(layers), "scale") or none, numbers(offset, len(layers), "offset") or none
    for layer in layers:
        if not 1 <= layer.index <= len(headers[layer.path].dtypes):
            raise InputError(f"{layer.path} has no band {layer.index}")
    return [layer.scaled(headers[layer.path], s, o) for layer, s, o in zip(layers, scales, offsets, strict=True)]


def _mask(mask: str | Path | Sequence[str] | None, contents: Contents) -> Mask | None:
    if mask is None:
        return None
    if isinstance(mask, Path) or (isinstance(mask, str) and mask != "scl" and mask not in SCL_CLASSES):
        return Mask(Layer(gdal_path(mask), 1, Band("mask")), frozenset({0}))
    names = SCL_HIDDEN if mask == "scl" else [mask] if isinstance(mask, str) else mask
    if contents.classes is None:
        raise InputError(f"{contents.name} has no scene classification (SCL); leave mask out, or give a mask file")
    return Mask(contents.classes, scl_values(list(names)))


def _datetime(path: str, tags: Mapping[str, str]) -> np.datetime64 | None:
    """From the file's name, TIFF's own tag, or the name of the folder of a product (S2A_..., LC08_...)."""
    time = time_in_name(_stem(path))
    if time is None:
        time = time_in_tag(tags.get("TIFFTAG_DATETIME", ""))
    return time if time is not None else time_in_name(Path(path).parent.name)


def _stem(path: str) -> str:
    return Path(path.partition("?")[0] if is_remote(path) else path).stem


def _common_name(paths: Sequence[str]) -> str:
    """What the names of several files begin with, or the folder of the first."""
    shared = os.path.commonprefix([_stem(path) for path in paths])  # noqa: RUF071  characters are meant
    return shared.rstrip("_.-bB0") or Path(paths[0]).parent.name


# `band_id` of the metadata's offsets counts the bands of level 1C, in both levels.
_BAND_IDS = [channel.name for channel in SENSORS["sentinel-2-l1c"]]


def is_safe(folder: Path) -> bool:
    """Whether a folder is a product of Sentinel-2: it holds the metadata of one."""
    return any(folder.glob("MTD_MSIL[12][AC].xml"))


def read_safe(folder: Path) -> Contents | None:
    """Contents of a .SAFE folder, each band at its finest resolution; None where the folder is none.

    Raises:
        InputError: damaged metadata, or no band files.
    """
    metadata = next(iter(sorted(folder.glob("MTD_MSIL[12][AC].xml"))), None)
    if metadata is None:
        return None
    sensor = f"sentinel-2-l{metadata.stem[-2:].lower()}"
    try:
        root = ElementTree.parse(metadata).getroot()
        scale, offsets = _scaling(root)
        time = _time(root)
    except (ElementTree.ParseError, OSError, ValueError, LookupError, ZeroDivisionError) as error:
        raise InputError(f"{metadata} is not readable as metadata of Sentinel-2: {error}") from error
    files = _finest(folder)
    layers = []
    for name, path in files.items():
        known = channel(sensor, name)
        if known is not None:
            band = Band(known.name, known.wavelength_um, common=known.common)
            # 0 is never a value of Sentinel-2; JPEG 2000 cannot declare it.
            layers.append(Layer(str(path.absolute()), 1, band, 0, scale, offsets[known.name]))
    if not layers:
        raise InputError(f"{folder} holds no band files (…_B04_10m.jp2); is the product unpacked whole?")
    order = [known.name for known in SENSORS[sensor]]
    return Contents(
        name=folder.name.removesuffix(".SAFE"),
        layers=tuple(sorted(layers, key=lambda layer: order.index(layer.band.name))),
        datetime=time,
        links=({"rel": "derived_from", "href": str(folder)},),
        classes=Layer(str(files["SCL"].absolute()), 1, Band("SCL")) if "SCL" in files else None,
    )


def _texts(root: ElementTree.Element, tag: str) -> list[ElementTree.Element]:
    return [element for element in root.iter() if element.tag.rpartition("}")[2] == tag]


def _scaling(root: ElementTree.Element) -> tuple[float, dict[str, float]]:
    """Scale, and the offset of each band, from the product's own values or from its baseline."""
    quantification = _texts(root, "BOA_QUANTIFICATION_VALUE") or _texts(root, "QUANTIFICATION_VALUE")
    scale = 1 / float((quantification[0].text if quantification else None) or 10000)
    baseline = next((element.text for element in _texts(root, "PROCESSING_BASELINE")), None)
    offset = sentinel_2_offset(parse_baseline(baseline), scale)
    offsets = dict.fromkeys(_BAND_IDS, offset)
    for element in _texts(root, "BOA_ADD_OFFSET") + _texts(root, "RADIO_ADD_OFFSET"):
        offsets[_BAND_IDS[int(element.attrib["band_id"])]] = float(element.text or 0) * scale
    return scale, offsets


def _time(root: ElementTree.Element) -> np.datetime64 | None:
    text = next((element.text for element in _texts(root, "PRODUCT_START_TIME")), None)
    return parse_time(text) if text else None


def _finest(folder: Path) -> dict[str, Path]:
    """Band name -> its file of the finest resolution."""
    found: dict[str, tuple[int, Path]] = {}
    for path in sorted(folder.rglob("*")):
        name = band_in_name(path.stem)
        if name is None or path.suffix.lower() not in RASTER_SUFFIXES or "QI_DATA" in path.parts:
            continue
        size = re.search(r"_(\d+)m$", path.stem)
        metres = int(size.group(1)) if size else 0
        if name not in found or metres < found[name][0]:
            found[name] = (metres, path)
    return {name: path for name, (_, path) in found.items()}
