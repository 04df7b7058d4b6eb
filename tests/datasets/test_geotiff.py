"""GeoTIFFs, generated and real, against rasterio's own reading."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nec.datasets import open_dataset
from nec.errors import InputError

rasterio = pytest.importorskip("rasterio")


def write(path: Path, bands: np.ndarray, nodata: float | None = None) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    profile = {"count": len(bands), "height": bands.shape[1], "width": bands.shape[2], "dtype": bands.dtype}
    transform = rasterio.Affine(10, 0, 500000, 0, -10, 4600000)
    with rasterio.open(path, "w", "GTiff", crs="EPSG:32633", transform=transform, nodata=nodata, **profile) as file:
        file.write(bands)
    return path


def scene(bands: int = 3, dtype: str = "uint16", height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(bands).integers(1, 200, (bands, height, width)).astype(dtype)


def test_read_and_georeference(tmp_path: Path) -> None:
    bands = scene(5, "int16")
    ds = open_dataset(write(tmp_path / "a.tif", bands))
    assert (ds.names, ds.labels, ds.split) == (["a.tif"], None, None)
    np.testing.assert_array_equal(ds.read(0), bands.transpose(1, 2, 0))
    assert ds.read(0).dtype == np.int16
    assert ds.georeference(0) == {"crs": "EPSG:32633", "transform": [10.0, 0.0, 500000.0, 0.0, -10.0, 4600000.0]}


def test_several_files_and_folders(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, scene()) for name in ("y/b.tif", "x/b.TIF", "x/a.tif")]
    assert open_dataset(paths).names == ["x/a.tif", "x/b.TIF", "y/b.tif"]
    assert open_dataset(tmp_path / "x").names == ["a.tif", "b.TIF"]
    assert open_dataset(tmp_path / "x").kind == "geotiff"
    with pytest.raises(InputError, match="given twice"):
        open_dataset([paths[0], paths[0]])
    with pytest.raises(InputError, match="must all be GeoTIFFs"):
        open_dataset([str(paths[0]), f"folder:{tmp_path}"])


@pytest.mark.parametrize(("nodata", "refused"), [(-9999, True), (0, False), (None, False)])
def test_nodata_in_one_band(tmp_path: Path, nodata: float | None, refused: bool) -> None:
    bands = scene(2, "float32")
    bands[1, 4, 6] = -9999 if nodata is None else nodata
    ds = open_dataset(write(tmp_path / "a.tif", bands, nodata))
    if refused:
        with pytest.raises(InputError, match=r"a.tif has 1 nodata pixel\(s\) of 600, first at row 4, column 6"):
            ds.read(0)
    else:
        assert ds.read(0).shape == (20, 30, 2)


def test_zero_nodata_in_all_bands_and_nan(tmp_path: Path) -> None:
    bands = scene(2, "float32")
    bands[:, 3:5, 7] = 0
    with pytest.raises(InputError, match=r"2 nodata pixel.*rows 3-4, columns 7-7"):
        open_dataset(write(tmp_path / "a.tif", bands, 0)).read(0)
    bands[1, 0, 0] = np.inf
    with pytest.raises(InputError, match=r"1 NaN or infinite"):
        open_dataset(write(tmp_path / "b.tif", bands)).read(0)


def test_internal_mask_counts_and_alpha_does_not(tmp_path: Path) -> None:
    four = scene(4, "uint8")
    four[3, 2, 2] = 0  # near infrared that GDAL declares to be alpha
    np.testing.assert_array_equal(open_dataset(write(tmp_path / "a.tif", four)).read(0)[2, 2], four[:, 2, 2])
    write(tmp_path / "b.tif", scene(3, "uint8"))
    with rasterio.open(tmp_path / "b.tif", "r+") as file:
        mask = np.full((20, 30), 255, np.uint8)
        mask[7, 8] = 0
        file.write_mask(mask)
    with pytest.raises(InputError, match=r"1 nodata pixel.*row 7, column 8"):
        open_dataset(tmp_path / "b.tif").read(0)


def test_bad_files(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.tif", scene(3, "uint16", 200, 200)).read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.tif").write_text("no image")
    write(tmp_path / "complex.tif", scene().astype(np.complex64))
    for name, message in {
        "cut.tif": "damaged or truncated|not a readable",
        "text.tif": "not a readable GeoTIFF",
        "complex.tif": "real numbers",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            open_dataset(tmp_path / name).read(0)
        assert name in str(caught.value)
    with pytest.raises(InputError, match="does not exist"):
        open_dataset(tmp_path / "none.tif")


@pytest.mark.parametrize(
    ("folder", "bands", "dtype", "crs"),
    [("naip", {4}, "uint8", 26914), ("landsat", {4, 6}, "uint8", 4326), ("sentinel2_l2a", {12}, "int16", 32651)],
)
def test_real_files(data_dir: Path, folder: str, bands: set[int], dtype: str, crs: int) -> None:
    if not (data_dir / "geotiff" / folder).is_dir():
        pytest.skip(f"{data_dir / 'geotiff' / folder} not found")
    ds = open_dataset(data_dir / "geotiff" / folder)
    images = [ds.read(i) for i in range(len(ds))]
    assert {image.shape[2] for image in images} == bands
    assert {str(image.dtype) for image in images} == {dtype}
    assert ds.georeference(0)["crs"] == f"EPSG:{crs}"
    with rasterio.open(ds.paths[0]) as file:
        np.testing.assert_array_equal(images[0][..., 1], file.read(2))
        assert images[0].shape[:2] == (file.height, file.width)
