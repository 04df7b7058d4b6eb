"""What files and catalogues say of a scene, and what is believed of it: dates, sensors, scales, places."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasters import LEFT, TOP, noise, rasterio, write
from test_stac_scene import asset, item

from nec.errors import InputError
from nec.scenes import open_scene
from nec.scenes.sensors import find_sensor, parse_baseline, parse_time, time_in_name


@pytest.mark.parametrize(
    ("name", "date"),
    [
        ("m_4709963_se_14_1_20090818", "2009-08-18"),
        ("scene-2020-06-01-b", "2020-06-01"),
        ("LC08_L1TP_190024_20200601_20200824_02_T1_B4", "2020-06-01"),
        ("S2B_MSIL2A_20250302T095029_N0511_R079_T33UXP_20250302T104753", "2025-03-02T09:50:29"),
        ("HLS.L30.T33UXP.2020153T102019.v2.0.B04", "2020-06-01T10:20:19"),
        ("tile_2020", None),
        ("12345678", None),
        ("a120200601", None),
        ("20201301", None),
    ],
)
def test_dates_in_names(tmp_path: Path, name: str, date: str | None) -> None:
    expected = None if date is None else np.datetime64(date)
    assert time_in_name(name) == expected
    assert open_scene(write(tmp_path / f"{name}.tif", noise(1))).datetime == expected


def test_dates_in_tags_and_zones(tmp_path: Path) -> None:
    tags = {"TIFFTAG_DATETIME": "2020:06:01 10:00:31"}
    assert open_scene(write(tmp_path / "a.tif", noise(), tags=tags)).datetime == np.datetime64("2020-06-01T10:00:31")
    tags = {"TIFFTAG_DATETIME": "    :  :     :  :  "}
    assert open_scene(write(tmp_path / "b.tif", noise(), tags=tags)).datetime is None
    assert parse_time("2024-06-01T01:30:00+02:00") == np.datetime64("2024-05-31T23:30")
    write(tmp_path / "red.tif", noise(1))
    document = item({"red": asset(str(tmp_path / "red.tif"))}, datetime="2024-06-01T01:30:00+02:00")
    assert open_scene(document).datetime == np.datetime64("2024-05-31T23:30")


@pytest.mark.parametrize(
    ("text", "names", "sensor"),
    [
        ("S2A_MSIL1C_20200601T100031_N0209", [], "sentinel-2-l1c"),
        ("T33UXP_20250302T095029_B04_10m", [], "sentinel-2-l1c"),
        ("LC08_L2SP_190024_20200601_20200824_02_T1_SR_B4", [], "landsat-oli"),
        ("LE07_L2SP_190024_20000601_20200824_02_T1_SR_B4", [], "landsat-etm"),
        ("HLS.L30.T33UXP.2020153T102019.v2.0.B05", [], "landsat-oli"),
        ("HLS.S30.T33UXP.2020153T102019.v2.0.B05", [], "sentinel-2-l1c"),
        ("folder", ["B04", "B8A"], "sentinel-2-l1c"),
        ("folder", ["B04", "B05"], None),
    ],
)
def test_sensors_by_evidence(text: str, names: list[str], sensor: str | None) -> None:
    assert find_sensor(text, names) == sensor


def test_the_number_of_a_band_is_no_evidence(tmp_path: Path) -> None:
    for band in ("B04", "B05"):
        write(tmp_path / "bare" / f"{band}.tif", noise(1))
        write(tmp_path / "hls" / f"HLS.L30.T33UXP.2020153T102019.v2.0.{band}.tif", noise(1))
    assert [band.common for band in open_scene(tmp_path / "bare").bands] == ["red", None]
    assert [band.common for band in open_scene(tmp_path / "hls").bands] == ["red", "nir08"]


def test_surface_reflectance_of_landsat(tmp_path: Path) -> None:
    name = "LC08_L2SP_190024_20200601_20200824_02_T1_SR_"
    scene = open_scene([write(tmp_path / f"{name}B{n}.TIF", noise(1)) for n in (4, 5)], bands=["red", "nir08"])
    assert [(band.scale, band.offset) for band in scene.bands] == [(2.75e-5, -0.2)] * 2
    assert scene.datetime == np.datetime64("2020-06-01")


@pytest.mark.parametrize(
    ("text", "baseline"),
    [("05.11", 5.11), ("N0510", 5.10), ("0301", 3.01), ("5.11", 5.11), ("1.2.3", None), ("", None), (None, None)],
)
def test_baselines(text: Any, baseline: float | None) -> None:
    assert parse_baseline(text) == baseline


def _of_red(tmp_path: Path, properties: dict[str, Any] | None = None, **fields: Any) -> Any:
    if not (tmp_path / "red.tif").exists():
        write(tmp_path / "red.tif", noise(1))
    described = asset(str(tmp_path / "red.tif"), [{"name": "B04", "common_name": "red"}], **fields)
    return item({"red": described}, None, **(properties or {}))


def test_one_precedence_of_scales(tmp_path: Path) -> None:
    """Call, Item, file, convention; each of scale and offset for itself."""
    path = write(tmp_path / "red.tif", noise(1))
    sentinel = {"platform": "sentinel-2a", "s2:processing_baseline": "05.11"}

    def of(document: Any, **options: Any) -> tuple[float, float]:
        band = open_scene(document, **options).bands[0]
        return band.scale, band.offset

    assert of(_of_red(tmp_path)) == (1.0, 0.0)
    assert of(_of_red(tmp_path, sentinel)) == pytest.approx((1e-4, -0.1))
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (2e-4,), (0.5,)
    assert of(_of_red(tmp_path)) == of(_of_red(tmp_path, sentinel)) == (2e-4, 0.5)
    told = {"raster:bands": [{"scale": 3e-4}]}
    assert of(_of_red(tmp_path, sentinel, **told)) == (3e-4, 0.5)
    assert of(_of_red(tmp_path, sentinel, **told), scale=4e-4) == (4e-4, 0.5)
    assert of(_of_red(tmp_path, sentinel, **told), offset=0) == (3e-4, 0.0)


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf")])
def test_scales_that_no_value_survives(tmp_path: Path, scale: float) -> None:
    path = write(tmp_path / "a.tif", noise(2))
    with rasterio.open(path, "r+") as file:
        file.scales = (1.0, scale)
    with pytest.raises(InputError, match="no value survives; give scale"):
        open_scene(path)
    assert open_scene(path, scale=0.5).bands[1].scale == 0.5
    with pytest.raises(InputError, match="scale"):
        open_scene(path, scale=scale)
    with pytest.raises(InputError, match="which is no number"):
        open_scene(_of_red(tmp_path, **{"raster:bands": [{"scale": "much"}]}))


def test_an_item_of_the_copernicus_data_space(tmp_path: Path) -> None:
    """STAC 1.1: a band at several resolutions, the classes as SCL_20m and SCL_60m, scales on the asset."""
    assets = {}
    for key, resolution in (("B04_20m", 20), ("B04_10m", 10), ("B8A_20m", 20), ("SCL_60m", 60), ("SCL_20m", 20)):
        pixels = noise(1, rows=240 // resolution, columns=360 // resolution, low=1100)
        pixels = np.full_like(pixels, 9, np.uint8) if key.startswith("SCL") else pixels
        href = str(write(tmp_path / f"{key}.tif", pixels, resolution=resolution))
        common = {"B04": "red", "B8A": "nir08"}.get(key[:3])
        assets[key] = {
            "href": href, "type": "image/jp2", "roles": ["data", f"gsd:{resolution}m"], "nodata": 0,
            **({"bands": [{"name": key[:3], "eo:common_name": common}]} if common else {}),
            **({"raster:scale": 1e-4, "raster:offset": -0.1} if common else {}),
        }  # fmt: skip
    document = {**item(assets, platform="sentinel-2a", **{"processing:version": "05.11"}), "stac_version": "1.1.0"}
    scene = open_scene(document, mask="scl")
    assert sorted(band.name for band in scene.bands) == ["B04", "B8A"]
    assert (scene.shape, scene.bands[0].scale, scene.bands[0].offset) == ((24, 36), 1e-4, -0.1)
    assert not scene.read(0, 0, *scene.shape)[1].any()  # clouds throughout


def test_an_item_of_usgs(tmp_path: Path) -> None:
    """Landsat collection 2, level 2: common names, no scale; the scale is that of the collection."""
    href = str(write(tmp_path / "x_SR_B5.TIF", noise(1), nodata=0))
    bands = [{"name": "B5", "common_name": "nir08", "center_wavelength": 0.86}]
    assets = {"nir08": {"href": href, "type": "image/vnd.stac.geotiff; cloud-optimized=true", "eo:bands": bands}}
    scene = open_scene(item(assets, "landsat-c2l2-sr", platform="LANDSAT_8"))
    assert [(band.common, band.scale, band.offset) for band in scene.bands] == [("nir08", 2.75e-5, -0.2)]


def test_mixed_types_are_read_band_by_band(tmp_path: Path) -> None:
    write(tmp_path / "c1.tif", np.full((1, 20, 30), 100, np.uint16))
    write(tmp_path / "c2.tif", np.full((1, 20, 30), 0.5, np.float32))
    bands = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{i}"><SimpleSource><SourceFilename relativeToVRT="1">c{i}.tif'
        "</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        for i, kind in ((1, "UInt16"), (2, "Float32"))
    )
    (tmp_path / "m.vrt").write_text(
        f'<VRTDataset rasterXSize="30" rasterYSize="20"><SRS>EPSG:32633</SRS><GeoTransform>{LEFT},10,0,{TOP},0,-10'
        f"</GeoTransform>{bands}</VRTDataset>"
    )
    for options in ({}, {"resolution": 20}):
        assert open_scene(tmp_path / "m.vrt", **options).read(2, 2, 1, 1)[0].ravel().tolist() == [100.0, 0.5]


def test_names_are_taken_for_what_exists(tmp_path: Path) -> None:
    for name in ("a#b.tif", "a?b.tif", "a,b.tif", "with space.tif", "100%25.tif", "catalog.json.tif"):
        path = write(tmp_path / "odd #1" / name, noise(1))
        for source in (path, str(path), path.as_uri()):
            assert open_scene(source).shape == (20, 30)
    pair = [str(write(tmp_path / f"{band}.tif", noise(1))) for band in "xy"]
    assert [band.name for band in open_scene(",".join(pair)).bands] == ["x", "y"]
    assert open_scene(f"{tmp_path / 'odd #1'}/", bands=[1]).shape == (20, 30)
    with pytest.raises(InputError, match="of another machine"):
        open_scene("file://elsewhere/a.tif")


def test_a_name_that_is_no_utf_8(tmp_path: Path) -> None:
    import os

    name = os.fsencode(tmp_path) + b"/caf\xe9.tif"
    os.rename(write(tmp_path / "a.tif", noise(1)), name)
    with pytest.raises(InputError, match=r"caf\\xe9\.tif: the name is not UTF-8"):
        open_scene(os.fsdecode(name))


def test_ground_control_points(tmp_path: Path) -> None:
    from rasterio.control import GroundControlPoint

    def points(bend: float) -> list[Any]:
        places = [(row, column) for row in (0, 10, 20) for column in (0, 15, 30)]
        return [GroundControlPoint(row=r, col=c, x=15 + c / 600 + bend * r * c, y=48 - r / 600) for r, c in places]

    for bend in (0.0, 1e-5):
        path = tmp_path / f"{bend}.tif"
        with rasterio.open(path, "w", "GTiff", 30, 20, 1, dtype="uint8") as file:
            file.write(noise(1, "uint8"))
            file.gcps = points(bend), rasterio.crs.CRS.from_epsg(4326)
    scene = open_scene(tmp_path / "0.0.tif")
    assert scene.crs == "EPSG:4326"
    np.testing.assert_allclose(scene.transform, (1 / 600, 0, 15, 0, -1 / 600, 48), atol=1e-9)
    with pytest.raises(InputError, match=r"ground control points that lie up to .* px off any regular grid: warp it"):
        open_scene(path)


def netcdf(path: Path, names: list[str], side: int = 8) -> Path:
    """netCDF classic file of float variables (y, x)."""

    def text(value: str) -> bytes:
        return struct.pack(">i", len(value)) + value.encode() + b"\0" * (-len(value) % 4)

    size, sides = side * side * 4, struct.pack(">i", side)
    axes = struct.pack(">ii", 10, 2) + text("y") + sides + text("x") + sides

    def head(first: int) -> bytes:
        variables = (
            text(name) + struct.pack(">iii2iiii", 2, 0, 1, 0, 0, 5, size, first + number * size)
            for number, name in enumerate(names)
        )
        return b"CDF\1" + struct.pack(">i", 0) + axes + struct.pack(">iiii", 0, 0, 11, len(names)) + b"".join(variables)

    path.write_bytes(head(len(head(0))) + np.ones((len(names), side, side), ">f4").tobytes())
    return path


def test_containers_are_told_apart(tmp_path: Path) -> None:
    with rasterio.Env() as environment:
        if "netCDF" not in environment.drivers():
            pytest.skip("this GDAL reads no netCDF")
    with pytest.raises(InputError, match=r"two\.nc is a container of several rasters \(red, green\): export"):
        open_scene(netcdf(tmp_path / "two.nc", ["red", "green"]))


def test_align_to_another_grid(tmp_path: Path) -> None:
    """A later picture that lies 3 m off is brought onto the grid of the first."""
    rows, columns = np.mgrid[:40, :50].astype(np.float32)
    first = open_scene(write(tmp_path / "a.tif", np.stack([rows, columns])))
    moved = rasterio.Affine(10, 0, LEFT + 3, 0, -10, TOP - 4)
    path = write(tmp_path / "b.tif", np.stack([rows, columns]), transform=moved)
    scene = open_scene(path, align=first)
    assert (scene.crs, scene.transform, scene.shape) == (first.crs, first.transform, first.shape)
    pixels, valid = scene.read(0, 0, 40, 50)
    inner = np.s_[2:-2, 2:-2]
    assert valid[inner].all()
    np.testing.assert_allclose(pixels[inner][..., 0], rows[inner] - 0.4, atol=1e-4)  # bilinear
    np.testing.assert_allclose(pixels[inner][..., 1], columns[inner] - 0.3, atol=1e-4)

    class Tokens:  # as a raster store describes itself
        crs, transform, patch_px, grid = first.crs, (80.0, 0.0, LEFT, 0.0, -80.0, TOP), 8, (5, 7)

    scene = open_scene(path, align=Tokens())
    assert (scene.transform, scene.shape) == (first.transform, (40, 56))
    assert not scene.read(0, 50, 40, 6)[1][:, 1:].any()  # what the scene does not cover
    for options, message in (
        ({"align": first, "resolution": 5}, "align gives a grid"),
        ({"align": 5}, "align takes a grid with crs, transform and shape"),
    ):
        with pytest.raises(InputError, match=message):
            open_scene(path, **options)
