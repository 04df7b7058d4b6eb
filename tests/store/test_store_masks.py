"""Masks and groups come back as they were given, in slices, and damage to them never goes unseen."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nec
from nec.store import IGNORE, ImageSpec, ImageWriter, document, info, open_store, verify

COLORS = [(60, 16, 152), (132, 41, 246), (110, 193, 228)]
Make = Callable[..., Path]


@pytest.fixture
def masked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(document, "MASK_CHUNK_BYTES", 500)  # 6 chunks of 10 images
    masks = np.random.default_rng(1).integers(0, 3, (53, 7, 6)).astype(np.uint8)
    masks[:, 2:4, 1] = IGNORE
    groups = np.array([f"tile {i // 9}" for i in range(53)])
    return {"masks": masks, "mask_classes": ["a", "b c", "d"], "mask_colors": COLORS, "groups": groups}


def test_they_come_back(tmp_path: Path, make: Make, masked: dict[str, Any]) -> None:
    store = open_store(make(tmp_path / "m.zarr", **masked))
    assert store.masks is not None
    assert (store.masks.shape, store.masks.dtype, len(store.masks)) == ((53, 7, 6), np.uint8, 53)
    np.testing.assert_array_equal(np.asarray(store.masks), masked["masks"])
    for index in (3, -1, slice(9, 31), slice(None, None, 7), [40, 3, 3], masked["groups"] == "tile 2"):
        np.testing.assert_array_equal(store.masks[index], masked["masks"][index])
    np.testing.assert_array_equal(store.masks[5:8, 1:, ::2], masked["masks"][5:8, 1:, ::2])
    assert (store.mask_classes, store.mask_colors) == (masked["mask_classes"], COLORS)
    assert store.groups is not None
    np.testing.assert_array_equal(store.groups, masked["groups"])
    assert verify(store.path).ok
    assert info(store.path)["masks"] == {"size": [7, 6], "classes": ["a", "b c", "d"]}
    assert info(store.path)["groups"] == 6


def test_their_bytes_are_side_information(tmp_path: Path, make: Make, masked: dict[str, Any]) -> None:
    plain, path = make(tmp_path / "p.zarr"), make(tmp_path / "m.zarr", **masked)
    side = info(path)["side_information"]
    assert side["masks"] == sum(file.stat().st_size for file in (path / "masks").glob("c.*"))
    assert side["groups"] == (path / "groups" / "c.0").stat().st_size
    assert info(path)["stored_bytes"] == info(plain)["stored_bytes"]
    on_disk = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    assert sum(side.values()) + info(path)["stored_bytes"] == on_disk


def test_a_store_without_them(store_path: Path) -> None:
    store = open_store(store_path)
    assert (store.masks, store.groups, store.mask_classes, store.mask_colors) == (None, None, None, None)


@pytest.mark.parametrize("damage", ["flip", "lose", "exchange"])
def test_damage_is_named(tmp_path: Path, make: Make, masked: dict[str, Any], damage: str) -> None:
    path = make(tmp_path / "m.zarr", **masked)
    chunk = path / "masks" / "c.2.0.0"
    if damage == "flip":
        data = bytearray(chunk.read_bytes())
        data[len(data) // 2] ^= 4
        chunk.write_bytes(data)
    elif damage == "lose":
        chunk.unlink()
    else:
        chunk.write_bytes((path / "masks" / "c.1.0.0").read_bytes())
    report = verify(path)
    assert [(fault["where"], fault["images"]) for fault in report.corrupt] == [("masks/c.2.0.0", [22, 32])]
    store = open_store(path)
    assert store.masks is not None
    np.testing.assert_array_equal(store.masks[:22], masked["masks"][:22])
    with pytest.raises(nec.CorruptError, match="images 22 to 32"):
        store.masks[30:35]


def test_resuming_with_other_masks_is_refused(
    tmp_path: Path, make: Make, masked: dict[str, Any], keywords: dict
) -> None:
    path = make(tmp_path / "m.zarr", **masked)
    with ImageWriter.resume(path, ImageSpec(**{**keywords, **masked})):
        pass
    for change in (
        {"masks": (masked["masks"] == 0).astype(np.uint8)},
        {"mask_colors": COLORS[::-1]},
        {"groups": masked["groups"][::-1]},
        {"masks": None},
    ):
        with pytest.raises(nec.InputError, match="begun with something else"):
            ImageWriter.resume(path, ImageSpec(**{**keywords, **masked, **change}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": np.zeros((52, 7, 6), np.uint8)}, "53, h, w"),
        ({"masks": np.zeros((53, 7, 6), np.int64)}, "uint8"),
        ({"masks": np.full((53, 7, 6), 3, np.uint8)}, "row 0, column 0"),
        ({"mask_classes": None}, "names of their classes"),
        ({"mask_colors": COLORS[:2]}, "mask_colors"),
        ({"mask_colors": [(0, 0, 256), *COLORS[:2]]}, "mask_colors"),
        ({"groups": ["a"]}, "groups"),
    ],
)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, make: Make, masked: dict[str, Any], change: dict, message: str
) -> None:
    with pytest.raises(nec.InputError, match=message):
        make(tmp_path / "m.zarr", **{**masked, **change})
    assert list(tmp_path.iterdir()) == []


def test_decode_writes_them(tmp_path: Path, make: Make, masked: dict[str, Any]) -> None:
    import zarr

    path = make(tmp_path / "m.zarr", **masked)
    for name in ("out.npz", "out.zarr"):
        nec.decode(path, tmp_path / name)
    with np.load(tmp_path / "out.npz") as arrays:
        np.testing.assert_array_equal(arrays["masks"], masked["masks"])
        np.testing.assert_array_equal(arrays["groups"], masked["groups"])
    with zipfile.ZipFile(tmp_path / "out.npz") as archive:
        assert "masks.npy" in archive.namelist()
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "out.zarr")["masks"][:], masked["masks"])
