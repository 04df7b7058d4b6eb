"""Search among images, against brute force on what plain Zarr decodes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from search_samples import CLASSES, IMAGES, D, write_images

import nec
from nec.store import CountingStore, ImageStore, search


def brute(means: np.ndarray, query: np.ndarray, metric: str) -> np.ndarray:
    if metric == "euclidean":
        return np.array([np.linalg.norm(mean - query) for mean in means])
    return np.array([1 - mean @ query / np.linalg.norm(mean) / np.linalg.norm(query) for mean in means])


def test_pooled_are_the_mean_tokens(images: ImageStore, means: np.ndarray) -> None:
    pooled = images.pooled()
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, means, rtol=1e-4, atol=1e-4)


def test_pooled_reads_a_part_of_the_bytes() -> None:
    store = nec.open_store(CountingStore(nec.open_store("eurosat").zarr_store))
    before = store.zarr_store.bytes_read
    store.pooled()
    assert 0 < store.zarr_store.bytes_read - before < 0.3 * store.stored_bytes


@pytest.mark.parametrize("prior", ["hierarchical", "factorized"])
@pytest.mark.parametrize("grid", [(1, 1), (3, 2)])
def test_any_grid_and_prior_finds_itself(tmp_path: Path, prior: str, grid: tuple[int, int]) -> None:
    store = nec.open_store(write_images(tmp_path / "s.zarr", grid, None, prior))
    exact = store.embeddings[:].mean(axis=(1, 2))
    if prior == "factorized" or grid == (1, 1):
        np.testing.assert_allclose(store.pooled(), exact, rtol=1e-5, atol=1e-5)
    found = store.search(17, 3, candidates=IMAGES)
    assert found.indices.tolist() == np.argsort(brute(exact, exact[17], "cosine"))[:3].tolist()
    assert found.distances[0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("exact", [False, True])
def test_every_kind_of_query_finds_what_brute_force_finds(
    images: ImageStore, means: np.ndarray, metric: str, exact: bool
) -> None:
    grid = images.embeddings[11]
    for query in (11, np.int64(11), 11 - IMAGES, "image_11.jpg", means[11], means[11].tolist(), grid):
        found = images.search(query, 7, metric, exact)
        expected = brute(means, means[11], metric)
        order = np.argsort(expected, kind="stable")[:7]
        assert found.indices.tolist() == order.tolist()
        np.testing.assert_allclose(found.distances, expected[order], atol=1e-5)
        assert found.names == [f"image_{i}.jpg" for i in order]
    assert images.search(np.ones((2, 5, D)), 1).indices == images.search(np.ones(D), 1).indices


def test_filters_and_labels(images: ImageStore, means: np.ndarray) -> None:
    assert images.labels is not None
    assert images.split is not None
    mask = (images.labels == 1) & (images.split == "train")
    expected = np.flatnonzero(mask)[np.argsort(brute(means[mask], means[0], "cosine"))]
    for label in ("Sea", 1, "1"):
        found = images.search(0, int(mask.sum()), label=label, split="train")
        assert found.indices.tolist() == expected.tolist()
        assert set(found.labels or []) == {"Sea"}
    everything = images.search(0, IMAGES)
    labels = dict(zip(everything.indices.tolist(), everything.labels or [], strict=True))
    assert labels == {i: "" if label < 0 else CLASSES[label] for i, label in enumerate(images.labels.tolist())}


def test_two_stages_read_less_and_find_the_same_on_the_shipped_store() -> None:
    store = nec.open_store("eurosat")
    river = {"label": "River", "split": "test"}
    quick, slow = store.search("River/River_7.jpg", **river), store.search("River/River_7.jpg", exact=True, **river)
    assert quick.indices.tolist() == slow.indices.tolist()
    assert quick.bytes_read < slow.bytes_read
    assert json.loads(quick.to_json())["bytes_read"] == quick.bytes_read
    assert str(quick).splitlines()[1].split()[2] == quick.names[0]


def test_the_index_is_read_instead_of_the_frames(images: ImageStore, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "pooled.npz"
    plain = images.search(3, 5)
    made = images.search(3, 5, index=file)
    again = images.search(3, 5, index=file)
    assert plain.indices.tolist() == made.indices.tolist() == again.indices.tolist()
    assert again.bytes_read < made.bytes_read
    np.testing.assert_array_equal(images.pooled(index=file), images.pooled())
    other = nec.open_store(write_images(tmp_path / "other.zarr", seed=8))
    with pytest.raises(nec.InputError, match="index of another store"):
        other.search(3, index=file)
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(nec.InputError, match="remove it"):
        images.pooled(index=file)


def test_the_index_in_the_users_cache(images: ImageStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    images.pooled(index=True)
    (file,) = (tmp_path / "nec").iterdir()
    assert np.load(file)["vectors"].shape == (IMAGES, D)


@pytest.mark.parametrize(
    ("query", "options", "words"),
    [
        ("image_111.jpg", {}, "no image 'image_111.jpg': did you mean"),
        (IMAGES, {}, "has no image 60"),
        (np.ones(D + 1), {}, r"shape \(7,\)"),
        (np.ones((4, 4, D - 1)), {}, "shape"),
        (np.ones((4, D)), {}, "shape"),
        ([["a"]], {}, "numbers"),
        (np.full(D, np.nan), {}, "NaN"),
        (np.zeros(D), {}, "no direction"),
        (0, {"k": 0}, "k is 0"),
        (0, {"k": IMAGES + 1}, "there are 60 images"),
        (0, {"k": 21, "label": "Sea"}, "k is 21"),
        (0, {"metric": "manhattan"}, "no metric"),
        (0, {"label": "Moon"}, "no images of class 'Moon'"),
        (0, {"split": "dev"}, "no split 'dev'"),
        (0, {"candidates": 3}, "fewer than k"),
    ],
)
def test_bad_input_is_one_clear_line(images: ImageStore, query: object, options: dict, words: str) -> None:
    with pytest.raises(nec.InputError, match=words) as caught:
        images.search(query, **options)
    assert "\n" not in str(caught.value)


def test_damage_is_found(images_path: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(images_path, tmp_path / "d.zarr")
    shard = tmp_path / "d.zarr" / "embeddings" / "c.0.0.0.0"
    data = bytearray(shard.read_bytes())
    data[5] ^= 255
    shard.write_bytes(data)
    with pytest.raises(nec.CorruptError):
        nec.open_store(tmp_path / "d.zarr").search(0)


def test_the_function_takes_what_a_shell_gives(images_path: Path, images: ImageStore, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", images.embeddings[5])
    for given in ({"like": "5"}, {"like": "image_5.jpg"}, {"vector": tmp_path / "v.npy"}):
        assert search(str(images_path), **given, k=4).indices.tolist() == images.search(5, 4).indices.tolist()
    for given in ({}, {"like": "5", "vector": tmp_path / "v.npy"}, {"vector": tmp_path / "none"}, {"like": "500"}):
        with pytest.raises(nec.InputError):
            search(str(images_path), **given)
    with pytest.raises(nec.InputError, match="mean nothing"):
        search(images_path, "5", crs="EPSG:4326")
