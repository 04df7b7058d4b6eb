"""`nec demo` on a tiny store and model: what it counts, writes and refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nec
from nec import demo as module
from nec.cli import main
from nec.demo import coarser_rates, colours_of, demo, draw_scene


@pytest.fixture
def run(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(module, "SIDE", 64)
    monkeypatch.setattr(module, "CHUNK", 16)
    monkeypatch.setenv("NEC_DATA", str(tmp_path))

    def call(**options: Any) -> Any:
        return demo(
            tmp_path / "out", store=str(tiny.store), model=str(tiny.model), epochs=30, progress=False, **options
        )

    return call


@pytest.mark.slow
def test_figures_and_files(run: Any, tiny: Any, tmp_path: Path) -> None:
    report, out, store = run(), tmp_path / "out", nec.open_store(tiny.store)
    assert json.loads((out / "figures.json").read_text()) == json.loads(report.to_json())
    assert report.store["stored_bytes"] == store.stored_bytes
    assert report.store["float16_bytes"] == 240 * 16 * 12 * 2
    sizes = [point["bytes_per_image"] for point in report.rate_accuracy]
    assert sizes == sorted(sizes, reverse=True)
    assert report.heads["linear"]["accuracy"] > 0.9
    assert report.heads["attention"]["accuracy"] > 0.9
    assert report.real_images is report.user_images is None
    for name in ("rate-accuracy", "per-class"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"<[^>]*(src|href)=\"(?!data:)(?!#)", page.split("<script>")[0]), "the report must stand alone"
    alts = re.findall(r'<img [^>]*alt="([^"]*)"', page)
    assert len(alts) == 12 + 5
    assert all(alts)
    raster = nec.open_product(out / "scene.zarr")
    assert raster.read(0).shape == (16, 16, 12)
    assert report.scene["stored_bytes"] == raster.stored_bytes
    assert report.scene["verified"] is True
    assert report.scene["chunks"] == nec.verify(out / "scene.zarr").chunks > 0
    assert not report.failed
    assert replace(report, scene={**report.scene, "verified": False}).failed


def test_shipped_point_is_what_the_store_holds(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first point has the bytes of the store's own chunks: coding decoded embeddings again changes nothing."""
    monkeypatch.setattr(module, "CHUNK", 16)
    monkeypatch.setattr(module, "EVERY", 1)
    store = nec.open_store(tiny.store)
    points, sample = coarser_rates(store)
    overhead = store.stored_bytes - points[0]["bytes_per_image"] * len(store)
    assert 0 <= overhead <= 4 * (16 * 4 + 4)  # the index of each of the shards
    assert sample.shape == (60, 4, 4, 12)


@pytest.mark.slow
def test_real_and_own_images(run: Any, tiny: Any) -> None:
    report = run(data=f"folder:{tiny.pictures}", images=str(tiny.pictures))
    assert report.real_images["images"] == 60
    assert report.real_images["equal_symbols"] > 0.999
    assert report.real_images["accuracy"] > 0.9
    assert report.user_images["images"] == 64


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--store", "no-such-store"], "no-such-store"),
        (["--data", "nowhere.zip"], "nowhere.zip"),
        (["--out", __file__], "is a file"),
    ],
)
def test_bad_input_is_one_line(
    extra: list[str], message: str, tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"--out": str(tmp_path / "o"), "--store": str(tiny.store), "--model": str(tiny.model)}
    given |= {extra[0]: extra[1]}
    assert main(["demo", *(word for pair in given.items() for word in pair), "--json"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


def test_the_scene_is_seeded() -> None:
    first = draw_scene(96, seed=1)
    assert (first.shape, first.dtype) == ((96, 96, 3), np.uint8)
    np.testing.assert_array_equal(first, draw_scene(96, seed=1))
    assert (first != draw_scene(96, seed=2)).any()


@settings(max_examples=20, deadline=None, derandomize=True)
@given(d=st.integers(3, 8), n=st.integers(10, 30), seed=st.integers(0, 99))
def test_token_colours_are_the_principal_components(d: int, n: int, seed: int) -> None:
    """The share is that of the singular values; a shift of one place in all images changes no colour."""
    rng = np.random.default_rng(seed)
    grids = (rng.normal(size=(n, 2, 3, d)) * np.geomspace(9, 1, d)).astype(np.float32)
    paint, explained = colours_of(grids)
    values = np.linalg.svd((grids.astype(np.float64) - grids.mean(axis=0)).reshape(-1, d), compute_uv=False)
    assert explained == pytest.approx(np.sum(values[:3] ** 2) / np.sum(values**2), abs=1e-5)
    painted = paint(grids).astype(int)
    assert painted.shape == (n, 2, 3, 3)
    shifted = grids + rng.normal(size=(2, 3, d)).astype(np.float32)
    assert np.abs(colours_of(shifted)[0](shifted).astype(int) - painted).max() <= 1
    assert paint(np.tile(grids[0], (3, 2, 1))).shape == (6, 6, 3)
