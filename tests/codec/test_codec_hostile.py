"""What hostile bytes cost: memory and work in proportion to what is asked for, and our own errors alone."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from codec_samples import smooth_embeddings
from legal_codecs import fitting, forged

from nec.codec import EmbeddingCodec, NecEmbeddingCodec, coder
from nec.codec.config import pack_array
from nec.codec.frame import MAX_HEADER
from nec.errors import CorruptError, InputError

KINDS = ["hierarchical", "factorized", "plain", "haar"]
PATHS = pytest.mark.parametrize("plain", [False, True], ids=["compiled", "plain"])


@pytest.fixture
def path(plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if plain:
        monkeypatch.setattr(coder, "KERNEL", None)


def peak(task: Callable[[], Any]) -> int:
    """Most bytes that a task took."""
    tracemalloc.start()
    task()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def coded(codec: EmbeddingCodec, n: int, y: int, x: int) -> bytes:
    """A frame of a few dozen bytes whose symbols are all coded: an empty code is a legal one."""
    levels = codec.parts[1].resolutions(y, x)
    numbers = [n, y, x, codec.rank, 24]
    for left in reversed(range(len(levels))):
        numbers += [codec.rank] if codec.spatial else []
        numbers += [0] if left else []
    return forged(codec, numbers, b"")


@pytest.mark.parametrize(
    ("n", "y", "x"), [(0, 65536, 65536), (1 << 41, 0, 1), (1 << 41, 1, 0), (0, 0, 65536), (0, 1, 1), (1 << 30, 0, 0)]
)
def test_frames_of_nothing_cost_nothing(codec: EmbeddingCodec, n: int, y: int, x: int) -> None:
    for config in (codec.to_dict(), {**codec.to_dict(), "positions": pack_array(np.ones((2, 2, 5), "<f2"))}):
        odd = fitting(config)
        blob = forged(odd, [n, y, x, 0, 0], b"")
        assert peak(lambda: odd.decode(blob)) < 1 << 20  # noqa: B023
        assert peak(lambda: odd.decode_symbols(blob)) < 1 << 20  # noqa: B023
        assert odd.decode(blob).shape == (n, y, x, 5)
        if n * y * x * 5 <= 1 << 30 and max(y, x) <= 65536:
            assert peak(lambda: odd.encode_symbols(*odd.decode_symbols(blob))) < 1 << 20  # noqa: B023


@pytest.mark.parametrize("places", [False, True])
def test_a_token_of_a_large_frame_costs_its_symbols(codec: EmbeddingCodec, places: bool) -> None:
    """37 to 45 bytes a value were the fault."""
    if places:
        codec = fitting({**codec.to_dict(), "positions": pack_array(np.ones((2, 2, 5), "<f2"))})
    n, y, x = 1, 700, 900
    token = slice(0, 1), slice(333, 334), slice(899, 900), slice(None)
    zero, full = forged(codec, [n, y, x, 0, 0], b""), coded(codec, n, y, x)
    assert peak(lambda: codec.decode(zero, part=token)) < 1 << 20
    values = n * y * x * codec.rank
    try:
        codec.decode(full, part=token)
    except CorruptError:  # a random codec need not end where the code does
        return
    assert peak(lambda: codec.decode(full, part=token)) < 20 * values + (1 << 20)


@PATHS
@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(2, 8, 8), (3000, 8, 8), (1, 200, 150), (40, 33, 1), (2000, 1, 1)])
def test_memory_stays_below_what_is_asked_for(
    codecs: dict[str, EmbeddingCodec], kind: str, shape: tuple[int, int, int]
) -> None:
    """`max_bytes` is compared with real bytes, before any are taken."""
    codec = codecs[kind]
    batch = np.tile(smooth_embeddings(1, *shape[1:], 5), (shape[0], 1, 1, 1))
    for quality in (0.5, 300.0):
        blob = codec.encode(batch, quality)
        codec.decode(blob[:], part=(slice(0, 1),) * 4)  # loaded, cached
        for part in (None, (slice(0, 1), slice(None), slice(0, 1), slice(None))):
            with pytest.raises(InputError, match="max_bytes") as refusal:
                codec.decode(blob, part=part, max_bytes=1000)
            needed = int(re.search(r"takes (\d+) bytes", str(refusal.value)).group(1))  # type: ignore[union-attr]
            assert peak(lambda: codec.decode(blob, part=part, max_bytes=needed)) <= needed + len(blob)  # noqa: B023
            with pytest.raises(InputError, match="max_bytes"):
                codec.decode(blob, part=part, max_bytes=needed - 1)
    with pytest.raises(InputError, match="max_bytes"):
        codec.decode_coarse(blob, 1, max_bytes=1000)


def test_refusals_take_no_memory(codec: EmbeddingCodec) -> None:
    blob = coded(codec, 1, 1 << 13, 1 << 13)

    def refuse(**options: Any) -> None:
        with pytest.raises((CorruptError, InputError)):
            codec.decode(blob, **options)

    for options in ({"max_bytes": 1 << 28}, {"limit": (1, 8, 8)}, {"extent": (1, 8, 8)}):
        assert peak(lambda: refuse(**options)) < 1 << 20  # noqa: B023


def test_extents_and_outputs_are_checked(codec: EmbeddingCodec) -> None:
    batch = smooth_embeddings(3, 4, 6, 5)
    blob = codec.encode(batch)
    whole = codec.decode(blob, extent=(3, 4, 6))
    for extent in ((3, 4, 5), (2, 4, 6), (3, 8, 6)):
        with pytest.raises(CorruptError, match="was expected"):
            codec.decode(blob, extent=extent)
    for out in (np.empty((3, 4, 6, 5), np.float32), np.empty((5, 6, 4, 3), np.float32).T):
        assert codec.decode(blob, out=out) is out
        np.testing.assert_array_equal(out, whole)
    strided = np.zeros((6, 4, 8, 9), np.float32)
    codec.decode(blob, out=strided[::2, :, 1:7, 2:7])
    np.testing.assert_array_equal(strided[::2, :, 1:7, 2:7], whole)
    assert np.count_nonzero(strided) <= whole.size
    for bad in (np.empty((3, 4, 6, 4), np.float32), np.empty((3, 4, 6, 5))):
        with pytest.raises(InputError, match="out must be"):
            codec.decode(blob, out=bad)


def test_a_chunk_is_no_larger_than_its_array_says(codecs: dict[str, EmbeddingCodec], tmp_path: Path) -> None:
    """A frame of 21 bytes once took 32 GiB through plain zarr."""
    codec = codecs["hierarchical"]
    for number, shape in enumerate([(1, 65536, 65536, 5), (1 << 40, 1, 1, 5)]):
        array = zarr.create_array(
            str(tmp_path / str(number)), shape=shape, chunks=shape, dtype="float32", fill_value=float("nan"),
            serializer=NecEmbeddingCodec(codec, 1.0), compressors=None,
        )  # fmt: skip
        place = tmp_path / str(number) / "c/0/0/0/0"
        place.parent.mkdir(parents=True)
        for extent in ((0, 65536, 65536), (1 << 40, 0, 1)):
            place.write_bytes(forged(codec, [*extent, 0, 0], b""))

            def read(array: Any = array) -> None:
                try:
                    found = array[0, 0, 0, 0]
                except CorruptError:
                    return
                assert np.isnan(found)

            assert peak(read) < 1 << 22


def test_headers_are_at_most_as_long_as_coarse_readers_fetch() -> None:
    codec = EmbeddingCodec.fit(smooth_embeddings(20, 8, 8, 192), spatial="haar")
    blob = codec.encode(smooth_embeddings(1, 16, 2048, 192), 4.0)
    sizes = [codec.coarse_size(blob[:MAX_HEADER], spacing) for spacing in (2, 4, 2048)]
    assert sizes == sorted(sizes, reverse=True)
    with pytest.raises(CorruptError, match="header"):
        codec.coarse_size(blob[:40], 2)


DEEP, EMPTY = "[" * 200000, pack_array(np.zeros(0, "<i2"))["data"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step", 10**400), ("step", 1e999), ("step", -1), ("first_level", 10**400), ("spacing", 1.5),
        ("mean", {"dtype": "<f4", "shape": [1e999], "data": ""}), ("mean", {"dtype": "<f4", "shape": "5", "data": ""}),
        ("basis", {"dtype": "<f2", "shape": [0, 10**30], "data": EMPTY}), ("id", 10**400), ("version", [2]),
        ("base", {"dtype": "<i2", "shape": [0, 1 << 62, 1 << 62], "data": EMPTY}), ("prior", ["hierarchical"]),
        ("mean", {"dtype": {"a": [1]}, "shape": [5], "data": ""}), ("mean", {"dtype": "<f4", "shape": [5], "data": 7}),
        ("offset_of", [[[[]]]]), ("radii", {"dtype": "<u2", "shape": [1 << 24], "data": EMPTY}),
    ],
)  # fmt: skip
def test_malformed_numbers_of_a_codec(codec: EmbeddingCodec, field: str, value: Any, tmp_path: Path) -> None:
    config = {**codec.to_dict(), field: value}
    with pytest.raises(InputError) as refusal:
        EmbeddingCodec.from_dict(config)
    assert len(str(refusal.value)) < 400
    (tmp_path / "codec.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"codec\.json"):
        EmbeddingCodec.load(tmp_path / "codec.json")


@pytest.mark.parametrize(
    "text",
    [DEEP, DEEP.replace("[", '{"a":'), '{"format": ' + "9" * 5000 + "}", "\0", "", "\xff", "null", "[]", "1e999"],
)
def test_malformed_json_of_a_codec(text: str, tmp_path: Path) -> None:
    (tmp_path / "codec.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"codec\.json"):
        EmbeddingCodec.load(tmp_path / "codec.json")


def test_tables_without_end_are_refused(codecs: dict[str, EmbeddingCodec]) -> None:
    """340 kB of JSON that once took 1.6 GiB to open."""
    codec = codecs["factorized"]
    tables, radius = 3040, 16383
    config = {
        **codec.to_dict(), "scale_split": 92, "scale_wide": 4,
        "offset_of": pack_array((np.arange(65) % 33).astype("u1")),
        "radii": pack_array(np.full(tables, radius, "<u2")),
        "frequencies": pack_array(np.full(tables * (2 * radius + 2), 2, "<u2")),
        "centroids": pack_array(np.zeros((tables, 5), "<i1")),
    }  # fmt: skip

    def read() -> None:
        with pytest.raises(InputError, match="entries"):
            EmbeddingCodec.from_dict(config)

    assert peak(read) < 1 << 22


@pytest.mark.parametrize("field", ["quality", "axes"])
@pytest.mark.parametrize("value", [10**400, [1, "n", "y", "x"], [["n"], "y", "x", "c"], "nyxc", None, {}, [], True])
def test_malformed_zarr_metadata(codecs: dict[str, EmbeddingCodec], field: str, value: Any) -> None:
    good = NecEmbeddingCodec(codecs["haar"], 1.0).to_dict()
    if (field, value) in (("quality", True), ("axes", "nyxc")):
        return
    with pytest.raises(InputError):
        NecEmbeddingCodec.from_dict({**good, "configuration": {**good["configuration"], field: value}})


@pytest.mark.parametrize("spatial", [None, "haar"])
def test_values_that_single_precision_cannot_hold(spatial: Any, codecs: dict[str, EmbeddingCodec]) -> None:
    base = np.random.default_rng(0).normal(size=(20, 4, 4, 5))
    for values in (base * 1e100, base * 1e300, (base * 1e38).clip(-3e38, 3e38).astype(np.float32)):
        with pytest.raises(InputError, match=r"beyond 2\^100"):
            EmbeddingCodec.fit(values, spatial=spatial)
        with pytest.raises(InputError, match=r"beyond 2\^100"):
            codecs["haar"].encode(values)
    large = base * 1e29
    codec = EmbeddingCodec.fit(large, spatial=spatial)
    assert np.isfinite(codec.decode(codec.encode(large))).all()
    assert EmbeddingCodec.from_dict(codec.to_dict()).id == codec.id
