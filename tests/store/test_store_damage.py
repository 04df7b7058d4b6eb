"""Damage anywhere is reported by `verify` and raises on reading; never a wrong number."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import nec
from nec.store import open_store, verify

SHARDS = [f"embeddings/c.{i}.0.0.0" for i in range(5)]


def read_everything(path: Path) -> np.ndarray:
    store = open_store(path)
    assert store.names
    assert store.labels is not None
    assert store.split is not None
    return store.embeddings[:]


def is_reported(path: Path) -> bool:
    """Whether `verify` says that the store is damaged, or refuses to take it for a store at all."""
    try:
        return not verify(path).ok
    except nec.NecError:
        return True


def test_a_whole_store_verifies(store_path: Path) -> None:
    assert verify(store_path).to_dict() == {"ok": True, "chunks": 14, "found": 14, "corrupt": []}


def test_a_flipped_bit_in_any_place_of_a_shard(store_path: Path) -> None:
    rng = np.random.default_rng(3)
    for _ in range(60):
        file = store_path / SHARDS[rng.integers(5)]
        whole = file.read_bytes()
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        file.write_bytes(damaged)
        report = verify(store_path)
        assert not report.ok
        assert {fault["where"] for fault in report.corrupt} == {str(file.relative_to(store_path))}
        with pytest.raises(nec.CorruptError, match=file.name):
            open_store(store_path).embeddings[:]
        file.write_bytes(whole)
    assert verify(store_path).ok


def test_undamaged_chunks_stay_readable_and_the_damaged_one_is_named(store_path: Path, decoded: np.ndarray) -> None:
    file = store_path / SHARDS[1]
    damaged = bytearray(file.read_bytes())
    damaged[10] ^= 1  # in the first chunk of the second shard: images 12 to 15
    file.write_bytes(damaged)
    store = open_store(store_path)
    np.testing.assert_array_equal(store.embeddings[16:24], decoded[16:24])
    with pytest.raises(nec.CorruptError, match=r"chunk 3 \(images 12 to 15"):
        store.embeddings[[0, 50, 14]]
    report = verify(store_path)
    assert [fault["images"] for fault in report.corrupt] == [[12, 15]]
    assert (report.found, report.chunks) == (13, 14)


@pytest.mark.parametrize("keep", [0, 1, 30, 0.5, -1])
def test_a_truncated_shard(store_path: Path, keep: float) -> None:
    file = store_path / SHARDS[2]
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(nec.CorruptError, match="chunk 6"):
        open_store(store_path).embeddings[24:]
    with pytest.raises(nec.CorruptError, match="chunk 8"):
        open_store(store_path).embeddings[33]
    assert len(verify(store_path).corrupt) == 3


def test_a_lost_shard_is_never_read_as_nan(store_path: Path) -> None:
    (store_path / SHARDS[4]).unlink()
    for index in (50, slice(None), [3, 52]):
        with pytest.raises(nec.CorruptError, match=r"chunk 1[23] .*missing"):
            open_store(store_path).embeddings[index]
    assert verify(store_path).found == 12


def test_shards_exchanged_or_of_another_store(tmp_path: Path, store_path: Path, make: Callable[..., Path]) -> None:
    first, second = store_path / SHARDS[0], store_path / SHARDS[1]
    data = first.read_bytes()
    shutil.copy(second, first)
    second.write_bytes(data)
    assert [fault["where"] for fault in verify(store_path).corrupt] == SHARDS[:2]
    other = make(tmp_path / "other.zarr", quality=8.0)
    shutil.copy(store_path / SHARDS[3], other / SHARDS[3])
    assert [fault["where"] for fault in verify(other).corrupt] == [SHARDS[3]]


def test_a_changed_byte_anywhere_in_the_metadata(store_path: Path, decoded: np.ndarray) -> None:
    rng = np.random.default_rng(5)
    documents = sorted(store_path.rglob("zarr.json"))
    assert len(documents) == 5
    for file in documents:
        whole = file.read_bytes()
        for place in rng.choice(len(whole), size=12, replace=False):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << rng.integers(7)
            file.write_bytes(damaged)
            assert is_reported(store_path), (file, place, damaged[place - 20 : place + 20])
            with contextlib.suppress(nec.NecError):
                np.testing.assert_array_equal(read_everything(store_path), decoded)
        file.write_bytes(whole)
    assert verify(store_path).ok


@pytest.mark.parametrize("name", ["labels", "names", "split"])
def test_labels_names_and_split_are_checked(store_path: Path, name: str) -> None:
    file = store_path / name / "c.0"
    whole = file.read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        file.write_bytes(damaged)
        with pytest.raises(nec.CorruptError, match=name):
            read_everything(store_path)
        assert [fault["where"] for fault in verify(store_path).corrupt] == [name]
    file.unlink()
    with pytest.raises(nec.CorruptError, match=name):
        read_everything(store_path)
    assert not verify(store_path).ok


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "\x80", '{"attributes": []}', "{}", '{"attributes":{"nec":{}}}']
)
def test_broken_metadata_documents(store_path: Path, text: str) -> None:
    (store_path / "zarr.json").write_text(text, encoding="latin-1")
    with pytest.raises(nec.NecError):
        open_store(store_path)
    assert is_reported(store_path)


def test_a_lost_metadata_document(store_path: Path) -> None:
    (store_path / "embeddings" / "zarr.json").unlink()
    assert verify(store_path).corrupt == [{"where": "embeddings/zarr.json", "reason": "missing"}]
    (store_path / "zarr.json").unlink()
    with pytest.raises(nec.InputError, match="not a store"):
        open_store(store_path)


def test_a_newer_format_asks_for_an_upgrade(store_path: Path) -> None:
    document = json.loads((store_path / "zarr.json").read_text())
    document["attributes"]["nec"]["format_version"] = 99
    (store_path / "zarr.json").write_text(json.dumps(document))
    with pytest.raises(nec.InputError, match="upgrade"):
        open_store(store_path)


def test_what_is_not_a_store(tmp_path: Path) -> None:
    import zarr

    zarr.create_group(tmp_path / "plain.zarr")
    (tmp_path / "file").write_text("x")
    for path, word in [
        (tmp_path / "none.zarr", "no such store"),
        (tmp_path, "not a store"),
        (tmp_path / "plain.zarr", "not a store that nec wrote"),
        (tmp_path / "file", "is a file"),
    ]:
        with pytest.raises(nec.InputError, match=word):
            open_store(str(path))
