"""Small GeoTIFFs as images of a dataset, generated and real, against rasterio's own reading."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nec.datasets import open_dataset, open_input
from nec.datasets.folders import EUROSAT
from nec.errors import InputError

rasterio = pytest.importorskip("rasterio")


def write(path: Path, bands: np.ndarray, nodata: float | None = None, **options: object) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    profile = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype}
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 500000, 0, -10, 4600000)}
    with rasterio.open(path, "w", "GTiff", nodata=nodata, **{**place, **profile, **options}) as file:
        file.write(bands)
    return path


def chip(bands: int = 3, dtype: str = "uint16", height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(bands).integers(1, 200, (bands, height, width)).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_read_and_georeference(tmp_path: Path, dtype: str) -> None:
    bands = chip(5, dtype)
    if dtype == "int32":
        bands += 2**30  # more than float32 holds
    ds = open_dataset(write(tmp_path / "a.tif", bands))
    assert (ds.names, ds.labels, ds.split) == (["a.tif"], None, None)
    np.testing.assert_array_equal(ds.read(0), bands.transpose(1, 2, 0))
    assert str(ds.read(0).dtype) == dtype
    assert ds.georeference(0) == {"crs": "EPSG:32633", "transform": [10.0, 0.0, 500000.0, 0.0, -10.0, 4600000.0]}


@pytest.mark.parametrize("packed", [False, True])
def test_eurosat_of_13_bands(tmp_path: Path, packed: bool) -> None:
    """One folder a class, 13 bands of 16 bits, B8A last; numbers of level 1C are reflectance by 1/10000."""
    for number, name in enumerate(EUROSAT.classes or ()):
        write(tmp_path / "ms" / name / f"{name}_1.tif", chip(13, height=16, width=16) + number)
    path = tmp_path / "ms"
    if packed:
        path = Path(shutil.make_archive(str(tmp_path / "ms"), "zip", path))
    ds = open_dataset(path)
    assert (ds.kind, len(ds), ds.class_names) == ("eurosat", 10, list(EUROSAT.classes or ()))
    assert ds.bands is not None
    assert (ds.bands[3], ds.bands[7], ds.bands[12]) == ("red", "nir", "nir08")
    np.testing.assert_allclose(ds.read(2), (chip(13, height=16, width=16) + 2).transpose(1, 2, 0) / 10000, rtol=1e-6)
    rgb = open_dataset(path, bands=["red", "green", "B02"])
    assert rgb.bands == ["red", "green", "blue"]
    np.testing.assert_array_equal(rgb.read(0), ds.read(0)[..., [3, 2, 1]])
    assert rgb.load(range(10)).shape == (10, 16, 16, 3)
    numbers = open_dataset(path, bands=[4], scale=1.0, offset=0.0)
    np.testing.assert_array_equal(numbers.read(0)[..., 0], chip(13, height=16, width=16)[3])


def test_bands_sensor_and_scale(tmp_path: Path) -> None:
    bands = chip(4, "uint8")
    write(tmp_path / "x" / "a.tif", bands)
    ds = open_dataset(tmp_path / "x", sensor="naip", bands=["nir", "red"], scale=0.5, offset=1)
    np.testing.assert_array_equal(ds.read(0), bands[[3, 0]].transpose(1, 2, 0) * np.float32(0.5) + 1)
    assert ds.description["pixels"] == {"bands": ["nir", "red"], "sensor": "naip", "scale": 0.5, "offset": 1}
    with pytest.raises(InputError, match=r"x/a\.tif has no band 'swir'|no band 'swir'"):
        open_dataset(tmp_path / "x", bands=["swir"]).read(0)
    with pytest.raises(InputError, match="no known sensor"):
        open_dataset(tmp_path / "x", sensor="spot").read(0)


def test_sidecars_change_nothing(tmp_path: Path) -> None:
    for folder in ("clean", "littered"):
        for number in range(2):
            write(tmp_path / folder / f"{number}.tif", chip(), nodata=0)
    for name in ("0.tif.aux.xml", "0.tif.ovr", "0.tfw", "Thumbs.db", ".DS_Store", "readme.md"):
        (tmp_path / "littered" / name).write_text("<PAMDataset></PAMDataset>")
    os.symlink("user@host.1", tmp_path / "littered" / ".#notes.txt")  # an editor's lock
    clean, littered = open_dataset(tmp_path / "clean"), open_dataset(tmp_path / "littered")
    assert clean.names == littered.names == ["0.tif", "1.tif"]
    assert (clean.kind, clean.georeference(0)) == (littered.kind, littered.georeference(0))
    np.testing.assert_array_equal(clean.read(0), littered.read(0))


def test_two_folders_that_link_to_one(tmp_path: Path) -> None:
    write(tmp_path / "a" / "x.tif", chip())
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "up").symlink_to(tmp_path)  # a link back up ends there
    assert open_dataset(tmp_path).names == ["a/x.tif", "b/x.tif"]


def test_a_name_that_is_no_utf_8(tmp_path: Path) -> None:
    os.rename(write(tmp_path / "a" / "x.tif", chip()), os.fsencode(tmp_path / "a") + b"/caf\xe9.tif")
    ds = open_dataset(tmp_path / "a")
    assert ds.names == [r"caf\xe9.tif"]
    np.testing.assert_array_equal(ds.read(0), chip().transpose(1, 2, 0))


def test_folders_of_the_parts_above_the_classes(tmp_path: Path) -> None:
    for place in ("train/a/1", "train/b/2", "valid/a/3", "Test/b/4"):
        write(tmp_path / "x" / f"{place}.tif", chip())
    ds = open_dataset(tmp_path / "x")
    assert ds.names == ["Test/b/4.tif", "train/a/1.tif", "train/b/2.tif", "valid/a/3.tif"]
    assert ds.class_names == ["a", "b"]
    np.testing.assert_array_equal(ds.labels, [1, 0, 1, 0])
    np.testing.assert_array_equal(ds.split, ["test", "train", "train", "val"])
    assert ds.description["split"] == {"method": "folders"}
    for place in ("train/1", "test/2"):
        write(tmp_path / "y" / f"{place}.tif", chip())
    ds = open_dataset(tmp_path / "y")
    assert (ds.labels, ds.class_names) == (None, None)
    np.testing.assert_array_equal(ds.split, ["test", "train"])


@pytest.mark.parametrize(("nodata", "refused"), [(-9999, True), (0, False), (None, False)])
def test_nodata_in_one_band(tmp_path: Path, nodata: float | None, refused: bool) -> None:
    bands = chip(2, "float32")
    bands[1, 4, 6] = -9999 if nodata is None else nodata
    ds = open_dataset(write(tmp_path / "a.tif", bands, nodata))
    if refused:
        with pytest.raises(InputError, match=r"a.tif has 1 nodata pixel\(s\) of 600, first at row 4, column 6"):
            ds.read(0)
    else:
        assert ds.read(0).shape == (20, 30, 2)


def test_zero_nodata_in_all_bands_and_nan(tmp_path: Path) -> None:
    bands = chip(2, "float32")
    bands[:, 3:5, 7] = 0
    with pytest.raises(InputError, match=r"2 nodata pixel.*rows 3-4, columns 7-7"):
        open_dataset(write(tmp_path / "a.tif", bands, 0)).read(0)
    bands[1, 0, 0] = np.inf
    with pytest.raises(InputError, match=r"1 NaN or infinite"):
        open_dataset(write(tmp_path / "b.tif", bands)).read(0)


def test_internal_mask_counts_and_near_infrared_is_no_alpha(tmp_path: Path) -> None:
    four = chip(4, "uint8")
    four[3, 2, 2] = 0  # near infrared that the file declares to be alpha
    path = write(tmp_path / "a.tif", four, photometric="RGB", alpha="YES")
    np.testing.assert_array_equal(open_dataset(path).read(0)[2, 2], four[:, 2, 2])
    write(tmp_path / "b.tif", chip(3, "uint8"))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(tmp_path / "b.tif", "r+") as file:
        mask = np.full((20, 30), 255, np.uint8)
        mask[7, 8] = 0
        file.write_mask(mask)
    with pytest.raises(InputError, match=r"1 nodata pixel.*row 7, column 8"):
        open_dataset(tmp_path / "b.tif").read(0)


def test_bad_files(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.tif", chip(3, "uint16", 200, 200)).read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.tif").write_text("no image")
    write(tmp_path / "complex.tif", chip().astype(np.complex64))
    for name, message in {
        "cut.tif": "damaged",
        "text.tif": "no image that Pillow reads",
        "complex.tif": "real numbers",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            open_dataset(tmp_path / name).read(0)
        assert str(tmp_path / name) in str(caught.value)
        assert "vsimem" not in str(caught.value)
    with pytest.raises(InputError, match="does not exist"):
        open_dataset(tmp_path / "none.tif")


@pytest.mark.parametrize(
    ("folder", "bands", "dtype", "crs"),
    [("naip", {4}, "uint8", 26914), ("landsat", {4, 6}, "uint8", 4326), ("sentinel2_l2a", {12}, "int16", 32651)],
)
def test_real_files(data_dir: Path, folder: str, bands: set[int], dtype: str, crs: int) -> None:
    if not (data_dir / "geotiff" / folder).is_dir():
        pytest.skip(f"{data_dir / 'geotiff' / folder} not found")
    ds = open_dataset(f"folder:{data_dir / 'geotiff' / folder}")
    images = [ds.read(i) for i in range(len(ds))]
    assert {image.shape[2] for image in images} == bands
    assert {str(image.dtype) for image in images} == {dtype}
    place = ds.georeference(0)
    assert place is not None
    assert place["crs"] == f"EPSG:{crs}"
    with rasterio.open(data_dir / "geotiff" / folder / ds.names[0]) as file:
        np.testing.assert_array_equal(images[0][..., 1], file.read(2))
        assert images[0].shape[:2] == (file.height, file.width)


def test_the_document_s_own_dataset(tmp_path: Path) -> None:
    """The class in docs/datasets.md is short, runs, and is a dataset."""
    document = Path(__file__).parents[2] / "docs" / "datasets.md"
    (code,) = [part.split("```")[0] for part in document.read_text().split("```python\n") if "class Scatterers" in part]
    assert len(code.splitlines()) < 40
    for name in ("ash", "bog", "beck", "alder"):
        for way in ("vv", "vh"):
            np.save(tmp_path / f"{name}_{way}.npy", chip(1)[0])
    names: dict[str, Any] = {}
    exec(code, names)
    ds = names["Scatterers"](tmp_path)
    assert ds.names == ["alder", "ash", "beck", "bog"]
    assert ds.load(ds.indices("train")).shape == (3, 20, 30, 2)
    np.testing.assert_array_equal(ds.labels, [0, 0, 1, 1])
    assert open_input(ds) is ds
