"""UC Merced, NWPU-RESISC45, AID and MillionAID: layouts, class lists and split lists on tiny copies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nec.datasets import open_dataset
from nec.datasets.folders import AID, MILLIONAID, RESISC45, FolderLayout
from nec.datasets.open import KINDS
from nec.errors import InputError


def images(root: Path, files: list[str]) -> Path:
    for number, file in enumerate(files):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number % 256, number // 256, 7)).save(root / file, quality=95)
    return root


def of_classes(layout: FolderLayout, pattern: str, count: int) -> list[str]:
    return [pattern.format(c, n, c.lower()) for c in layout.classes or () for n in range(1, count + 1)]


@pytest.mark.parametrize(("layout", "count"), [(RESISC45, 45), (AID, 30), (MILLIONAID, 51)])
def test_class_lists(layout: FolderLayout, count: int) -> None:
    assert layout.classes is not None
    assert len(set(layout.classes)) == count
    assert list(layout.classes) == sorted(layout.classes)


def test_every_kind_is_in_the_message_and_the_documents() -> None:
    documents = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
    with pytest.raises(InputError) as refused:
        open_dataset("misspelt:somewhere")
    for kind, layout in KINDS.items():
        assert kind in str(refused.value)
        assert f"`{kind}:" in documents
        assert layout.about


def test_resisc45_with_and_without_the_published_lists(tmp_path: Path, zipped: Callable[[Path], Path]) -> None:
    root = images(tmp_path / "NWPU-RESISC45", of_classes(RESISC45, "{0}/{0}_{1:03d}.jpg", 5))
    for path in (root, zipped(root)):
        ds = open_dataset(f"resisc45:{path}")
        assert (len(ds), len(ds.class_names), ds.image_size) == (225, 45, 256)
        assert [list(ds.split).count(part) for part in ("train", "val", "test")] == [135, 45, 45]
        assert ds.description["split"]["method"] == "seeded"
    assert open_dataset(root).kind == "resisc45"
    for part, numbers in {"train": (1, 3), "val": (2,), "test": (4,)}.items():
        lines = [f"{name}_{n:03d}.jpg" for name in RESISC45.classes or () for n in numbers]
        (tmp_path / f"resisc45-{part}.txt").write_text("\n".join(lines))
    for path in (root, zipped(root), tmp_path):  # beside the folder, beside the zip
        if path == tmp_path:
            zipped(root).unlink()  # only images in the folder that is given
        ds = open_dataset(f"resisc45:{path}")
        assert ds.description["split"]["method"] == "lists"
        expected = {"001": "train", "003": "train", "002": "val", "004": "test", "005": ""}
        assert [expected[name[-7:-4]] for name in ds.names] == list(ds.split)


def test_ucmerced_lists_beside_the_data(ucmerced_folder: Path) -> None:
    lists = {part: ucmerced_folder.parent / f"uc_merced-{part}.txt" for part in ("train", "val", "test")}
    try:
        for n, path in enumerate(lists.values()):
            path.write_text(f"beach0{n}.tif\nriver0{n}.tif\n")
        ds = open_dataset(f"ucmerced:{ucmerced_folder}")
        assert [ds.names[i] for i in ds.indices("val")] == ["beach/beach01.tif", "river/river01.tif"]
        lists["val"].unlink()  # an incomplete set of lists is no published split
        assert open_dataset(f"ucmerced:{ucmerced_folder}").description["split"]["method"] == "seeded"
    finally:
        for path in lists.values():
            path.unlink(missing_ok=True)


def test_aid_halves(tmp_path: Path, zipped: Callable[[Path], Path]) -> None:
    root = images(tmp_path / "AID", of_classes(AID, "{0}/{2}_{1}.jpg", 4))
    ds = open_dataset(f"aid:{zipped(root)}")
    assert (len(ds), ds.class_names[-1], ds.image_size, ds.names[0]) == (120, "Viaduct", 600, "Airport/airport_1.jpg")
    for label in range(30):
        assert sorted(ds.split[ds.labels == label]) == ["test", "test", "train", "train"]


MILLION = [
    "train/agriculture_land/arable_land/dry_field/P0115678.jpg",
    "train/agriculture_land/arable_land/dry_field/P0115679.jpg",
    "train/agriculture_land/woodland/forest/P0200001.jpg",
    "train/water_area/lake/P0300001.jpg",
    "test/P0000001.jpg",
    "test/P0000002.jpg",
]


def test_millionaid_published_tree(tmp_path: Path, zipped: Callable[[Path], Path]) -> None:
    root = images(tmp_path / "Million-AID", MILLION)
    for path in (root, zipped(root)):
        ds = open_dataset(f"millionaid:{path}")
        assert (ds.names, len(ds.class_names), ds.split) == (sorted(MILLION), 51, None)
        named = {
            name: "" if label < 0 else ds.class_names[label] for name, label in zip(ds.names, ds.labels, strict=True)
        }
        assert named == {name: "" if name.startswith("test") else name.split("/")[-2] for name in MILLION}
    train = open_dataset(f"millionaid:{root / 'train'}")
    assert (len(train), sorted(set(train.labels))) == (4, [13, 14, 22])
    test = open_dataset(f"millionaid:{root / 'test'}")
    assert (len(test), test.labels, test.class_names, test.split) == (2, None, None, None)
    assert test.load([0, 1]).shape == (2, 8, 8, 3)
    images(root, ["train/water_area/puddle/P1.jpg"])
    with pytest.raises(InputError, match="'train/water_area/puddle', which is no class of millionaid"):
        open_dataset(f"millionaid:{root}")


def test_millionaid_lists_give_split_and_classes(tmp_path: Path) -> None:
    root = images(tmp_path / "millionaid", [f"all_img/P{n}.jpg" for n in range(6)])
    (root / "train_labels.txt").write_text("P0.jpg dry_field 0\nP1.jpg works 50\nP4.jpg works 50\n")
    (root / "valid_labels.txt").write_text("P2.jpg dry_field 0\n")
    ds = open_dataset(f"millionaid:{root}")
    assert list(ds.split) == ["train", "train", "val", "", "train", ""]
    assert [ds.class_names[label] if label >= 0 else None for label in ds.labels] == [
        "dry_field", "works", "dry_field", None, "works", None,
    ]  # fmt: skip
    (tmp_path / "train.csv").write_text("P3.jpg,lake\nP5.jpg,river\n")
    given = open_dataset(f"millionaid:{root}", split_lists={"train": tmp_path / "train.csv"})
    assert [given.class_names[label] for label in given.labels if label >= 0] == ["lake", "river"]
    assert list(np.flatnonzero(given.split == "train")) == [3, 5]
    (tmp_path / "train.csv").write_text("P3.jpg,pond\n")
    with pytest.raises(InputError, match="'pond', which is no class of millionaid"):
        open_dataset(f"millionaid:{root}", split_lists={"train": tmp_path / "train.csv"})
