"""Coarse grids and windows of a store: the values of the codec alone, from the bytes that they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr.storage
from zarr.storage import WrapperStore

import nec
from nec.errors import CorruptError, InputError


class CountingStore(WrapperStore[Any]):
    """Counts the bytes that are read of shards."""

    read = 0

    async def get(self, key: str, *args: Any, **options: Any) -> Any:
        value = await super().get(key, *args, **options)
        self.read += len(value) if value is not None and "zarr.json" not in key else 0
        return value


@pytest.fixture(scope="module")
def shipped() -> Path:
    return Path(nec.open_store("eurosat").path)


def test_coarse_grids_are_the_codecs_and_read_starts_alone(shipped: Path) -> None:
    counting = CountingStore(zarr.storage.LocalStore(shipped, read_only=True))
    store = nec.open_store(counting)
    tokens = store.embeddings[1000:1300]  # two shards, and chunks in part
    counting.read = 0
    roots = store.coarse(8, 1000, 1300)
    few = counting.read
    assert roots.shape == (300, 1, 1, 192)
    np.testing.assert_allclose(roots[:, 0, 0], tokens.mean((1, 2)), rtol=1e-3, atol=1e-3)  # a pyramid's are means
    counting.read = 0
    cells = store.coarse(4, 1000, 1300)
    more = counting.read
    np.testing.assert_allclose(cells[:, 1, 0], tokens[:, 4:, :4].mean((1, 2)), rtol=1e-3, atol=1e-3)
    chunks = [chunk for chunk in range(store.tiling.chunks) if 872 < chunk * store.images_per_chunk < 1300]
    whole = len(chunks) * store.images_per_chunk * store.bytes_per_image
    assert 0 < few < more < whole
    assert few < whole / 4
    np.testing.assert_array_equal(store.coarse(1, 1000, 1300), tokens)


def test_edges_of_coarse_reads(shipped: Path) -> None:
    store = nec.open_store(shipped)
    last = len(store) - 1
    assert store.coarse(4, 5, 5).shape == (0, 2, 2, 192)
    np.testing.assert_array_equal(store.coarse(4, last), store.coarse(4, last - 2)[2:])
    for spacing in (0, 3, 16):
        with pytest.raises(InputError, match="power of 2"):
            store.coarse(spacing, 0, 2)


def test_damage_under_coarse_reads_is_named(tmp_path: Path, store_path: Path) -> None:
    store = nec.open_store(store_path)
    spacing = 2
    whole = store.coarse(spacing)
    assert np.isfinite(whole).all()
    shard = store_path / "embeddings" / "c.0.0.0.0"
    data = bytearray(shard.read_bytes())
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(CorruptError, match="index"):
        store.coarse(spacing)
    shard.write_bytes(b"\0" * 8 + bytes(data[8:]))
    with pytest.raises(CorruptError, match="chunk 0"):
        store.coarse(spacing)
    shard.unlink()
    with pytest.raises(CorruptError, match="missing"):
        store.coarse(spacing)


def test_windows(shipped: Path) -> None:
    store = nec.open_store(shipped)
    window = (slice(2, 5), slice(None, -6), slice(7, 20))
    found = store.embeddings.read(120, 140, window)
    np.testing.assert_allclose(found, store.embeddings[120:140][:, 2:5, :-6, 7:20], rtol=1e-4, atol=1e-4)
    assert store.embeddings.read(5, 5, window).shape == (0, 3, 2, 13)
    for bad in ((slice(3, 3), slice(None), slice(None)), (slice(None), slice(None, None, 2), slice(None))):
        with pytest.raises(InputError, match="window"):
            store.embeddings.read(0, 1, bad)
