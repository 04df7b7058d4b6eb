"""A store gives back what the codec alone gives, through every way of reading it."""

from __future__ import annotations

import pickle
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
import zarr.storage
from hypothesis import given
from hypothesis import strategies as st

import nec
from nec.labels import SPLITS
from nec.store import ImageStore, info, open_store, verify
from nec.store.opening import shipped


def test_embeddings_equal_the_codec_alone(store_path: Path, decoded: np.ndarray, embeddings: np.ndarray) -> None:
    store = nec.open_store(store_path)
    values = np.asarray(store.embeddings)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, decoded)
    assert np.mean((values - embeddings) ** 2) < 0.05 * embeddings.var()


def test_what_belongs_to_the_images_comes_back(store_path: Path, keywords: dict[str, Any]) -> None:
    store = open_store(str(store_path))
    assert (len(store), store.grid, store.dimensions, store.quality) == (53, (3, 4), 6, 2.0)
    assert store.names == keywords["names"]
    assert store.class_names == keywords["class_names"]
    assert store.labels is not None
    assert store.labels.dtype == np.int64
    np.testing.assert_array_equal(store.labels, keywords["labels"])
    np.testing.assert_array_equal(store.split, keywords["split"])
    assert store.codec.id == keywords["codec"].id
    assert store.attrs["model"] == keywords["model"]
    assert store.attrs["provenance"] == keywords["provenance"]
    assert store.complete


def test_a_store_without_labels_and_split(tmp_path: Path, make: Callable[..., Path]) -> None:
    store = open_store(make(tmp_path / "bare.zarr", labels=None, class_names=None, split=None, model=None))
    assert store.labels is None
    assert store.split is None
    assert store.class_names is None
    assert info(store.path)["split"] is None


def _index() -> st.SearchStrategy[Any]:
    bounds = st.one_of(st.none(), st.integers(-60, 60))
    steps = st.one_of(st.none(), st.integers(-5, -1), st.integers(1, 5))
    places = st.integers(-53, 52)
    first = st.one_of(
        places,
        st.builds(slice, bounds, bounds, steps),
        st.lists(places, max_size=12),
        st.lists(places, max_size=12).map(partial(np.array, dtype=np.int64)),
        st.lists(st.booleans(), min_size=53, max_size=53).map(np.array),
    )
    inner = st.one_of(st.integers(-3, 2), st.builds(slice, bounds, bounds, steps))
    return st.one_of(
        first,
        st.tuples(first, inner),
        st.tuples(first, inner, inner, inner),
        st.tuples(st.just(...), inner),
        st.tuples(first, st.just(...), inner),
        st.just(...),
        st.just(()),
    )


@pytest.fixture(scope="module")
def shared_store(
    tmp_path_factory: pytest.TempPathFactory, embeddings: np.ndarray, keywords: dict[str, Any]
) -> ImageStore:
    path = tmp_path_factory.mktemp("shared") / "toy.zarr"
    with nec.store.ImageWriter.create(path, nec.store.ImageSpec(**keywords)) as writer:
        for start, stop in writer.missing():
            writer.write(start, embeddings[start:stop])
        writer.finish()
    return open_store(path)


@given(index=_index())
def test_indexing_is_numpys(shared_store: ImageStore, decoded: np.ndarray, index: Any) -> None:
    expected = decoded[np.array([], int)] if isinstance(index, list) and not index else None
    if isinstance(index, tuple) and index and isinstance(index[0], list) and not index[0]:
        index = (np.array([], int), *index[1:])
    result = shared_store.embeddings[index]
    np.testing.assert_array_equal(result, decoded[index] if expected is None else expected)


@given(size=st.integers(1, 60), indices=st.one_of(st.none(), st.lists(st.integers(-53, 52), max_size=70)))
def test_batches_cover_what_is_asked_in_order(
    shared_store: ImageStore, decoded: np.ndarray, size: int, indices: list[int] | None
) -> None:
    batches = list(shared_store.batches(size, indices))
    assert all(len(part) == len(block) <= size for part, block in batches)
    wanted = np.arange(53) if indices is None else np.array(indices, int) % 53
    order = np.concatenate([np.empty(0, int), *(part for part, _ in batches)])
    np.testing.assert_array_equal(order, wanted)
    for part, block in batches:
        np.testing.assert_array_equal(block, decoded[part])


def test_batches_in_order_decode_each_chunk_once(shared_store: ImageStore, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, int]] = []
    original = shared_store.embeddings.read
    monkeypatch.setattr(shared_store.embeddings, "read", lambda a, b: (read.append((a, b)), original(a, b))[1])
    assert sum(len(part) for part, _ in shared_store.batches(5)) == 53
    assert sum(b - a for a, b in read) == 53


@pytest.mark.parametrize(
    ("index", "error"),
    [(53, IndexError), (-54, IndexError), ([0, 60], IndexError), ([[0]], nec.InputError), ([0.5], nec.InputError),
     ((0, 0, 0, 0, 0), nec.InputError), ((0, [1]), nec.InputError), ("a", nec.InputError)],
)  # fmt: skip
def test_wrong_indices_are_refused(shared_store: ImageStore, index: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        shared_store.embeddings[index]


def test_iterating_and_copies(shared_store: ImageStore, decoded: np.ndarray) -> None:
    np.testing.assert_array_equal(np.stack(list(shared_store.embeddings)), decoded)
    assert np.asarray(shared_store.embeddings, dtype=np.float64).dtype == np.float64
    if int(np.__version__.split(".")[0]) >= 2:  # NumPy 1 copies in silence
        with pytest.raises(ValueError, match="copy"):
            np.array(shared_store.embeddings, copy=False)


def test_plain_zarr_and_xarray_read_it_without_warnings(store_path: Path, decoded: np.ndarray) -> None:
    xarray = pytest.importorskip("xarray")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = zarr.open(str(store_path), mode="r")
        np.testing.assert_array_equal(group["embeddings"][10:20], decoded[10:20])
        dataset = xarray.open_zarr(store_path)
    assert dataset.embeddings.dims == ("image", "y", "x", "embedding")
    np.testing.assert_array_equal(dataset.embeddings.isel(image=[40, 2]).values, decoded[[40, 2]])
    flags = dataset.split.attrs["flag_meanings"].split()
    store = open_store(store_path)
    assert store.split is not None
    assert [SPLITS[flag] for flag in dataset.split.values] == store.split.tolist()
    assert flags == ["unassigned", "train", "val", "test"]
    assert dataset.labels.attrs["flag_meanings"] == "Forest Sea_and_Lake Highway"
    assert [str(name) for name in dataset.names.values] == store.names


def test_a_zarr_store_object(store_path: Path, decoded: np.ndarray) -> None:
    memory = zarr.storage.MemoryStore()
    files = {str(f.relative_to(store_path)): f.read_bytes() for f in store_path.rglob("*") if f.is_file()}
    buffers = {name: zarr.core.buffer.cpu.Buffer.from_bytes(data) for name, data in files.items()}
    store = open_store(zarr.storage.MemoryStore(buffers))
    np.testing.assert_array_equal(store.embeddings[:], decoded)
    with pytest.raises(nec.InputError, match=r"no zarr\.json"):
        open_store(memory)


def test_pickles(store_path: Path, decoded: np.ndarray) -> None:
    store = pickle.loads(pickle.dumps(open_store(store_path)))
    np.testing.assert_array_equal(store.embeddings[7:30], decoded[7:30])


def test_threads_may_share_a_store(shared_store: ImageStore, decoded: np.ndarray) -> None:
    results: dict[int, np.ndarray] = {}

    def work(seed: int) -> None:
        indices = np.random.default_rng(seed).integers(0, 53, 40)
        results[seed] = shared_store.embeddings[indices] - decoded[indices]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    assert all(not result.any() for result in results.values())


class _Ranges(BaseHTTPRequestHandler):
    """Files with range requests, as object storage serves them; counts the bytes sent."""

    def __init__(self, root: Path, sent: list[int], *rest: Any) -> None:
        self.root, self.sent = root, sent
        super().__init__(*rest)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        file = self.root / self.path.strip("/")
        if (self.root / "overloaded").exists():
            self.send_error(503)
            return
        if not file.is_file():
            self.send_error(404)
            return
        data, status = file.read_bytes(), 200
        if "Range" in self.headers:
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            start = int(first) if first else len(data) - int(last)
            stop = int(last) + 1 if first and last else len(data)
            extent, data, status = f"bytes {start}-{stop - 1}/{len(data)}", data[start:stop], 206
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", extent)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if body:
            self.sent.append(len(data))
            self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, list[int]]]:
    sent: list[int] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Ranges, tmp_path, sent))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", sent
    server.shutdown()
    server.server_close()


def test_over_http_only_the_needed_chunk_travels(
    served: tuple[str, list[int]], store_path: Path, decoded: np.ndarray
) -> None:
    pytest.importorskip("aiohttp")
    pytest.importorskip("fsspec")
    url, sent = served
    store = open_store(f"{url}/{store_path.name}")
    del sent[:]
    np.testing.assert_array_equal(store.embeddings[5], decoded[5])
    whole = (store_path / "embeddings" / "c.0.0.0.0").stat().st_size
    assert sum(sent) < whole
    assert store.names[3].startswith("Forest")
    with pytest.raises(nec.InputError, match="not a store"):
        open_store(f"{url}/elsewhere.zarr")


def test_a_server_that_fails_is_not_taken_for_damage(
    served: tuple[str, list[int]], tmp_path: Path, store_path: Path, decoded: np.ndarray
) -> None:
    pytest.importorskip("aiohttp")
    store = open_store(f"{served[0]}/{store_path.name}")
    (tmp_path / "overloaded").touch()
    for read in (
        lambda: store.embeddings[0],
        lambda: store.labels,
        lambda: open_store(store.path),
        lambda: verify(store.path),
    ):
        with pytest.raises(nec.NecError, match=r"cannot read .*503") as caught:
            read()
        assert not isinstance(caught.value, nec.CorruptError)
    (tmp_path / "overloaded").unlink()
    np.testing.assert_array_equal(store.embeddings[0], decoded[0])


def test_shipped_names(tmp_path: Path, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "nec"
    make(package / "assets" / "stores" / "toy.zarr")
    monkeypatch.setattr("nec.__file__", str(package / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    assert list(shipped("stores")) == ["toy"]
    (tmp_path / "toy").mkdir()  # a folder of that name that is no store does not hide the shipped one
    assert len(open_store("toy")) == 53
    with pytest.raises(nec.InputError, match="shipped: toy"):
        open_store("tox")


def test_sizes_are_those_on_disk(store_path: Path) -> None:
    report = info(store_path)
    sizes = {f.relative_to(store_path).as_posix(): f.stat().st_size for f in store_path.rglob("*") if f.is_file()}
    shards = [size for name, size in sizes.items() if name.startswith("embeddings/c")]
    assert report["stored_bytes"] == sum(shards)
    assert report["bytes_per_image"] == sum(shards) / 53
    assert report["bits_per_value"] == 8 * sum(shards) / (53 * 3 * 4 * 6)
    assert sum(report["side_information"].values()) == sum(sizes.values()) - sum(shards)
    assert report["side_information"]["names"] == sizes["names/c.0"]
    assert report["split"] == {"train": 22, "val": 11, "test": 10, "unassigned": 10}
    assert {"images", "grid", "dimensions", "quality", "model", "codec"} <= set(report)
    assert set(report["codec"]) == {"prior", "id"}
