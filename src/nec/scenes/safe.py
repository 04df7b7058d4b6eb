"""Sentinel-2 products as ESA delivers them: a .SAFE folder with a metadata file and a JPEG 2000 file a band."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from nec.errors import InputError
from nec.scenes.rasters import RASTER_SUFFIXES
from nec.scenes.scene import Band, Contents, Layer
from nec.scenes.sensors import SENSORS, band_in_name, channel, parse_baseline, parse_time, sentinel_2_offset

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
