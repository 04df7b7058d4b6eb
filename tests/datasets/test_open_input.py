"""What an input is: a dataset or scenes, by what lies on the disk."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_chips import chip, write

from nec.datasets import Dataset, open_dataset, open_input
from nec.errors import InputError
from nec.scenes import Scene, open_scene

Image = pytest.importorskip("PIL.Image")


def picture(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)
    return path


def opened(source: Any, **options: Any) -> Any:
    """The kind of a dataset, or the names of scenes."""
    found = open_input(source, **options)
    return found.kind if isinstance(found, Dataset) else [scene.name for scene in found]


def test_rasters_are_scenes(tmp_path: Path) -> None:
    one, two = write(tmp_path / "dates" / "one.tif", chip()), write(tmp_path / "dates" / "two.tif", chip())
    assert opened(one) == opened(str(one)) == opened(one.as_uri()) == opened(f"scene:{one}") == ["one"]
    assert opened([one, str(two)]) == opened(tmp_path / "dates") == opened(f"{tmp_path / 'dates'}/") == ["one", "two"]
    for name in ("one.tif.aux.xml", "one.tif.ovr", "one.tfw", "Thumbs.db", "notes.txt"):
        (tmp_path / "dates" / name).write_text("")
    (tmp_path / "dates" / "empty").mkdir()
    assert opened(tmp_path / "dates") == ["one", "two"]
    for band in ("B04", "B08"):  # files of one band each are one scene
        write(tmp_path / "bands" / f"{band}.tif", chip(1))
    (scene,) = open_input(tmp_path / "bands")
    assert isinstance(scene, Scene)
    assert [band.name for band in scene.bands] == ["B04", "B08"]
    assert len(open_input(tmp_path / "bands", bands=["B08"], scale=1e-4)[0].bands) == 1
    bare = shutil.copy(one, tmp_path / "without_suffix")
    assert opened(bare) == ["without_suffix"]


def test_items_are_scenes(tmp_path: Path) -> None:
    pytest.importorskip("pystac")
    path = write(tmp_path / "red.tif", chip(1))
    document = {
        "type": "Feature", "stac_version": "1.0.0", "id": "x", "geometry": None, "links": [],
        "properties": {"datetime": "2025-03-02T00:00:00Z"},
        "assets": {"red": {"href": str(path), "type": "image/tiff"}},
    }  # fmt: skip
    (tmp_path / "item #1.json").write_text(json.dumps(document))
    assert opened(document) == opened(tmp_path / "item #1.json") == opened(str(tmp_path / "item #1.json")) == ["x"]


def test_images_are_datasets(tmp_path: Path) -> None:
    for name in ("a/1.png", "b/2.png"):
        picture(tmp_path / "classes" / name)
    for name in ("a/1.tif", "b/2.tif"):
        write(tmp_path / "chips" / name, chip(13))
    picture(tmp_path / "mixed" / "1.png")
    write(tmp_path / "mixed" / "2.tif", chip())
    assert opened(tmp_path / "classes") == opened(f"folder:{tmp_path / 'classes'}") == "folder"
    assert opened(tmp_path / "chips") == opened(tmp_path / "mixed") == "folder"
    assert opened(Path(shutil.make_archive(str(tmp_path / "z"), "zip", tmp_path / "classes"))) == "folder"
    assert opened(picture(tmp_path / "x.png")) == "files"
    write(tmp_path / "flat" / "1.tif", chip(13))
    assert opened(f"folder:{tmp_path / 'flat'}", bands=[4, 3, 2]) == "folder"  # asked for
    assert open_input(tmp_path / "chips", bands=[1, 2]).read(0).shape == (20, 30, 2)


def test_a_kind_counts_less_than_what_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "folder:x.tif", chip())
    assert opened("folder:x.tif") == ["folder:x"]
    picture(tmp_path / "eurosat:y" / "a" / "1.png")
    assert opened("eurosat:y") == "folder"
    picture(tmp_path / "odd #1, 2?" / "a" / "1.png")
    assert opened("odd #1, 2?") == "folder"


def test_what_is_open_already(tmp_path: Path) -> None:
    images = np.zeros((2, 8, 8, 3), np.uint8)
    assert len(open_input(images)) == 2
    dataset = open_dataset(picture(tmp_path / "x.png"))
    assert open_input(dataset) is dataset
    scene = open_scene(write(tmp_path / "a.tif", chip()))
    assert open_input(scene) == open_input([scene]) == [scene]


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("none.tif", {}, "none.tif does not exist"),
        ("marsrover:x", {}, "'marsrover' in 'marsrover:x' is no known kind of dataset; known are folder"),
        ("scene:", {}, "lacks a path"),
        ([], {}, "no input was given"),
        (["a.tif", "x.png"], {}, r"a\.tif is a scene and .*x\.png is not"),
        ("x.png", {"resolution": 5}, "--resolution belongs to scenes"),
        ("a.tif", {"tile": 5}, "--tile belongs to images"),
        ("notes.txt", {}, r"notes\.txt is missing, damaged or not a readable raster"),
        ("store.zarr", {}, "is a store"),
        (5, {}, "a scene is opened from"),
    ],
)
def test_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Any, options: dict[str, Any], message: str
) -> None:
    pytest.importorskip("pystac")
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.tif", chip())
    picture(tmp_path / "x.png")
    (tmp_path / "notes.txt").write_text("no raster")
    (tmp_path / "store.zarr").mkdir()
    (tmp_path / "store.zarr" / "zarr.json").write_text("{}")
    with pytest.raises(InputError, match=message):
        open_input(source, **options)
