"""The fixed inputs of test_bytes.py, and `python tests/make_bytes.py`, which rewrites tests/fixtures/bytes.

All inputs come from integers: no random generator, no fitted codec, no function of the C library. Embeddings are odd
multiples of 2^-18. The codecs keep the integer tables of tests/fixtures/codec, but their transforms hold only small
multiples of powers of two. So decoded values are exact in float32, in whatever order a machine adds them up.

Run it only where a change of bytes is meant: what it writes is what every later version must write, too.
"""

from __future__ import annotations

import base64
import hashlib
import json
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

TESTS = Path(__file__).resolve().parent
FOLDER = TESTS / "fixtures" / "bytes"
DIGESTS = FOLDER / "digests.json"

CODECS = ("v1/hierarchical", "v1/factorized", "v1/plain-rank3", "v1/positions", "v2/haar", "v2/haar-plain")
D = 5
GRIDS = {"8x8": (3, 8, 8), "7x5": (2, 7, 5), "1x6": (4, 1, 6), "one": (1, 1, 1), "empty": (0, 4, 4)}
EXACT_QUALITIES = (0.25, 1.0, 8.0)
"""Their steps are powers of two, so that decoded values are exact."""
QUALITIES = (*EXACT_QUALITIES, 0.3, 3.0, 5000.0)
BLOCKS = (900, 16, 16)
"""More values than are coded in one block of images (docs/format.md, section 3)."""

# ---- numbers


def scrambled(*shape: int, seed: int) -> NDArray[np.int64]:
    """Integers in [0, 2^32): SplitMix64 of 0, 1, 2, ..."""
    with np.errstate(over="ignore"):
        z = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) + np.uint64(seed << 32)
        z *= np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(32)).astype(np.int64).reshape(shape)


def embeddings(n: int, y: int, x: int, seed: int = 1) -> NDArray[np.float32]:
    """Token grids (n, y, x, 5), alike from token to token, channels of falling variance; odd multiples of 2^-18."""

    def centred(*shape: int, most: int, part: int) -> NDArray[np.int64]:
        return scrambled(*shape, D, seed=16 * seed + part) % (2 * most + 1) - most

    image = centred(n, 1, 1, most=150, part=0)
    coarse = centred(n, -(-y // 2), -(-x // 2), most=100, part=1).repeat(2, 1).repeat(2, 2)[:, :y, :x]
    fine = centred(n, y, x, most=60, part=2)
    rest = scrambled(n, y, x, D, seed=16 * seed + 3) % 2048
    return ((4096 * ((image + coarse + fine) >> np.arange(D) // 2) + 2 * rest + 1) / 2**18).astype(np.float32)


def symbols(n: int, y: int, x: int, rank: int, bits: int, seed: int = 2) -> NDArray[np.int32]:
    """Integers below 2^bits in absolute value (n, y, x, rank), of all sizes; half of them are 0."""
    numbers, widths = scrambled(n, y, x, rank, seed=seed), scrambled(n, y, x, rank, seed=seed + 1) % (bits + 1)
    size = (numbers & 0xFFFFFF) >> (24 - widths)
    signed = np.where(numbers >> 25 & 1, -size, size)
    return np.where(numbers >> 26 & 1, signed, 0).astype(np.int32)


# ---- codecs


def packed(values: Any, dtype: str) -> dict[str, Any]:
    """An array as docs/format.md, section 6, has it."""
    array = np.ascontiguousarray(values, dtype)
    planes = array.reshape(-1).view(np.uint8).reshape(-1, array.dtype.itemsize).T
    data = base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode()
    return {"dtype": dtype, "shape": list(array.shape), "data": data}


def unpacked(document: dict[str, Any]) -> NDArray[Any]:
    """Inverse of `packed`."""
    dtype = np.dtype(document["dtype"].replace("<u1", "u1").replace("<i1", "i1"))
    planes = np.frombuffer(zlib.decompress(base64.b64decode(document["data"])), np.uint8)
    return np.ascontiguousarray(planes.reshape(dtype.itemsize, -1).T).view(dtype).reshape(document["shape"])


def exact_codec(name: str) -> dict[str, Any]:
    """The codec of tests/fixtures/codec with a transform of small multiples of powers of two."""
    fitted = json.loads((TESTS / "fixtures" / "codec" / f"{name}.json").read_text())
    hadamard = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
    basis = np.eye(D)
    basis[:4, :4] = hadamard
    exact = {
        "mean": packed([-1, -0.5, 0, 0.5, 1], "<f4"),
        "positions": packed((scrambled(8, 8, D, seed=9) % 17 - 8) / 16, "<f2"),
        "gains": packed([0.5, 1, 1, 2] if name == "v2/haar" else [0.5, 1, 2], "<f4"),
        "basis": packed(basis, "<f2"),
        "order": packed([0, 1, 3], "<u2"),
    }
    changed = {key: exact.get(key, value) for key, value in fitted.items()} | {"step": 1.0}
    return changed | {"id": identity(changed)}


def identity(document: dict[str, Any]) -> str:
    """The id of a codec, as docs/format.md, section 6, has it."""
    head = [document["format"], document["version"], document["prior"], float(document["step"]).hex()]
    head += [document[key] for key in ("first_level", "spacing", "scale_low", "scale_split", "scale_wide")]
    digest = hashlib.sha256(json.dumps(head).encode())
    for name in (
        "mean", "positions", "gains", "basis", "order", "base", "weights", "offset_of", "radii", "frequencies",
        "centroids",
    ):  # fmt: skip
        if name in document:
            digest.update(f"{name}{tuple(document[name]['shape'])}".encode() + unpacked(document[name]).tobytes())
    return digest.hexdigest()[:16]


# ---- a store of images


IMAGES, IMAGE_GRID, MASK = 50, (8, 8), (16, 16)
CLASSES = ["Forest", "Sea and Lake", "Größe"]
MODEL = {"name": "toy", "sha256": "ab" * 32, "url": "https://example.org/models/toy"}


def image_stores() -> dict[str, tuple[str, dict[str, Any]]]:
    """Name to (codec, what is said of the store): one with everything, and small ones of the other kinds of codecs."""
    i = np.arange(IMAGES)
    pixels = scrambled(IMAGES, *MASK, seed=5) % 3
    masks = np.where(scrambled(IMAGES, *MASK, seed=6) % 11 == 0, 255, pixels).astype(np.uint8)
    everything = {
        "quality": 8.0,
        "names": [f"{CLASSES[k % 3]}/image_{k}_ä.jpg" for k in range(IMAGES)],
        "labels": np.where(i == 13, -1, i % 3),
        "class_names": CLASSES,
        "split": np.array(["train", "train", "train", "val", "test", "train", "test", "val", "train", ""])[i % 10],
        "groups": [f"tile {k // 9}" for k in range(IMAGES)],
        "masks": masks,
        "mask_classes": ["a", "b c", "d"],
        "mask_colors": [(60, 16, 152), (132, 41, 246), (110, 193, 228)],
        "model": MODEL,
        "provenance": {"seed": 0, "raw_bytes": 123456},
        "images_per_chunk": 4,
        "chunks_per_shard": 3,
    }
    bare = {"quality": 1.0, "names": [str(k) for k in range(IMAGES)]}
    return {
        "everything": ("v2/haar", everything),
        "bare": ("v1/hierarchical", bare),
        "factorized": ("v1/factorized", bare | {"quality": 0.25, "labels": i % 2, "images_per_chunk": 7}),
        "positions": (
            "v1/positions",
            bare | {"split": ["train", "test"] * 25, "images_per_chunk": 3, "chunks_per_shard": 2},
        ),
    }


# ---- rasters

RASTER_GRID = (23, 31)
"""Chunks of 4x4 tokens at its edges hold 3: of 1 or 2 a pyramid would divide by a root of 2."""
DATES = (
    {"time": "2026-05-01T10:30:00", "source": {"links": ["https://example.org/scenes/1"]}, "run": None},
    {"time": "2026-06-01T10:30:00", "source": None, "run": {"datetime": "2026-06-02T00:00:00Z", "parameters": 7}},
)


def valid(date: int) -> NDArray[np.bool_]:
    """Which tokens of a date saw data: none in the first shard, scattered holes in the last ones, or an empty chunk."""
    mask = np.ones(RASTER_GRID, bool)
    mask[:8, :8] = False
    if date == 0:
        mask[12:, 15:] = scrambled(11, 16, seed=7) % 5 < 3
    else:
        mask[16:20, 4:8] = False
    return mask


def raster(date: int) -> NDArray[np.float32]:
    """Tokens (23, 31, 5) of a date, NaN where they are not valid."""
    return np.where(valid(date)[..., None], embeddings(1, *RASTER_GRID, seed=20 + date)[0], np.float32(np.nan))


def raster_stores() -> dict[str, tuple[str, dict[str, Any]]]:
    """Name to (codec, what is said of the store): on Earth with everything said, and rotated without a CRS."""
    tiles = {"grid": RASTER_GRID, "chunk": (4, 4), "shard": (2, 2)}
    earth = {
        "quality": 8.0,
        "crs": "EPSG:32632",
        "transform": (160.0, 0.0, 500_000.0, 0.0, -160.0, 5_000_000.0),
        "patch_px": 16,
        "model": MODEL,
        "source": {"links": ["https://example.org/collections/sentinel-2-l2a"]},
        "bands": ["B02", "B03", "B04"],
        "title": "Toy embeddings",
        "description": "Made of integers",
        "license": "CC-BY-4.0",
    }
    nowhere = {"quality": 1.0, "crs": None, "transform": (12.0, 4.0, 0.0, -4.0, 12.0, 0.0), "patch_px": 1}
    return {"earth": ("v2/haar", tiles | earth), "nowhere": ("v1/positions", tiles | nowhere)}


def main() -> None:
    """Rewrite codecs and digests; with --frames print the digests of the frames alone."""
    import test_bytes

    if "--frames" in sys.argv[1:]:
        print(json.dumps(test_bytes.frames()))
        return
    for name in CODECS:
        file = FOLDER / "codecs" / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(exact_codec(name), indent=1) + "\n")
    DIGESTS.write_text(json.dumps(test_bytes.everything(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
