"""Heads that were saved predict as they did, and large images show no seams."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

from nec import CorruptError, EmbeddingCodec, InputError, open_store  # noqa: E402
from nec.cli import main  # noqa: E402
from nec.datasets import ArrayDataset  # noqa: E402
from nec.encoding import encode  # noqa: E402
from nec.heads import HeadResult, HeadSettings, load_head, predict, train_head  # noqa: E402
from nec.heads.prediction import averaged_tiles, check_model, free_name, predict_classes  # noqa: E402
from nec.models import ModelConfig, NecModel, load_model, save_model  # noqa: E402

CLASSES, COLORS = ["left", "right"], [(200, 30, 30), (30, 30, 200)]
SIZES = {
    "image_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2,
    "decoder_embed_dim": 12, "decoder_depth": 1, "decoder_num_heads": 2,
}  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(5, 40), st.integers(5, 40)),
    window=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    overlap=st.floats(0, 0.95),
    scale=st.integers(1, 3),
    batch=st.integers(1, 9),
    tile=st.integers(5, 41),
)
def test_what_sees_single_pixels_gives_the_whole_images_result(
    size: tuple[int, int], window: tuple[int, int], overlap: float, scale: int, batch: int, tile: int
) -> None:
    """For a model that looks at one place at a time, windows, overlap, tiles and averages must not show at all."""
    image = np.random.default_rng(sum(size)).random((*size, 3)).astype(np.float32)

    def apply(windows: np.ndarray) -> np.ndarray:
        return np.moveaxis(windows, -1, 1).repeat(scale, axis=2).repeat(scale, axis=3)

    found = np.full((3, size[0] * scale, size[1] * scale), np.nan, np.float32)
    read = lambda rows, columns: image[rows, columns]  # noqa: E731
    for rows, columns, one in averaged_tiles(size, window, overlap, read, apply, batch, tile):
        found[:, rows.start * scale : rows.stop * scale, columns.start * scale : columns.stop * scale] = one
    np.testing.assert_allclose(found, apply(image[None])[0], rtol=1e-5)
    expected = apply(image[None])[0].argmax(axis=0)
    np.testing.assert_array_equal(predict_classes(image, window, overlap, apply, batch), expected)


def test_tiles_do_not_show() -> None:
    """What is held at once changes nothing, for a model that sees its windows as wholes."""
    image = np.random.default_rng(0).random((30, 41, 2)).astype(np.float32)

    def apply(windows: np.ndarray) -> np.ndarray:
        return np.broadcast_to(windows.std(axis=(1, 2))[:, :, None, None], (len(windows), 2, 6, 4)).copy()

    whole = None
    for tile in (100, 7, 16):
        found = np.zeros((2, 30, 41), np.float32)
        for rows, columns, one in averaged_tiles((30, 41), (6, 4), 0.6, lambda r, c: image[r, c], apply, 5, tile):
            found[:, rows, columns] = one
        whole = found if whole is None else whole
        np.testing.assert_allclose(found, whole, rtol=1e-5)


def test_overlap_takes_the_seams_away() -> None:
    """A model that is wrong near the edges of its windows: without overlap the seams show, with it they are gone."""
    image = np.zeros((64, 64, 1))

    def apply(windows: np.ndarray) -> np.ndarray:
        inside = np.zeros((len(windows), 16, 16))
        inside[:, 2:-2, 2:-2] = 1
        return np.stack([1 - inside, inside], axis=1) * 0.9 + 0.05

    wrong = [np.mean(predict_classes(image, (16, 16), overlap, apply)[8:-8, 8:-8] == 0) for overlap in (0, 0.5)]
    assert wrong[0] > 0.3
    assert wrong[1] == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny model, a store of images whose brightness tells the class, and heads trained on it, saved."""
    folder = tmp_path_factory.mktemp("predict")
    rng = np.random.default_rng(0)
    masks = np.kron(rng.integers(0, 2, (60, 2, 2)), np.ones((8, 8))).astype(np.uint8)
    images = (60 + 120 * masks[..., None] + rng.integers(0, 30, (60, 16, 16, 3))).astype(np.uint8)
    labels = np.arange(60) % 2
    images[labels == 1] //= 2
    torch.manual_seed(0)
    model = NecModel(ModelConfig.from_dict(SIZES)).eval()
    with torch.inference_mode():
        model.codec = EmbeddingCodec.fit(model.embed(model.normalize(images)))
    save_model(model, folder / "model")
    model = load_model(folder / "model")
    split = np.array(["train", "train", "train", "val", "test"])[np.arange(60) // 2 % 5]
    dataset = ArrayDataset(
        images, [f"{i}.png" for i in range(60)], labels, ["light", "dark"],
        masks=masks, mask_classes=CLASSES, mask_colors=COLORS, groups=np.arange(60) // 4, split=split,
    )  # fmt: skip
    encode(dataset, folder / "store.zarr", model, quality=4.0)
    store = open_store(folder / "store.zarr")
    segment = {"width": 8, "blocks": 1}
    results: dict[str, HeadResult] = {}
    for name, task, epochs, options in (
        ("plain", "segmentation", 8, {}),
        ("decoder", "segmentation", 2, {"with_decoder": True, "model": folder / "model"}),
        ("attention", "classification", 3, {}),
        ("linear", "classification", None, {"head": "linear"}),
        ("attention-decoder", "classification", 2, {"with_decoder": True, "model": folder / "model"}),
    ):
        settings = HeadSettings(epochs=epochs, **(segment if task == "segmentation" else {}))
        results[name] = train_head(store, task, settings=settings, save=folder / name, **options)
    return {"folder": folder, "store": store, "results": results, "images": images, "masks": masks, "model": model}


def test_masks_and_groups_went_through_encode(made: dict[str, Any]) -> None:
    store = made["store"]
    np.testing.assert_array_equal(store.masks[:], made["masks"])
    assert (store.mask_classes, store.mask_colors) == (CLASSES, COLORS)
    assert store.groups is not None
    assert store.groups[5] == "1"


@pytest.mark.parametrize("name", ["plain", "decoder", "attention", "linear", "attention-decoder"])
def test_a_saved_head_predicts_as_it_did(made: dict[str, Any], name: str) -> None:
    head, trained = load_head(made["folder"] / name), made["results"][name].head
    embeddings = made["store"].embeddings[:9]
    expected = trained.predict(embeddings)
    found = head.outputs(embeddings)
    np.testing.assert_array_equal(found.argmax(axis=1), expected)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    with pytest.raises(InputError, match="16 values"):
        head.outputs(np.zeros((1, 4, 4, 15), np.float32))


def test_a_damaged_head_is_refused(made: dict[str, Any], tmp_path: Path) -> None:
    import shutil

    for file in ("config.json", "head.safetensors"):
        folder = tmp_path / file
        shutil.copytree(made["folder"] / "plain", folder)
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(data[:-40])
        with pytest.raises((CorruptError, InputError), match=file):
            load_head(folder)
    with pytest.raises(InputError, match="--save"):
        load_head(tmp_path)


def test_a_store_is_predicted_to_palette_pngs(made: dict[str, Any], tmp_path: Path) -> None:
    folder, out = made["folder"], tmp_path / "out"
    assert main(["predict", str(folder / "plain"), str(folder / "store.zarr"), "--out", str(out), "--json"]) == 0
    expected = made["results"]["plain"].head.predict(made["store"].embeddings[:3])
    for i in range(3):
        with Image.open(out / f"{i}.png") as image:
            assert image.mode == "P"
            np.testing.assert_array_equal(np.asarray(image), expected[i])
            palette = np.array(image.getpalette()).reshape(-1, 3)
            np.testing.assert_array_equal(palette[:2], COLORS)
    assert json.loads((out / "classes.json").read_text())[1] == {"index": 1, "name": "right", "color": [30, 30, 200]}


def test_a_large_image_is_predicted_window_by_window(made: dict[str, Any], tmp_path: Path) -> None:
    folder = made["folder"]
    mask = np.kron(np.random.default_rng(4).integers(0, 2, (6, 4)), np.ones((8, 8))).astype(np.uint8)
    Image.fromarray((75 + 120 * mask[..., None]).repeat(3, axis=2).astype(np.uint8)).save(tmp_path / "big.png")
    Image.fromarray(np.full((10, 7, 3), 195, np.uint8)).save(tmp_path / "small.png")
    files = [str(tmp_path / name) for name in ("big.png", "small.png")]
    arguments = ["predict", str(folder / "plain"), *files, "--model", str(folder / "model"), "--json"]
    for name, more in {"float": [], "coded": ["--quality", "4"]}.items():
        assert main([*arguments, "--out", str(tmp_path / name), *more]) == 0
        with Image.open(tmp_path / name / "big.png") as image:
            assert np.mean(np.asarray(image) == mask) > 0.85
        with Image.open(tmp_path / name / "small.png") as image:
            assert image.size == (7, 10)


def test_a_geotiff_keeps_its_place(made: dict[str, Any], tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    transform = rasterio.Affine(10, 0, 500000, 0, -10, 4600000)
    profile = {"driver": "GTiff", "width": 41, "height": 27, "count": 3, "dtype": "uint8"}
    with rasterio.open(tmp_path / "scene.tif", "w", **profile, crs="EPSG:32631", transform=transform) as file:
        file.write(np.full((3, 27, 41), 90, np.uint8))
    folder = made["folder"]
    arguments = ["predict", str(folder / "decoder"), str(tmp_path / "scene.tif"), "--model", str(folder / "model")]
    assert main([*arguments, "--out", str(tmp_path / "out"), "--json"]) == 0
    with rasterio.open(tmp_path / "out" / "scene.tif") as file:
        assert (file.width, file.height, file.count, file.dtypes) == (41, 27, 1, ("uint8",))
        assert (file.crs.to_epsg(), file.transform) == (32631, transform)
        assert file.colormap(1)[1] == (30, 30, 200, 255)
        assert file.tags(1)["class_0"] == "left"


def test_a_classifier_writes_a_table(made: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made["folder"]
    arguments = ["predict", str(folder / "linear"), str(folder / "store.zarr"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == made["store"].names
    assert [row["class"] for row in rows] == [row["class"] for row in report["predictions"]]
    assert all(0.5 <= float(row["probability"]) <= 1 for row in rows)


def test_a_head_of_numbers_writes_a_column_a_target(made: dict[str, Any], tmp_path: Path) -> None:
    store = made["store"]
    np.save(tmp_path / "t.npy", np.stack([made["images"].mean(axis=(1, 2, 3)), np.arange(60)], axis=1))
    arguments = ["regress", made["folder"] / "store.zarr", "--targets", tmp_path / "t.npy", "--head", "linear"]
    assert main([*map(str, arguments), "--save", str(tmp_path / "head"), "--json"]) == 0
    report = predict(tmp_path / "head", store, tmp_path / "out")
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["name", "target 0", "target 1"]
    found = np.array([[float(row["target 0"]), float(row["target 1"])] for row in rows])
    np.testing.assert_allclose(found, load_head(tmp_path / "head").predict(store.embeddings[:]), rtol=1e-5)
    assert np.corrcoef(found[:, 0], made["images"].mean(axis=(1, 2, 3)))[0, 1] > 0.9
    assert report.predictions is not None
    assert report.predictions[7]["name"] == store.names[7]


def test_saving_from_the_commands(made: dict[str, Any], tmp_path: Path) -> None:
    store = str(made["folder"] / "store.zarr")
    assert main(["segment", store, "--epochs", "1", "--json", "--save", str(tmp_path / "s")]) == 0
    assert main(["classify", store, "--head", "linear", "--json", "--save", str(tmp_path / "c")]) == 0
    assert (load_head(tmp_path / "s").kind, load_head(tmp_path / "c").kind) == ("segmenter", "linear")
    assert main(["segment", store, "--json", "--save", str(tmp_path / "s")]) == 2


def test_a_head_is_held_to_the_symmetries_of_its_embeddings(made: dict[str, Any]) -> None:
    head, model = load_head(made["folder"] / "plain"), load_model(made["folder"] / "model")
    check_model(head, model.identity)
    with pytest.raises(InputError, match="over 8"):
        check_model(head, model.identity | {"symmetries": 8})


BAD: dict[str, tuple[list[str], str]] = {
    "no head": (["nowhere", "STORE"], "is no head"),
    "no model": (["HEAD", "IMAGE"], "--model"),
    "model for a store": (["HEAD", "STORE", "--model", "m"], "leave it out"),
    "missing input": (["HEAD", "missing.png", "--model", "MODEL"], "missing.png"),
    "overlap": (["HEAD", "STORE", "--overlap", "1"], "--overlap"),
    "bands": (["HEAD", "GREY", "--model", "MODEL"], "band"),
    "no image": (["HEAD", "TEXT", "--model", "MODEL"], "text.png"),
    "another model": (["HEAD", "IMAGE", "--model", "eurosat-tiny"], "was trained on"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(
    made: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    arguments, word = BAD[name]
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "grey.png")
    (tmp_path / "text.png").write_text("no image")
    places = {
        "HEAD": made["folder"] / "plain", "STORE": made["folder"] / "store.zarr", "MODEL": made["folder"] / "model",
        "IMAGE": tmp_path / "image.png", "GREY": tmp_path / "grey.png", "TEXT": tmp_path / "text.png",
    }  # fmt: skip
    before = sorted(tmp_path.iterdir())
    out = tmp_path / "out"
    assert main(["predict", *(str(places.get(a, a)) for a in arguments), "--out", str(out), "--json"]) == 2
    shown = capsys.readouterr()
    assert len(shown.err.splitlines()) == 1
    assert word in shown.err
    assert shown.out == ""
    assert sorted(tmp_path.iterdir()) == before


def test_names_of_images_stay_inside_the_folder() -> None:
    assert free_name("../../etc/x.jpg", ".png", []) == "etc/x.png"
    assert free_name("/a\\b.tif", ".tif", []) == "a/b.tif"
    assert free_name("a.jpg", ".png", ["a.png"]) == "a.jpg.png"


def test_outputs_never_overwrite_each_other(tmp_path: Path) -> None:
    """Names of images that lead to one file, to files that differ in case only, and to a file and a folder."""
    files: list[str] = []
    for name in ("a.png", "../a.png", "/a.png", "b/../a.png", "b.jpg.png", "b.png", "b.jpg", "A.jpg", "a.png/c.jpg",
                 "d/e.jpg", "d/e.png/f.jpg", "x/y", "x.jpg", "x.png/y.tif", "..", "."):  # fmt: skip
        files.append(free_name(name, ".png", files))
    assert len({file.lower() for file in files}) == len(files)
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        with (tmp_path / file).open("x"):
            pass


@pytest.mark.slow
def test_dubai_through_the_shipped_model(data_dir: Path, tmp_path: Path) -> None:
    """Real aerial images, whole tiles held out: the head beats taking the commonest class everywhere."""
    archive = data_dir / "dubai_aerial_segmentation.zip"
    if not archive.is_file():
        pytest.skip(f"{archive.name} is not in {data_dir}")
    from nec.datasets import open_dataset

    model, dataset = load_model("eurosat-tiny"), open_dataset(f"dubai:{archive}", tile=64, downscale=6)
    encode(dataset, tmp_path / "dubai.zarr", model, quality=0.5)
    store = open_store(tmp_path / "dubai.zarr")
    settings = HeadSettings(epochs=12, width=16, blocks=1)
    report = train_head(store, "segmentation", settings=settings).report
    assert store.groups is not None
    tiles = [set(store.groups[store.split == part]) for part in ("train", "val", "test")]
    assert sum(map(len, tiles)) == len(set.union(*tiles))
    confusion = np.array(report.figures["confusion"])
    assert report.figures["overall_accuracy"] > confusion.sum(axis=1).max() / confusion.sum() + 0.02
