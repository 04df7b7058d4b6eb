"""A product gives back what the codec alone gives, resumes, and refuses what is damaged."""

from __future__ import annotations

import datetime
import hashlib
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from product_samples import GRID, ROUNDING, TIMES, TRANSFORM, write_date

import nec
from nec.store import RasterSpec, RasterWriter, ShardEncoder, info, open_product, verify
from nec.store.backend import JOURNAL


def digest(path: Path) -> dict[str, str]:
    """Path to hash of every file."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture
def copy(product_path: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(product_path, tmp_path / "copy.zarr"))


# ---- reading


def test_it_gives_what_the_codec_alone_gives(
    product_path: Path, rasters: np.ndarray, valid: np.ndarray, decoded: np.ndarray
) -> None:
    product = nec.open_product(product_path)
    whole = np.isfinite(decoded[..., 0])
    for t, time in enumerate(TIMES):
        tokens = product.read(time)
        np.testing.assert_array_equal(np.isnan(tokens).all(axis=2), ~valid[t])
        np.testing.assert_array_equal(np.isnan(tokens).any(axis=2), ~valid[t])
        np.testing.assert_array_equal(tokens[whole[t]], decoded[t][whole[t]])
        assert np.mean((tokens - rasters[t])[valid[t]] ** 2) < 0.03 * rasters.var()
        np.testing.assert_array_equal(product.read_valid(t), valid[t])


@settings(max_examples=25)
@given(data=st.data())
def test_windows_are_parts_of_the_whole(product_path: Path, data: st.DataObject) -> None:
    product = open_product(product_path)
    ends = [data.draw(st.integers(0, size)) for size in (*GRID, *GRID)]
    rows, columns = slice(*sorted(ends[::2])), slice(*sorted(ends[1::2]))
    np.testing.assert_allclose(product.read(1, rows, columns), product.read(1)[rows, columns], **ROUNDING)


def test_plain_zarr_reads_it(product_path: Path, valid: np.ndarray) -> None:
    group = zarr.open_group(product_path, mode="r")
    embeddings = np.asarray(group["embeddings"][...])
    assert embeddings.shape == (2, 5, *GRID)
    np.testing.assert_array_equal(group["valid"][...], valid)
    expected = open_product(product_path).read(0)
    np.testing.assert_array_equal(embeddings[0].transpose(1, 2, 0)[valid[0]], expected[valid[0]])
    assert np.isnan(embeddings[0, :, :8, :8]).all()  # a shard without valid tokens has no file
    assert not (product_path / "embeddings" / "c.0.0.0.0").exists()


def test_what_it_says_of_itself(product_path: Path, spec: RasterSpec, valid: np.ndarray) -> None:
    product = open_product(product_path)
    assert (product.grid, product.dimensions, product.patch_px, product.quality) == (GRID, 5, 16, 2.0)
    assert (product.crs, product.transform, product.token_size) == ("EPSG:32632", TRANSFORM, (160.0, 160.0))
    assert product.codec.id == spec.codec.id
    assert product.times.tolist() == [datetime.datetime.fromisoformat(time) for time in TIMES]
    assert product.conventions["title"] == "Toy embeddings"
    report = info(product_path)
    assert (report["kind"], report["complete"], report["valid_tokens"]) == ("product", True, int(valid.sum()))
    files = sum(file.stat().st_size for file in product_path.rglob("*") if file.is_file())
    shards = sum(file.stat().st_size for file in (product_path / "embeddings").glob("c.*"))
    assert report["stored_bytes"] == shards
    assert report["stored_bytes"] + sum(report["side_information"].values()) == files
    assert report["bytes_per_km2"] == pytest.approx(shards / (valid.sum() * 0.16**2))


def test_windows_of_boxes(product_path: Path) -> None:
    product = open_product(product_path)
    assert product.window((500_000, 4_999_840, 500_160, 5_000_000)) == (slice(0, 1), slice(0, 1))
    assert product.window((500_159, 4_999_600, 500_161, 4_999_900)) == (slice(0, 3), slice(0, 2))
    assert product.window((0, 0, 1e7, 1e7)) == (slice(0, GRID[0]), slice(0, GRID[1]))
    with pytest.raises(nec.InputError, match="outside"):
        product.window((0, 0, 10, 10))
    with pytest.raises(nec.InputError, match="empty"):
        product.window((5, 0, 5, 10))


def test_wrong_requests_are_refused(product_path: Path, store_kind: Path) -> None:
    product = open_product(product_path)
    assert [product.index(time) for time in (-1, "2026-05", "2026-06-01", np.datetime64(TIMES[1]))] == [1, 0, 1, 1]
    for time in (2, -3, "2027-01-01", "2026", "soon"):
        with pytest.raises(nec.InputError):
            product.read(time)
    with pytest.raises(nec.InputError, match="step"):
        product.read(0, slice(None, None, 2))
    with pytest.raises(nec.InputError, match=r"nec\.open_product"):
        nec.open_store(product_path)
    with pytest.raises(nec.InputError, match=r"nec\.open_store"):
        nec.open_product(store_kind)


@pytest.fixture
def store_kind(tmp_path: Path, rasters: np.ndarray, codec: nec.EmbeddingCodec) -> Path:
    """A store of images."""
    path = tmp_path / "images.zarr"
    grid = rasters.shape[1:3]
    with nec.store.ImageWriter.create(
        path, nec.store.ImageSpec(codec=codec, quality=1.0, names=["a", "b"], grid=grid)
    ) as writer:
        writer.write(0, rasters)
        writer.finish()
    return path


# ---- writing


def test_the_same_input_gives_the_same_bytes(product_path: Path, tmp_path: Path, build: Callable[..., Path]) -> None:
    assert digest(build(tmp_path / "again.zarr")) == digest(product_path)


def test_shards_encoded_elsewhere_are_the_same(
    product_path: Path, tmp_path: Path, spec: RasterSpec, rasters: np.ndarray, valid: np.ndarray
) -> None:
    RasterWriter.create(tmp_path / "p.zarr", spec).close()
    with RasterWriter.resume(tmp_path / "p.zarr") as writer:
        encoder = pickle.loads(pickle.dumps(writer.encoder))
        for t, time in enumerate(TIMES):
            assert writer.append_time(time) == t
            for shard in reversed(writer.missing(t)):
                window = writer.tiling.shard_window(*shard[1:])
                made = encoder.encode(shard[1:], rasters[t][window], valid[t][window])
                writer.write_encoded(shard, pickle.loads(pickle.dumps(made)))
            writer.finish(t)
    assert digest(tmp_path / "p.zarr") == digest(product_path)


def test_chunks_encoded_apart_make_the_same_shards(product_path: Path, rasters: np.ndarray, valid: np.ndarray) -> None:
    product = open_product(product_path)
    encoder, tiling = ShardEncoder(product.codec, product.quality, product.tiling, (5,)), product.tiling
    for place in tiling.all_shards():
        window = tiling.shard_window(*place)
        parts = []
        for part in ((slice(1, 2), slice(0, 2)), (slice(0, 1), slice(1, 2)), (slice(0, 1), slice(0, 1))):
            own = tiling.window_of_chunks(place, part)
            parts.append(pickle.loads(pickle.dumps(encoder.encode_chunks(place, part, rasters[1][own], valid[1][own]))))
        assert encoder.join(parts) == encoder.encode(place, rasters[1][window], valid[1][window])
    with pytest.raises(nec.InputError, match=r"\(4, 4, 5\)"):
        encoder.encode_chunks((0, 0), (slice(0, 1), slice(0, 1)), rasters[0][:8, :8], valid[0][:8, :8])


def test_a_date_appears_when_it_is_finished(
    tmp_path: Path, build: Callable[..., Path], spec: RasterSpec, rasters: np.ndarray, valid: np.ndarray,
    product_path: Path,
) -> None:  # fmt: skip
    path = build(tmp_path / "p.zarr", dates=1)
    with RasterWriter.resume(path) as writer:
        assert writer.append_time(TIMES[1]) == 1
        window = writer.store.tiling.shard_window(1, 1)
        writer.write((1, 1, 1), rasters[1][window], valid[1][window])
        assert len(open_product(path).times) == 1
        assert (info(path)["complete"], info(path)["pending"]) == (False, [TIMES[1]])
        assert verify(path).ok
        with pytest.raises(nec.IncompleteError, match="11 of 12"):
            writer.finish(1)
        with pytest.raises(nec.InputError, match="not finished"):
            writer.append_time("2026-07-01")
    with RasterWriter.resume(path, spec) as writer:
        assert writer.append_time(TIMES[1]) == 1
        assert writer.done(1) == {(1, 1, 1)}
        write_date(writer, TIMES[1], rasters[1], valid[1])
    assert digest(path) == digest(product_path)


def test_a_pending_date_can_be_discarded(tmp_path: Path, build: Callable[..., Path], rasters: np.ndarray) -> None:
    path = build(tmp_path / "p.zarr", dates=1)
    before = digest(path)
    with RasterWriter.resume(path) as writer:
        writer.append_time("2026-07-01")
        writer.write((1, 0, 0), rasters[1][:8, :8], np.ones((8, 8), bool))
        with pytest.raises(nec.InputError, match="not finished can be discarded"):
            writer.discard(0)
        writer.discard(1)
    assert digest(path) == before


def test_a_product_without_a_finished_date_is_refused(tmp_path: Path, spec: RasterSpec) -> None:
    RasterWriter.create(tmp_path / "p.zarr", spec).close()
    with pytest.raises(nec.IncompleteError, match="--resume"):
        open_product(tmp_path / "p.zarr")
    assert info(tmp_path / "p.zarr")["complete"] is False
    with pytest.raises(nec.InputError, match="--resume"):
        RasterWriter.create(tmp_path / "p.zarr", spec).close()
    RasterWriter.create(tmp_path / "p.zarr", spec, overwrite=True).close()


def test_two_writers_and_another_spec_are_refused(product_path: Path, copy: Path, spec: RasterSpec) -> None:
    with RasterWriter.resume(copy):
        command = "import sys\nfrom nec.store import RasterWriter\nRasterWriter.resume(sys.argv[1])"
        source = str(Path(nec.__file__).parents[1])
        result = subprocess.run(
            [sys.executable, "-c", command, str(copy)],
            capture_output=True, text=True, env={**os.environ, "PYTHONPATH": source},
        )  # fmt: skip
        assert "another writer" in result.stderr
    for change, word in (
        ({"quality": 1.0}, "quality"), ({"transform": (1, *TRANSFORM[1:])}, "transform"), ({"chunk": (8, 8)}, "chunk"),
        ({"crs": "EPSG:32633"}, "crs"), ({"model": None}, "model"),
    ):  # fmt: skip
        with pytest.raises(nec.InputError, match=word):
            RasterWriter.resume(copy, replace(spec, **change))
    with RasterWriter.resume(copy, spec) as writer, pytest.raises(nec.InputError, match="another source"):
        writer.append_time(TIMES[0], source={"links": ["elsewhere"]})
    assert not list(copy.glob(".nec*"))
    assert digest(copy) == digest(product_path)


@pytest.mark.slow
@pytest.mark.parametrize("after", range(0, 40, 5))
def test_killed_at_any_rename_it_resumes_to_the_same_bytes(
    tmp_path: Path, build: Callable[..., Path], product_path: Path, rasters: np.ndarray, valid: np.ndarray, after: int
) -> None:
    path = build(tmp_path / "p.zarr", dates=1)
    child = os.fork()
    if child == 0:  # dies without any clean-up at its rename number `after`, before or after doing it
        renames = iter(range(after))
        plain = os.replace

        def replace_or_die(source: Any, target: Any) -> None:
            if next(renames, None) is None:
                if after % 2:
                    plain(source, target)
                os._exit(9)
            plain(source, target)

        os.replace = replace_or_die
        with RasterWriter.resume(path) as writer:
            write_date(writer, TIMES[1], rasters[1], valid[1])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    product = open_product(path)
    assert len(product.times) in (1, 2)
    np.testing.assert_array_equal(product.read(0), open_product(product_path).read(0))
    with RasterWriter.resume(path) as writer:
        write_date(writer, TIMES[1], rasters[1], valid[1])
    assert digest(path) == digest(product_path)


def test_a_full_disk_leaves_what_can_be_resumed(
    tmp_path: Path, build: Callable[..., Path], product_path: Path, rasters: np.ndarray, valid: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    path = build(tmp_path / "p.zarr", dates=1)
    left, plain = iter(range(20)), Path.write_bytes

    def write_until_full(file: Path, data: bytes) -> int:
        if next(left, None) is None:
            plain(file, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        return plain(file, data)

    with monkeypatch.context() as patch, RasterWriter.resume(path) as writer:
        patch.setattr(Path, "write_bytes", write_until_full)
        with pytest.raises(OSError, match="No space"):
            write_date(writer, TIMES[1], rasters[1], valid[1])
    assert not list(path.rglob("*.partial"))
    assert len(open_product(path).times) == 1
    with RasterWriter.resume(path) as writer:
        assert 0 < len(writer.missing(1)) < 12
        write_date(writer, TIMES[1], rasters[1], valid[1])
    assert digest(path) == digest(product_path)


@pytest.mark.parametrize(
    ("change", "word"),
    [({"crs": "EPSG:99999"}, "CRS"), ({"transform": (1, 0, 0, 0, 0, 0)}, "transform"), ({"grid": (0, 3)}, "grid"),
     ({"dimensions": 4}, "dimensions"), ({"quality": float("nan")}, "quality"), ({"model": {"x": {1}}}, "JSON")],
)  # fmt: skip
def test_wrong_specs_leave_nothing(tmp_path: Path, spec: RasterSpec, change: dict, word: str) -> None:
    with pytest.raises(nec.InputError, match=word):
        RasterWriter.create(tmp_path / "p.zarr", replace(spec, **change)).close()
    assert list(tmp_path.iterdir()) == []


def test_wrong_shards_are_refused(tmp_path: Path, spec: RasterSpec) -> None:
    RasterWriter.create(tmp_path / "p.zarr", spec).close()
    good, all_valid = np.zeros((8, 8, 5), np.float32), np.ones((8, 8), bool)
    nan = good.copy()
    nan[3, 2, 1] = np.nan
    with RasterWriter.resume(tmp_path / "p.zarr") as writer:
        with pytest.raises(nec.InputError, match="append_time"):
            writer.write((0, 0, 0), good, all_valid)
        writer.append_time(TIMES[0])
        for arguments, word in (
            ((0, 3, good, all_valid), "shape"), ((3, 0, good, all_valid), "no shard"),
            ((0, 0, good[1:], all_valid), "shape"),
            ((0, 0, good, all_valid[1:]), "valid"), ((0, 0, good.astype(int), all_valid), "float"),
            ((1, 1, nan, all_valid), "row 11, column 10"),
        ):  # fmt: skip
            with pytest.raises(nec.InputError, match=word):
                writer.write((0, *arguments[:2]), *arguments[2:])
        assert writer.done(0) == set()


# ---- damage


@pytest.mark.parametrize(
    ("key", "how"),
    [("embeddings/c.0.0.1.1", "flip"), ("embeddings/c.0.0.1.1", "cut"), ("embeddings/c.1.0.2.3", "remove"),
     ("valid/c.0.1.1", "flip"), ("valid/c.0.0.0", "remove"), ("shards/0.json", "flip"), ("shards/1.json", "remove"),
     ("time/c.0", "remove"), ("x/c.0", "flip"), ("valid/zarr.json", "remove"), ("zarr.json", "flip")],
)  # fmt: skip
def test_damage_is_found_and_named(copy: Path, key: str, how: str) -> None:
    file = copy / key
    data = file.read_bytes()
    if how == "remove":
        file.unlink()
    else:
        middle = len(data) // 2
        rest = b"" if how == "cut" else bytes([data[middle] ^ 1]) + data[middle + 1 :]
        file.write_bytes(data[:middle] + rest)
    report = verify(copy)
    assert not report.ok
    assert any(fault["where"] in (key, key.split("/")[0]) for fault in report.corrupt), report
    if key.startswith(("embeddings", "valid/c")):
        with pytest.raises(nec.CorruptError, match=r"\.".join(key.split("/")[1].split("."))):
            [open_product(copy).read(time) for time in (0, 1)]


def test_a_shard_of_another_date_is_found(copy: Path) -> None:
    shutil.copy(copy / "embeddings/c.0.0.1.1", copy / "embeddings/c.1.0.1.1")
    report = verify(copy)
    assert [fault["where"] for fault in report.corrupt] == ["embeddings/c.1.0.1.1"]
    assert report.found == report.chunks


def test_damage_is_repaired_by_writing_again(
    copy: Path, product_path: Path, rasters: np.ndarray, valid: np.ndarray
) -> None:
    (copy / "embeddings/c.0.0.1.1").write_bytes(b"x")
    (copy / "valid/c.0.2.3").unlink()
    with RasterWriter.resume(copy) as writer:
        time = writer.append_time(TIMES[0])
        assert writer.missing(time) == [(0, 1, 1), (0, 2, 3)]
        write_date(writer, TIMES[0], rasters[0], valid[0])
    assert digest(copy) == digest(product_path)


def test_a_note_torn_by_a_kill_costs_one_shard(
    tmp_path: Path, build: Callable[..., Path], product_path: Path, rasters: np.ndarray, valid: np.ndarray
) -> None:
    path = build(tmp_path / "p.zarr", dates=1)
    with RasterWriter.resume(path) as writer:
        writer.append_time(TIMES[1])
        for column in (0, 1):
            window = writer.store.tiling.shard_window(0, column)
            writer.write((1, 0, column), rasters[1][window], valid[1][window])
    journal = path / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-4])
    with RasterWriter.resume(path) as writer:
        assert writer.done(1) == {(1, 0, 0)}
        writer.write((1, 0, 1), rasters[1][window], valid[1][window])
    with RasterWriter.resume(path) as writer:  # the new note did not become part of the torn one
        assert writer.done(1) == {(1, 0, 0), (1, 0, 1)}
        write_date(writer, TIMES[1], rasters[1], valid[1])
    assert digest(path) == digest(product_path)
