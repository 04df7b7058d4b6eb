"""Every byte that this project has ever promised, as digests of what fixed inputs give (make_bytes.py).

Whatever is renamed, merged or rewritten, these must hold: frames of both codec versions, stores of images and rasters
as a whole and after interruptions, the JSON and the exit statuses of the commands, the shipped store.

What we write ourselves is held by SHA-256 wherever its bytes depend on nothing but us: frames, shards of embeddings.
Other files depend on a library's version as well, so they are held twice:
- `values`: metadata with packed arrays, seal and WKT taken apart (zlib, PROJ), other arrays as they decode (Zstandard);
- `files`: the SHA-256 of every file, compared only where these libraries are the ones that the fixtures were made with.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

import make_bytes as made
import nec

# ---- The adapter: the only lines of this file that know names of the package beyond the public ones.

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(nec.__file__).parents[1]), str(made.TESTS)])}


def write_images(
    path: Path, codec: nec.EmbeddingCodec, embeddings: NDArray[np.float32], *, shards: slice | None = None,
    last: Callable[[], None] = lambda: None, **said: Any,
) -> None:  # fmt: skip
    """Begin a store of images, or go on with it: write all that is missing and finish, or write `shards` and leave."""
    from nec.store import ImageSpec, ImageWriter

    spec = ImageSpec(codec=codec, grid=embeddings.shape[1:3], **said)
    with (ImageWriter.resume if path.exists() else ImageWriter.create)(path, spec) as writer:
        for start, stop in writer.missing()[shards or slice(None)]:
            writer.write(start, embeddings[start:stop])
        last()
        if shards is None:
            writer.finish()


def write_date(
    path: Path, codec: nec.EmbeddingCodec, date: int, *, shards: slice | None = None,
    last: Callable[[], None] = lambda: None, **said: Any,
) -> None:  # fmt: skip
    """Begin a raster store, or go on with it: write all that is missing of a date and finish it, or some `shards`."""
    from nec.store import RasterSpec, RasterWriter

    spec = RasterSpec(codec=codec, dimensions=made.D, **said)
    tokens, valid, about = made.raster(date), made.valid(date), made.DATES[date]
    if not path.exists():
        RasterWriter.create(path, spec).close()
    with RasterWriter.resume(path, spec) as writer:
        index = writer.append_time(about["time"], source=about["source"])
        assert index == date
        for shard in writer.missing(index)[shards or slice(None)]:
            _, row, column = shard
            window = slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8)
            writer.write(shard, tokens[window], valid[window])
        last()
        if shards is None:
            writer.finish(index, run=about["run"])


def read_images(path: Path) -> dict[str, Any]:
    """What a store of images gives: whole, in parts, coarse, and what lies beside."""
    store = nec.open_store(path)
    found = {
        "whole": np.asarray(store.embeddings),
        "by Zarr alone": np.asarray(zarr.open_group(path, mode="r")["embeddings"][...]),
        "slices": store.embeddings[5:31, 1:4, 2:, ::2],
        "indices": store.embeddings[[40, 3, 3, 17]],
        "names": store.names,
        "labels": store.labels,
        "split": store.split,
        "groups": store.groups,
        "masks": None if store.masks is None else np.asarray(store.masks),
        "classes": store.class_names,
        "colors": store.mask_colors and [list(color) for color in store.mask_colors],
        "quality": store.quality,
        "stored_bytes": store.stored_bytes,
    }
    coarse = {} if store.codec.prior == "factorized" else {f"coarse {k}": store.coarse(k, 2, 45) for k in (2, 8)}
    return found | coarse


def read_raster(path: Path) -> dict[str, Any]:
    """What a raster store gives: each date whole, a part of it, and what lies beside."""
    store, found = nec.open_product(path), {}
    for date in range(len(store.times)):
        tokens, valid = store.read(date), store.read_valid(date)
        np.testing.assert_array_equal(np.isnan(tokens), np.broadcast_to(~valid[..., None], tokens.shape))
        found[f"{date} whole"] = np.nan_to_num(tokens)
        found[f"{date} window"] = np.nan_to_num(store.read(date, slice(9, 21), slice(3, 17)))
        found[f"{date} valid"] = valid
    by_zarr = np.asarray(zarr.open_group(path, mode="r")["embeddings"][...]).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(by_zarr[0][store.read_valid(0)], store.read(0)[store.read_valid(0)])
    place = {"times": store.times.astype(str).tolist(), "crs": store.crs, "transform": list(store.transform)}
    return found | place | {"stored_bytes": store.stored_bytes, "valid_tokens": store.valid_tokens}


def command(*arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `nec` with these arguments."""
    from nec.cli import main

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main([str(argument) for argument in arguments])
    return status, out.getvalue(), err.getvalue()


def toy_model(folder: Path) -> Path:
    """A model folder with weights of any kind, patches of 4 pixels, and a codec."""
    from nec.models import ModelConfig, NecModel, save_model

    sizes = {"image_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2}
    decoder = {"decoder_embed_dim": 8, "decoder_depth": 1, "decoder_num_heads": 2}
    model = NecModel(ModelConfig.from_dict(sizes | decoder)).eval()
    images = (made.scrambled(12, 16, 16, 3, seed=30) % 256).astype(np.uint8)
    model.codec = nec.EmbeddingCodec.fit(model.embed(model.normalize(images)))
    save_model(model, folder)
    return folder


# ---- Digests


def digest(values: Any) -> Any:
    """SHA-256 of bytes, or of an array's type, shape and values (0 for -0); text and numbers stay as they are."""
    if isinstance(values, np.ndarray) and values.dtype.kind == "U":
        values = values.tolist()
    if isinstance(values, list) and values and isinstance(values[0], str):
        values = "\0".join(values).encode()
    if isinstance(values, np.ndarray):
        little = np.ascontiguousarray(values + values.dtype.type(0), values.dtype.newbyteorder("<"))
        values = f"{little.dtype.str}{little.shape}".encode() + little.tobytes()
    return hashlib.sha256(values).hexdigest() if isinstance(values, bytes) else values


def files(folder: Path) -> dict[str, str]:
    """Path to SHA-256 of every file."""
    found = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): digest(file.read_bytes()) for file in found}


def values(folder: Path) -> dict[str, Any]:
    """Path to what every file holds, apart from what Zstandard, zlib and PROJ make of it."""
    found: dict[str, Any] = {}
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        name, data = file.relative_to(folder).as_posix(), file.read_bytes()
        array = file.parent.name
        if file.name == "zarr.json":
            found[name] = digest(_document(data))
        elif array == "embeddings" and file.name.count(".") == 4:  # not the coordinate of that name
            found[name] = digest(data)
        elif array == "shards":
            found[name] = digest(_listed(json.loads(data), folder, int(file.stem)))
        else:  # written by zarr, or as zarr writes: compressed by Zstandard
            stored = zarr.open_array(file.parent, mode="r")[...]
            found[name] = digest(np.array(stored.tolist()) if stored.dtype.kind in "OT" else np.asarray(stored))
    return found


def _document(data: bytes) -> bytes:
    """A zarr.json with its order and spelling, but packed arrays, seal, WKT and digests of lists taken apart."""

    def plain(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if found.keys() == {"dtype", "shape", "data"}:
            found["data"] = digest(made.unpacked(found))
        varies = {"seal", "list", "crs_wkt", "spatial_ref"} & found.keys()
        return found | {key: key for key in varies if isinstance(found[key], str)}

    compact = json.dumps(json.loads(data), separators=(",", ":")).encode()
    assert compact == data, "documents are compact JSON"
    return json.dumps(json.loads(data, object_pairs_hook=plain), separators=(",", ":")).encode()


def _listed(document: dict[str, Any], folder: Path, date: int) -> bytes:
    """The list of a date's files without sizes and checksums of validity, which are compared with the files."""
    assert list(document) == ["shards"]
    rows = []
    for place, (size, crc, valid_size, valid_crc, tokens) in enumerate(document["shards"]):
        data = (folder / "valid" / f"c.{date}.{place // 4}.{place % 4}").read_bytes()
        assert (valid_size, valid_crc) == (len(data), google_crc32c.value(data))
        rows.append([size, crc, tokens])
    return json.dumps(rows).encode()


def versions() -> dict[str, str]:
    """What the bytes of files depend on beside this project."""
    names = ("zarr", "numcodecs", "rasterio")
    return {"zlib": zlib.ZLIB_RUNTIME_VERSION} | {name: metadata.version(name) for name in names if find_spec(name)}


# ---- What is held


def codec_of(name: str) -> nec.EmbeddingCodec:
    return nec.EmbeddingCodec.load(made.FOLDER / "codecs" / f"{name}.json")


def frames() -> dict[str, Any]:
    """Frames and decoded values of each codec, grid and quality."""
    found: dict[str, Any] = {}
    for name in made.CODECS:
        codec = codec_of(name)
        found[name] = {"id": codec.id}
        for grid, shape in made.GRIDS.items():
            for quality in made.QUALITIES if grid == "8x8" else made.QUALITIES[:4]:
                blob = codec.encode(made.embeddings(*shape), quality)
                # Odd sides alone divide by a root of 2 (docs/format.md, section 7).
                exact = quality in made.EXACT_QUALITIES and not (codec.spatial and grid == "1x6")
                found[name][f"{grid} at {quality:g}"] = _frame(codec, blob, exact)
        for bits in (5, 24):
            symbols = made.symbols(2, 8, 7, codec.rank, bits)
            found[name][f"{bits} bits"] = _frame(codec, codec.encode_symbols(symbols, 1.0), False)
    return found


def _frame(codec: nec.EmbeddingCodec, blob: bytes, exact: bool) -> dict[str, Any]:
    symbols, quality = codec.decode_symbols(blob)
    assert codec.encode_symbols(symbols, quality) == blob
    found: dict[str, Any] = {"bytes": len(blob), "frame": digest(blob), "symbols": digest(symbols)}
    if exact:
        found["decoded"] = digest(codec.decode(blob))
        found["part"] = digest(codec.decode(blob, part=(slice(1, None), slice(0, 5), slice(2, 7), slice(1, 4))))
        side = max(symbols.shape[1:3])
        for spacing in (2, 4, 8):
            if codec.prior == "hierarchical" and spacing < 2 * side and symbols.size:
                found[f"coarse {spacing}"] = digest(codec.decode_coarse(blob, spacing))
                start = blob[: codec.coarse_size(blob[:64], spacing)]
                assert digest(codec.decode_coarse(start, spacing)) == found[f"coarse {spacing}"]
                found[f"coarse {spacing} bytes"] = len(start)
    return found


def blocks() -> dict[str, str]:
    """Frames of so many images that they are coded in blocks."""
    found = {}
    for name in ("v1/hierarchical", "v1/factorized", "v2/haar"):
        codec = codec_of(name)
        symbols = made.symbols(*made.BLOCKS, codec.rank, 4)
        blob = codec.encode_symbols(symbols, 2.0)
        assert np.array_equal(codec.decode_symbols(blob)[0], symbols)
        found[name] = digest(blob)
    return found


def build_images(path: Path, name: str, **how: Any) -> Path:
    codec, said = made.image_stores()[name]
    write_images(path, codec_of(codec), made.embeddings(made.IMAGES, *made.IMAGE_GRID, seed=3), **said, **how)
    return path


def build_raster(path: Path, name: str, dates: tuple[int, ...] = (0, 1), **how: Any) -> Path:
    codec, said = made.raster_stores()[name]
    for date in dates:
        write_date(path, codec_of(codec), date, **said, **how)
    return path


def hold(path: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Digests of a store: of its files, of what they hold, and of what is read."""
    return {"files": files(path), "values": values(path), "read": {k: digest(v) for k, v in read(path).items()}}


def shipped() -> dict[str, Any]:
    """Symbols of some chunks of the shipped store, taken out of its shards by Zarr's specification alone."""
    store = nec.open_store("eurosat")
    folder = Path(store.path)
    document = json.loads((folder / "embeddings" / "zarr.json").read_bytes())
    shard, chunk = document["chunk_grid"]["configuration"]["chunk_shape"][0], store.images_per_chunk
    found: dict[str, Any] = {"codec": store.codec.id, "images": len(store), "names": digest(list(store.names))}
    for number in (0, 1, 100, len(store) // chunk):
        data = (folder / "embeddings" / f"c.{number * chunk // shard}.0.0.0").read_bytes()
        index = np.frombuffer(data[-4 - 16 * (shard // chunk) : -4], "<u8").reshape(-1, 2)
        offset, size = index[number % (shard // chunk)].tolist()
        symbols, quality = store.codec.decode_symbols(data[offset : offset + size])
        found[f"chunk {number}"] = {"quality": quality, "symbols": digest(symbols)}
    return found


def shape(value: Any) -> Any:
    """JSON with types in place of values; of lists the first entry."""
    if isinstance(value, dict):
        return {key: shape(part) for key, part in value.items()}
    if isinstance(value, list):
        return [shape(part) for part in value[:1]]
    return "null" if value is None else type(value).__name__


CONTRACT: dict[str, dict[str, Any]] = {
    "info": {
        "images": "int", "grid": ["int"], "dimensions": "int", "stored_bytes": "int", "bytes_per_image": "float",
        "bits_per_value": "float", "quality": "float", "model": {"name": "str", "sha256": "str"},
        "codec": {"prior": "str", "id": "str"},
    },
    "verify": {"ok": "bool", "chunks": "int", "corrupt": []},
    "classify": {
        "accuracy": "float", "per_class": dict.fromkeys(made.CLASSES, "float"), "train_images": "int",
        "test_images": "int", "bytes_per_image": "float", "seconds": "float",
    },
    "segment": {
        "overall_accuracy": "float", "mean_iou": "float", "mean_f1": "float", "bytes_per_image": "float",
        "per_class": {name: {"iou": "float"} for name in ("a", "b c", "d")},
    },
}  # fmt: skip
"""Keys and types of DESIGN.md, section 6: scripts rely on them."""

JSON_COMMANDS = {
    "info": ("info", "everything", "--json"),
    "info of a raster": ("info", "earth", "--json"),
    "info of a codec": ("info", "codec.json", "--json"),
    "verify": ("verify", "everything", "--json"),
    "verify of a raster": ("verify", "earth", "--json"),
    "verify of damage": ("verify", "damaged", "--json"),
    "verify of a damaged raster": ("verify", "damaged-raster", "--json"),
    "classify": ("classify", "everything", "--head", "linear", "--json"),
    "classify with attention": ("classify", "everything", "--head", "attention", "--epochs", "1", "--json"),
    "segment": ("segment", "everything", "--epochs", "1", "--json"),
}
NEED_TORCH = ("classify with attention", "segment")
STATUSES: dict[int, tuple[tuple[str, ...], ...]] = {
    0: (
        ("--help",),
        ("--version",),
        ("info", "--help"),
        ("info", "everything"),
        ("verify", "everything"),
        ("verify", "earth"),
        ("decode", "everything", "--out", "new.npy", "--quiet"),
        ("decode", "earth", "--out", "new-raster.npy", "--quiet"),
        ("classify", "everything", "--head", "linear"),
    ),
    1: (("verify", "damaged"), ("verify", "damaged-raster"), ("verify", "damaged", "--json")),
    2: (
        ("frobnicate",),
        ("info",),
        ("info", "everything", "--no-such-flag"),
        ("info", "nowhere"),
        ("info", "empty-folder"),
        ("info", "broken.json"),
        ("verify", "nowhere"),
        ("verify", "unfinished"),
        ("decode", "everything"),
        ("decode", "everything", "--out", "new.txt"),
        ("decode", "everything", "--out", "codec.json", "--quiet"),
        ("decode", "damaged", "--out", "not-there.npy", "--quiet"),
        ("classify", "bare", "--head", "linear"),
        ("classify", "earth", "--head", "linear"),
        ("classify", "everything", "--head", "linear", "--split", "no/where"),
        ("segment", "bare"),
        ("encode", "folder:nowhere", "--out", "not-there.zarr"),
    ),
}


def things(folder: Path) -> Path:
    """What the commands are run on."""
    for name in ("everything", "bare"):
        build_images(folder / name, name)
    build_images(folder / "unfinished", "everything", shards=slice(2))
    build_raster(folder / "earth", "earth")
    for name, source, shard in (
        ("damaged", "everything", "c.1.0.0.0"), ("damaged-raster", "earth", "c.1.0.1.1"),
    ):  # fmt: skip
        shutil.copytree(folder / source, folder / name)
        tear(folder / name / "embeddings" / shard)
    shutil.copy(made.FOLDER / "codecs" / "v2" / "haar.json", folder / "codec.json")
    (folder / "broken.json").write_bytes((folder / "codec.json").read_bytes()[:-500])
    (folder / "empty-folder").mkdir()
    return folder


def tear(file: Path) -> None:
    """Leave the first half of a file."""
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def placed(folder: Path, arguments: tuple[str, ...]) -> list[str]:
    """Arguments with the things of `folder` by their full names."""
    return [str(folder / part) if (folder / part).exists() or part.startswith(("new", "not-")) else part
            for part in arguments]  # fmt: skip


def reports(folder: Path) -> dict[str, Any]:
    """JSON that the commands print."""
    found = {}
    for name, arguments in JSON_COMMANDS.items():
        if name not in NEED_TORCH or find_spec("torch"):
            found[name] = json.loads(command(*placed(folder, arguments))[1])
    return found


def encoded(folder: Path) -> dict[str, Any]:
    """Types of what `nec encode` reports and writes into metadata; values depend on the machine's floats."""
    import rasterio
    from PIL import Image

    model, pixels = toy_model(folder / "toy"), (made.scrambled(12, 32, 48, 3, seed=31) % 256).astype(np.uint8)
    for number, image in enumerate(pixels):
        file = folder / "images" / "ab"[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[:16, :16]).save(file)
    place = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)}
    with rasterio.open(folder / "scene.tif", "w", "GTiff", 48, 32, 3, dtype="uint8", **place) as file:
        file.write(pixels[0].transpose(2, 0, 1))
    found = {}
    for name, source, more in (
        ("images", f"folder:{folder / 'images'}", ()),
        ("raster", folder / "scene.tif", ("--time", "2026-05-01")),
        ("raster, another date", folder / "scene.tif", ("--time", "2026-06-01", "--append")),
    ):
        out = folder / f"{name.partition(',')[0]}.zarr"
        status, printed, err = command("encode", source, "--model", model, "--out", out, "--json", *more)
        assert status == 0, err
        attributes = json.loads((out / "zarr.json").read_bytes())["attributes"]
        found[name] = {"report": shape(json.loads(printed)), "attributes": shape(attributes)}
    return found


def everything() -> dict[str, Any]:
    """All that the fixtures hold."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        images = {name: hold(build_images(folder / name, name), read_images) for name in made.image_stores()}
        rasters = {name: hold(build_raster(folder / name, name), read_raster) for name in made.raster_stores()}
        found = reports(things(Path(tempfile.mkdtemp(dir=folder))))
        types = encoded(Path(tempfile.mkdtemp(dir=folder)))
    return {
        "versions": versions(),
        "frames": frames(),
        "blocks": blocks(),
        "images": images,
        "rasters": rasters,
        "shipped": shipped(),
        "json": {name: shape(report) for name, report in found.items()},
        "info": {key: found["info"][key] for key in CONTRACT["info"]},
        "encoded": types,
    }


# ---- Tests


@pytest.fixture(scope="session")
def held() -> dict[str, Any]:
    """What the fixtures hold."""
    return json.loads(made.DIGESTS.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands are run on; tests only read it."""
    pytest.importorskip("rasterio")
    return things(tmp_path_factory.mktemp("things"))


RASTERS = [pytest.param("earth", marks=pytest.mark.skipif(not find_spec("rasterio"), reason="a CRS needs rasterio")),
           "nowhere"]  # fmt: skip
STORES = [
    *(pytest.param("images", build_images, read_images, name, id=name) for name in made.image_stores()),
    pytest.param("rasters", build_raster, read_raster, "earth", id="earth", marks=RASTERS[0].marks),
    pytest.param("rasters", build_raster, read_raster, "nowhere", id="nowhere"),
]


@pytest.mark.parametrize("name", made.CODECS)
def test_codecs_are_what_make_bytes_says(name: str) -> None:
    committed = json.loads((made.FOLDER / "codecs" / f"{name}.json").read_text())
    again = made.exact_codec(name)
    assert {key: value for key, value in again.items() if not isinstance(value, dict)} == {
        key: value for key, value in committed.items() if not isinstance(value, dict)
    }
    assert codec_of(name).id == again["id"]


@pytest.mark.parametrize("name", made.CODECS)
def test_inputs_lie_well_inside_their_cells(name: str) -> None:
    """A change of one part in 10^12 moves no symbol, so no machine's rounding does, which is a thousandth of that."""
    codec = codec_of(name)
    batches = [made.embeddings(*shape) for shape in made.GRIDS.values()]
    for quality in made.QUALITIES:
        for batch in [*batches, made.embeddings(made.IMAGES, *made.IMAGE_GRID, seed=3)]:
            symbols = codec.symbols(batch, quality)
            for factor in (1 - 1e-12, 1 + 1e-12):
                np.testing.assert_array_equal(codec.symbols(batch * factor, quality), symbols)


def test_frames(held: dict[str, Any]) -> None:
    assert frames() == held["frames"]


def test_frames_without_the_compiled_coder(held: dict[str, Any]) -> None:
    command = [sys.executable, str(Path(made.__file__)), "--frames"]
    result = subprocess.run(command, env={**ENVIRONMENT, "NEC_PLAIN": "1"}, capture_output=True, check=True)
    assert json.loads(result.stdout) == held["frames"]


def test_frames_of_many_images(held: dict[str, Any]) -> None:
    assert blocks() == held["blocks"]


@pytest.mark.parametrize(("kind", "build", "read", "name"), STORES)
def test_stores(
    kind: str, build: Callable[..., Path], read: Callable[[Path], dict[str, Any]], name: str,
    tmp_path: Path, held: dict[str, Any],
) -> None:  # fmt: skip
    found, expected = hold(build(tmp_path / "store", name), read), held[kind][name]
    assert found["files"].keys() == expected["files"].keys()
    assert found["values"] == expected["values"]
    assert found["read"] == expected["read"]
    if versions() == held["versions"]:
        assert found["files"] == expected["files"]


def test_the_crs_is_spelled_in_full(folder: Path) -> None:
    """What `values` leaves out of the raster with a CRS."""
    crs = pytest.importorskip("rasterio").crs.CRS
    attributes = json.loads((folder / "earth" / "spatial_ref" / "zarr.json").read_bytes())["attributes"]
    assert crs.from_wkt(attributes["crs_wkt"]) == crs.from_wkt(attributes["spatial_ref"]) == crs.from_epsg(32632)


# How a store is left before it is resumed. "left": by a writer that closed it after a shard; "backwards": after every
# second of the missing shards, the last ones first; "killed": by -9 after three shards; "torn": with half a shard, as a
# machine that went down may leave it; "lost": without it.
INTERRUPTIONS = [["left"], ["left", "backwards"], ["killed", "torn"], ["left", "killed", "lost"]]


def interrupt(way: str, build: Callable[..., Path], path: Path, name: str, shard: str, **how: Any) -> None:
    """Leave a store in one of `INTERRUPTIONS`; `shard` is a file that "killed" has written."""
    if way == "left":
        build(path, name, shards=slice(1), **how)
    elif way == "backwards":
        build(path, name, shards=slice(None, 1, -2), **how)
    elif way == "killed":
        script = "import sys, test_bytes; test_bytes.die(*sys.argv[1:])"
        task = [build.__name__, str(path), name, json.dumps(how)]
        result = subprocess.run([sys.executable, "-c", script, *task], env=ENVIRONMENT, capture_output=True)
        assert result.returncode == -signal.SIGKILL, result.stderr
    elif way == "torn":
        tear(path / shard)
    else:
        (path / shard).unlink()


def die(build: str, path: str, name: str, how: str) -> None:
    """Write three shards and be killed."""
    killed = partial(os.kill, os.getpid(), signal.SIGKILL)
    globals()[build](Path(path), name, shards=slice(3), last=killed, **json.loads(how))


@pytest.mark.parametrize("ways", INTERRUPTIONS, ids="-".join)
@pytest.mark.parametrize("name", ["everything", "positions"])
def test_images_resumed_after_interruptions(name: str, ways: list[str], tmp_path: Path) -> None:
    path = tmp_path / "store"
    for way in ways:
        interrupt(way, build_images, path, name, "embeddings/c.1.0.0.0")
        with pytest.raises(nec.IncompleteError):
            nec.open_store(path)
    assert files(build_images(path, name)) == files(build_images(tmp_path / "whole", name))


@pytest.mark.parametrize("ways", INTERRUPTIONS, ids="-".join)
@pytest.mark.parametrize("name", RASTERS)
def test_rasters_resumed_after_interruptions(name: str, ways: list[str], tmp_path: Path) -> None:
    path = tmp_path / "store"
    for date in (0, 1):
        for way in ways:
            interrupt(way, build_raster, path, name, f"embeddings/c.{date}.0.0.1", dates=(date,))
            finished = nec.open_product(path).times if date else []  # readers do not see what is being added
            assert len(finished) == date
        build_raster(path, name, dates=(date,))
        whole = build_raster(tmp_path / f"whole-{date}", name, dates=tuple(range(date + 1)))
        assert files(path) == files(whole)


def test_the_shipped_store(held: dict[str, Any]) -> None:
    assert shipped() == held["shipped"]


@pytest.mark.slow
def test_the_shipped_store_verifies() -> None:
    status, out, _ = command("verify", "eurosat", "--json")
    report = json.loads(out)
    assert (status, report["ok"], report["chunks"], report["corrupt"]) == (0, True, 211, [])


@pytest.fixture(scope="module")
def reported(folder: Path) -> dict[str, Any]:
    """JSON of the commands."""
    return reports(folder)


def test_json_of_the_contract(reported: dict[str, Any], held: dict[str, Any]) -> None:
    for name, keys in CONTRACT.items():
        if name in reported:
            assert lacking(keys, shape(reported[name])) == []
    assert {key: reported["info"][key] for key in CONTRACT["info"]} == held["info"]
    assert (reported["verify"]["ok"], reported["verify"]["corrupt"]) == (True, [])
    damage = reported["verify of damage"]
    assert (damage["ok"], {fault["where"] for fault in damage["corrupt"]}) == (False, {"embeddings/c.1.0.0.0"})


def test_json_keeps_its_keys(reported: dict[str, Any], held: dict[str, Any]) -> None:
    """All keys that there were, beyond the contract too; new ones may come."""
    for name, report in reported.items():
        assert lacking(held["json"][name], shape(report)) == [], name


def test_what_encode_writes_keeps_its_keys(held: dict[str, Any], tmp_path: Path) -> None:
    for module in ("torch", "rasterio", "PIL"):
        pytest.importorskip(module)
    for name, found in encoded(tmp_path).items():
        assert lacking(held["encoded"][name]["report"], found["report"]) == []
        assert found["attributes"] == held["encoded"][name]["attributes"]  # of what is stored nothing is added either


def lacking(wanted: Any, found: Any, where: str = "") -> list[str]:
    """Places where keys or types of `wanted`, as of `shape`, are not in `found`."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        absent = [f"{where}/{key}" for key in wanted if key not in found]
        return sum((lacking(wanted[key], found[key], f"{where}/{key}") for key in wanted if key in found), absent)
    if isinstance(wanted, list) and isinstance(found, list):
        return [fault for pair in zip(wanted, found, strict=False) for fault in lacking(*pair, f"{where}/0")]
    return [] if wanted == found else [f"{where}: {found} in place of {wanted}"]


@pytest.mark.parametrize(
    ("status", "arguments"), [(status, arguments) for status, calls in STATUSES.items() for arguments in calls]
)
def test_exit_statuses(status: int, arguments: tuple[str, ...], folder: Path) -> None:
    if arguments[0] == "segment":
        pytest.importorskip("torch")
    before = sorted(folder.rglob("*"))
    found, out, err = command(*placed(folder, arguments))
    assert found == status, err
    if status == 2:
        assert (out, len(err.splitlines()), "Traceback" in err) == ("", 1, False), err
        assert sorted(folder.rglob("*")) == before
    else:
        assert out or arguments[0] == "decode"
