"""Sentinel-2's conventions: bands in files, folders and .SAFE products, offsets, the scene classification."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rasters import noise, rasterio, write

from nec.errors import InputError
from nec.scenes import open_scene
from nec.scenes.sensors import SCL_CLASSES, SENSORS, sentinel_2_offset

PRODUCT = "S2B_MSIL2A_20250302T095029_N0511_R079_T33UXP_20250302T104753"
CLASSES = np.arange(12, dtype=np.uint8)[np.arange(10 * 15).reshape(10, 15) % 12]


def bands_of_three_resolutions(folder: Path, prefix: str = "T33UXP_20250302T095029_", suffix: str = "") -> dict:
    """B04 of 10 m, B11 and SCL of 20 m, B09 of 60 m, over 200 x 300 m (B09: 240 x 300 m)."""
    numbers = {
        "B04": noise(1, low=1100),
        "B11": noise(1, rows=10, columns=15, low=2000),
        "SCL": CLASSES[None],
        "B09": noise(1, rows=4, columns=5, low=3000),
    }
    for (name, pixels), resolution in zip(numbers.items(), (10, 20, 20, 60), strict=True):
        end = f"_{resolution}m" if suffix else ""
        write(folder / f"{prefix}{name}{end}.tif", pixels, resolution=resolution)
    return numbers


def test_files_of_several_resolutions_make_one_scene(tmp_path: Path) -> None:
    numbers = bands_of_three_resolutions(tmp_path / "scene")
    scene = open_scene(tmp_path / "scene")
    assert [(band.name, band.common) for band in scene.bands] == [("B04", "red"), ("B09", "nir09"), ("B11", "swir16")]
    assert (scene.shape, scene.transform[0], scene.name) == ((20, 30), 10, "scene")
    assert scene.datetime == np.datetime64("2025-03-02T09:50:29")
    pixels, valid = scene.read(0, 0, 20, 30)
    assert valid.all()
    np.testing.assert_array_equal(pixels[..., 0], numbers["B04"][0])
    swir = open_scene(tmp_path / "scene", bands=["swir16"])
    assert swir.shape == (10, 15)  # nothing finer was chosen
    np.testing.assert_array_equal(swir.read(0, 0, 10, 15)[0][..., 0], numbers["B11"][0])
    # A bilinear pixel lies between the four old ones around it.
    old = np.pad(numbers["B11"][0].astype(float), 1, mode="edge")
    around = np.stack([old[a : a + 11, b : b + 16] for a in (0, 1) for b in (0, 1)])
    low, high = (np.kron(f(around, axis=0), np.ones((2, 2)))[1:-1, 1:-1] for f in (np.min, np.max))
    assert ((pixels[..., 2] >= low - 1e-3) & (pixels[..., 2] <= high + 1e-3)).all()
    listed = open_scene([tmp_path / "scene" / f"T33UXP_20250302T095029_{name}.tif" for name in ("B11", "B04")])
    assert [band.name for band in listed.bands] == ["B11", "B04"]
    np.testing.assert_array_equal(listed.read(0, 0, 20, 30)[0], pixels[..., [2, 0]])


@pytest.mark.parametrize(
    ("mask", "hidden"),
    [("scl", {0, 1, 3, 8, 9, 10}), (["water", "snow_ice"], {6, 11}), ("vegetation", {4}), ([], set())],
)
def test_classes_hide_pixels(tmp_path: Path, mask: str | list[str], hidden: set[int]) -> None:
    bands_of_three_resolutions(tmp_path)
    pixels, valid = open_scene(tmp_path, bands=["B04"], mask=mask).read(0, 0, 20, 30)
    expected = ~np.isin(np.kron(CLASSES, np.ones((2, 2), np.uint8)), list(hidden))
    np.testing.assert_array_equal(valid, expected)
    np.testing.assert_array_equal(np.isfinite(pixels[..., 0]), expected)


def test_mask_files_and_bad_masks(tmp_path: Path) -> None:
    bands_of_three_resolutions(tmp_path / "scene")
    flags = np.ones((1, 10, 15), np.uint8)
    flags[0, 2, 3] = 0
    path = write(tmp_path / "mask.tif", flags, resolution=20)
    for mask in (path, str(path)):
        _, valid = open_scene(tmp_path / "scene", bands=["red"], mask=mask).read(0, 0, 20, 30)
        np.testing.assert_array_equal(valid, np.kron(flags[0] > 0, np.ones((2, 2), bool)))
    with pytest.raises(InputError, match="'fog' is no class of the scene classification; classes are no_data"):
        open_scene(tmp_path / "scene", mask=["fog"])
    with pytest.raises(InputError, match=r"fog\.tif does not exist"):
        open_scene(tmp_path / "scene", mask="fog.tif")
    with pytest.raises(InputError, match="has no scene classification"):
        open_scene(write(tmp_path / "a.tif", noise()), mask="scl")


@pytest.mark.parametrize(
    ("tags", "offset"),
    [
        ({"SPACECRAFT_NAME": "Sentinel-2A", "PROCESSING_BASELINE": "03.01"}, 0.0),
        ({"SPACECRAFT_NAME": "Sentinel-2A", "PROCESSING_BASELINE": "04.00"}, -0.1),
        ({"PRODUCT_TYPE": "S2MSI2A", "BOA_ADD_OFFSET": "-1000", "BOA_QUANTIFICATION_VALUE": "10000"}, -0.1),
        ({"PRODUCT_TYPE": "S2MSI1C", "RADIO_ADD_OFFSET": "0", "PROCESSING_BASELINE": "05.00"}, 0.0),
        ({"PRODUCT_URI": f"{PRODUCT}.SAFE"}, -0.1),
        ({"PRODUCT_URI": f"{PRODUCT.replace('N0511', 'N0301')}.SAFE"}, 0.0),
    ],
)
def test_reflectance_from_tags(tmp_path: Path, tags: dict[str, str], offset: float) -> None:
    bands = noise(2, low=1100)
    scene = open_scene(write(tmp_path / "a.tif", bands, names=("B02", "B8A"), tags=tags))
    assert scene.physical
    assert [band.wavelength_um for band in scene.bands] == [0.4924, 0.8647]
    pixels, _ = scene.read(0, 0, 20, 30)
    np.testing.assert_allclose(pixels, bands.transpose(1, 2, 0) / 10000 + offset, atol=1e-6)


def test_the_file_s_own_scale_counts_more(tmp_path: Path) -> None:
    path = write(tmp_path / f"{PRODUCT}_B04.tif", noise(1))
    assert [(band.name, band.scale, band.offset) for band in open_scene(path).bands] == [("B04", 1e-4, -0.1)]
    assert open_scene(path).datetime == np.datetime64("2025-03-02T09:50:29")
    assert open_scene(path, offset=0).bands[0].offset == 0
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (2e-4,), (0.5,)
    assert [(band.scale, band.offset) for band in open_scene(path).bands] == [(2e-4, 0.5)]


@pytest.mark.parametrize(("baseline", "offset"), [(3.01, 0), (4, -0.1), (5.11, -0.1), (99.99, 0), (None, 0)])
def test_offset_by_baseline(baseline: float | None, offset: float) -> None:
    assert sentinel_2_offset(baseline) == offset


METADATA = """<?xml version="1.0"?>
<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd">
 <n1:General_Info>
  <Product_Info>
   <PRODUCT_START_TIME>2025-03-02T09:50:29.024Z</PRODUCT_START_TIME>
   <PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE>
  </Product_Info>
  <Product_Image_Characteristics>
   <QUANTIFICATION_VALUES_LIST>
    <BOA_QUANTIFICATION_VALUE unit="none">10000</BOA_QUANTIFICATION_VALUE>
   </QUANTIFICATION_VALUES_LIST>{offsets}
  </Product_Image_Characteristics>
 </n1:General_Info>
</n1:Level-2A_User_Product>
"""


@pytest.mark.parametrize("listed", [True, False])
def test_safe_product(tmp_path: Path, listed: bool) -> None:
    folder = tmp_path / f"{PRODUCT}.SAFE"
    images = folder / "GRANULE" / "L2A" / "IMG_DATA"
    pixels = noise(1, low=1100)
    pixels[0, 0, 0] = 0  # no data, which JPEG 2000 cannot say
    lossless = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
    write(images / "R10m" / "T33UXP_20250302T095029_B04_10m.jp2", pixels, **lossless)
    write(images / "R20m" / "T33UXP_20250302T095029_B04_20m.jp2", pixels[:, ::2, ::2], resolution=20, **lossless)
    write(images / "R20m" / "T33UXP_20250302T095029_B8A_20m.jp2", pixels[:, ::2, ::2] + 7, resolution=20, **lossless)
    write(images / "R20m" / "T33UXP_20250302T095029_SCL_20m.jp2", CLASSES[None], resolution=20, **lossless)
    write(images / "R10m" / "T33UXP_20250302T095029_TCI_10m.jp2", noise(3, "uint8"), **lossless)
    (folder / "GRANULE" / "L2A" / "QI_DATA").mkdir()
    offsets = (
        "".join(f'<BOA_ADD_OFFSET band_id="{i}">-{1000 + i}</BOA_ADD_OFFSET>' for i in range(13)) if listed else ""
    )
    (folder / "MTD_MSIL2A.xml").write_text(METADATA.format(baseline="05.11", offsets=offsets))
    scene = open_scene(folder, mask=["cloud_shadow"])
    assert [band.name for band in scene.bands] == ["B04", "B8A"]
    assert (scene.name, scene.datetime, scene.physical) == (PRODUCT, np.datetime64("2025-03-02T09:50:29.024"), True)
    red, valid = scene.select(["red"]).read(0, 0, 20, 30)
    expected = np.kron(CLASSES, np.ones((2, 2), np.uint8)) != 3
    expected[0, 0] = False
    np.testing.assert_array_equal(valid, expected)
    added = 1003 if listed else 1000  # B04 is the band of id 3
    np.testing.assert_allclose(red[valid][:, 0], (pixels[0][valid] - float(added)) / 10000, atol=1e-6)
    assert scene.bands[1].offset == pytest.approx(-0.1008 if listed else -0.1)


def test_damaged_safe(tmp_path: Path) -> None:
    (tmp_path / "MTD_MSIL2A.xml").write_text("<a>")
    with pytest.raises(InputError, match="not readable as metadata"):
        open_scene(tmp_path)
    (tmp_path / "MTD_MSIL2A.xml").write_text(METADATA.format(baseline="05.11", offsets=""))
    with pytest.raises(InputError, match="holds no band files"):
        open_scene(tmp_path)


def test_tables() -> None:
    assert [len(SENSORS[name]) for name in ("sentinel-2-l1c", "sentinel-2-l2a")] == [13, 12]
    assert list(SCL_CLASSES.values()) == list(range(12))
    with pytest.raises(InputError, match="'spot' is no known sensor"):
        open_scene("a.tif", sensor="spot")


def test_real_chips(data_dir: Path) -> None:
    path = data_dir / "geotiff" / "sentinel2_l2a" / "ssl4eos12_val_0173706_1.tif"
    if not path.is_file():
        pytest.skip(f"{path} not found")
    scene = open_scene(path, sensor="sentinel-2-l2a", bands=["red", "nir", "B12"])
    pixels, valid = scene.read(100, 50, 64, 80)
    assert valid.all()
    with rasterio.open(path) as file:
        numbers = file.read([4, 8, 12], window=rasterio.windows.Window(50, 100, 80, 64))
    np.testing.assert_allclose(pixels, numbers.transpose(1, 2, 0) / 10000, atol=1e-6)
    # Mostly green in the image's middle: the near infrared is brighter than the red.
    assert np.median(pixels[..., 1]) > np.median(pixels[..., 0])


@pytest.mark.parametrize(("folder", "sensor", "bands"), [("naip", "naip", 4), ("landsat", None, 4)])
def test_real_scenes_keep_their_place(data_dir: Path, folder: str, sensor: str | None, bands: int) -> None:
    name = {"naip": "m_4709963_se_14_1_20200831.tif", "landsat": "2020.tif"}[folder]
    path = data_dir / "geotiff" / folder / name
    if not path.is_file():
        pytest.skip(f"{path} not found")
    scene = open_scene(path, sensor=sensor)
    with rasterio.open(path) as file:
        assert (scene.shape, scene.crs) == ((file.height, file.width), file.crs.to_string())
        assert scene.transform == tuple(file.transform[:6])
        numbers, hidden = file.read(), (file.read() == 0).all(axis=0)
    pixels, valid = scene.read(0, 0, *scene.shape)
    assert len(scene.bands) == bands
    np.testing.assert_array_equal(valid, ~hidden)
    np.testing.assert_array_equal(pixels[valid], numbers.transpose(1, 2, 0)[valid])
    twice = open_scene(path, sensor=sensor, resolution=2 * scene.transform[0], bands=[1])
    half, inside = twice.read(4, 4, 50, 50)
    blocks = pixels[8:108, 8:108, 0].reshape(50, 2, 50, 2)
    whole = np.isfinite(blocks).all(axis=(1, 3)) & inside
    np.testing.assert_allclose(half[whole][:, 0], blocks.mean((1, 3))[whole], atol=0.01)
