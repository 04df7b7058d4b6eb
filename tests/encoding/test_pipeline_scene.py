"""Scenes into products: the tokens against the model by hand, layout, dates, sizes, and every fault."""

from __future__ import annotations

import errno
import tracemalloc
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import build_model, fit_to, smooth

pytest.importorskip("torch")
pytest.importorskip("rasterio")

from scene_runs import encode_scene

from nec.codec import EmbeddingCodec
from nec.encoding.scenes import Part, SceneWork
from nec.errors import InputError, NecError
from nec.scenes import open_scene
from nec.scenes.rasters import retry, transient
from nec.scenes.tiles import Normalization, TileGrid
from nec.store import RasterWriter, ShardEncoder, open_product, verify
from nec.store.shards import Tiling
from scenes import COLUMNS, LAYOUT, ROWS, faulty, pixels, write_scene

GRID = (23, 30)


@pytest.fixture(scope="module")
def model() -> Any:
    return fit_to(build_model(), smooth(200, 16, 3, seed=9))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("scene") / "s_20260501T101500.tif")


@pytest.fixture(scope="module")
def whole(model: Any, path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The product of an uninterrupted run."""
    out = tmp_path_factory.mktemp("whole") / "p.zarr"
    encode_scene(open_scene(path), model, out, **LAYOUT)
    return out


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_module("nec.scenes.rasters"), "FIRST_SECONDS", 0.0)


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def tokens_by_hand(model: Any) -> np.ndarray:
    """(23, 30, 16): each token from its own tile of 4 x 4 tokens, placed by the rules of nec.scenes.tiles."""
    import torch

    values = np.pad(pixels(), ((0, GRID[0] * 4 - ROWS), (0, GRID[1] * 4 - COLUMNS), (0, 0)), mode="reflect")
    scaled = (values / np.float32(255) - model.config.mean) / model.config.std
    scaled[(values == 0).all(axis=-1)] = 0
    out = np.empty((*GRID, 16), np.float32)
    for y in range(GRID[0]):
        for x in range(GRID[1]):
            top, left = (min(max(i // 2 * 2 - 1, 0), n - 4) for i, n in zip((y, x), GRID, strict=True))
            tile = scaled[top * 4 : top * 4 + 16, left * 4 : left * 4 + 16].transpose(2, 0, 1)[None]
            with torch.inference_mode():
                out[y, x] = model.embed(torch.tensor(tile, dtype=torch.float32))[0, y - top, x - left]
    return out


def test_product_holds_the_models_tokens(model: Any, path: Path, whole: Path) -> None:
    product = open_product(whole)
    assert (product.grid, product.crs, str(product.times[0])) == (GRID, "EPSG:32633", "2026-05-01T10:15:00")
    assert product.transform == (40, 0, 500000, 0, -40, 4600000)
    assert product.tiling.shards == (3, 4)
    valid = np.asarray(product.valid[0])
    shown = np.zeros((GRID[0] * 4, GRID[1] * 4), bool)
    shown[:ROWS, :COLUMNS] = (pixels() != 0).any(axis=-1)
    np.testing.assert_array_equal(valid, shown.reshape(GRID[0], 4, GRID[1], 4).mean(axis=(1, 3)) >= 0.5)
    assert 0 < (~valid).sum() < 60
    read, expected = product.read(0), tokens_by_hand(model)
    assert np.isnan(read[~valid]).all()
    error = np.square(read - expected)[valid].mean() / expected[valid].var()
    assert error < 0.06
    assert verify(whole).ok


def test_tiles_are_levelled_by_the_codecs_means_by_position(path: Path, tmp_path: Path) -> None:
    import torch

    model = build_model()
    images = smooth(200, 16, 3, seed=9)
    with torch.inference_mode():
        model.codec = EmbeddingCodec.fit(model.embed(model.normalize(images)), positions=True)
    encode_scene(open_scene(path), model, tmp_path / "p.zarr", quality=64, **LAYOUT)
    product, expected = open_product(tmp_path / "p.zarr"), tokens_by_hand(model)
    for y, x in ((0, 0), (5, 8), (12, 15), (22, 3)):
        top, left = (min(max(i // 2 * 2 - 1, 0), n - 4) for i, n in zip((y, x), GRID, strict=True))
        expected[y, x] -= model.codec.positions[y - top, x - left]
        np.testing.assert_allclose(product.read(0)[y, x], expected[y, x], atol=0.1 * expected.std())
    assert product.attrs["model"]["input"]["levelled"]


def test_layout_and_batches_do_not_change_the_tokens(model: Any, path: Path, whole: Path, tmp_path: Path) -> None:
    report = encode_scene(open_scene(path), model, tmp_path / "b.zarr", chunk=(23, 30), batch_size=64, quality=64)
    fine = open_product(tmp_path / "b.zarr").read(0)
    assert (report["tiles"], report["tokens"], report["complete"]) == (11 * 15, 23 * 30, True)
    assert report["square_km"] == pytest.approx(ROWS * COLUMNS * 1e-4)
    difference = np.square(open_product(whole).read(0) - fine)
    assert np.nanmean(difference) < 0.06 * np.nanvar(fine)


@pytest.mark.slow
@pytest.mark.parametrize("narrow", [400, 68])  # px: several shards, and less than one: 17 tokens of its 32
def test_what_is_held_does_not_grow_with_the_scene(model: Any, tmp_path: Path, narrow: int) -> None:
    def peak(name: str, columns: int) -> int:
        wide = smooth(1, 1600, 3, seed=3)[0, :140, :columns]
        scene = open_scene(write_scene(tmp_path / f"{name}.tif", wide))
        tracemalloc.start()
        try:
            encode_scene(
                scene, model, tmp_path / f"{name}.zarr", time="2026-05-01", chunk=(8, 8), shard=(4, 4), batch_size=8
            )
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    _, *wide = [peak(f"wide{i}", 1600) for i in range(3)]  # the first fills caches of codec and kernel
    assert min(wide) < 1.3 * peak("narrow", narrow)


@pytest.mark.parametrize(
    ("chunk", "shard", "batch_size", "part"),
    [
        ((8, 8), (3, 3), 16, (1, 1)),  # a chunk has 4 x 4 tiles
        ((8, 8), (3, 3), 17, (1, 2)),
        ((8, 8), (3, 3), 100, (3, 3)),
        ((3, 3), (4, 4), 1, (2, 2)),  # chunks that end within a tile
        ((3, 4), (3, 2), 1, (3, 1)),  # shards that do
    ],
)
def test_parts_of_a_shard(
    model: Any, path: Path, chunk: tuple[int, int], shard: tuple[int, int], batch_size: int, part: tuple[int, int]
) -> None:
    tiling = TileGrid((ROWS, COLUMNS), 16, 4, 1)
    raster = Tiling(tiling.grid, chunk, (chunk[0] * shard[0], chunk[1] * shard[1]))
    encoder = ShardEncoder(model.codec, 1.0, raster, (model.config.embed_dim,))
    plain = Normalization((0.0,) * 3, (1.0,) * 3)
    work = SceneWork(model, open_scene(path), tiling, plain, encoder, batch_size=batch_size)
    parts = [each for place in raster.all_shards() for each in work.parts(place)]
    assert parts[0] == Part((0, 0), (0, part[0]), (0, part[1]))
    times = np.zeros(GRID, int)
    for each in parts:
        times[raster.window_of_chunks(each.shard, each.chunks)] += 1
    assert (times == 1).all()


def test_target_bytes(model: Any, path: Path, tmp_path: Path) -> None:
    report = encode_scene(open_scene(path), model, tmp_path / "a.zarr", target_bytes=40, batch_size=64, chunk=(8, 8))
    assert report["bytes_per_token"] * 16 == pytest.approx(40, rel=0.35)  # edges and the index of a shard come on top
    with pytest.raises(InputError, match="--target-bytes"):
        encode_scene(open_scene(path), model, tmp_path / "b.zarr", target_bytes=-1, chunk=(8, 8))
    assert not (tmp_path / "b.zarr").exists()


def test_dates(model: Any, path: Path, tmp_path: Path) -> None:
    out, scene = tmp_path / "p.zarr", open_scene(path)
    undated = open_scene(write_scene(tmp_path / "s.tif"))
    with pytest.raises(InputError, match="s does not say when it was taken: give --time"):
        encode_scene(undated, model, out, **LAYOUT)
    assert not out.exists()
    report = encode_scene(undated, model, out, time="2025-04-01", **LAYOUT)
    assert report["time"] == "2025-04-01T00:00:00"
    report = encode_scene(scene, model, out, append=True, **LAYOUT)
    assert report["times"] == ["2025-04-01T00:00:00", "2026-05-01T10:15:00"]
    np.testing.assert_array_equal(open_product(out).read(0), open_product(out).read(1))
    before = files(out)
    with pytest.raises(InputError, match="has the date"):
        encode_scene(scene, model, out, append=True, **LAYOUT)
    with pytest.raises(InputError, match="--append"):
        encode_scene(scene, model, out, resume=True, time="2027-01-01", **LAYOUT)
    with pytest.raises(InputError, match="exists"):
        encode_scene(scene, model, out, **LAYOUT)
    with pytest.raises(InputError, match="mode 'append-overwrite' is unknown"):
        encode_scene(scene, model, out, append=True, overwrite=True, **LAYOUT)
    with pytest.raises(InputError, match="grid, chunk or shard differ"):
        encode_scene(scene, model, out, resume=True, chunk=(8, 8))
    with pytest.raises(InputError, match="model"):
        encode_scene(scene, model, out, resume=True, **{**LAYOUT, "batch_size": 6})
    assert files(out) == before
    assert encode_scene(scene, model, out, resume=True, **LAYOUT)["tiles"] == 0


def test_two_writers_are_refused(model: Any, path: Path, whole: Path) -> None:
    before = files(whole)
    with RasterWriter.resume(whole), pytest.raises(InputError, match="another writer"):
        encode_scene(open_scene(path), model, whole, append=True, time="2026-06-01", **LAYOUT)
    assert files(whole) == before


@pytest.mark.parametrize("place", [(2, 3), (40, 60), (60, 115)])
def test_interrupted_and_resumed_is_byte_identical(
    model: Any, path: Path, whole: Path, tmp_path: Path, place: tuple[int, int]
) -> None:
    scene = faulty(path, tmp_path / "fault", place, "interrupt")
    with pytest.raises(KeyboardInterrupt):
        encode_scene(scene, model, tmp_path / "p.zarr", **LAYOUT)
    (tmp_path / "fault").unlink()
    encode_scene(scene, model, tmp_path / "p.zarr", resume=True, **LAYOUT)
    assert files(tmp_path / "p.zarr") == files(whole)


def test_unreadable_tile_is_listed_and_the_rest_is_made(model: Any, path: Path, whole: Path, tmp_path: Path) -> None:
    out, scene = tmp_path / "p.zarr", faulty(path, tmp_path / "fault", (40, 60), "damage")
    report = encode_scene(scene, model, out, **LAYOUT)
    assert not report["complete"]
    for tile in report["failed_tiles"]:
        assert tile["row"] <= 40 < tile["row"] + tile["side"]
        assert tile["column"] <= 60 < tile["column"] + tile["side"]
        assert "TIFFReadEncodedTile" in tile["error"]
    assert 0 < report["shards_left_out"] < 12
    assert report["tiles"] > 100
    with pytest.raises(NecError, match="incomplete"):
        open_product(out)
    (tmp_path / "fault").unlink()
    mended = encode_scene(scene, model, out, resume=True, **LAYOUT)
    assert mended["tiles"] < report["tiles"]
    assert files(out) == files(whole)


def test_skipped_tiles_are_not_valid_and_are_told(model: Any, path: Path, whole: Path, tmp_path: Path) -> None:
    scene = faulty(path, tmp_path / "fault", (40, 60), "damage")
    report = encode_scene(scene, model, tmp_path / "p.zarr", skip_failed=True, **LAYOUT)
    assert report["complete"]
    product, reference = open_product(tmp_path / "p.zarr"), open_product(whole)
    listed = product.attrs["times"][0]["run"]["failed_tiles"]
    assert listed == [
        list(tile) for tile in sorted({(t["row"], t["column"], t["side"]) for t in report["failed_tiles"]})
    ]
    lost = np.asarray(reference.valid[0]) & ~np.asarray(product.valid[0])
    assert lost.sum() == 4 * len(listed)  # the inner tokens of each
    assert lost[10, 15]
    assert verify(tmp_path / "p.zarr").ok
    # Interrupted after the damage was met, and resumed: the list stays.
    scene = faulty(path, tmp_path / "late", (60, 115), "interrupt")
    with pytest.raises(KeyboardInterrupt):
        encode_scene(_also(scene, tmp_path / "fault"), model, tmp_path / "q.zarr", skip_failed=True, **LAYOUT)
    scene = faulty(path, tmp_path / "fault", (40, 60), "damage")
    encode_scene(scene, model, tmp_path / "q.zarr", skip_failed=True, resume=True, **LAYOUT)
    assert files(tmp_path / "q.zarr") == files(tmp_path / "p.zarr")


def _also(scene: Any, fault: Path) -> Any:
    """`scene` with the damage of `fault` beside its own fault."""
    own = scene.read

    def read(row: int, column: int, rows: int, columns: int) -> Any:
        if row <= 40 < row + rows and column <= 60 < column + columns:
            raise InputError(f"{scene.name} cannot be read: TIFFReadEncodedTile failed")
        return own(row, column, rows, columns)

    scene.read = read
    return scene


def test_a_busy_source_is_tried_again(model: Any, path: Path, whole: Path, tmp_path: Path) -> None:
    scene = faulty(path, tmp_path / "fault", (40, 60), "timeout 3")
    encode_scene(scene, model, tmp_path / "p.zarr", workers=1, **LAYOUT)
    assert (tmp_path / "fault").read_text() == "timeout 0"
    assert files(tmp_path / "p.zarr") == files(whole)
    (tmp_path / "fault").write_text("timeout")
    with pytest.raises(NecError, match=r"503.*--resume"):
        encode_scene(scene, model, tmp_path / "q.zarr", skip_failed=True, **LAYOUT)
    (tmp_path / "fault").unlink()
    encode_scene(scene, model, tmp_path / "q.zarr", resume=True, **LAYOUT)
    assert files(tmp_path / "q.zarr") == files(whole)


def test_full_disk(model: Any, path: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_after(count: int) -> None:
        write, left = Path.write_bytes, iter([True] * count)

        def limited(self: Path, data: bytes) -> int:
            if ".c.0." in self.name and not next(left, False):
                write(self, data[: len(data) // 2])
                raise OSError(errno.ENOSPC, "No space left on device", str(self))
            return write(self, data)

        monkeypatch.setattr(Path, "write_bytes", limited)

    full_after(7)
    with pytest.raises(NecError, match=r"No space left.*--resume"):
        encode_scene(open_scene(path), model, tmp_path / "p.zarr", **LAYOUT)
    assert not list(tmp_path.rglob("*.partial"))
    monkeypatch.undo()
    report = encode_scene(open_scene(path), model, tmp_path / "p.zarr", resume=True, **LAYOUT)
    assert 0 < report["tokens"] < GRID[0] * GRID[1]
    assert files(tmp_path / "p.zarr") == files(whole)
    full_after(0)
    with pytest.raises(OSError, match="No space left"):
        encode_scene(open_scene(path), model, tmp_path / "q.zarr", **LAYOUT)
    assert not (tmp_path / "q.zarr").exists()


def test_what_passes_and_what_does_not() -> None:
    calls: list[int] = []

    def busy(kind: type[Exception], text: str) -> int:
        calls.append(1)
        if len(calls) < 3:
            raise kind(text)
        return len(calls)

    assert retry(lambda: busy(TimeoutError, "x")) == 3
    calls.clear()
    assert retry(lambda: busy(InputError, "s.tif: HTTP response code: 503")) == 3
    for text in ("HTTP response code: 404", "row 503 of s.tif is damaged", "TIFFFillTile: Read error at row 429"):
        calls.clear()
        with pytest.raises(InputError):
            retry(lambda: busy(InputError, text))  # noqa: B023
        assert len(calls) == 1, text
    reset = InputError("s.tif cannot be read")
    reset.__cause__ = ConnectionResetError("gone")
    assert transient(reset)


def test_scenes_that_do_not_fit(model: Any, path: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.zarr"
    with pytest.raises(InputError, match="the model takes 4"):
        encode_scene(open_scene(path), fit_to(build_model(4), smooth(50, 16, 4)), out)
    with pytest.raises(InputError, match="engine 'spark'"):
        encode_scene(open_scene(path), model, out, engine="spark")
    with pytest.raises(InputError, match="halo"):
        encode_scene(open_scene(path), model, out, halo=2)
    with pytest.raises(InputError, match="at least 1"):
        encode_scene(open_scene(path), model, out, workers=0)
    assert not out.exists()


def test_a_scene_without_data(model: Any, tmp_path: Path) -> None:
    path = write_scene(tmp_path / "empty.tif", np.zeros((40, 50, 3), np.uint8))
    report = encode_scene(open_scene(path), model, tmp_path / "p.zarr", time="2026-05-01", **LAYOUT)
    assert (report["valid_tokens"], report["stored_bytes"]) == (0, 0)
    assert np.isnan(open_product(tmp_path / "p.zarr").read(0)).all()


def test_a_scene_smaller_than_a_tile(model: Any, tmp_path: Path) -> None:
    path = write_scene(tmp_path / "small.tif", pixels()[:9, :11])
    report = encode_scene(open_scene(path), model, tmp_path / "p.zarr", time="2026-05-01")
    assert (report["grid"], report["tiles"], report["valid_tokens"]) == ([3, 3], 1, 6)


def test_a_backbone_without_a_codec_gets_one_fitted_on_tiles(path: Path, tmp_path: Path) -> None:
    bare, out = build_model(), tmp_path / "p.zarr"
    report = encode_scene(open_scene(path), bare, out, time="2026-05-01", quality=4.0, **LAYOUT)
    assert 50 < report["codec_fitted_on"] < 11 * 15  # tiles that are valid throughout
    product, expected = open_product(out), tokens_by_hand(bare)
    valid = np.asarray(product.valid[0])
    assert np.square(product.read(0) - expected)[valid].mean() / expected[valid].var() < 0.06
    report = encode_scene(open_scene(path), bare, out, time="2026-06-01", append=True, quality=4.0, **LAYOUT)
    assert "codec_fitted_on" not in report  # the codec of the store is taken
    np.testing.assert_array_equal(open_product(out).read(0), open_product(out).read(1))
