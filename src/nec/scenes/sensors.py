"""What the sensors' own files do not say: names, wavelengths, scales, Sentinel-2's classes, and dates in names."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from nec.errors import InputError


@dataclass(frozen=True)
class Channel:
    """A band of a sensor: its name, the STAC common name, the central wavelength in µm."""

    name: str
    common: str | None
    wavelength_um: float


# Central wavelengths of Sentinel-2A (ESA, S2 User Handbook); 2B and 2C differ by some nanometres.
_SENTINEL_2 = (
    Channel("B01", "coastal", 0.4427),
    Channel("B02", "blue", 0.4924),
    Channel("B03", "green", 0.5598),
    Channel("B04", "red", 0.6646),
    Channel("B05", "rededge071", 0.7041),
    Channel("B06", "rededge075", 0.7405),
    Channel("B07", "rededge078", 0.7828),
    Channel("B08", "nir", 0.8328),
    Channel("B8A", "nir08", 0.8647),
    Channel("B09", "nir09", 0.9451),
    Channel("B10", "cirrus", 1.3735),
    Channel("B11", "swir16", 1.6137),
    Channel("B12", "swir22", 2.2024),
)

#: Bands in the order in which multi-band files of a sensor hold them, for files that do not name them.
SENSORS: dict[str, tuple[Channel, ...]] = {
    "sentinel-2-l1c": _SENTINEL_2,
    "sentinel-2-l2a": tuple(channel for channel in _SENTINEL_2 if channel.name != "B10"),
    "naip": (
        Channel("red", "red", 0.65),
        Channel("green", "green", 0.56),
        Channel("blue", "blue", 0.48),
        Channel("nir", "nir", 0.85),
    ),
    # The chips of EuroSAT's 13 bands hold B8A last.
    "eurosat-ms": (*(channel for channel in _SENTINEL_2 if channel.name != "B8A"), _SENTINEL_2[8]),
    # Landsat 8 and 9, as USGS numbers the bands; the harmonised ones (HLS L30) write B04 for B4.
    "landsat-oli": (
        Channel("B1", "coastal", 0.443),
        Channel("B2", "blue", 0.482),
        Channel("B3", "green", 0.561),
        Channel("B4", "red", 0.655),
        Channel("B5", "nir08", 0.865),
        Channel("B6", "swir16", 1.609),
        Channel("B7", "swir22", 2.201),
    ),
    "landsat-etm": (
        Channel("B1", "blue", 0.483),
        Channel("B2", "green", 0.56),
        Channel("B3", "red", 0.662),
        Channel("B4", "nir", 0.835),
        Channel("B5", "swir16", 1.648),
        Channel("B7", "swir22", 2.206),
    ),
}

#: Classes of the scene classification map (SCL) of Sentinel-2 L2A.
SCL_CLASSES = {
    "no_data": 0,
    "saturated_or_defective": 1,
    "dark_area": 2,
    "cloud_shadow": 3,
    "vegetation": 4,
    "not_vegetated": 5,
    "water": 6,
    "unclassified": 7,
    "cloud_medium_probability": 8,
    "cloud_high_probability": 9,
    "thin_cirrus": 10,
    "snow_ice": 11,
}
#: What the mask "scl" hides.
SCL_HIDDEN = (
    "no_data",
    "saturated_or_defective",
    "cloud_shadow",
    "cloud_medium_probability",
    "cloud_high_probability",
    "thin_cirrus",
)

# A band in a file's name: T33UXP_20250302T095029_B04_10m.jp2, B8A.tif, S2A_..._SCL.tif
_BAND_IN_NAME = re.compile(r"(?:^|[_.-])(B(?:0?[1-9]|8A|1[0-2])|SCL)(?=$|[_.-])", re.IGNORECASE)
#: Sensors by what file names, tags and Items say; the first that is found. Names only: no scale follows from them.
_SIGNS = (
    (r"S2[A-D]_MSIL1C|S2MSI1C", "sentinel-2-l1c"),
    (r"S2[A-D]_MSIL2A|S2MSI2A", "sentinel-2-l2a"),
    (r"HLS\.S30|Sentinel-?2|(?<![A-Z0-9])S2[A-D](?![A-Z0-9])|(?<![A-Z0-9])T\d\d[A-Z]{3}_\d{8}T\d{6}", "sentinel-2-l1c"),
    (r"(?<![A-Z0-9])L[CO]0[89]_|HLS\.L30|landsat[-_ ]?[89]", "landsat-oli"),
    (r"(?<![A-Z0-9])L[ET]0[457]_|landsat[-_ ]?[457]", "landsat-etm"),
)
_PRODUCT_NAME = re.compile(r"S2[A-D]_MSIL(1C|2A)_(\d{8}T\d{6})_N(\d{2})(\d{2})_")


def channel(sensor: str, name: str) -> Channel | None:
    """The band of a sensor by its name ("B4" is "B04") or common name, in any case; None if it has none such."""
    wanted = band_key(name.upper().removeprefix("SR_"))
    return next((c for c in SENSORS[sensor] if wanted in (band_key(c.name), c.common)), None)


def check_sensor(sensor: str) -> str:
    """`sensor` itself; `InputError` where it is not in `SENSORS`."""
    if sensor not in SENSORS:
        raise InputError(f"{sensor!r} is no known sensor; known are {', '.join(SENSORS)}")
    return sensor


def band_key(name: str) -> str:
    """A band's name for comparing: lower case, "B4" as "b04"."""
    key = name.lower()
    return f"b0{key[1]}" if re.fullmatch(r"b[1-9]", key) else key


def band_in_name(stem: str) -> str | None:
    """Sentinel-2 band (or "SCL") that a file's name ends in or has between "_", "." or "-"; None without."""
    found = _BAND_IN_NAME.findall(stem)
    return found[-1].upper() if found else None


def find_sensor(text: str, names: Iterable[str] = ()) -> str | None:
    """The sensor that a file's name and tags, or an Item's properties, tell of; None where they do not.

    The number of a band alone is no evidence: B05 is red edge in Sentinel-2 and near infrared in HLS. Among the
    `names` of the bands, B8A is Sentinel-2's own.
    """
    found = next((sensor for sign, sensor in _SIGNS if re.search(sign, text, re.IGNORECASE)), None)
    return found or ("sentinel-2-l1c" if "B8A" in {name.upper() for name in names} else None)


def find_channel(sensor: str | None, name: str) -> Channel | None:
    """The band of a sensor; without one, what all sensors that write B01 to B04 in two digits mean by that."""
    if sensor is not None:
        return channel(sensor, name)
    return channel("sentinel-2-l1c", name) if re.fullmatch(r"B0[1-4]", name) else None


def sentinel_2_product(text: str) -> tuple[str, str, float] | None:
    """(sensor, sensing time "20250302T095029", baseline) of a name S2B_MSIL2A_20250302T095029_N0511_..., or None."""
    found = _PRODUCT_NAME.search(text)
    if not found:
        return None
    level, time, major, minor = found.groups()
    return f"sentinel-2-l{level.lower()}", time, float(f"{int(major)}.{minor}")


def parse_baseline(text: object) -> float | None:
    """Processing baseline of Sentinel-2 ("05.11", "N0511") as a number; None for what is none ("1.2.3")."""
    found = re.fullmatch(r"N?(\d\d?)\.?(\d\d)", str(text).strip())
    return float(f"{int(found[1])}.{found[2]}") if found else None


def sentinel_2_offset(baseline: float | None, scale: float = 1e-4) -> float:
    """What to add to number * scale: -1000 numbers since processing baseline 04.00.

    ESA: "Copernicus Sentinel-2: Major Products Upgrade Upcoming" (2021), for level 1C and 2A alike. Products that
    Sen2Cor made outside of ESA have baselines of 99.xx, which say nothing.
    """
    return -1000 * scale if baseline is not None and 4.0 <= baseline < 90 else 0.0


#: (scale, offset) of surface reflectance in Landsat's collection 2, level 2 (USGS, LSDS-1619).
LANDSAT_SURFACE = (2.75e-5, -0.2)


def scl_values(names: list[str]) -> frozenset[int]:
    """Names of SCL classes -> their numbers; `InputError` for a name that is none."""
    for name in names:
        if name not in SCL_CLASSES:
            raise InputError(f"{name!r} is no class of the scene classification; classes are {', '.join(SCL_CLASSES)}")
    return frozenset(SCL_CLASSES[name] for name in names)


_TIMES = (
    (r"(\d{4})(\d{2})(\d{2})T(\d{2})(\d{2})(\d{2})", "%Y%m%d%H%M%S"),  # Sentinel
    (r"(\d{4})(\d{3})T(\d{2})(\d{2})(\d{2})", "%Y%j%H%M%S"),  # HLS
    (r"(\d{4})-(\d{2})-(\d{2})T(\d{2})[-:]?(\d{2})[-:]?(\d{2})", "%Y%m%d%H%M%S"),
    (r"(\d{4})-(\d{2})-(\d{2})", "%Y%m%d"),
    (r"(\d{4})_(\d{2})_(\d{2})", "%Y%m%d"),
    (r"(\d{4})(\d{2})(\d{2})", "%Y%m%d"),  # Landsat, NAIP: the first of several is that of the picture
)


def parse_time(text: str | datetime.datetime) -> np.datetime64:
    """ISO text or a datetime, in UTC unless it has a zone -> UTC, to the millisecond. `ValueError` for other text."""
    moment = datetime.datetime.fromisoformat(text.strip()) if isinstance(text, str) else text
    if moment.tzinfo is not None:
        moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    return np.datetime64(moment, "ms")


def time_in_name(name: str) -> np.datetime64 | None:
    """The date, and the time where it is there, that a file's name holds: 20090818, 2009-08-18, ..."""
    return next(_found(name), None)


def _found(name: str) -> Iterator[np.datetime64]:
    for pattern, form in _TIMES:
        for match in re.finditer(rf"(?<!\d){pattern}(?!\d)", name):
            try:
                moment = datetime.datetime.strptime("".join(match.groups()), form)
            except ValueError:  # eight digits that are no date
                continue
            if 1900 <= moment.year < 2100:
                yield np.datetime64(moment, "ms")


def time_in_tag(text: str) -> np.datetime64 | None:
    """TIFF's own tag ("2020:06:01 10:00:31"); what is no date counts as none."""
    try:
        return parse_time(re.sub(r"^(\d{4}):(\d\d):(\d\d)", r"\1-\2-\3", text.strip("\0 ")))
    except ValueError:
        return None
