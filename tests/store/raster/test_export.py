"""What other software reads of a product: xarray, GeoParquet, STAC, pictures, plain arrays."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from product_samples import GRID, ROUNDING, TIMES, TRANSFORM, D, write_date

import nec
from nec.exporting import geoparquet, stac
from nec.exporting.geoparquet import hilbert
from nec.exporting.quicklook import Colouring, quicklook
from nec.store import RasterSpec, RasterWriter, open_product

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def schemas_dir() -> Path:
    """Folder of the extension's published schema: `$NEC_SCHEMAS`, else `../shared/schemas` beside the checkout."""
    folder = Path(os.environ.get("NEC_SCHEMAS", ROOT.parent / "shared" / "schemas"))
    if not (folder / "stac-embeddings-v0.0.1.json").is_file():
        pytest.skip(f"no schema of the STAC extension in {folder}: set NEC_SCHEMAS")
    return folder


# ---- xarray and the conventions


def test_xarray_and_rioxarray_open_it_in_its_place(product_path: Path, valid: np.ndarray) -> None:
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("rioxarray")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = xarray.open_zarr(product_path, chunks=None)
    assert dataset.embeddings.dims == ("time", "embedding", "y", "x")
    np.testing.assert_array_equal(dataset.time.values, np.array(TIMES, "datetime64[ns]"))
    np.testing.assert_array_equal(dataset.x.values, 500_000 + 160 * (np.arange(GRID[1]) + 0.5))
    np.testing.assert_array_equal(dataset.y.values, 5_000_000 - 160 * (np.arange(GRID[0]) + 0.5))
    for array in (dataset.embeddings, dataset.valid):
        assert array.rio.crs.to_epsg() == 32632
        assert tuple(array.rio.transform())[:6] == TRANSFORM
    expected = open_product(product_path).read(TIMES[1])
    date = dataset.sel(time=TIMES[1])
    tokens = date.embeddings.where(date.valid).transpose("y", "x", "embedding").values
    np.testing.assert_array_equal(tokens, expected)
    near = dataset.valid.sel(x=501_000, y=4_998_000, method="nearest").values
    np.testing.assert_array_equal(near, valid[:, 12, 6])


@pytest.mark.parametrize("chunks", [None, {}, {"x": 7}])
def test_to_xarray_is_masked_and_reads_only_what_is_asked_for(
    product_path: Path, valid: np.ndarray, chunks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xarray")
    pytest.importorskip("rioxarray")
    if chunks is not None:
        pytest.importorskip("dask")
    product = open_product(product_path)
    whole = np.stack([product.read(time) for time in range(2)]).transpose(0, 3, 1, 2)
    read, windows = product.read, []
    monkeypatch.setattr(product, "read", lambda time, *window: windows.append(window) or read(time, *window))
    dataset = product.to_xarray(chunks)
    assert not windows
    np.testing.assert_array_equal(dataset.valid.values, valid)
    assert dataset.embeddings.rio.crs.to_epsg() == 32632
    for key in (
        np.s_[1, :, 9:11, 18:23], np.s_[:, 2, 5, ::-3], np.s_[-1:, [3, 1], 20, [0, 8, 29]], np.s_[0, :, 4:4, :],
        np.s_[:],
    ):  # fmt: skip
        expected = dataset.embeddings.copy(data=whole)[key].values
        np.testing.assert_allclose(dataset.embeddings[key].values, expected, **ROUNDING)
    if chunks is None:
        assert windows[0] == (slice(9, 11), slice(18, 23))


def test_to_xarray_raises_for_what_is_lost(
    tmp_path: Path, spec: RasterSpec, rasters: np.ndarray, valid: np.ndarray
) -> None:
    pytest.importorskip("xarray")
    path = one_date(tmp_path / "p.zarr", spec, rasters[0], valid[0])
    (path / "embeddings" / "c.0.0.1.2").unlink()
    dataset = open_product(path).to_xarray()
    assert dataset.embeddings.isel(time=0, y=0).values.shape == (5, 30)
    with pytest.raises(nec.CorruptError, match=r"c\.0\.0\.1\.2"):
        dataset.embeddings.isel(time=0).load()


def test_the_attributes_follow_the_zarr_conventions(product_path: Path) -> None:
    attributes = json.loads((product_path / "zarr.json").read_text())["attributes"]
    assert attributes["proj:code"] == "EPSG:32632"
    assert "proj:wkt2" not in attributes  # the convention allows one of the three
    assert attributes["spatial:dimensions"] == ["y", "x"]
    assert attributes["spatial:shape"] == list(GRID)
    assert attributes["spatial:transform"] == list(TRANSFORM)
    assert attributes["spatial:bbox"] == [500_000, 5_000_000 - 160 * GRID[0], 500_000 + 160 * GRID[1], 5_000_000]
    uuids = {entry["name"]: entry["uuid"] for entry in attributes["zarr_conventions"]}
    assert uuids == {
        "proj:": "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "spatial": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
        "geoemb:": "61c12cc5-0e28-4056-999a-480cf3fb7e4c",
    }
    assert (attributes["geoemb:type"], attributes["geoemb:dimensions"], attributes["geoemb:gsd"]) == ("chip", D, 160)
    assert attributes["geoemb:model"] == "https://example.org/models/toy"


def one_date(path: Path, spec: RasterSpec, tokens: np.ndarray, valid: np.ndarray) -> Path:
    RasterWriter.create(path, spec).close()
    with RasterWriter.resume(path) as writer:
        write_date(writer, TIMES[0], tokens, valid)
    return path


def test_other_places(tmp_path: Path, spec: RasterSpec, rasters: np.ndarray, valid: np.ndarray) -> None:
    """A CRS without a code, a rotated grid, and no CRS at all."""
    own = "+proj=laea +lat_0=47 +lon_0=9 +datum=WGS84 +units=m"
    turned = (100.0, 20.0, 0.0, 20.0, -100.0, 0.0)
    path = one_date(tmp_path / "a.zarr", replace(spec, crs=own, transform=turned), rasters[0], valid[0])
    product = open_product(path)
    assert product.crs is not None
    assert product.crs.startswith("PROJCRS")
    assert product.conventions["proj:wkt2"] == product.crs
    assert "x" not in product.metadata
    assert product.window((5, -5, 6, -4)) == (slice(0, 1), slice(0, 1))
    stac.write(product, tmp_path / "stac")
    none = one_date(tmp_path / "b.zarr", replace(spec, crs=None), rasters[0], valid[0])
    assert open_product(none).crs is None
    assert nec.store.info(none)["bytes_per_km2"] is None
    assert "geoemb:gsd" not in open_product(none).conventions
    for write in (stac.write, geoparquet.write):
        with pytest.raises(nec.InputError, match="no CRS"):
            write(open_product(none), tmp_path / "x")
    assert not (tmp_path / "x").exists()


# ---- GeoParquet


def test_the_hilbert_curve_visits_neighbours() -> None:
    for order in (1, 2, 3, 5):
        y, x = np.divmod(np.arange(4**order), 2**order)
        place = hilbert(x, y, order)
        assert sorted(place) == list(range(4**order))
        path = place.argsort()
        steps = np.abs(np.diff(x[path])) + np.abs(np.diff(y[path]))
        assert (steps == 1).all()


@pytest.mark.parametrize("chip", [1, 4, 5])
def test_chips_are_means_of_their_valid_tokens(
    product_path: Path, tmp_path: Path, valid: np.ndarray, chip: int
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    product = open_product(product_path)
    geoparquet.write(product, tmp_path / "chips.parquet", chip=chip)
    table = parquet.read_table(tmp_path / "chips.parquet")
    expected = {}
    for t in range(2):
        tokens = product.read(t)
        for y in range(0, GRID[0], chip):
            for x in range(0, GRID[1], chip):
                mask = valid[t, y : y + chip, x : x + chip]
                if mask.any():
                    expected[t, y, x] = mask.mean(), tokens[y : y + chip, x : x + chip][mask].mean(axis=0)
    assert len(table) == len(expected)
    for row in table.to_pylist():
        t = [np.datetime64(time) for time in TIMES].index(np.datetime64(row["time"].replace(tzinfo=None), "s"))
        fraction, mean = expected[t, row["row"], row["column"]]
        assert row["valid_fraction"] == pytest.approx(fraction)
        np.testing.assert_allclose(row["embedding"], mean, rtol=1e-5, atol=1e-6)


def test_geopandas_reads_the_chips_in_their_places(product_path: Path, tmp_path: Path) -> None:
    geopandas = pytest.importorskip("geopandas")
    shapely = pytest.importorskip("shapely")
    parquet = pytest.importorskip("pyarrow.parquet")
    product = open_product(product_path)
    geoparquet.write(product, tmp_path / "chips.parquet", chip=5, time=0)
    frame = geopandas.read_parquet(tmp_path / "chips.parquet")
    assert frame.crs.to_epsg() in (4326, None)
    assert (frame.time.dt.strftime("%Y-%m-%dT%H:%M:%S") == TIMES[0]).all()
    assert frame.geometry.is_valid.all()
    assert all(shapely.is_ccw(polygon.exterior) for polygon in frame.geometry)
    back = frame.geometry.to_crs(32632)
    for row, column, polygon in zip(frame.row, frame.column, back, strict=True):
        right, low = min(column + 5, GRID[1]), min(row + 5, GRID[0])
        box = (500_000 + 160 * column, 5_000_000 - 160 * low, 500_000 + 160 * right, 5_000_000 - 160 * row)
        np.testing.assert_allclose(polygon.bounds, box, atol=0.01)
    place = frame.geometry.iloc[7].centroid
    few = geopandas.read_parquet(tmp_path / "chips.parquet", bbox=(place.x, place.y, place.x + 1e-9, place.y + 1e-9))
    assert few.row.tolist() == [frame.row.iloc[7]]
    table = parquet.read_table(tmp_path / "chips.parquet")
    boxes = np.array([[box[name] for name in ("xmin", "ymin", "xmax", "ymax")] for box in table["bbox"].to_pylist()])
    np.testing.assert_array_equal(boxes, frame.geometry.bounds.to_numpy())


def test_the_footers_say_what_it_is(product_path: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    geoparquet.write(open_product(product_path), tmp_path / "a.parquet")
    geoparquet.write(open_product(product_path), tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    footer = parquet.read_schema(tmp_path / "a.parquet").metadata
    geo, emb = json.loads(footer[b"geo"]), json.loads(footer[b"emb"])
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    assert geo["columns"]["geometry"]["covering"]["bbox"]["xmax"] == ["bbox", "xmax"]
    assert (emb["emb:dimensions"], emb["gsd"], emb["emb:chip_layout"]["chip_size"]) == (D, 1280.0, [128, 128])
    assert emb["model"]["name"] == "toy"
    with pytest.raises(nec.InputError, match="exists"):
        geoparquet.write(open_product(product_path), tmp_path / "a.parquet")


# ---- STAC


def extension_validator(schemas_dir: Path, definition: str) -> Any:
    """Validator of the extension's own part; the schemas of STAC and of other extensions that it names accept all."""
    jsonschema = pytest.importorskip("jsonschema")
    referencing = pytest.importorskip("referencing")
    schema = json.loads((schemas_dir / "stac-embeddings-v0.0.1.json").read_text())
    schema["oneOf"] = [part for part in schema["oneOf"] if definition in part["title"]]
    assert len(schema["oneOf"]) == 1
    anything = {
        "definitions": {"link": {"required": ["rel", "href"]}, "fields": {"properties": {"processing:expression": {}}}}
    }
    resource = referencing.Resource.from_contents(anything, default_specification=referencing.jsonschema.DRAFT7)
    registry = referencing.Registry(retrieve=lambda uri: resource)
    return jsonschema.Draft7Validator(schema, registry=registry)


@pytest.fixture
def catalogue(tmp_path: Path, spec: RasterSpec, rasters: np.ndarray, valid: np.ndarray) -> list[dict[str, Any]]:
    """Collection and Items of a product whose dates say how they were made."""
    path = tmp_path / "toy.zarr"
    RasterWriter.create(path, spec).close()
    energy = {"device_type": "cpu", "inference_duration_s": 12.5, "energy_kwh": 0.001, "name": "some CPU"}
    run = {"energy": energy, "datetime": "2026-06-02T00:00:00Z", "parameters": {"batch": 8}}
    with RasterWriter.resume(path) as writer:
        for t, time in enumerate(TIMES):
            index = writer.append_time(time, source={"links": [f"https://example.org/items/{t}"]})
            for shard in writer.missing(index):
                window = writer.tiling.shard_window(*shard[1:])
                writer.write(shard, rasters[t][window], valid[t][window])
            writer.finish(index, run=run)
    written = sorted(stac.write(open_product(path), tmp_path / "stac").iterdir())
    assert [file.name for file in written] == [
        "collection.json", "toy-20260501T103000.json", "toy-20260601T103000.json"
    ]  # fmt: skip
    return [json.loads(file.read_text()) for file in written]


def test_the_extension_s_schema_accepts_the_catalogue(catalogue: list[dict[str, Any]], schemas_dir: Path) -> None:
    collection, *items = catalogue
    check_collection = extension_validator(schemas_dir, "Collections")
    check_item = extension_validator(schemas_dir, "Items")
    check_collection.validate(json.loads((schemas_dir / "example-collection.json").read_text()))
    check_item.validate(json.loads((schemas_dir / "example-item.json").read_text()))
    check_collection.validate(collection)
    for item in items:
        check_item.validate(item)
    assert not check_item.is_valid({**items[0], "properties": {**items[0]["properties"], "emb:energy": {"watts": 1}}})
    assert not check_collection.is_valid({**collection, "links": [collection["links"][0]]})


def test_pystac_accepts_the_catalogue(catalogue: list[dict[str, Any]], tmp_path: Path) -> None:
    pystac = pytest.importorskip("pystac")
    pytest.importorskip("jsonschema")
    collection = pystac.Collection.from_file(str(tmp_path / "stac" / "collection.json"))
    items = list(collection.get_items())
    assert [item.id for item in items] == ["toy-20260501T103000", "toy-20260601T103000"]
    for entry in (collection, *items):
        document = {**entry.to_dict(), "stac_version": "1.1.0", "stac_extensions": []}  # the schemas that pystac ships
        pystac.validation.validate_dict(document)
    asset = items[0].assets["embeddings"]
    assert len(open_product(asset.get_absolute_href()).times) == 2
    links = {link.rel: link.target for link in collection.links}
    assert links["emb:model"] == "https://example.org/models/toy"
    sources = [link.target for link in collection.links if link.rel == "emb:source-data"]
    assert sources == [
        "https://example.org/collections/sentinel-2-l2a", "https://example.org/items/0", "https://example.org/items/1"
    ]  # fmt: skip


def test_the_catalogue_says_where_and_how(catalogue: list[dict[str, Any]], spec: RasterSpec) -> None:
    warp = pytest.importorskip("rasterio.warp")
    collection, item, _ = catalogue
    left, bottom = 500_000, 5_000_000 - 160 * GRID[0]
    right, top = 500_000 + 160 * GRID[1], 5_000_000
    expected = warp.transform_bounds("EPSG:32632", "EPSG:4326", left, bottom, right, top)
    np.testing.assert_allclose(item["bbox"], expected, atol=1e-5)
    assert collection["extent"]["spatial"]["bbox"] == [item["bbox"]]
    assert collection["extent"]["temporal"]["interval"] == [[time + "Z" for time in TIMES]]
    assert collection["license"] == "CC-BY-4.0"
    assert (collection["emb:dimensions"], collection["gsd"]) == (D, 160.0)
    assert collection["emb:chip_layout"]["chip_size"] == [16, 16]
    properties = item["properties"]
    assert properties["proj:code"] == "EPSG:32632"
    assert properties["emb:quantization"]["scale"] == [spec.codec.step(2.0)]
    assert properties["emb:energy"]["inference_duration_s"] == 12.5
    assert properties["emb:runtime_parameters"] == {
        "patch_px": 16,
        "bands": ["B02", "B03", "B04"],
        "quality": 2.0,
        "batch": 8,
    }
    decoder = next(link["href"] for link in item["links"] if link["rel"] == "emb:decoder")
    assert decoder == "../toy.zarr/embeddings/zarr.json"


def test_a_product_that_names_nothing_needs_links(
    tmp_path: Path, spec: RasterSpec, rasters: np.ndarray, valid: np.ndarray
) -> None:
    path = one_date(tmp_path / "p.zarr", replace(spec, model=None, source=None), rasters[0], valid[0])
    with pytest.raises(nec.InputError, match="--model-url"):
        stac.write(open_product(path), tmp_path / "stac")
    with pytest.raises(nec.InputError, match="--source-url"):
        stac.write(open_product(path), tmp_path / "stac", model_url="https://example.org/m")
    assert not (tmp_path / "stac").exists()


# ---- pictures


def test_the_colours_are_the_principal_components() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(500, 6)) @ np.diag([5, 3, 1, 0.1, 0.1, 0.1]) + 7
    colouring = Colouring.fit(tokens)
    np.testing.assert_allclose(np.abs(colouring.axes), np.eye(3, 6), atol=0.1)
    picture = colouring.apply(tokens.reshape(20, 25, 6), np.ones((20, 25), bool))
    assert np.corrcoef(picture[..., 0].ravel(), tokens[:, 0])[0, 1] > 0.98
    assert Colouring.fit(tokens[:, :2]).apply(tokens[None, :, :2], np.ones((1, 500), bool)).shape == (1, 500, 4)


def test_quicklooks(product_path: Path, tmp_path: Path, valid: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    rasterio = pytest.importorskip("rasterio")
    product = open_product(product_path)
    picture, step = quicklook(product, 0)
    assert (picture.shape, step) == ((*GRID, 4), 1)
    np.testing.assert_array_equal(picture[..., 3], 255 * valid[0])
    assert not picture[~valid[0]].any()
    nec.export(product_path, tmp_path / "q.tif", time=TIMES[0])
    with rasterio.open(tmp_path / "q.tif") as file:
        assert (file.crs.to_epsg(), tuple(file.transform)[:6]) == (32632, TRANSFORM)
        np.testing.assert_array_equal(file.read().transpose(1, 2, 0), picture)
    nec.export(product_path, tmp_path / "q.png")
    with rasterio.open(tmp_path / "q.png") as file:
        assert file.shape == (18 * GRID[0], 18 * GRID[1])  # 540 pixels: at least 512
    monkeypatch.setattr("nec.exporting.quicklook.MOST", 10)
    small, step = quicklook(product, 0)
    assert step == 3
    np.testing.assert_array_equal(small, picture[::3, ::3])


# ---- export, decode, info and verify as a whole


def test_export_refuses_what_it_cannot_write(product_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    chips, folder = tmp_path / "chips.parquet", tmp_path / "stac"
    nec.export(product_path, chips, chip=4)
    nec.export(product_path, folder, format="stac")
    assert sorted(file.name for file in folder.iterdir()) == [
        "collection.json", "toy-20260501T103000.json", "toy-20260601T103000.json"
    ]  # fmt: skip
    for out, options, word in (
        (folder, {"format": "stac"}, "not empty"), (tmp_path / "x.jpg", {"format": "quicklook"}, ".png"),
        (chips, {}, "--overwrite"), (tmp_path / "q.png", {"time": "x"}, "date"),
        (tmp_path / "y", {"format": "geoparquet", "chip": 0}, "chips"),
    ):  # fmt: skip
        with pytest.raises(nec.InputError) as refused:
            nec.export(product_path, out, **options)
        assert word in str(refused.value)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["chips.parquet", "stac"]


def test_decode_info_and_verify(product_path: Path, tmp_path: Path, valid: np.ndarray) -> None:
    expected = np.stack([open_product(product_path).read(t) for t in range(2)])
    for suffix in ("npy", "npz", "zarr"):
        nec.decode(product_path, tmp_path / f"out.{suffix}")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)
    with np.load(tmp_path / "out.npz") as archive:
        np.testing.assert_array_equal(archive["embeddings"], expected)
        np.testing.assert_array_equal(archive["valid"], valid)
        np.testing.assert_array_equal(archive["time"], np.array(TIMES, "datetime64[s]"))
    xarray = pytest.importorskip("xarray")
    plain = xarray.open_zarr(tmp_path / "out.zarr", chunks=None, consolidated=False)
    np.testing.assert_array_equal(plain.embeddings.transpose("time", "y", "x", "embedding").values, expected)
    assert plain.time.values[1] == np.datetime64(TIMES[1])
    assert "EPSG:32632" in str(nec.info(product_path))
    assert json.loads(nec.verify(product_path).to_json())["ok"]


def test_verify_names_the_damage(tmp_path: Path, build: Callable[..., Path]) -> None:
    path = build(tmp_path / "p.zarr", dates=1)
    file = path / "embeddings" / "c.0.0.2.0"
    data = file.read_bytes()
    file.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
    report = nec.verify(path)
    assert not report.ok
    assert "corrupt: embeddings/c.0.0.2.0 tokens from row 16, column 0:" in str(report)


def test_formats_by_name_and_by_suffix(product_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    product = open_product(product_path)
    assert nec.export(product, tmp_path / "a.parquet", chip=5) == tmp_path / "a.parquet"
    assert nec.export(product_path, tmp_path / "b", format="geoparquet", chip=5) == tmp_path / "b"
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b").read_bytes()
    for options, word in (
        ({"format": "shapefile"}, "stac, geoparquet, quicklook"), ({"format": "stac", "chip": 3}, "chip means nothing"),
        ({}, "no format"),
    ):  # fmt: skip
        with pytest.raises(nec.InputError, match=word):
            nec.export(product, tmp_path / "c", **options)
    with pytest.raises(nec.InputError, match="quicklook is not for"):
        nec.export("eurosat", tmp_path / "c.png")


PLACES = {
    # CRS, transform for a grid of 21 x 30, and what its box must be near to: west, south, east, north
    "across the meridian, metres": ("EPSG:32601", (3000, 0, 300_000, 0, -3000, 7_620_000), [178.3, 67.9, -179.0, 68.7]),
    "across the meridian, degrees": ("EPSG:4326", (0.1, 0, 179, 0, -0.1, -16), [179, -18.1, -178, -16]),
    "around the north pole": ("EPSG:3413", (80_000, 0, -1_200_000, 0, -80_000, 900_000), [-180, 75, 180, 90]),
    "around the south pole": ("EPSG:3031", (80_000, 0, -1_200_000, 0, -80_000, 900_000), [-180, -90, 180, -75]),
}


@pytest.mark.parametrize("name", PLACES)
def test_places_that_a_plain_box_does_not_fit(
    tmp_path: Path, spec: RasterSpec, rasters: np.ndarray, valid: np.ndarray, name: str
) -> None:
    shapely, parquet = pytest.importorskip("shapely"), pytest.importorskip("pyarrow.parquet")
    crs, transform, expected = PLACES[name]
    product = open_product(
        one_date(tmp_path / "p.zarr", replace(spec, crs=crs, transform=transform), *(rasters[0], valid[0]))
    )
    item = json.loads(sorted(stac.write(product, tmp_path / "stac").glob("p-*.json"))[0].read_text())
    np.testing.assert_allclose(item["bbox"], expected, atol=2.5)
    polygon = shapely.from_geojson(json.dumps(item["geometry"]))
    assert polygon.is_valid
    west, _, east, _ = polygon.bounds
    assert -180 <= west < east <= 180
    if "pole" in name:
        assert polygon.covers(shapely.Point(10, 90 if "north" in name else -90))
    else:
        assert item["geometry"]["type"] == "MultiPolygon"
        assert item["bbox"][0] > item["bbox"][2]
        assert polygon.area < 10
    geoparquet.write(product, tmp_path / "chips.parquet", chip=7)
    chips = shapely.from_wkb(parquet.read_table(tmp_path / "chips.parquet")["geometry"].to_pylist())
    longitudes = np.array([[piece.bounds[0], piece.bounds[2]] for chip in chips for piece in shapely.get_parts(chip)])
    assert (np.abs(longitudes) <= 180).all()
    assert ("pole" in name) or (np.ptp(longitudes, axis=1) < 3).all()


GEOSTATIONARY = """PROJCRS["GOES",
BASEGEOGCRS["g",DATUM["d",ELLIPSOID["GRS 1980",6378137,298.257222101]],PRIMEM["Greenwich",0]],
CONVERSION["c",METHOD["Geostationary Satellite (Sweep X)"],
PARAMETER["Longitude of natural origin",-75,ANGLEUNIT["degree",0.0174532925199433]],
PARAMETER["Satellite Height",35786023,LENGTHUNIT["metre",1]],PARAMETER["False easting",0,LENGTHUNIT["metre",1]],
PARAMETER["False northing",0,LENGTHUNIT["metre",1]]],CS[Cartesian,2],AXIS["x",east],
AXIS["y",north],LENGTHUNIT["metre",1]]"""


def test_a_disk_of_which_the_corners_lie_in_space(
    tmp_path: Path, spec: RasterSpec, rasters: np.ndarray, valid: np.ndarray
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    edge = 5_434_894.885056
    place = {"crs": GEOSTATIONARY, "transform": (edge * 2 / 30, 0, -edge, 0, -edge * 2 / 21, edge)}
    product = open_product(one_date(tmp_path / "p.zarr", replace(spec, **place), rasters[0], valid[0]))
    item = json.loads(sorted(stac.write(product, tmp_path / "stac").glob("p-*.json"))[0].read_text())
    np.testing.assert_allclose(item["bbox"], [-150, -75, 0, 75], atol=8)
    geoparquet.write(product, tmp_path / "chips.parquet", chip=3)
    assert 10 < len(parquet.read_table(tmp_path / "chips.parquet")) < 70


def test_a_crs_of_no_planet_is_refused(
    tmp_path: Path, spec: RasterSpec, rasters: np.ndarray, valid: np.ndarray
) -> None:
    site = 'LOCAL_CS["site grid",UNIT["metre",1]]'
    product = open_product(one_date(tmp_path / "p.zarr", replace(spec, crs=site), rasters[0], valid[0]))
    for write in (stac.write, geoparquet.write):
        with pytest.raises(nec.InputError, match="no longitude and latitude"):
            write(product, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_date_without_a_valid_token_has_no_box(tmp_path: Path, spec: RasterSpec, rasters: np.ndarray) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    product = open_product(one_date(tmp_path / "p.zarr", spec, rasters[0], np.zeros(GRID, bool)))
    geoparquet.write(product, tmp_path / "chips.parquet")
    geo = json.loads(parquet.read_schema(tmp_path / "chips.parquet").metadata[b"geo"])
    assert "bbox" not in geo["columns"]["geometry"]


def test_what_to_xarray_gives_can_be_written(product_path: Path, tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    dataset = open_product(product_path).to_xarray()
    dataset.to_zarr(tmp_path / "whole.zarr")
    dataset.isel(time=0, x=slice(3, 20), embedding=slice(0, 3)).to_zarr(tmp_path / "some.zarr")
    np.testing.assert_array_equal(xarray.open_zarr(tmp_path / "whole.zarr").embeddings, dataset.embeddings)
