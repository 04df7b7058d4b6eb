"""Parts of frames and of Zarr chunks equal the same parts of the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zarr
from codec_samples import smooth_embeddings
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from nec.codec import EmbeddingCodec
from nec.codec.zarr_codec import NecEmbeddingCodec
from nec.errors import InputError

ROUNDING = {"rtol": 1e-4, "atol": 1e-5}
"""Sums over fewer values in another order: float32 differs in its last bits."""
EDGES = st.tuples(st.integers(-9, 9) | st.none(), st.integers(-9, 9) | st.none()).map(lambda edges: slice(*edges))


@pytest.fixture(scope="module")
def every_kind() -> list[EmbeddingCodec]:
    sample = smooth_embeddings(40, 6, 7, 5)
    return [
        EmbeddingCodec.fit(sample),
        EmbeddingCodec.fit(sample, prior="factorized", klt=False, rank=3),
        EmbeddingCodec.fit(sample, spatial="haar"),
        EmbeddingCodec.fit(sample, spatial="haar", positions=True),
    ]


@settings(max_examples=60, deadline=None)
@given(part=st.tuples(EDGES, EDGES, EDGES, EDGES), which=st.integers(0, 3), quality=st.sampled_from([0.125, 1.0, 64.0]))
def test_any_part_of_a_frame(
    every_kind: list[EmbeddingCodec], part: tuple[slice, slice, slice, slice], which: int, quality: float
) -> None:
    codec = every_kind[which]
    blob = codec.encode(smooth_embeddings(8, 6, 7, 5, seed=3), quality)
    expected = codec.decode(blob)[part]
    found = codec.decode(blob, part=part)
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, **ROUNDING)


def test_parts_of_other_steps_are_refused(every_kind: list[EmbeddingCodec]) -> None:
    blob = every_kind[0].encode(smooth_embeddings(2, 6, 7, 5))
    with pytest.raises(InputError, match="step 1"):
        every_kind[0].decode(blob, part=(slice(None, None, 2), slice(None), slice(None), slice(None)))


@pytest.mark.parametrize("axes", [("n", "y", "x", "c"), ("c", "x", "n", "y")])
@pytest.mark.parametrize("sharded", [False, True])
def test_zarr_selections_are_those_of_the_whole(
    every_kind: list[EmbeddingCodec], axes: tuple[str, ...], sharded: bool
) -> None:
    size = {"n": 10, "y": 6, "x": 7, "c": 5}
    chunk, shard = {"n": 4, "y": 4, "x": 7, "c": 5}, {"n": 8, "y": 8, "x": 7, "c": 5}
    array = zarr.create_array(
        MemoryStore(),
        shape=[size[axis] for axis in axes],
        chunks=[chunk[axis] for axis in axes],
        shards=[shard[axis] for axis in axes] if sharded else None,
        dtype="float32",
        fill_value=float("nan"),
        serializer=NecEmbeddingCodec(every_kind[2], 4.0, axes),
        compressors=None,
    )
    batch = smooth_embeddings(10, 6, 7, 5, seed=5)
    array[...] = batch.transpose(["nyxc".index(axis) for axis in axes])
    whole: Any = np.asarray(array[...])
    assert np.isfinite(whole).all()
    selections: list[Any] = [
        (3,),
        (slice(1, 3), slice(2, 5)),
        (slice(None), 2, slice(1, 9), 3),
        (slice(1, 5, 2), slice(None), slice(None), slice(0, 2)),
        (-1, slice(None), 0, slice(3, None)),
        (slice(2, 2),),
    ]
    for selection in selections:
        np.testing.assert_allclose(array[selection], whole[selection], **ROUNDING)
    chosen = [0, 2, 4]
    np.testing.assert_allclose(array.oindex[chosen, slice(1, 3)], whole[chosen, 1:3], **ROUNDING)
    np.testing.assert_allclose(
        array.vindex[[0, 1], [1, 0], [2, 2], [3, 1]], whole[[0, 1], [1, 0], [2, 2], [3, 1]], **ROUNDING
    )
