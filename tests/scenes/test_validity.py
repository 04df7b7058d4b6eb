"""Which pixels are valid: the same answer for every layout of a file, and for every way of reading it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rasters import rasterio, write

from nec.scenes import open_scene

ROWS, COLUMNS = 16, 24


def _nodata(path: Path, bands: np.ndarray, hidden: np.ndarray) -> Any:
    bands[1, hidden] = 7  # in one band only
    return write(path / "nodata.tif", bands, nodata=7)


def _zero(path: Path, bands: np.ndarray, hidden: np.ndarray) -> Any:
    bands[:, hidden] = 0
    bands[0, ~hidden & (bands[0] % 5 == 0)] = 0  # zeros of one band are dark pixels
    return write(path / "zero.tif", bands, nodata=0)


def _mask(path: Path, bands: np.ndarray, hidden: np.ndarray) -> Any:
    with rasterio.open(write(path / "mask.tif", bands), "r+") as file:
        file.write_mask(~hidden)
    return path / "mask.tif"


def _alpha(path: Path, bands: np.ndarray, hidden: np.ndarray) -> Any:
    four = np.concatenate([bands, np.where(hidden, 0, 255)[None]]).astype(np.uint8)
    write(path / "alpha.tif", four, photometric="RGB", alpha="YES")
    return path / "alpha.tif"


def _nan(path: Path, bands: np.ndarray, hidden: np.ndarray) -> Any:
    floats = bands.astype(np.float32)
    floats[2, hidden] = np.nan
    return write(path / "nan.tif", floats)


def _separate(path: Path, bands: np.ndarray, hidden: np.ndarray) -> Any:
    """Three files of other numbers for no data each, the pixels shared out among them."""
    share = np.arange(hidden.size).reshape(hidden.shape) % 3
    paths = []
    for number, nodata in enumerate((7.0, 0.0, 250.0)):
        band = bands[number].copy()
        band[hidden & (share == number)] = nodata
        paths.append(write(path / f"band{number}.tif", band[None], nodata=nodata))
    return paths


def _vrt(path: Path, bands: np.ndarray, hidden: np.ndarray) -> Any:
    """A mosaic whose bands have nodata numbers of their own, and types of their own."""
    rows = []
    for source, nodata, kind in zip(
        _separate(path, bands, hidden), (7, 0, 250), ("Byte", "Int16", "Float32"), strict=True
    ):
        rows.append(
            f'<VRTRasterBand dataType="{kind}" band="{len(rows) + 1}"><NoDataValue>{nodata}</NoDataValue><SimpleSource>'
            f'<SourceFilename relativeToVRT="1">{source.name}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>'
            "</VRTRasterBand>"
        )
    (path / "m.vrt").write_text(
        f'<VRTDataset rasterXSize="{COLUMNS}" rasterYSize="{ROWS}"><SRS>EPSG:32633</SRS>'
        f"<GeoTransform>500000,10,0,4600000,0,-10</GeoTransform>{''.join(rows)}</VRTDataset>"
    )
    return path / "m.vrt"


LAYOUTS = [_nodata, _zero, _mask, _alpha, _nan, _separate, _vrt]


@settings(max_examples=12)
@given(seed=st.integers(0, 2**32 - 1), share=st.sampled_from([0.02, 0.2, 0.6]))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_in_every_way(
    tmp_path_factory: pytest.TempPathFactory, layout: Any, seed: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    hidden = rng.random((ROWS, COLUMNS)) < share
    bands = rng.integers(20, 200, (3, ROWS, COLUMNS)).astype(np.uint8)
    source = layout(tmp_path_factory.mktemp("layout"), bands, hidden)
    scene = open_scene(source)
    assert len(scene.bands) == 3
    pixels, valid = scene.read(0, 0, ROWS, COLUMNS)
    np.testing.assert_array_equal(valid, ~hidden)
    np.testing.assert_array_equal(np.isfinite(pixels), np.repeat(~hidden[..., None], 3, axis=2))
    np.testing.assert_array_equal(scene.read(3, 5, 7, 9)[1], ~hidden[3:10, 5:14])  # a window
    fine = open_scene(source, resolution=5).read(0, 0, 2 * ROWS, 2 * COLUMNS)[1]
    same = open_scene(source, align=scene).read(0, 0, ROWS, COLUMNS)
    np.testing.assert_array_equal(same[1], ~hidden)
    np.testing.assert_array_equal(same[0], pixels)
    coarse, inside = open_scene(source, resolution=20).read(0, 0, ROWS // 2, COLUMNS // 2)
    blocks = (~hidden).reshape(ROWS // 2, 2, COLUMNS // 2, 2)
    single = not isinstance(source, list)  # files of their own are each averaged over what they have
    if single:
        np.testing.assert_array_equal(inside, blocks.mean((1, 3)) >= 0.5)
        around = np.pad(~hidden, 1, mode="edge").astype(float)
        weights = _doubled(around)
        clear = np.abs(weights - 0.5) > 1e-3
        np.testing.assert_array_equal(fine[clear], (weights >= 0.5)[clear])
        values = np.where(hidden[..., None], np.nan, pixels).reshape(ROWS // 2, 2, COLUMNS // 2, 2, 3)
        mean = np.nansum(values, (1, 3)) / np.maximum(blocks.sum((1, 3)), 1)[..., None]
        np.testing.assert_allclose(coarse[inside], mean[inside], rtol=1e-5)
    assert not fine[np.kron(_eroded(hidden), np.ones((2, 2), bool))].any()


def _doubled(padded: np.ndarray) -> np.ndarray:
    """Bilinear weights of pixels of half the size, whose centres lie a quarter off: 9, 3, 3 and 1 sixteenths."""
    centre = padded[1:-1, 1:-1]
    out = np.empty((2 * centre.shape[0], 2 * centre.shape[1]))
    for y in (0, 1):
        for x in (0, 1):
            rows, columns = slice(2 * y, padded.shape[0] - 2 + 2 * y), slice(2 * x, padded.shape[1] - 2 + 2 * x)
            out[y::2, x::2] = (
                9 * centre + 3 * padded[rows, 1:-1] + 3 * padded[1:-1, columns] + padded[rows, columns]
            ) / 16
    return out


def _eroded(hidden: np.ndarray) -> np.ndarray:
    """Hidden pixels whose neighbours are hidden, too."""
    around = np.pad(hidden, 1, mode="edge")
    return np.logical_and.reduce([around[y : y + ROWS, x : x + COLUMNS] for y in range(3) for x in range(3)])


def test_what_is_valid_does_not_depend_on_the_bands_that_are_chosen(tmp_path: Path) -> None:
    bands = np.full((3, 8, 8), 100, np.uint8)
    bands[0, 2, 2], bands[:, 5, 5] = 0, 0
    path = write(tmp_path / "a.tif", bands, nodata=0)
    for chosen in ([1], [2], [1, 2, 3]):
        assert set(zip(*np.nonzero(~open_scene(path, bands=chosen).read(0, 0, 8, 8)[1]), strict=True)) == {(5, 5)}


def test_near_infrared_that_is_labelled_alpha_is_a_band(tmp_path: Path) -> None:
    bands = np.random.default_rng(0).integers(1, 250, (4, 40, 40)).astype(np.uint8)
    bands[3, 3, 3] = 0
    scene = open_scene(write(tmp_path / "a.tif", bands, photometric="RGB", alpha="YES"))
    assert len(scene.bands) == 4
    assert scene.read(0, 0, 40, 40)[1].all()


def test_rounded_nodata_of_floats(tmp_path: Path) -> None:
    bands = np.full((1, 4, 4), 2.0, np.float32)
    bands[0, 1, 1] = np.finfo(np.float32).min
    path = write(tmp_path / "a.tif", bands)
    assert not open_scene(path, nodata=-3.402823e38).read(0, 0, 4, 4)[1][1, 1]
