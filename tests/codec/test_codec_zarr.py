"""The Zarr v3 codec: edges, shards, axis orders, damage, xarray."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import zarr
from codec_samples import smooth_embeddings

from nec.codec import EmbeddingCodec, NecEmbeddingCodec
from nec.errors import CorruptError, InputError

SIZES = {"n": (50, 8), "y": (7, 4), "x": (5, 3), "c": (5, 5)}


def create(path: Path, codec: NecEmbeddingCodec, shape: tuple, chunks: tuple, **options: object) -> zarr.Array:
    return zarr.create_array(
        path,
        shape=shape,
        chunks=chunks,
        dtype="float32",
        fill_value=float("nan"),
        serializer=codec,
        compressors=None,
        **options,
    )


@pytest.mark.parametrize("axes", [("n", "y", "x", "c"), ("c", "y", "x", "n"), ("x", "n", "c", "y")], ids="".join)
@pytest.mark.parametrize("sharded", [False, True])
def test_arrays_round_trip(axes: tuple, sharded: bool, codecs: dict[str, EmbeddingCodec], tmp_path: Path) -> None:
    codec, quality = codecs["hierarchical"], 16.0
    batch = smooth_embeddings(50, 7, 5, 5).transpose([("n", "y", "x", "c").index(axis) for axis in axes])
    shape, chunks = zip(*(SIZES[axis] for axis in axes), strict=True)
    shards = tuple(2 * c if a == "n" else c for a, c in zip(axes, chunks, strict=True)) if sharded else None
    array = create(tmp_path / "a.zarr", NecEmbeddingCodec(codec, quality, axes), shape, chunks, shards=shards)
    array[:] = batch
    again = zarr.open(tmp_path / "a.zarr", mode="r")
    assert not np.isnan(again[:]).any()
    assert np.abs(again[:] - batch).max() < 4 * codec.step(quality)
    np.testing.assert_array_equal(again[1:3, 2:4], again[:][1:3, 2:4])


def test_all_axis_orders_make_the_same_frames(codecs: dict[str, EmbeddingCodec]) -> None:
    batch = smooth_embeddings(3, 4, 2, 5)
    frames = set()
    for order in itertools.permutations(range(4)):
        codec = NecEmbeddingCodec(codecs["hierarchical"], 2.0, ["nyxc"[i] for i in order])
        chunk = batch.transpose(order)
        frames.add(codec.encode_chunk(chunk))
        decoded = codec.decode_chunk(codec.encode_chunk(chunk), chunk.shape, np.dtype("f4"), np.nan)
        np.testing.assert_array_equal(decoded, codecs["hierarchical"].decode(next(iter(frames))).transpose(order))
    assert len(frames) == 1


def test_padding_is_not_coded(codecs: dict[str, EmbeddingCodec]) -> None:
    codec = NecEmbeddingCodec(codecs["hierarchical"], 2.0)
    chunk = np.full((8, 4, 4, 5), np.nan, np.float32)
    whole = codec.decode_chunk(codec.encode_chunk(chunk), chunk.shape, np.dtype("f4"), np.nan)
    assert np.isnan(whole).all()
    chunk[:6, :3, :2] = smooth_embeddings(6, 3, 2, 5)
    blob = codec.encode_chunk(chunk)
    assert blob == codecs["hierarchical"].encode(chunk[:6, :3, :2], 2.0)
    decoded = codec.decode_chunk(blob, chunk.shape, np.dtype("f4"), np.nan)
    np.testing.assert_array_equal(np.isnan(decoded), np.isnan(chunk))
    chunk[2, 1, 1] = np.nan
    with pytest.raises(InputError, match="NaN"):
        codec.encode_chunk(chunk)


def test_missing_chunks_read_as_nan(codecs: dict[str, EmbeddingCodec], tmp_path: Path) -> None:
    array = create(tmp_path / "a.zarr", NecEmbeddingCodec(codecs["factorized"], 1.0), (20, 4, 4, 5), (8, 4, 4, 5))
    array[:8] = smooth_embeddings(8, 4, 4, 5)
    assert np.isfinite(array[:8]).all()
    assert np.isnan(array[8:]).all()


def test_a_damaged_chunk_raises(codecs: dict[str, EmbeddingCodec], tmp_path: Path) -> None:
    array = create(tmp_path / "a.zarr", NecEmbeddingCodec(codecs["hierarchical"], 1.0), (8, 4, 4, 5), (8, 4, 4, 5))
    array[:] = smooth_embeddings(8, 4, 4, 5)
    chunk = tmp_path / "a.zarr" / "c" / "0" / "0" / "0" / "0"
    blob = bytearray(chunk.read_bytes())
    blob[len(blob) // 2] ^= 16
    chunk.write_bytes(blob)
    with pytest.raises(CorruptError, match="checksum"):
        array[:]


def test_metadata_is_self_contained_and_checked(codecs: dict[str, EmbeddingCodec], tmp_path: Path) -> None:
    codec = NecEmbeddingCodec(codecs["hierarchical"], 2.5, ("n", "x", "y", "c"))
    metadata = json.loads(json.dumps(codec.to_dict()))
    assert NecEmbeddingCodec.from_dict(metadata) == codec
    config = metadata["configuration"]
    for bad in (
        {},
        {**config, "axes": ["n", "y", "x"]},
        {**config, "axes": 3},
        {**config, "quality": -1},
        {**config, "quality": "best"},
        {**config, "codec": None},
        {key: value for key, value in config.items() if key != "quality"},
    ):
        with pytest.raises(InputError):
            NecEmbeddingCodec.from_dict({"name": "nec.embedding", "configuration": bad})
    with pytest.raises(InputError):
        NecEmbeddingCodec.from_dict({"name": "nec.embedding"})


@pytest.mark.parametrize(
    ("shape", "chunks", "dtype"),
    [((8, 4, 4, 6), (8, 4, 4, 6), "f4"), ((8, 4, 5), (8, 4, 5), "f4"), ((8, 4, 4, 5), (8, 4, 4, 5), "i4")],
)
def test_arrays_that_do_not_fit_are_refused(
    codecs: dict[str, EmbeddingCodec], tmp_path: Path, shape: tuple, chunks: tuple, dtype: str
) -> None:
    codec = NecEmbeddingCodec(codecs["hierarchical"], 1.0)
    with pytest.raises(InputError, match=r"nec\.embedding|axis c"):
        zarr.create_array(
            tmp_path / "a.zarr", shape=shape, chunks=chunks, dtype=dtype, serializer=codec, compressors=None
        )


def test_zarr_finds_the_codec_by_itself(codecs: dict[str, EmbeddingCodec], tmp_path: Path) -> None:
    if not any(point.name == "nec.embedding" for point in metadata.entry_points(group="zarr.codecs")):
        pytest.skip("nec runs from a source folder: without an installation there are no entry points")
    array = create(tmp_path / "a.zarr", NecEmbeddingCodec(codecs["hierarchical"], 1.0), (8, 4, 4, 5), (8, 4, 4, 5))
    array[:] = smooth_embeddings(8, 4, 4, 5)
    code = "import sys, zarr; assert 'nec' not in sys.modules; print(zarr.open(sys.argv[1], mode='r')[:].mean())"
    command = [sys.executable, "-c", code, str(tmp_path / "a.zarr")]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert float(output) == pytest.approx(float(array[:].mean()), rel=1e-5)


def test_xarray_opens_it(codecs: dict[str, EmbeddingCodec], tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    group = zarr.create_group(tmp_path / "store.zarr")
    array = group.create_array(
        "embeddings",
        shape=(10, 4, 4, 5),
        chunks=(4, 4, 4, 5),
        dtype="float32",
        fill_value=float("nan"),
        serializer=NecEmbeddingCodec(codecs["hierarchical"], 4.0),
        compressors=None,
        dimension_names=["n", "y", "x", "c"],
    )
    array[:] = smooth_embeddings(10, 4, 4, 5)
    with xarray.open_zarr(tmp_path / "store.zarr", consolidated=False, chunks=None) as dataset:
        np.testing.assert_array_equal(dataset["embeddings"][2:5].values, array[2:5])
