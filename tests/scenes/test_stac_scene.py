"""Scenes from STAC Items and catalogues."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasters import noise, write

from nec.errors import InputError
from nec.scenes import open_scene

pystac = pytest.importorskip("pystac")

COG = "image/tiff; application=geotiff; profile=cloud-optimized"


def asset(href: str, bands: list[dict[str, Any]] | None = None, **fields: Any) -> dict[str, Any]:
    named = {"eo:bands": bands} if bands else {}
    return {"href": href, "type": COG, "roles": ["data"], **named, **fields}


def item(assets: dict[str, Any], collection: str | None = "sentinel-2-l2a", **properties: Any) -> dict[str, Any]:
    """An Item like those of Earth Search (STAC 1.0, extensions eo and raster version 1)."""
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": "S2B_33UXP_20250302_0_L2A",
        "geometry": None,
        "properties": {"datetime": "2025-03-02T09:54:08.123Z", **properties},
        "links": [{"rel": "collection", "href": "https://stac.test/collections/s2"}] if collection else [],
        "assets": assets,
        **({"collection": collection} if collection else {}),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "B04.tif", noise(1, low=1100), nodata=0)
    write(tmp_path / "B11.tif", noise(1, rows=10, columns=15, low=2000), resolution=20)
    write(tmp_path / "SCL.tif", np.full((1, 10, 15), 4, np.uint8), resolution=20)
    write(tmp_path / "TCI.tif", noise(3, "uint8"))
    return tmp_path


def assets() -> dict[str, Any]:
    return {
        "thumbnail": {"href": "./preview.jpg", "type": "image/jpeg", "roles": ["thumbnail"]},
        "visual": asset("./TCI.tif", [{"name": "red"}, {"name": "green"}, {"name": "blue"}], roles=["visual"]),
        "swir16": asset("./B11.tif", [{"name": "swir16", "common_name": "swir16", "center_wavelength": 1.61}]),
        "red": asset("./B04.tif", [{"name": "red", "common_name": "red"}]),
        "red-jp2": asset("./missing.jp2", [{"name": "red", "common_name": "red"}], type="image/jp2"),
        "scl": asset("./SCL.tif"),
        "aot": asset("./missing.tif"),
    }


def save(path: Path, document: dict[str, Any]) -> Path:
    path.write_text(json.dumps(document))
    return path


def test_item_of_earth_search(folder: Path) -> None:
    path = save(folder / "item.json", item(assets(), **{"s2:processing_baseline": "05.11"}))
    scene = open_scene(path)
    assert [(band.name, band.common, band.wavelength_um) for band in scene.bands] == [
        ("B11", "swir16", 1.61),
        ("B04", "red", 0.6646),
    ]
    assert (scene.name, scene.shape, scene.crs) == ("S2B_33UXP_20250302_0_L2A", (20, 30), "EPSG:32633")
    assert scene.datetime == np.datetime64("2025-03-02T09:54:08.123")
    assert scene.physical
    pixels, valid = scene.read(0, 0, 20, 30)
    assert valid.all()
    np.testing.assert_allclose(pixels[..., 1], (noise(1, low=1100)[0] - 1000.0) / 10000, atol=1e-6)
    assert scene.source_links == [
        {"rel": "derived_from", "href": str(path), "type": "application/geo+json"},
        {"rel": "collection", "href": "https://stac.test/collections/s2", "type": "application/json"},
    ]
    for wanted in (["red"], ["B04"], ["B4"]):
        np.testing.assert_array_equal(open_scene(path, bands=wanted).read(0, 0, 20, 30)[0], pixels[..., 1:])
    assert not open_scene(path, bands=["red"], mask=["vegetation"]).read(0, 0, 20, 30)[1].any()
    with pytest.raises(InputError, match=r"missing\.tif does not exist"):
        open_scene(path, bands=["aot"])


RASTER = {"raster:bands": [{"scale": 1e-4, "offset": -0.1, "nodata": 0}]}
BASELINE = {"s2:processing_baseline": "05.11"}


@pytest.mark.parametrize(
    ("properties", "fields", "scaling"),
    [
        (BASELINE, {}, (1e-4, -0.1)),  # Planetary Computer: no raster:bands, pixels with the offset
        ({"s2:processing_baseline": "03.01"}, {}, (1e-4, 0.0)),
        ({"processing:version": "05.11"}, {}, (1e-4, -0.1)),
        (BASELINE, RASTER, (1e-4, -0.1)),
        ({**BASELINE, "earthsearch:boa_offset_applied": True}, RASTER, (1e-4, 0.0)),
        ({**BASELINE, "earthsearch:boa_offset_applied": False}, RASTER, (1e-4, -0.1)),
        ({**BASELINE, "earthsearch:boa_offset_applied": True}, {}, (1e-4, 0.0)),
        (BASELINE, {"raster:bands": [{"scale": 1e-4, "offset": 0}]}, (1e-4, 0.0)),
        (BASELINE, {"raster:scale": 1e-4, "raster:offset": -0.1}, (1e-4, -0.1)),  # STAC 1.1, fields of the asset
        ({}, {}, (1e-4, 0.0)),
    ],
)
def test_offsets_of_sentinel_2(
    folder: Path, properties: dict[str, Any], fields: dict[str, Any], scaling: tuple[float, float]
) -> None:
    described = asset(str(folder / "B04.tif"), [{"name": "B04"}], **fields)
    band = open_scene(item({"B04": described}, **properties)).bands[0]
    assert (band.scale, band.offset) == pytest.approx(scaling)
    assert open_scene(item({"B04": described}, **properties), offset=0.25).bands[0].offset == 0.25


def test_bands_of_stac_1_1(folder: Path) -> None:
    """One asset of several bands, with `bands`; another sensor, whose scale and nodata are its own."""
    write(folder / "SR.tif", noise(3))
    bands = [
        {"name": "SR_B3", "eo:common_name": "green", "eo:center_wavelength": 0.56, "raster:scale": 2.75e-5},
        {"name": "SR_B4", "eo:common_name": "red", "raster:scale": 2.75e-5, "raster:offset": -0.2},
        {"name": "QA", "nodata": 17},
    ]
    document = item({"sr": {"href": str(folder / "SR.tif"), "type": COG, "bands": bands}}, collection=None)
    document["stac_version"] = "1.1.0"
    scene = open_scene(pystac.Item.from_dict(document))
    assert [(band.name, band.common) for band in scene.bands] == [("SR_B3", "green"), ("SR_B4", "red")]
    assert scene.bands[0].wavelength_um == 0.56
    pixels, _ = scene.read(0, 0, 20, 30)
    np.testing.assert_allclose(pixels[..., 1], noise(3)[1] * 2.75e-5 - 0.2, atol=1e-6)
    _, valid = open_scene(document, bands=["QA"]).read(0, 0, 20, 30)
    np.testing.assert_array_equal(valid, noise(3)[2] != 17)


def test_items_in_catalogues(folder: Path) -> None:
    catalog = pystac.Catalog("archive", "Scenes")
    for number in range(2):
        document = item({"red": asset(str(folder / "B04.tif"), [{"name": "red", "common_name": "red"}])}, None)
        catalog.add_item(pystac.Item.from_dict({**document, "id": f"scene-{number}"}))
    child = pystac.Catalog("child", "More")
    child.add_item(pystac.Item.from_dict({**document, "id": "deep"}))
    catalog.normalize_hrefs(str(folder / "two"))
    child.normalize_hrefs(str(folder / "one"))
    catalog.save(pystac.CatalogType.SELF_CONTAINED)
    child.save(pystac.CatalogType.SELF_CONTAINED)
    two, one = folder / "two" / "catalog.json", folder / "one" / "catalog.json"
    assert open_scene(f"{two}#scene-1").name == "scene-1"
    assert open_scene(one).name == "deep"
    for source, message in (
        (two, r"has several Items; name one as .*#ID: scene-0, scene-1"),
        (f"{two}#none", "has no Item 'none'.*scene-0"),
    ):
        with pytest.raises(InputError, match=message):
            open_scene(source)


def test_bad_items(tmp_path: Path) -> None:
    save(tmp_path / "a.json", {"a": 1})
    (tmp_path / "b.json").write_text("{")
    for name in ("a.json", "b.json", "none.json"):
        with pytest.raises(InputError, match=rf"{name} is not readable as a STAC Item"):
            open_scene(tmp_path / name)
    with pytest.raises(InputError, match="no STAC Item"):
        open_scene({"type": "Feature"})
    with pytest.raises(InputError, match="has no asset with an image; it has thumbnail"):
        open_scene(item({"thumbnail": assets()["thumbnail"]}))
    for odd in ({"eo:bands": "red"}, {"eo:bands": [5]}, {"raster:bands": [[]]}, {"roles": 5}):
        with pytest.raises(InputError, match=r"malformed|no STAC Item|no asset with an image|a\.tif does not exist"):
            open_scene(item({"red": {**asset("a.tif"), **odd}}))
    with pytest.raises(InputError, match="a scene is opened from"):
        open_scene(5)  # type: ignore[arg-type]
