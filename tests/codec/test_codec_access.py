"""Parts of what is stored: coarse grids from prefixes, partial reads that fetch only their chunks, other stores."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
import zarr.storage
from codec_samples import smooth_embeddings
from zarr.storage import MemoryStore, WrapperStore

from nec.codec import EmbeddingCodec, NecEmbeddingCodec, coder
from nec.errors import CorruptError, InputError


@pytest.mark.parametrize("grid", [(8, 8), (7, 5), (1, 9), (16, 3)])
def test_coarse_grids_need_only_a_prefix(grid: tuple[int, int], codecs: dict[str, EmbeddingCodec]) -> None:
    codec = codecs["hierarchical"]
    blob = codec.encode(smooth_embeddings(6, *grid, 5, seed=4), 8.0)
    whole, spacing, sizes = codec.decode(blob), 1, []
    while spacing < max(grid):
        spacing *= 2
        size = codec.coarse_size(blob[:64], spacing)
        np.testing.assert_array_equal(codec.decode_coarse(blob[:size], spacing), whole[:, ::spacing, ::spacing])
        with pytest.raises(CorruptError, match="cut"):
            codec.decode_coarse(blob[: size - 1], spacing)
        sizes.append(size)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] < len(blob)
    np.testing.assert_array_equal(codec.decode_coarse(blob, 1), whole)


def test_coarse_grids_with_means_by_position_and_of_nothing() -> None:
    pattern = np.random.default_rng(9).normal(size=(8, 8, 5))
    codec = EmbeddingCodec.fit(smooth_embeddings(30, 8, 8, 5) + pattern, positions=True)
    for batch in (smooth_embeddings(3, 7, 8, 5, seed=1) + pattern[:7], np.tile(codec._transform.mean, (0, 4, 4, 1))):
        blob = codec.encode(batch, 4.0)
        for spacing in (2, 4):
            expected = codec.decode(blob)[:, ::spacing, ::spacing]
            np.testing.assert_array_equal(codec.decode_coarse(blob, spacing), expected)


@pytest.mark.parametrize("name", ["hierarchical", "haar"])
def test_coarse_grids_take_no_memory_for_the_rest(name: str, codecs: dict[str, EmbeddingCodec]) -> None:
    codec = codecs[name]
    blob = codec.encode(smooth_embeddings(20, 32, 32, 5), 4.0)
    prefix = blob[: codec.coarse_size(blob, 8)]
    codec.decode_coarse(prefix, 8)  # compiled, imported
    tracemalloc.start()
    codec.decode_coarse(prefix, 8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * 32 * 32 * 5 * 4 / 2  # half of one array of the whole grid


@pytest.mark.slow
@pytest.mark.parametrize("plain", [False, True], ids=["compiled", "plain"])
@pytest.mark.parametrize("quality", [1.0, 64.0])  # symbols of a few bits, and of more than 7
def test_decoding_takes_three_times_the_batch_at_most(
    codec: EmbeddingCodec, quality: float, plain: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    symbols = np.tile(codec.symbols(smooth_embeddings(130, 16, 16, 5), quality), (50, 1, 1, 1))  # 32 MiB as floats
    blob = codec.encode_symbols(symbols, quality)
    del symbols
    if plain:
        monkeypatch.setattr(coder, "KERNEL", None)
    codec.decode(codec.encode(smooth_embeddings(2, 16, 16, 5), quality))  # compiled, imported
    tracemalloc.start()
    decoded = codec.decode(blob)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * decoded.nbytes


def test_coarse_grids_above_the_limit_are_refused(codecs: dict[str, EmbeddingCodec]) -> None:
    blob = codecs["haar"].encode(smooth_embeddings(9, 4, 4, 5))
    with pytest.raises(CorruptError, match="at most"):
        codecs["haar"].decode_coarse(blob, 2, limit=(8, 4, 4))


def halved(grids: np.ndarray) -> np.ndarray:
    """Means over 2 x 2 tokens, an odd last row or column counted twice."""
    padded = np.pad(grids, ((0, 0), (0, grids.shape[1] % 2), (0, grids.shape[2] % 2), (0, 0)), mode="edge")
    return (padded[:, ::2] + padded[:, 1::2])[:, :, ::2] / 4 + (padded[:, ::2] + padded[:, 1::2])[:, :, 1::2] / 4


@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("grid", [(8, 8), (7, 5), (6, 11)])
def test_coarse_grids_of_a_pyramid_are_means_of_cells(grid: tuple[int, int], positions: bool) -> None:
    pattern = np.random.default_rng(9).normal(size=(16, 16, 5)) * positions
    sample = smooth_embeddings(30, 16, 16, 5) + pattern
    codec = EmbeddingCodec.fit(sample, spatial="haar", positions=positions)
    blob = codec.encode(smooth_embeddings(3, *grid, 5, seed=4) + pattern[: grid[0], : grid[1]], 8.0)
    expected, spacing = codec.decode(blob), 1
    while spacing < max(grid):
        expected, spacing = halved(expected), 2 * spacing
        prefix = blob[: codec.coarse_size(blob, spacing)]
        np.testing.assert_allclose(codec.decode_coarse(prefix, spacing), expected, rtol=1e-4, atol=1e-4)


def test_spacings_that_a_frame_does_not_have(codecs: dict[str, EmbeddingCodec]) -> None:
    batch = smooth_embeddings(2, 6, 6, 5)
    for name, spacing in (("hierarchical", 3), ("hierarchical", 16), ("hierarchical", 0), ("factorized", 2)):
        with pytest.raises(InputError, match="power of 2"):
            codecs[name].decode_coarse(codecs[name].encode(batch), spacing)


class CountingStore(WrapperStore[MemoryStore]):
    """Counts the bytes that are read of chunks."""

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store)
        self.chunk_bytes = 0

    async def get(self, key: str, *args: Any, **options: Any) -> Any:
        value = await super().get(key, *args, **options)
        self.chunk_bytes += len(value) if value is not None and "zarr.json" not in key else 0
        return value


def stored(store: Any, codec: EmbeddingCodec, shards: tuple[int, ...] | None = None) -> zarr.Array:
    array = zarr.create_array(
        store,
        shape=(24, 8, 8, 5),
        chunks=(4, 4, 8, 5),
        shards=shards,
        dtype="float32",
        fill_value=float("nan"),
        serializer=NecEmbeddingCodec(codec, 8.0),
        compressors=None,
        dimension_names=["n", "y", "x", "c"],
    )
    array[:] = smooth_embeddings(24, 8, 8, 5)
    return array


@pytest.mark.parametrize("shards", [None, (12, 8, 8, 5)])
def test_partial_reads_fetch_only_their_chunks(shards: tuple | None, codecs: dict[str, EmbeddingCodec]) -> None:
    memory = MemoryStore()
    values = stored(memory, codecs["hierarchical"], shards)[:]
    counting = CountingStore(memory)
    array = zarr.open_array(counting, mode="r+")  # "r" would count in a copy of the store
    np.testing.assert_array_equal(array[:], values)
    everything, counting.chunk_bytes = counting.chunk_bytes, 0
    np.testing.assert_array_equal(array[5, :2], values[5, :2])  # 1 of 12 chunks
    index = 0 if shards is None else 2 * 6 * 16 + 4  # of a shard: two numbers a chunk and a CRC
    assert 0 < counting.chunk_bytes - index < everything / 8
    counting.chunk_bytes = 0
    np.testing.assert_array_equal(array[0:4], values[0:4])
    assert counting.chunk_bytes < everything / 3


def test_other_stores(codecs: dict[str, EmbeddingCodec], tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    pytest.importorskip("obstore")
    from obstore.store import LocalStore as ObstoreLocal

    values = stored(MemoryStore(), codecs["hierarchical"])[:]
    (tmp_path / "obstore").mkdir()
    stores = [
        zarr.storage.FsspecStore.from_url("memory://nec-test", storage_options={}),
        zarr.storage.ObjectStore(ObstoreLocal(tmp_path / "obstore")),
        zarr.storage.ZipStore(tmp_path / "store.zip", mode="w"),
    ]
    for store in stores:
        stored(store, codecs["hierarchical"])
        np.testing.assert_array_equal(zarr.open_array(store, mode="r+")[3:9, 1:7], values[3:9, 1:7])
        store.close()


def test_asynchronous_and_lazy_reads(codecs: dict[str, EmbeddingCodec]) -> None:
    memory = MemoryStore()
    array = stored(memory, codecs["factorized"], shards=(12, 8, 8, 5))

    async def read() -> Any:
        opened = await zarr.api.asynchronous.open_array(store=memory, mode="r")
        return await asyncio.gather(opened.getitem(slice(0, 4)), opened.getitem((slice(20, 24), slice(0, 4))))

    first, last = asyncio.run(read())
    np.testing.assert_array_equal(first, array[:4])
    np.testing.assert_array_equal(last, array[20:24, :4])
    dask = pytest.importorskip("dask.array")
    lazy = dask.from_zarr(array)
    np.testing.assert_allclose(lazy.mean(axis=(1, 2)).compute(), array[:].mean(axis=(1, 2)), rtol=1e-4, atol=1e-5)


def test_a_reader_without_the_package_is_told_its_name(codecs: dict[str, EmbeddingCodec], tmp_path: Path) -> None:
    stored(tmp_path / "a.zarr", codecs["factorized"])
    code = """if True:
        import importlib.metadata, sys
        from importlib.metadata import EntryPoints
        points = [p for d in importlib.metadata.distributions() for p in d.entry_points if p.name != "nec.embedding"]
        importlib.metadata.entry_points = lambda **options: EntryPoints(points).select(**options)
        import zarr
        zarr.open(sys.argv[1], mode="r")[:]
    """
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.zarr")], capture_output=True, text=True)
    assert done.returncode != 0
    assert "nec.embedding" in done.stderr.splitlines()[-1]
    assert "neural-embedding-compression" in (tmp_path / "a.zarr" / "zarr.json").read_text()
