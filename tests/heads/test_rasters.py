"""Heads on raster stores: learnt from points and polygons by blocks of space, and mapped window by window."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

rasterio = pytest.importorskip("rasterio")
from rasterio.warp import transform_geom  # noqa: E402

import nec  # noqa: E402
from nec.cli import main  # noqa: E402
from nec.errors import InputError  # noqa: E402
from nec.heads import load_head, predict, train_head  # noqa: E402
from nec.heads.prediction import predict_classes  # noqa: E402
from nec.store import RasterSpec, RasterWriter  # noqa: E402

GRID, TRANSFORM, CRS = (30, 140), (80.0, 0, 500000, 0, -80.0, 5300000), "EPSG:32633"
CLASSES = ["crop", "forest", "water"]


@pytest.fixture(scope="module")
def raster(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A store of 30x140 tokens whose 5x5 blocks are of one class each, with a hole; wider than a tile of `predict`."""
    rng = np.random.default_rng(0)
    land = np.kron(rng.integers(0, 3, (6, 28)), np.ones((5, 5), int))
    patterns = rng.normal(size=(3, 16))
    tokens = (3 * patterns[land] + 0.4 * rng.normal(size=(*GRID, 16))).astype(np.float32)
    codec = nec.EmbeddingCodec.fit(
        tokens[:24, :24].reshape(3, 8, 3, 8, 16).transpose(0, 2, 1, 3, 4).reshape(9, 8, 8, 16)
    )
    valid = np.ones(GRID, bool)
    valid[:3, :7] = valid[20, 130:] = False
    path = tmp_path_factory.mktemp("raster") / "land.zarr"
    spec = RasterSpec(grid=GRID, dimensions=16, codec=codec, quality=4.0, crs=CRS, transform=TRANSFORM, patch_px=8,
                      chunk=(16, 16), shard=(2, 2))  # fmt: skip
    with RasterWriter.create(path, spec) as writer:
        time = writer.append_time("2026-05-01T10:00:00", source={"links": ["https://example.org/s.json"]})
        for shard in writer.missing(time):
            rows, columns = writer.tiling.shard_window(*shard[1:])
            writer.write(shard, tokens[rows, columns], valid[rows, columns])
        writer.finish(time)
    return {"path": path, "land": land, "valid": valid}


def write_labels(path: Path, features: list[tuple[dict[str, Any], Any]], crs: str | None = None) -> Path:
    """GeoJSON of geometries in the store's CRS, in longitude and latitude unless `crs` is named."""
    named = {} if crs is None else {"crs": {"type": "name", "properties": {"name": crs}}}
    collection = [
        {"type": "Feature", "properties": {"kind": value, "id": i},
         "geometry": transform_geom(CRS, crs or "OGC:CRS84", geometry, precision=12)}
        for i, (geometry, value) in enumerate(features)
    ]  # fmt: skip
    path.write_text(json.dumps({"type": "FeatureCollection", "features": collection, **named}))
    return path


def points(land: np.ndarray, count: int, seed: int = 1) -> list[tuple[dict[str, Any], str]]:
    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(0, GRID[0], count), rng.integers(0, GRID[1], count)
    places = zip(rows + rng.uniform(0.1, 0.9, count), columns + rng.uniform(0.1, 0.9, count), strict=True)
    at = [{"type": "Point", "coordinates": (500000 + 80 * x, 5300000 - 80 * y)} for y, x in places]
    return [(point, CLASSES[land[row, column]]) for point, row, column in zip(at, rows, columns, strict=True)]


def test_points_are_learnt_and_mapped(raster: dict[str, Any], tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "points.geojson", points(raster["land"], 500))
    result = train_head(raster["path"], labels=labels, label_column="kind", save=tmp_path / "head")
    report = result.report
    assert report.figures["accuracy"] > 0.95
    assert (report.source, report.head, report.figures["class_names"]) == ("raster", "linear", CLASSES)
    assert report.train_images + report.val_images + report.test_images <= 500
    written = predict(tmp_path / "head", raster["path"], tmp_path / "map.tif")
    assert written.files == ["map.tif"]
    with rasterio.open(tmp_path / "map.tif") as file:
        found = file.read(1)
        assert (file.crs.to_epsg(), tuple(file.transform)[:6], file.nodata) == (32633, TRANSFORM, 255)
        assert file.tags(1)["class_2"] == "water"
    assert (found[~raster["valid"]] == 255).all()
    assert np.mean(found[raster["valid"]] == raster["land"][raster["valid"]]) > 0.97
    predict(result.head, nec.open_product(raster["path"]), tmp_path / "p.tif", probabilities=True)
    with rasterio.open(tmp_path / "p.tif") as file:
        odds = file.read()
        assert (file.count, file.dtypes[0], file.descriptions) == (3, "float32", tuple(CLASSES))
    np.testing.assert_allclose(odds[:, raster["valid"]].sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(odds.argmax(axis=0)[raster["valid"]], found[raster["valid"]])
    assert np.isnan(odds[:, ~raster["valid"]]).all()


def test_polygons_take_the_tokens_whose_centre_they_cover(raster: dict[str, Any], tmp_path: Path) -> None:
    """Against the tokens by hand; a small polygon takes the token it touches, a contested token nothing."""
    from nec.heads.targets import labelled_samples

    def box(top: float, left: float, bottom: float, right: float) -> dict[str, Any]:
        x, y = ([500000 + 80 * left, 500000 + 80 * right], [5300000 - 80 * top, 5300000 - 80 * bottom])
        return {
            "type": "Polygon",
            "coordinates": [[(x[0], y[0]), (x[1], y[0]), (x[1], y[1]), (x[0], y[1]), (x[0], y[0])]],
        }

    features = [
        (box(10.4, 20.4, 12.6, 23.4), "a"),  # rows 10..12, columns 20..22
        (box(12.4, 22.4, 13.6, 23.6), "b"),  # rows 12..13, columns 22..23: one token contested
        (box(25.1, 60.1, 25.2, 60.2), "b"),  # covers no centre
        (box(-5, -5, 1, 8.6), "a"),  # over the edge and the hole: columns 7..8 are valid
    ]
    labels = write_labels(tmp_path / "boxes.geojson", features, crs=CRS)
    store = nec.open_product(raster["path"])
    samples = labelled_samples(store, labels, "kind", "classification", block=10)
    wanted = {(row, column): "a" for row in (10, 11, 12) for column in (20, 21, 22)}
    wanted |= {(12, 23): "b", (13, 22): "b", (13, 23): "b", (25, 60): "b", (0, 7): "a", (0, 8): "a"}
    del wanted[12, 22]
    places = sorted(wanted)
    assert samples.labels is not None
    assert [samples.class_names[label] for label in samples.labels] == [wanted[place] for place in places]  # type: ignore[index]
    expected = store.read(0)[tuple(np.array(places).T)]
    np.testing.assert_array_equal(samples.embeddings[:, 0, 0], expected)
    assert samples.groups.tolist() == [f"{row // 10},{column // 10}" for row, column in places]


def test_numbers_are_learnt_from_points(raster: dict[str, Any], tmp_path: Path) -> None:
    heights = [(point, 10 + 5 * CLASSES.index(value)) for point, value in points(raster["land"], 400)]
    labels = write_labels(tmp_path / "heights.geojson", heights)
    result = train_head(raster["path"], "regression", labels=labels, label_column="kind", block=5)
    assert result.report.figures["r2"] > 0.8
    predict(result.head, raster["path"], tmp_path / "heights.tif")
    with rasterio.open(tmp_path / "heights.tif") as file:
        found = file.read(1)
        assert file.descriptions == ("kind",)
    assert np.abs(found - (10 + 5 * raster["land"]))[raster["valid"]].mean() < 2


def test_a_split_takes_whole_blocks(raster: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nec.heads.train as module

    labels = write_labels(tmp_path / "points.geojson", points(raster["land"], 500))
    choose, seen = module.choose_split, []

    def spy(*arguments: Any, groups: Any, **options: Any) -> Any:
        found = choose(*arguments, groups=groups, **options)
        seen.append([set(groups[part]) for part in (found.train, found.val, found.test)])
        return found

    monkeypatch.setattr(module, "choose_split", spy)
    train_head(raster["path"], labels=labels, label_column="kind", block=8)
    train, val, test = seen[-1]
    assert not (train & val) | (train & test) | (val & test)


def test_the_segmenter_of_a_store_maps_a_raster(raster: dict[str, Any], make_store: Any, tmp_path: Path) -> None:
    """Pixels finer than tokens, tiles that do not show, and the hole as large as its tokens."""
    pytest.importorskip("torch")
    from nec.heads import HeadSettings

    store, product = make_store(), nec.open_product(raster["path"])
    rng = np.random.default_rng(5)
    corners = [(rng.integers(0, 27), rng.integers(8, 137)) for _ in range(120)]
    tokens = product.read(0)
    grids = np.stack([tokens[y : y + 4, x : x + 4] for y, x in corners])
    kept = np.isfinite(grids).all(axis=(1, 2, 3))
    store.embeddings = grids[kept][:100]
    masks = np.stack([raster["land"][y : y + 4, x : x + 4] for y, x in corners])[kept][:100]
    store.masks = masks.repeat(2, axis=1).repeat(2, axis=2).astype(np.uint8)
    store.mask_classes, store.mask_colors = CLASSES, [(9, 9, 9), (0, 99, 0), (0, 0, 99)]
    store.split = np.resize(["train", "train", "train", "val", "test"], 100)
    settings = HeadSettings(epochs=10, width=16, blocks=1)
    head = train_head(store, "segmentation", settings=settings).head
    predict(head, product, tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as file:
        found = file.read(1)
        assert (file.width, file.height, file.transform.a) == (280, 60, 40)
        assert file.colormap(1)[1] == (0, 99, 0, 255)
    valid = raster["valid"].repeat(2, axis=0).repeat(2, axis=1)
    assert (found[~valid] == 255).all()
    truth = raster["land"].repeat(2, axis=0).repeat(2, axis=1)
    assert np.mean(found[valid] == truth[valid]) > 0.8
    inner = tokens[:, 8:]
    whole = predict_classes(np.nan_to_num(inner), head.grid, 0.5, head.outputs)
    assert np.mean(whole[:38, 16:-40] == found[:38, 32:-40]) > 0.999  # far from the hole, whatever the tiles


def test_the_commands(raster: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = write_labels(tmp_path / "points.geojson", points(raster["land"], 300))
    arguments = ["classify", str(raster["path"]), "--labels", str(labels), "--label-column", "kind"]
    assert main([*arguments, "--save", str(tmp_path / "head"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] > 0.9
    assert load_head(tmp_path / "head").grid == (1, 1)
    assert (
        main(["predict", str(tmp_path / "head"), str(raster["path"]), "--out", str(tmp_path / "m.tif"), "--json"]) == 0
    )
    assert json.loads(capsys.readouterr().out)["classes"][1]["name"] == "forest"


def test_bad_requests(raster: dict[str, Any], tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "points.geojson", points(raster["land"], 300))
    head = train_head(raster["path"], labels=labels, label_column="kind").head
    far = write_labels(tmp_path / "far.geojson", [({"type": "Point", "coordinates": (0, 0)}, "a")], crs=CRS)
    (tmp_path / "text.geojson").write_text("no JSON")
    for options, message in (
        ({}, "--labels"),
        ({"labels": labels, "label_column": "name"}, "'name'; they have id, kind"),
        ({"labels": tmp_path / "no.geojson", "label_column": "kind"}, "no such file"),
        ({"labels": tmp_path / "text.geojson", "label_column": "kind"}, "not GeoJSON"),
        ({"labels": far, "label_column": "kind"}, "no point or polygon"),
        ({"labels": labels, "label_column": "kind", "time": "2020"}, "no dates 2020"),
        ({"labels": labels, "label_column": "kind", "task": "regression"}, "must hold numbers"),
        ({"labels": labels, "label_column": "kind", "task": "segmentation"}, "not for segmentation"),
        ({"labels": labels, "label_column": "kind", "block": 1000}, "groups"),
    ):
        with pytest.raises(InputError, match=message):
            train_head(raster["path"], **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="GeoTIFF"):
        predict(head, raster["path"], tmp_path / "folder")
    with pytest.raises(InputError, match="leave it out"):
        predict(head, raster["path"], tmp_path / "m.tif", model="eurosat-tiny")
    assert not (tmp_path / "m.tif").exists()
