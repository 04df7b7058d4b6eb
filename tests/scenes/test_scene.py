"""Scenes from rasters, against rasterio's and NumPy's own reading."""

from __future__ import annotations

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasters import LEFT, TOP, noise, write

from nec.errors import InputError
from nec.scenes import open_scene

rasterio = pytest.importorskip("rasterio")

TRANSFORM = (10.0, 0.0, 500000.0, 0.0, -10.0, 4600000.0)


def values(path: object, **options: object) -> tuple[np.ndarray, np.ndarray]:
    scene = open_scene(path, **options)  # type: ignore[arg-type]
    return scene.read(0, 0, *scene.shape)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32", "float32", "float64"])
def test_attributes_and_pixels(tmp_path: Path, dtype: str) -> None:
    bands = noise(5, dtype)
    scene = open_scene(write(tmp_path / "a.tif", bands))
    assert (scene.name, scene.crs, scene.transform, scene.shape) == ("a", "EPSG:32633", TRANSFORM, (20, 30))
    assert [band.name for band in scene.bands] == ["band1", "band2", "band3", "band4", "band5"]
    assert (scene.physical, scene.dtypes, scene.datetime) == (False, [dtype] * 5, None)
    assert scene.source_links == [{"rel": "derived_from", "href": str(tmp_path / "a.tif")}]
    pixels, valid = scene.read(0, 0, 20, 30)
    assert pixels.dtype == np.float32
    assert valid.all()
    np.testing.assert_array_equal(pixels, bands.transpose(1, 2, 0).astype(np.float32))


@settings(max_examples=25)
@given(st.integers(-9, 30), st.integers(-9, 40), st.integers(1, 40), st.integers(1, 40))
def test_windows_may_stick_out(
    tmp_path_factory: pytest.TempPathFactory, row: int, column: int, rows: int, columns: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "window.tif"
    bands = noise(2)
    if not path.exists():
        write(path, bands)
    pixels, valid = open_scene(path).read(row, column, rows, columns)
    around = np.pad(bands.transpose(1, 2, 0).astype(np.float32), ((9, 80), (9, 80), (0, 0)), constant_values=np.nan)
    expected = around[row + 9 : row + 9 + rows, column + 9 : column + 9 + columns]
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_array_equal(valid, np.isfinite(expected[..., 0]))


def test_empty_window_and_bad_files(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.tif", noise(3, "uint16", 200, 200)).read_bytes()
    with pytest.raises(InputError, match="empty"):
        open_scene(tmp_path / "a.tif").read(0, 0, 0, 5)
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.tif").write_text("no image")
    write(tmp_path / "complex.tif", noise().astype(np.complex64))
    (tmp_path / "empty").mkdir()
    for name, message in {
        "cut.tif": "damaged",
        "text.tif": "not a readable raster",
        "complex.tif": "real numbers",
        "none.tif": "does not exist",
        "empty": "holds no rasters",
    }.items():
        with pytest.raises(InputError, match=message) as caught:
            values(tmp_path / name)
        assert name in str(caught.value)
    for source, message in (
        ([], "no raster"),
        (["ftp://a/b.tif"], "ftp is not read"),
        ([tmp_path / "a.tif"] * 2, "twice"),
    ):
        with pytest.raises(InputError, match=message):
            open_scene(source)


@pytest.mark.parametrize(
    ("nodata", "hidden"), [(7.0, {(1, 1), (2, 2), (3, 3)}), (0.0, {(4, 4)}), (None, set()), (float("nan"), {(5, 5)})]
)
def test_nodata_of_any_band_but_zero_of_all(tmp_path: Path, nodata: float | None, hidden: set[tuple[int, int]]) -> None:
    bands = noise(3, "float32") + 100
    bands[0, 1, 1] = bands[1, 2, 2] = 7
    bands[:, 3, 3] = 7
    bands[0, 6, 6] = 0
    bands[:, 4, 4] = 0
    bands[2, 5, 5] = np.nan
    _, valid = values(write(tmp_path / "a.tif", bands, nodata=nodata))
    assert set(zip(*np.nonzero(~valid), strict=True)) == hidden | {(5, 5)}  # what is not finite is never valid
    if nodata is not None:
        pixels, again = values(write(tmp_path / "b.tif", bands), nodata=nodata)
        np.testing.assert_array_equal(again, valid)
        assert np.isnan(pixels[~valid]).all()
        assert np.isfinite(pixels[valid]).all()


def test_internal_mask(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", noise(3, "uint8"))
    mask = np.full((20, 30), 255, np.uint8)
    mask[7, 8:12] = 0
    with rasterio.open(path, "r+") as file:
        file.write_mask(mask)
    np.testing.assert_array_equal(values(path)[1], mask > 0)
    _, finer = values(path, resolution=5)
    np.testing.assert_array_equal(finer, np.kron(mask > 0, np.ones((2, 2), bool)))


def test_bands_by_name_common_name_and_position(tmp_path: Path) -> None:
    bands = noise(4)
    path = write(tmp_path / "a.tif", bands, names=("B02", "B03", "B04", "extra"))
    for chosen in (["red", "B02"], ["b4", 1], [3, "blue"]):
        scene = open_scene(path, bands=chosen)
        np.testing.assert_array_equal(scene.read(0, 0, 20, 30)[0], bands[[2, 0]].transpose(1, 2, 0))
        assert [(band.name, band.wavelength_um) for band in scene.bands] == [("B04", 0.6646), ("B02", 0.4924)]
    selected = open_scene(path).select(["extra"])
    np.testing.assert_array_equal(selected.read(3, 4, 5, 6)[0][..., 0], bands[3, 3:8, 4:10])
    for wanted, message in ((["nir"], r"no band 'nir'; it has B02 \(blue\)"), ([0], "from 1 to 4"), ([], "no band")):
        with pytest.raises(InputError, match=message):
            open_scene(path, bands=wanted)


def test_scale_and_offset(tmp_path: Path) -> None:
    bands = noise(2)
    path = write(tmp_path / "a.tif", bands)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (0.5, 0.25), (-1.0, 2.0)
    pixels, _ = values(path)
    np.testing.assert_array_equal(pixels[..., 0], bands[0] * 0.5 - 1)
    np.testing.assert_array_equal(pixels[..., 1], bands[1] * 0.25 + 2)
    assert open_scene(path).physical
    pixels, _ = values(path, scale=2, offset=[0, 1], bands=[2, 1])
    np.testing.assert_array_equal(pixels, np.stack([bands[1] * 2.0, bands[0] * 2.0 + 1], -1))
    with pytest.raises(InputError, match="scale must be one number or 2"):
        open_scene(path, scale=[1, 2, 3])


def test_threads_and_pickles_read_the_same(tmp_path: Path) -> None:
    bands = noise(3, "uint16", 200, 300)
    scene = open_scene(write(tmp_path / "a.tif", bands, tiled=True, blockxsize=64, blockysize=64, compress="deflate"))
    corners = [(row, column) for row in range(0, 200, 40) for column in range(0, 300, 60)] * 4
    copy = pickle.loads(pickle.dumps(scene))
    with ThreadPoolExecutor(8) as pool:
        for source in (scene, copy):
            read = list(pool.map(lambda corner, s=source: s.read(*corner, 40, 60)[0], corners))
            for (row, column), pixels in zip(corners, read, strict=True):
                np.testing.assert_array_equal(pixels, bands[:, row : row + 40, column : column + 60].transpose(1, 2, 0))


def test_gdal_s_cache_is_the_caller_s(tmp_path: Path) -> None:
    from rasterio.env import get_gdal_config

    before = get_gdal_config("GDAL_CACHEMAX")
    values(write(tmp_path / "a.tif", noise()), resolution=5)
    assert get_gdal_config("GDAL_CACHEMAX") == before


def test_finer_pixels_are_interpolated_and_coarser_ones_averaged(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:20, :30].astype(np.float32)
    path = write(tmp_path / "a.tif", np.stack([rows, columns]))
    fine = open_scene(path, resolution=5)
    assert (fine.shape, fine.transform) == ((40, 60), (5.0, 0.0, LEFT, 0.0, -5.0, TOP))
    pixels, valid = fine.read(0, 0, 40, 60)
    assert valid.all()
    expected = np.stack(np.mgrid[:40, :60] / 2 - 0.25, axis=-1)  # the centres lie a quarter of an old pixel off
    np.testing.assert_allclose(pixels[2:-2, 2:-2], expected[2:-2, 2:-2], atol=1e-5)
    coarse = open_scene(write(tmp_path / "b.tif", noise(2)), resolution=20)
    assert coarse.shape == (10, 15)
    blocks = noise(2).reshape(2, 10, 2, 15, 2).mean((2, 4)).transpose(1, 2, 0)
    np.testing.assert_allclose(coarse.read(0, 0, 10, 15)[0], blocks, rtol=1e-6)


@pytest.mark.parametrize("options", [{"resolution": 7}, {"resolution": 25}, {"crs": "EPSG:4326"}, {"crs": "EPSG:3857"}])
def test_windows_of_resampled_scenes_agree(tmp_path: Path, options: dict) -> None:
    scene = open_scene(write(tmp_path / "a.tif", noise(2, rows=150, columns=200), nodata=0), **options)
    rows, columns = scene.shape
    whole, valid = scene.read(0, 0, rows, columns)
    assert valid.mean() > 0.9
    for row, column in ((0, 0), (-3, -5), (rows // 2, columns // 3), (rows - 9, columns - 4)):
        part, inside = scene.read(row, column, 30, 20)
        top, left = max(row, 0), max(column, 0)
        expected = whole[top : row + 30, left : column + 20]
        place = np.s_[top - row : top - row + len(expected), left - column : left - column + expected.shape[1]]
        np.testing.assert_array_equal(part[place], expected)
        np.testing.assert_array_equal(inside[place], valid[top : row + 30, left : column + 20])


def test_reprojected_pixels_are_where_their_coordinates_are(tmp_path: Path) -> None:
    from rasterio.warp import transform

    rows, columns = np.mgrid[:100, :120]
    eastings, northings = (columns + 0.5) * 10, (rows + 0.5) * -10
    scene = open_scene(write(tmp_path / "a.tif", np.stack([eastings, northings])), crs="EPSG:4326", resolution=6e-5)
    pixels, valid = scene.read(0, 0, *scene.shape)
    row, column = np.nonzero(valid)
    a, b, c, d, e, f = scene.transform
    x, y = a * (column + 0.5) + b * (row + 0.5) + c, d * (column + 0.5) + e * (row + 0.5) + f
    xs, ys = transform("EPSG:4326", "EPSG:32633", x, y)
    inside = (np.array(xs) > LEFT + 15) & (np.array(xs) < LEFT + 1185) & (np.array(ys) < TOP - 15)
    inside &= np.array(ys) > TOP - 985
    assert inside.mean() > 0.8
    np.testing.assert_allclose(pixels[row, column, 0][inside], np.array(xs)[inside] - LEFT, atol=0.02)
    np.testing.assert_allclose(pixels[row, column, 1][inside], np.array(ys)[inside] - TOP, atol=0.02)


@pytest.mark.parametrize(("nodata", "hidden"), [(7.0, {(1, 1), (3, 3)}), (0.0, {(4, 4)})])
def test_nodata_of_resampled_scenes(tmp_path: Path, nodata: float, hidden: set[tuple[int, int]]) -> None:
    bands = noise(3, low=100)
    bands[0, 1, 1], bands[:, 3, 3], bands[0, 6, 6], bands[:, 4, 4] = 7, 7, 0, 0
    pixels, valid = values(write(tmp_path / "a.tif", bands, nodata=nodata), resolution=5)
    expected = np.ones((20, 30), bool)
    expected[tuple(zip(*hidden, strict=True))] = False
    np.testing.assert_array_equal(valid, np.kron(expected, np.ones((2, 2), bool)))
    if nodata:
        assert pixels[2:4, 4:6].min() >= 100 - 1e-3  # the hidden neighbour's number does not bleed


def test_resampling_needs_a_place(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", noise(), crs=None, transform=rasterio.Affine.identity())
    assert open_scene(path).crs is None
    for options, message in (
        ({"resolution": 5}, "no coordinate reference system"),
        ({"crs": "EPSG:4326"}, "no coordinate reference system"),
    ):
        with pytest.raises(InputError, match=message):
            open_scene(path, **options)
    placed = write(tmp_path / "b.tif", noise())
    with pytest.raises(InputError, match="positive"):
        open_scene(placed, resolution=0)
    with pytest.raises(InputError, match="no coordinate reference system: "):
        open_scene(placed, crs="EPSG:1")
    with pytest.raises(InputError, match="another pixel grid"):
        open_scene([path, write(tmp_path / "c.tif", noise(rows=7), crs=None)])
