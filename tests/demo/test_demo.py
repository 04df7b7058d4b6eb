"""`nec demo` on a tiny store and model: what it counts, writes and refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nec
from nec.cli import main
from nec.demo import Options, consume, run_demo, scene


@pytest.fixture
def run(tiny: Any, load_tiny: None, tmp_path: Path) -> Any:
    def call(**options: Any) -> dict[str, Any]:
        return run_demo(Options(out=tmp_path / "out", store=str(tiny.store), epochs=30, scene_size=64, **options))

    return call


def test_figures_and_files(run: Any, tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEC_DATA", str(tmp_path))
    figures = run()
    out = tmp_path / "out"
    assert json.loads((out / "figures.json").read_text()) == json.loads(json.dumps(figures))
    store = nec.open_store(tiny.store)
    assert figures["store"]["stored_bytes"] == store.stored_bytes
    assert figures["store"]["float16_bytes"] == 240 * 16 * 12 * 2
    points = figures["rate_accuracy"]["points"]
    sizes = [point["bytes_per_image"] for point in points]
    assert sizes == sorted(sizes, reverse=True)
    assert figures["rate_accuracy"]["images"] == {"train": 34, "val": 15, "test": 15}
    assert figures["heads"]["linear"]["accuracy"] > 0.9
    assert figures["heads"]["attention"]["accuracy"] > 0.9
    assert figures["scene"]["symbols_checked"] == 16 * 16 * 8
    assert figures["scene"]["verify_ok"]
    assert figures["real_images"] is None
    for name in ("rate-accuracy", "per-class", "tokens", "scene", "scene-tokens", "scene-classes"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:)(?!#)", page.replace("xlink:href", "")), "the report must stand alone"
    assert "<script" not in page
    assert nec.open_store(out / "scene.zarr").grid == (16, 16)


def test_shipped_point_is_what_the_store_holds(tiny: Any) -> None:
    """The survey's first point decodes to the store's own embeddings and costs the bytes of its chunks."""
    from nec.demo.produce import stored_chunks

    store = nec.open_store(tiny.store)
    survey = consume.survey(store, 16, l2=1e-3, quiet=True)
    chunks = [len(blob) for blob in stored_chunks(store)][:: consume.EVERY]
    assert survey.points[0]["bytes_per_image"] == pytest.approx(sum(chunks) / (16 * len(chunks)))


def test_real_and_own_images(run: Any, tiny: Any) -> None:
    figures = run(data=f"folder:{tiny.pictures}", images=str(tiny.pictures))
    assert figures["real_images"]["images"] == 60
    assert figures["real_images"]["equal_symbols"] > 0.999
    assert figures["real_images"]["accuracy"] > 0.9
    assert figures["user_images"]["images"] == 64
    assert figures["user_images"]["symbols_equal"]


def test_command_line(tiny: Any, load_tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["demo", "--out", str(tmp_path / "o"), "--store", str(tiny.store), "--epochs", "2", "--json"]
    assert main(arguments) == 0
    out = capsys.readouterr()
    assert json.loads(out.out)["report"] == str(tmp_path / "o" / "report.html")
    assert out.err == ""


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--store", "no-such-store"], "no-such-store"),
        (["--data", "nowhere.zip"], "nowhere.zip"),
        (["--out", __file__], "is a file"),
    ],
)
def test_bad_input_is_one_line(
    extra: list[str], message: str, tiny: Any, load_tiny: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["demo", "--out", str(tmp_path / "o"), "--store", str(tiny.store), "--epochs", "1", "--json", *extra]) == 2
    )
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_scene_is_seeded_and_georeferenced(tmp_path: Path) -> None:
    rasterio = pytest.importorskip("rasterio")
    first, second = scene.make_scene(96, seed=1), scene.make_scene(96, seed=1)
    np.testing.assert_array_equal(first, second)
    assert (first != scene.make_scene(96, seed=2)).any()
    scene.write_scene(tmp_path / "s.tif", first)
    with rasterio.open(tmp_path / "s.tif") as file:
        assert file.crs.to_epsg() == 32632
        assert file.transform.a == -file.transform.e == 10
        np.testing.assert_array_equal(np.moveaxis(file.read(), 0, -1), first)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(d=st.integers(3, 8), n=st.integers(10, 30), seed=st.integers(0, 99))
def test_token_colours_are_the_principal_components(d: int, n: int, seed: int) -> None:
    """Against the singular value decomposition, up to sign; a shift of one place in all images changes nothing."""
    rng = np.random.default_rng(seed)
    grids = (rng.normal(size=(n, 2, 3, d)) * np.geomspace(9, 1, d)).astype(np.float32)
    colours = consume.TokenColours.fit(grids)
    centred = (grids.astype(np.float64) - grids.mean(axis=0)).reshape(-1, d)
    _, values, directions = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(np.sum(colours.axes * directions[:3].T, axis=0)), 1, atol=1e-3)
    assert colours.explained == pytest.approx(np.sum(values[:3] ** 2) / np.sum(values**2), abs=1e-5)
    painted = colours.paint(grids).astype(int)
    assert painted.shape == (n, 2, 3, 3)
    shifted = grids + rng.normal(size=(2, 3, d)).astype(np.float32)
    assert np.abs(consume.TokenColours.fit(shifted).paint(shifted).astype(int) - painted).max() <= 1
    scene = np.tile(grids[0], (3, 2, 1))
    np.testing.assert_array_equal(colours.paint(scene)[2:4, 3:6], painted[0])


def test_most_confused() -> None:
    confusion = np.array([[5, 0, 2], [7, 1, 0], [0, 1, 9]])
    assert consume.most_confused(confusion, ["a", "b", "c"], 2) == [("b", "a", 7), ("a", "c", 2)]
