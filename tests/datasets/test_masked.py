"""Datasets with masks: tiny copies of the published layouts, against the arrays they were painted from, and Dubai."""

from __future__ import annotations

import json
import pickle
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import nec.datasets.masked as masked
from nec.datasets import IGNORE, group_folds, open_dataset
from nec.datasets.masked import DUBAI_CODING, POTSDAM_CODING, POTSDAM_TEST, POTSDAM_TRAIN
from nec.errors import InputError

DUBAI_COLORS = [*(DUBAI_CODING.colors or ()), (0x9B, 0x9B, 0x9B), (0, 0, 0)]


def write(path: Path, pixels: np.ndarray, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.quantize(16, dither=Image.Dither.NONE) if palette else image).save(path)


def drawn(seed: int, height: int, width: int, values: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (height, width, 3), np.uint8), rng.integers(0, values, (height, width))


@pytest.fixture(scope="module")
def dubai(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Semantic segmentation dataset/Tile <t>/{images,masks}/image_part_00<n>, 8 tiles of 2 images of its own size."""
    root = tmp_path_factory.mktemp("dubai") / "Semantic segmentation dataset"
    truth = {}
    for tile in range(1, 9):
        for part in (1, 2):
            pixels, indices = drawn(10 * tile + part, 20 + tile, 30 - tile, 7)
            stem = f"Tile {tile}/{{}}/image_part_00{part}"
            write(root / f"{stem.format('images')}.png", pixels)
            (root / f"{stem.format('images')}.png").rename(root / f"{stem.format('images')}.jpg")
            write(root / f"{stem.format('masks')}.png", np.array(DUBAI_COLORS, np.uint8)[indices], tile in (2, 4))
            truth[f"{stem.format('images')}.jpg"] = pixels, np.where(indices > 4, IGNORE, indices)
    (root / "classes.json").write_text('{"classes": [{"title": "Water", "color": "#50E3C2"}]}')
    return root, truth


def test_dubai_whole_images(dubai: tuple[Path, dict], zipped: Callable[[Path], Path]) -> None:
    root, truth = dubai
    folder, archive = open_dataset(f"dubai:{root}"), open_dataset(f"dubai:{zipped(root)}")
    assert folder.names == archive.names == sorted(truth)
    assert folder.description["listing_sha256"] == archive.description["listing_sha256"]
    assert (len(folder), folder.has_masks, folder.labels) == (16, True, None)
    assert folder.mask_classes == ["Building", "Land (unpaved area)", "Road", "Vegetation", "Water"]
    assert folder.mask_colors == DUBAI_COLORS[:5]
    for i, name in enumerate(folder.names):
        for ds in (folder, archive):
            np.testing.assert_array_equal(ds.read(i), truth[name][0])
            np.testing.assert_array_equal(ds.masks([i])[0], truth[name][1])
    assert open_dataset(root).kind == open_dataset(zipped(root)).kind == "dubai"
    with pytest.raises(InputError, match="or cut them with --tile N"):
        folder.load(range(16))


def test_dubai_split_holds_out_whole_tiles(dubai: tuple[Path, dict]) -> None:
    seen = set()
    for seed in range(6):
        ds = open_dataset(f"dubai:{dubai[0]}", tile=8, seed=seed)
        assert {name.split("/")[0] for name in ds.names} == set(ds.groups)
        parts = {part: set(ds.groups[ds.split == part]) for part in ("train", "val", "test")}
        assert [len(groups) for groups in parts.values()] == [5, 1, 2]
        assert len(set.union(*parts.values())) == 8
        seen.add(tuple(sorted(parts["test"])))
    assert len(seen) > 2
    assert ds.description["split"] == {"method": "seeded, by group", "percent": [60, 15, 25], "seed": 5}


@settings(max_examples=25, deadline=None)
@given(tile=st.integers(3, 12), downscale=st.integers(1, 2), data=st.data())
def test_windows_cover_each_pixel_once(
    tile: int, downscale: int, data: st.DataObject, dubai: tuple[Path, dict]
) -> None:
    """Paint the windows back: every labelled pixel comes from exactly one window, images agree where they overlap."""
    root, truth = dubai
    ds = open_dataset(f"dubai:{root}", tile=min(tile, 10), downscale=downscale)
    whole = open_dataset(f"dubai:{root}", downscale=downscale)
    file = data.draw(st.sampled_from(sorted(truth)))
    number = whole.names.index(file)
    image, mask = whole.read(number), whole.masks([number])[0]
    assert image.shape[:2] == tuple(side // downscale for side in truth[file][0].shape[:2])
    count, covered, sizes = np.zeros(mask.shape, int), np.zeros(mask.shape, bool), 0
    for i, name in enumerate(ds.names):
        source, _, corner = name.partition("#")
        if source != file:
            continue
        top, left = map(int, corner.split(","))
        place = np.s_[top : top + ds.tile, left : left + ds.tile]
        np.testing.assert_array_equal(ds.read(i), image[place])
        own = ds.read_mask(i)
        assert own.shape == (ds.tile, ds.tile)
        np.testing.assert_array_equal(own[own != IGNORE], mask[place][own != IGNORE])
        count[place] += own != IGNORE
        covered[place] = True
        sizes += ds.file_sizes[i]
    np.testing.assert_array_equal(count, mask != IGNORE)
    assert covered.all()
    assert sizes == (root / file).stat().st_size


def test_windows_in_any_order_decode_each_image_once(dubai: tuple[Path, dict], monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    plain = masked.decode_image
    monkeypatch.setattr(masked, "decode_image", lambda data, name: decoded.append(name) or plain(data, name))
    ds = open_dataset(f"dubai:{dubai[0]}", tile=8)
    ds._cache.budget = 3000  # hardly more than one image
    order = np.random.default_rng(0).permutation(len(ds))
    images = ds.load(order, workers=1)
    assert len(decoded) == len(set(decoded)) == 16
    monkeypatch.undo()
    again = pickle.loads(pickle.dumps(ds))
    np.testing.assert_array_equal(images, again.load(order, workers=4))
    expected = np.stack([again.read_mask(int(i)) for i in order])
    np.testing.assert_array_equal(again.masks(order, workers=3), expected)


def test_threads_that_want_one_image_decode_it_once(dubai: tuple[Path, dict], monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    plain = masked.decode_image
    monkeypatch.setattr(masked, "decode_image", lambda data, name: decoded.append(name) or plain(data, name))
    ds = open_dataset(f"dubai:{dubai[0]}", tile=8)
    threads = [threading.Thread(target=ds.read, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == len({ds.names[i].partition("#")[0] for i in range(8)})


def test_what_is_read_can_be_changed_without_harm(dubai: tuple[Path, dict]) -> None:
    ds = open_dataset(f"dubai:{dubai[0]}", tile=8)
    before = ds.read(3).copy(), ds.read_mask(3).copy()
    ds.read(3)[:] = 0
    ds.read_mask(3)[:] = 0
    np.testing.assert_array_equal(ds.read(3), before[0])
    np.testing.assert_array_equal(ds.read_mask(3), before[1])


def test_group_folds_test_each_tile_once(dubai: tuple[Path, dict]) -> None:
    ds = open_dataset(f"dubai:{dubai[0]}", tile=8)
    for folds in (2, 4, 8):
        tested = []
        for split in group_folds(ds.groups, folds, seed=3):
            parts = [set(ds.groups[split == part]) for part in ("train", "val", "test")]
            assert all(parts)
            assert sum(map(len, parts)) == 8
            assert len(parts[1]) == 1
            tested += sorted(parts[2])
        assert sorted(tested) == sorted(set(ds.groups))
    assert any((a != b).any() for a, b in zip(group_folds(ds.groups, 4), group_folds(ds.groups, 4, 1), strict=True))
    for folds in (1, 9):
        with pytest.raises(InputError, match="8 groups"):
            group_folds(ds.groups, folds)


def test_split_lists_name_tiles_or_images(dubai: tuple[Path, dict], tmp_path: Path) -> None:
    root, _ = dubai
    (tmp_path / "train").write_text("Tile 1\nTile 2\n\n")
    (tmp_path / "test").write_text("Tile 3/images/image_part_002.jpg\n")
    ds = open_dataset(f"dubai:{root}", tile=8, split_lists={"train": tmp_path / "train", "test": tmp_path / "test"})
    assert {str(group) for group in ds.groups[ds.split == "train"]} == {"Tile 1", "Tile 2"}
    assert {ds.names[i].partition("#")[0] for i in ds.indices("test")} == {"Tile 3/images/image_part_002.jpg"}
    assert set(ds.split) == {"train", "test", ""}
    (tmp_path / "test").write_text("image_part_002.jpg\n")
    with pytest.raises(InputError, match="occurs twice"):
        open_dataset(f"dubai:{root}", split_lists={"test": tmp_path / "test"})
    (tmp_path / "test").write_text("Tile 2/images/image_part_002.jpg\n")
    with pytest.raises(InputError, match="lists of both train and test"):
        open_dataset(f"dubai:{root}", split_lists={"train": tmp_path / "train", "test": tmp_path / "test"})


def test_bad_tiles(dubai: tuple[Path, dict]) -> None:
    with pytest.raises(InputError, match=r"image_part_001.jpg is 14x10 px after --downscale 2, less than --tile 12"):
        open_dataset(f"dubai:{dubai[0]}", tile=12, downscale=2)
    for wrong in ({"tile": 0}, {"downscale": 0}):
        with pytest.raises(InputError, match="positive numbers"):
            open_dataset(f"dubai:{dubai[0]}", **wrong)


def test_datasets_without_masks_are_not_cut(eurosat_folder: Path) -> None:
    with pytest.raises(InputError, match="leave them out"):
        open_dataset(f"eurosat:{eurosat_folder}", tile=8)


POTSDAM_COLORS = [*(POTSDAM_CODING.colors or ()), (0, 0, 0)]


def potsdam_truth(tile: str) -> tuple[np.ndarray, np.ndarray]:
    pixels, indices = drawn(int(tile.replace("_", "")), 70, 70, 6)
    return pixels, indices


@pytest.fixture(scope="module")
def potsdam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2_Ortho_RGB/top_potsdam_<tile>_RGB.tif and 5_Labels_all/top_potsdam_<tile>_label.tif, all 38, of 70 px."""
    root = tmp_path_factory.mktemp("potsdam")
    for tile in (*POTSDAM_TRAIN, *POTSDAM_TEST):
        pixels, indices = potsdam_truth(tile)
        write(root / "2_Ortho_RGB" / f"top_potsdam_{tile}_RGB.tif", pixels)
        write(root / "5_Labels_all" / f"top_potsdam_{tile}_label.tif", np.array(POTSDAM_COLORS, np.uint8)[indices])
    return root


@pytest.fixture(scope="module")
def potsdam_prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """img_dir/{train,val}/<tile>_<left>_<top>_<right>_<bottom>.png of 32 px and ann_dir, as mmsegmentation's script."""
    root = tmp_path_factory.mktemp("prepared")
    for tile in (*POTSDAM_TRAIN[:3], *POTSDAM_TEST[:2]):
        pixels, indices = potsdam_truth(tile)
        for top in (0, 32, 38):
            for left in (0, 32, 38):
                name = f"{'train' if tile in POTSDAM_TRAIN else 'val'}/{tile}_{left}_{top}_{left + 32}_{top + 32}.png"
                place = np.s_[top : top + 32, left : left + 32]
                write(root / "img_dir" / name, pixels[place])
                write(root / "ann_dir" / name, (indices[place] + 1).astype(np.uint8))
    return root


def test_potsdam_published_tiles(potsdam: Path, tmp_path: Path) -> None:
    ds = open_dataset(f"potsdam:{potsdam}", tile=32)
    assert (len(ds), len(set(ds.groups)), ds.mask_classes[4], ds.mask_colors[4]) == (38 * 9, 38, "car", (255, 255, 0))
    assert {part: len(set(ds.groups[ds.split == part])) for part in ("train", "test")} == {"train": 24, "test": 14}
    assert set(ds.groups[ds.split == "test"]) == set(POTSDAM_TEST)
    with pytest.raises(InputError, match="70x70 px, less than --tile 512"):
        open_dataset(f"potsdam:{potsdam}")  # cut to 512 px unless told otherwise
    for folder in ("2_Ortho_RGB", "5_Labels_all"):  # as downloaded: zips, one with and one without its folder
        with zipfile.ZipFile(tmp_path / f"{folder}.zip", "w") as file:
            for path in (potsdam / folder).iterdir():
                file.write(path, f"{folder}/{path.name}" if folder.startswith("2") else path.name)
    from_zips = open_dataset(f"potsdam:{tmp_path}", tile=32)
    assert from_zips.description == ds.description | {"file": tmp_path.name}
    assert from_zips.names == ds.names
    for i in range(0, len(ds), 29):
        np.testing.assert_array_equal(ds.read(i), from_zips.read(i))
        np.testing.assert_array_equal(ds.read_mask(i), from_zips.read_mask(i))


def test_potsdam_prepared_equals_our_cut(potsdam: Path, potsdam_prepared: Path) -> None:
    cut, prepared = open_dataset(f"potsdam:{potsdam}", tile=32), open_dataset(f"potsdam:{potsdam_prepared}")
    assert open_dataset(potsdam_prepared).kind == "potsdam"
    assert (len(prepared), prepared.load(range(45)).shape) == (45, (45, 32, 32, 3))
    assert {part: set(prepared.groups[prepared.split == part]) for part in ("train", "test")} == {
        "train": set(POTSDAM_TRAIN[:3]),
        "test": set(POTSDAM_TEST[:2]),
    }
    for i, name in enumerate(prepared.names):
        left, top = map(int, Path(name).stem.split("_")[2:4])
        twin = next(
            k
            for k, own in enumerate(cut.names)
            if f"_{prepared.groups[i]}_RGB" in own and own.endswith(f"#{top},{left}")
        )
        np.testing.assert_array_equal(prepared.read(i), cut.read(twin))
        np.testing.assert_array_equal(prepared.read_mask(i), cut.read_mask(twin))


def test_potsdam_errors(potsdam: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    pixels, indices = potsdam_truth("2_10")
    write(tmp_path / "a" / "top_potsdam_2_10_RGB.tif", pixels)
    with pytest.raises(InputError, match=r"lacks top_potsdam_\*_label.tif: put 2_Ortho_RGB"):
        open_dataset(f"potsdam:{tmp_path}")
    label = np.array(POTSDAM_COLORS, np.uint8)[indices]
    write(tmp_path / "a" / "top_potsdam_2_10_label.tif", label[:60])
    with pytest.raises(InputError, match=r"label.tif is 70x60 px, its image .*RGB.tif is 70x70"):
        open_dataset(f"potsdam:{tmp_path}", tile=32).masks([0])
    label[3, 4] = (1, 2, 3)
    write(tmp_path / "a" / "top_potsdam_2_10_label.tif", label)
    with pytest.raises(InputError, match=r"2_10_label.tif has 1 pixel\(s\) of the colour #010203, which is no class"):
        open_dataset(f"potsdam:{tmp_path}", tile=32).masks([0])
    write(tmp_path / "a" / "top_potsdam_9_10_RGB.tif", pixels)
    with pytest.raises(InputError, match=r"no mask for a/top_potsdam_9_10_RGB.tif"):
        open_dataset(f"potsdam:{tmp_path}")
    write(tmp_path / "a" / "top_potsdam_9_10_label.tif", label)
    with pytest.raises(InputError, match="none of the 38 labelled tiles"):
        open_dataset(f"potsdam:{tmp_path}")


def test_images_and_masks(tmp_path: Path, zipped: Callable[[Path], Path]) -> None:
    root, truth = tmp_path / "mine", {}
    for n in range(10):
        pixels, indices = drawn(n, 12, 12, 3)
        write(root / "images" / f"{n}.tif", pixels)
        write(root / "masks" / f"{n}.png", np.array([(9, 9, 9), (1, 2, 3), (200, 0, 0)], np.uint8)[indices])
        truth[f"images/{n}.tif"] = indices
    colors = [{"name": name, "color": color} for name, color in (("a", "#090909"), ("b", [1, 2, 3]), ("c", "#C80000"))]
    (root / "classes.json").write_text(json.dumps(colors))
    for path in (root, zipped(root)):
        ds = open_dataset(f"images+masks:{path}")
        assert (ds.mask_classes, ds.mask_colors[1], ds.kind) == (["a", "b", "c"], (1, 2, 3), "images+masks")
        assert [list(ds.split).count(part) for part in ("train", "val", "test")] == [6, 2, 2]
        masks = dict(zip(ds.names, ds.masks(range(10)), strict=True))
        assert set(masks) == set(truth)
        assert all((masks[name] == truth[name]).all() for name in truth)
    cut = open_dataset(f"images+masks:{root}", tile=6)
    assert len(cut) == 40
    for group in set(cut.groups):  # the windows of an image stay together
        assert len(set(cut.split[cut.groups == group])) == 1
    (root / "classes.json").unlink()
    with pytest.raises(InputError, match=r"masks/0.png, without a classes.json.*class numbers are expected"):
        open_dataset(f"images+masks:{root}")
    for name, indices in truth.items():
        write(root / "masks" / (Path(name).stem + ".png"), indices.astype(np.uint8))
    plain = open_dataset(root)
    assert (plain.kind, plain.mask_classes, plain.mask_colors) == ("images+masks", ["0", "1", "2"], None)
    np.testing.assert_array_equal(plain.masks([4])[0], truth[plain.names[4]])
    (root / "masks" / "3.png").unlink()
    with pytest.raises(InputError, match=r"no mask for images/3.tif \(1 such"):
        open_dataset(root)
    write(tmp_path / "bare" / "images" / "a.png", pixels)
    with pytest.raises(InputError, match="no images in a folder 'masks'"):
        open_dataset(f"images+masks:{(tmp_path / 'bare')}")


def test_images_and_masks_in_groups(tmp_path: Path, zipped: Callable[[Path], Path]) -> None:
    root = tmp_path / "cities"
    for city in range(5):
        for n in range(2):
            pixels, indices = drawn(n, 6, 6, 2)
            write(root / f"city{city}" / "images" / f"{n}.png", pixels)
            write(root / f"city{city}" / "masks" / f"{n}.png", indices.astype(np.uint8))
    folder, archive = open_dataset(f"images+masks:{root}"), open_dataset(f"images+masks:{zipped(root)}")
    for ds in (folder, archive):
        assert list(ds.groups[:4]) == ["city0", "city0", "city1", "city1"]
        assert [len(set(ds.groups[ds.split == part])) for part in ("train", "val", "test")] == [3, 1, 1]
    np.testing.assert_array_equal(folder.split, archive.split)
    one = open_dataset(f"images+masks:{root / 'city1'}")
    assert (list(one.groups), one.names) == (["0", "1"], ["images/0.png", "images/1.png"])


@pytest.mark.parametrize("downscale", [2, 4])
def test_real_dubai(data_dir: Path, downscale: int) -> None:
    path = data_dir / "dubai_aerial_segmentation.zip"
    if not path.exists():
        pytest.skip(f"{path} not found")
    ds = open_dataset(f"dubai:{path}", tile=64, downscale=downscale)
    assert len(set(ds.groups)) == 8
    assert len({name.partition("#")[0] for name in ds.names}) == 72
    with zipfile.ZipFile(path) as file:
        jpegs = sum(entry.file_size for entry in file.infolist() if entry.filename.endswith(".jpg"))
    assert ds.raw_bytes == jpegs
    for tile in ("Tile 1", "Tile 2", "Tile 4"):  # 2 and 4 have palettes
        chosen = np.flatnonzero(
            (ds.groups == tile) & np.char.startswith(np.array(ds.names), f"{tile}/images/image_part_003")
        )
        masks = ds.masks(chosen)
        assert masks.shape == (len(chosen), 64, 64)
        assert set(np.unique(masks)) <= {0, 1, 2, 3, 4, IGNORE}
        assert len(np.unique(masks)) >= 3


def test_real_dubai_mask_by_a_dictionary(data_dir: Path) -> None:
    path = data_dir / "dubai_aerial_segmentation.zip"
    if not path.exists():
        pytest.skip(f"{path} not found")
    ds = open_dataset(f"dubai:{path}")
    number = {color: index for index, color in enumerate(ds.mask_colors)} | {(0, 0, 0): 255, (155, 155, 155): 255}
    for index in (9, 30):  # the first image of tile 2 (palette) and one of tile 4
        name = ds.files[index].mask
        with zipfile.ZipFile(path) as file, Image.open(file.open(name)) as image:
            colors = image.convert("RGB").getcolors(100)
        counts = dict.fromkeys(number.values(), 0)
        for count, color in colors:
            counts[number[color]] += count
        found = np.bincount(ds.masks([index])[0].ravel(), minlength=256)
        assert {value: found[value] for value in counts} == counts
