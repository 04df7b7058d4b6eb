"""Rasters, against rasterio, SciPy and shapely on what plain Zarr decodes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search_samples import GRID, TIMES, TRANSFORM, D, write_raster

import nec
from nec.store import CountingStore, RasterStore, change, sample, search, similar, zonal

rasterio = pytest.importorskip("rasterio")
geopandas = pytest.importorskip("geopandas")
shapely = pytest.importorskip("shapely")
CRS = "EPSG:32632"
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture
def points() -> np.ndarray:
    """Places (50, 2) in the raster's CRS; some lie outside of it, some on what is not valid."""
    return np.random.default_rng(5).uniform((499_800, 4_996_400), (505_000, 5_000_200), (50, 2))


@pytest.fixture
def lonlat(points: np.ndarray) -> np.ndarray:
    from rasterio.warp import transform

    return np.stack(transform(CRS, "EPSG:4326", *points.T), axis=1)


def sampled_by_rasterio(tokens: np.ndarray, points: np.ndarray) -> np.ndarray:
    profile = {"driver": "GTiff", "height": GRID[0], "width": GRID[1], "count": D, "dtype": "float32", "nodata": np.nan}
    with rasterio.MemoryFile() as memory:
        with memory.open(**profile, crs=CRS, transform=rasterio.Affine(*TRANSFORM)) as file:
            file.write(tokens.transpose(2, 0, 1))
        with memory.open() as file:
            return np.stack(list(file.sample(points)))


@pytest.mark.parametrize("time", [0, 1])
def test_samples_are_those_of_rasterio(
    raster: RasterStore, tokens: np.ndarray, points: np.ndarray, lonlat: np.ndarray, time: int
) -> None:
    expected = sampled_by_rasterio(tokens[time], points)
    assert 0 < np.isnan(expected[:, 0]).sum() < len(points)
    for places, crs in ((points, CRS), (points, None), (lonlat, "EPSG:4326")):
        found = raster.sample(places, crs, time=time)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, **CLOSE)
    np.testing.assert_allclose(raster.sample(lonlat, time=TIMES[time]), expected, **CLOSE)


def test_bilinear_samples_are_those_of_scipy(raster: RasterStore, tokens: np.ndarray, points: np.ndarray) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    places = np.stack([(5_000_000 - points[:, 1]) / 160 - 0.5, (points[:, 0] - 500_000) / 160 - 0.5])
    expected = np.stack([ndimage.map_coordinates(tokens[1, ..., i], places, order=1, mode="nearest") for i in range(D)])
    inside = ((places > -0.5) & (places < np.array(GRID)[:, None] - 0.5)).all(axis=0)
    expected = np.where(inside, expected, np.nan).T
    np.testing.assert_allclose(raster.sample(points, CRS, "bilinear"), expected, **CLOSE)
    centre = np.array([[500_000 + 160 * 8.5, 5_000_000 - 160 * 8.5]])  # beside the hole, which weighs nothing there
    np.testing.assert_allclose(raster.sample(centre, CRS, "bilinear")[0], tokens[1, 8, 8], **CLOSE)


def test_only_chunks_with_points_are_read_and_each_once(raster_path: Path) -> None:
    counter = CountingStore(raster_path)
    store = nec.open_product(counter)
    x, y = 500_000 + 160 * (9 + np.arange(2)), 5_000_000 - 160 * (9 + np.arange(2))
    figures = []
    for places in (np.stack([x, y], axis=1)[:1] + 10, np.tile(np.stack([x, y], axis=1) + 10, (100, 1))):
        counter.bytes_read = counter.requests = 0
        store.sample(places, CRS)
        figures.append((counter.bytes_read, counter.requests))
    assert figures[0] == figures[1]  # both places lie in one chunk
    assert figures[0][0] < store.stored_bytes / 10


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".geoparquet", ".geojson"])
def test_points_of_files(
    raster: RasterStore, tokens: np.ndarray, points: np.ndarray, lonlat: np.ndarray, tmp_path: Path, suffix: str
) -> None:
    file = tmp_path / f"points{suffix}"
    frame = geopandas.GeoDataFrame({"id": range(50)}, geometry=geopandas.points_from_xy(*points.T), crs=CRS)
    table = frame.drop(columns="geometry").assign(Lon=lonlat[:, 0], Lat=lonlat[:, 1])
    if suffix == ".csv":
        table.to_csv(file)
    elif suffix == ".parquet":
        table.to_parquet(file)
    elif suffix == ".geoparquet":
        frame.to_parquet(file)
    else:
        frame.to_crs("EPSG:4326").to_file(file, driver="GeoJSON")
    expected = sampled_by_rasterio(tokens[1], points)
    np.testing.assert_allclose(raster.sample(file), expected, **CLOSE)
    np.testing.assert_allclose(raster.sample(frame), expected, **CLOSE)
    for end in (".csv", ".parquet", ".geojson", ".npy"):
        out = tmp_path / f"out{end}"
        report = sample(raster.path, file, out)
        assert (report.points, report.sampled) == (50, int((~np.isnan(expected[:, 0])).sum()))
        assert 0 < report.bytes_read < raster.stored_bytes + 10_000
        np.testing.assert_allclose(_vectors(out), expected, **CLOSE)
        with pytest.raises(nec.InputError, match="exists"):
            sample(raster, file, out)


def _vectors(path: Path) -> np.ndarray:
    import pandas

    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".parquet":
        return np.stack(geopandas.read_parquet(path)["embedding"])
    table = pandas.read_csv(path) if path.suffix == ".csv" else geopandas.read_file(path)
    assert table["id"].tolist() == list(range(50))
    return table[[f"e{i}" for i in range(D)]].to_numpy(float)


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one * other).sum(-1) / np.sqrt((one**2).sum(-1) * (other**2).sum(-1))


def test_a_map_of_what_is_similar(raster: RasterStore, tokens: np.ndarray, tmp_path: Path) -> None:
    x, y = 500_000 + 160 * 20.5, 5_000_000 - 160 * 10.5
    expected = cosines(tokens[1], tokens[1, 10, 20])
    found = raster.similar(x, y)
    np.testing.assert_allclose(found.values, expected, **CLOSE)
    assert found.valid == int((~np.isnan(expected)).sum())
    two = np.stack([tokens[1, 10, 20], tokens[1, 20, 1]])
    both = np.maximum(expected, cosines(tokens[1], two[1]))
    np.testing.assert_allclose(raster.similar(vectors=two).values, both, **CLOSE)
    np.save(tmp_path / "v.npy", two[0])
    for given in ({"like": f"{x},{y}"}, {"vector": tmp_path / "v.npy"}):
        report = similar(raster.path, tmp_path / "map.tif", **given, overwrite=True)
        assert report.values is None
        assert "values" not in json.loads(report.to_json())
        with rasterio.open(tmp_path / "map.tif") as file:
            assert file.crs.to_epsg() == 32632
            assert tuple(file.transform)[:6] == TRANSFORM
            assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            np.testing.assert_allclose(file.read(1), expected, **CLOSE)
    nearest = search(raster.path, f"{x},{y}", k=5)
    order = np.argsort(np.where(np.isnan(expected), np.inf, 1 - expected).ravel())[:5]
    assert nearest.indices.tolist() == order.tolist()
    assert nearest.names[0] == f"{x:.10g},{y:.10g}"


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_change(raster: RasterStore, tokens: np.ndarray, tmp_path: Path, metric: str) -> None:
    before, after = tokens.astype(np.float64)
    expected = 1 - cosines(before, after) if metric == "cosine" else np.linalg.norm(before - after, axis=-1)
    found = raster.change(0, "2026-06", metric=metric)
    np.testing.assert_allclose(found.values, expected, rtol=1e-3, atol=1e-4)
    some = expected[~np.isnan(expected)]
    middle = np.median(some)
    limit = middle + 3 * 1.4826 * np.median(abs(some - middle))
    assert found.threshold == pytest.approx(limit, abs=1e-4)
    assert found.values is not None
    assert (found.values[2:5, 20:26] > found.threshold).all()  # the block that was changed
    assert found.times == tuple(TIMES)
    report = change(raster.path, "0", "-1", tmp_path / "c.tif", metric=metric)
    with rasterio.open(tmp_path / "c.tif") as file:
        np.testing.assert_array_equal(file.read(1), found.values)
        assert float(file.tags()["THRESHOLD"]) == report.threshold == found.threshold
    assert report.changed == int((found.values > found.threshold).sum())


def test_zonal_means(raster: RasterStore, tokens: np.ndarray, tmp_path: Path) -> None:
    from rasterio.features import geometry_mask

    shapes = [
        shapely.Point(502_000, 4_998_500).buffer(900),
        shapely.Polygon([(500_100, 4_999_900), (503_900, 4_999_700), (502_000, 4_996_700)]),
        shapely.box(504_500, 4_998_010, 509_000, 4_999_000),
        shapely.box(600_000, 4_998_000, 600_100, 4_999_000),
        shapely.MultiPolygon(
            [shapely.box(500_300, 4_997_000, 500_900, 4_997_500), shapely.box(503_000, 4_997_900, 503_330, 4_998_500)]
        ),
    ]  # fmt: skip
    frame = geopandas.GeoDataFrame({"name": list("abcde")}, geometry=shapes, crs=CRS)
    frame.to_parquet(tmp_path / "in.parquet")
    report = zonal(raster.path, tmp_path / "in.parquet", tmp_path / "out.parquet", time="0")
    written = geopandas.read_parquet(tmp_path / "out.parquet")
    assert written["name"].tolist() == list("abcde")
    assert (report.polygons, report.empty, report.tokens) == (5, 1, written["tokens"].sum())
    for result in (written, raster.zonal(frame, time=0), raster.zonal(frame.to_crs("EPSG:4326"), time=0)):
        for row, shape in zip(result.itertuples(), shapes, strict=True):
            mask = geometry_mask([shape], GRID, rasterio.Affine(*TRANSFORM), invert=True)
            some = tokens[0][mask & ~np.isnan(tokens[0, ..., 0])]
            assert row.tokens == len(some)
            if len(some):
                np.testing.assert_allclose(row.mean, some.mean(axis=0), **CLOSE)
                np.testing.assert_allclose(row.std, some.std(axis=0), **CLOSE)
            else:
                assert np.isnan(row.mean).all()
    assert raster.zonal(shapes[:1], CRS, time=0)["tokens"].tolist() == written["tokens"].tolist()[:1]


def test_the_window_of_a_box_in_another_crs(raster: RasterStore) -> None:
    from rasterio.warp import transform_bounds

    box = (501_000.0, 4_998_000.0, 502_000.0, 4_999_000.0)
    exact = raster.window(box)
    rows, columns = raster.window(transform_bounds(CRS, "EPSG:4326", *box), crs="EPSG:4326")
    assert rows.start <= exact[0].start <= exact[0].stop <= rows.stop <= exact[0].stop + 1
    assert columns.start <= exact[1].start <= exact[1].stop <= columns.stop <= exact[1].stop + 1


def _frame(*shapes: Any, crs: str | None = CRS) -> Any:
    return geopandas.GeoDataFrame(geometry=list(shapes), crs=crs)


POINT, BOX = (501_000.0, 4_998_000.0), (501_000.0, 4_998_000.0, 502_000.0, 4_999_000.0)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda r: r.sample(_frame(shapely.Point(POINT), crs=None)), "points have no CRS"),
        (lambda r: r.sample(_frame(shapely.Point(POINT), shapely.box(*BOX))), "geometry is Point, Polygon"),
        (lambda r: r.sample([POINT]), "all 1 points lie outside"),
        (lambda r: r.sample([(1.0, 2.0, 3.0)], CRS), "shape"),
        (lambda r: r.sample([POINT], "EPSG:1"), "not a CRS"),
        (lambda r: r.sample([POINT], CRS, "cubic"), "no method"),
        (lambda r: r.sample([POINT], CRS, time="2030"), "dates 2030"),
        (lambda r: r.sample("missing.csv"), "no such file"),
        (lambda r: r.similar(), "x and y, or vectors"),
        (lambda r: r.similar(1.0, 2.0), "outside"),
        (lambda r: r.similar(500_100.0, 4_999_900.0), "not valid at"),
        (lambda r: r.similar(vectors=np.ones(D + 1)), "shape"),
        (lambda r: r.similar(vectors=np.ones(D), out="map.png"), "must end in .tif"),
        (lambda r: r.change(0, "2026-05"), "same date"),
        (lambda r: r.change(0, 1, metric="l1"), "no metric"),
        (lambda r: r.zonal(_frame(shapely.box(*BOX), shapely.Point(POINT))), "geometry is Point, Polygon"),
        (lambda r: r.zonal(_frame(shapely.box(*BOX), crs=None)), "polygons have no CRS"),
        (lambda r: r.zonal([shapely.box(1, 2, 3, 4)]), "all 1 polygons lie outside"),
        (lambda r: r.window((1.0, 2.0, 3.0, 4.0), crs="EPSG:4326"), "outside"),
    ],
)
def test_bad_input_is_one_clear_line(raster: RasterStore, ask: Callable[[RasterStore], object], words: str) -> None:
    with pytest.raises(nec.InputError, match=words) as caught:
        ask(raster)
    assert "\n" not in str(caught.value)


def test_without_a_crs_only_its_own_coordinates_are_known(tmp_path: Path) -> None:
    raster = nec.open_product(write_raster(tmp_path / "bare.zarr", crs=None))
    with pytest.raises(nec.InputError, match="has no CRS"):
        raster.sample([POINT])
    assert raster.sample([POINT], crs=None).shape == (1, D)


def test_nothing_half_written_stays(raster: RasterStore, tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("a,b\n1,2\n")
    with pytest.raises(nec.InputError, match="no columns of points"):
        sample(raster, tmp_path / "p.csv", tmp_path / "out.csv")
    with pytest.raises(nec.InputError, match="not valid"):
        similar(raster, tmp_path / "out.tif", like="500100,4999900")
    assert [file.name for file in tmp_path.iterdir()] == ["p.csv"]
