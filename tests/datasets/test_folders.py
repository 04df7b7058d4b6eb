"""Folders and zips of images against what was written into them."""

from __future__ import annotations

import pickle
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nec.datasets import open_dataset
from nec.errors import InputError


def test_eurosat_folder_and_zip_are_the_same_dataset(eurosat_folder: Path, zipped: Callable[[Path], Path]) -> None:
    folder, archive = (open_dataset(f"eurosat:{path}") for path in (eurosat_folder, zipped(eurosat_folder)))
    assert len(folder) == 120
    assert folder.names == archive.names == sorted(folder.names)
    assert folder.names[0] == "AnnualCrop/AnnualCrop_1.jpg"
    assert folder.raw_bytes == archive.raw_bytes == sum(f.stat().st_size for f in eurosat_folder.rglob("*.jpg"))
    assert folder.description["listing_sha256"] == archive.description["listing_sha256"]
    np.testing.assert_array_equal(folder.split, archive.split)
    np.testing.assert_array_equal(folder.load(range(120)), archive.load(range(120), workers=4))
    expected = np.asarray(Image.open(eurosat_folder / folder.names[70]))
    np.testing.assert_array_equal(archive.read(70), expected)
    assert [folder.class_names[label] for label in folder.labels] == [name.split("/")[0] for name in folder.names]


def test_split_is_within_class_seeded_and_independent_of_other_images(eurosat_folder: Path, tmp_path: Path) -> None:
    ds = open_dataset(f"eurosat:{eurosat_folder}")
    for label in range(10):
        parts = list(ds.split[ds.labels == label])
        assert [parts.count(part) for part in ("train", "val", "test")] == [8, 2, 2]  # 12 x 70/80% = 8.4, 9.6
    other = open_dataset(f"eurosat:{eurosat_folder}", seed=1)
    assert (ds.split != other.split).any()
    assert ds.description["split"] == {"method": "seeded", "percent": [70, 10, 20], "seed": 0}
    shutil.copytree(eurosat_folder / "River", tmp_path / "EuroSAT" / "River")
    alone = open_dataset(f"eurosat:{tmp_path}")
    np.testing.assert_array_equal(alone.split, ds.split[ds.labels == 8])
    assert set(alone.labels) == {8}


def test_indices_of_parts(eurosat_folder: Path) -> None:
    ds = open_dataset(f"eurosat:{eurosat_folder}")
    both = ds.indices(["val", "test"])
    assert set(ds.split[both]) == {"val", "test"}
    assert len(both) + len(ds.indices("train")) == len(ds)
    with pytest.raises(InputError, match=r"'dev'.*parts are test, train, val"):
        ds.indices("dev")


def test_ucmerced_zip(ucmerced_folder: Path, zipped: Callable[[Path], Path]) -> None:
    ds = open_dataset(f"ucmerced:{zipped(ucmerced_folder)}")
    assert (len(ds), len(ds.class_names), ds.image_size) == (105, 21, 256)
    assert [list(ds.split).count(part) for part in ("train", "val", "test")] == [63, 21, 21]
    with pytest.raises(InputError, match=r"beach/beach02.tif is 31x32 px.*--image-size"):
        ds.load(range(len(ds)))
    assert ds.load(range(len(ds)), 24).shape == (105, 24, 24, 3)
    assert open_dataset(ucmerced_folder).kind == "ucmerced"


def test_ucmerced_split_lists(ucmerced_folder: Path, tmp_path: Path) -> None:
    lists = {part: tmp_path / f"{part}.txt" for part in ("train", "test")}
    lists["train"].write_text("beach00.tif\nriver/river01.tif\n")
    lists["test"].write_text("beach01.tif\n\n")
    ds = open_dataset(f"ucmerced:{ucmerced_folder}", split_lists=lists)
    assert {ds.names[i] for i in ds.indices("train")} == {"beach/beach00.tif", "river/river01.tif"}
    assert list(ds.split).count("") == 102
    lists["test"].write_text("beach00.tif\n")
    with pytest.raises(InputError, match="both train and test"):
        open_dataset(f"ucmerced:{ucmerced_folder}", split_lists=lists)
    lists["test"].write_text("nowhere.tif\n")
    with pytest.raises(InputError, match=r"nowhere.tif"):
        open_dataset(f"ucmerced:{ucmerced_folder}", split_lists=lists)


def test_folder_with_and_without_classes(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/1.webp", "a/x.jpg", ".hidden/y.png", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if not name.endswith("txt"):
            Image.new("RGB", (8, 6), (1, 2, 3)).save(tmp_path / name)
    ds = open_dataset(f"folder:{tmp_path}")
    assert ds.names == ["a/x.jpg", "b/1.webp", "b/2.png"]
    assert (ds.class_names, list(ds.labels), ds.split) == (["a", "b"], [0, 1, 1], None)
    assert ds.load([0, 2]).shape == (2, 6, 8, 3)
    flat = open_dataset(tmp_path / "b")
    assert (flat.names, flat.labels, flat.class_names) == (["1.webp", "2.png"], None, None)
    Image.new("RGB", (8, 6)).save(tmp_path / "stray.png")
    with pytest.raises(InputError, match="another depth"):
        open_dataset(f"folder:{tmp_path}")


def test_bad_paths(tmp_path: Path, eurosat_folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.zip").write_bytes(b"PK nothing")
    for spec, message in {
        f"folder:{tmp_path / 'empty'}": "holds no images",
        str(tmp_path / "empty"): "holds no images",
        f"eurosat:{tmp_path / 'none'}": "does not exist",
        f"eurosat:{tmp_path / 'file.zip'}": "neither a folder nor a zip",
        "marsrover:somewhere": "known are folder, eurosat, ucmerced",
        "eurosat:": "lacks a path",
        "https://example.org/a.tif": "URLs are not read yet",
        f"ucmerced:{eurosat_folder}": "no class of ucmerced",
        f"eurosat:{eurosat_folder / 'River'}": "no class folders",
    }.items():
        with pytest.raises(InputError, match=message):
            open_dataset(spec)
    with pytest.raises(InputError, match="no input"):
        open_dataset([])


def zip_of(path: Path, entries: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return path


@pytest.mark.parametrize("name", ["../out.png", "a/../../out.png", "/etc/out.png", "c:/out.png", "a\\..\\out.png"])
def test_unsafe_zip_entries(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="unsafe name"):
        open_dataset(f"folder:{zip_of(tmp_path / 'a.zip', {name: b'x'})}")


def test_damaged_zip_entry(tmp_path: Path, eurosat_folder: Path) -> None:
    data = (eurosat_folder / "River" / "River_1.jpg").read_bytes()
    path = zip_of(tmp_path / "a.zip", {"x.jpg": data})
    whole = bytearray(path.read_bytes())
    whole[len(data) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(InputError, match=r"x.jpg in .*a.zip is damaged"):
        open_dataset(f"folder:{path}").read(0)


def test_zip_read_by_many_threads_and_after_pickling(eurosat_folder: Path, zipped: Callable[[Path], Path]) -> None:
    ds = pickle.loads(pickle.dumps(open_dataset(f"eurosat:{zipped(eurosat_folder)}")))
    expected = [ds.read(i).copy() for i in range(len(ds))]
    wrong: list[int] = []

    def work(seed: int) -> None:
        for i in np.random.default_rng(seed).permutation(len(ds)):
            if not np.array_equal(ds.read(int(i)), expected[i]):
                wrong.append(int(i))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_real_eurosat(data_dir: Path) -> None:
    path = data_dir / "EuroSAT_RGB.zip"
    if not path.exists():
        pytest.skip(f"{path} not found")
    ds = open_dataset(f"eurosat:{path}")
    assert (len(ds), len(ds.class_names), ds.raw_bytes) == (27000, 10, 91844360)
    assert [len(ds.indices(part)) for part in ("train", "val", "test")] == [18900, 2700, 5400]
    for label, count in enumerate(np.bincount(ds.labels)):
        assert ((ds.split == "test") & (ds.labels == label)).sum() == count // 5
    batch = ds.load(np.arange(0, 27000, 500))
    assert (batch.shape, batch.dtype) == ((54, 64, 64, 3), np.uint8)
    # Helber et al.: sea is blue and dark, so the mean of blue exceeds that of red there
    sea = ds.load(np.flatnonzero(ds.labels == 9)[:100]).reshape(-1, 3).mean(0)
    assert sea[2] > sea[0]
