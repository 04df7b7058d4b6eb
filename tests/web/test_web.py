"""The JavaScript of web/ in Node: `node --test` on fixtures and on what is made here, and Python beside it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numcodecs.zstd import Zstd

import make_bytes as made
import make_vectors
import nec
import test_bytes

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OLDEST = 20


@pytest.fixture(scope="session")
def node() -> str:
    """The program; skips where there is none, or one that is too old."""
    program = shutil.which("node")
    if program is None:
        pytest.skip("Node is not installed: the JavaScript decoder is not tested")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST:
        pytest.skip(f"Node {version} is too old: the JavaScript decoder is tested from {OLDEST} on")
    return program


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames and stores whose digests are fixtures: what `NEEDS_MADE` in support.js asks for."""
    folder = tmp_path_factory.mktemp("web")
    for name in made.CODECS:
        codec = test_bytes.codec_of(name)
        place = folder / "frames" / name
        place.mkdir(parents=True)
        for grid, shape in made.GRIDS.items():
            for quality in made.QUALITIES if grid == "8x8" else made.QUALITIES[:4]:
                frame = codec.encode(made.embeddings(*shape), quality)
                (place / f"{grid} at {quality:g}.bin").write_bytes(frame)
        for bits in (5, 24):
            frame = codec.encode_symbols(made.symbols(2, 8, 7, codec.rank, bits), 1.0)
            (place / f"{bits} bits.bin").write_bytes(frame)
    for name in ("v1/hierarchical", "v1/factorized", "v2/haar"):
        codec = test_bytes.codec_of(name)
        symbols = made.symbols(*made.BLOCKS, codec.rank, 4)
        place = folder / "blocks" / name
        place.mkdir(parents=True)
        (place / "frame.bin").write_bytes(codec.encode_symbols(symbols, 2.0))
        (place / "symbols.json").write_text(json.dumps(test_bytes.digest(symbols)))
    (folder / "images").mkdir()
    for name in made.image_stores():
        path = test_bytes.build_images(folder / "images" / name, name)
        for kind, method in (("stored", zipfile.ZIP_STORED), ("deflated", zipfile.ZIP_DEFLATED)):
            with zipfile.ZipFile(folder / "images" / f"{name}-{kind}.zip", "w", method) as file:
                for part in sorted(path.rglob("*")):
                    file.write(part, f"{name}.zarr/{part.relative_to(path).as_posix()}")
    (folder / "rasters").mkdir()
    for name in made.raster_stores():
        path = test_bytes.build_raster(folder / "rasters" / name, name)
        values = np.asarray(zarr.open_group(path, mode="r")["embeddings"][...])
        np.save(folder / "rasters" / f"{name}.npy", values)
    return folder


def test_node(node: str, folder: Path) -> None:
    files = sorted(str(path) for path in HERE.glob("*.test.js"))
    result = subprocess.run(
        [node, "--test", "--test-reporter", "spec", *files],
        capture_output=True,
        text=True,
        env={**os.environ, "NEC_WEB_MADE": str(folder)},
    )
    print(result.stdout[-8000:])
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
    assert "fail 0" in result.stdout


# ---- Beside Python


@pytest.fixture(scope="session")
def ask(node: str) -> Iterator[Callable[..., dict[str, Any]]]:
    """What decode.js answers; one process for all questions."""
    command = [node, str(HERE / "decode.js")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def answer(codec: dict[str, Any] | None = None, frame: bytes = b"", **more: Any) -> dict[str, Any]:
            question = {"codec": json.dumps(codec), "frame": base64.b64encode(frame).decode(), **more}
            process.stdin.write(json.dumps(question) + "\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
            return json.loads(process.stdout.readline())  # type: ignore[union-attr]

        yield answer
        process.stdin.close()


def array(text: str, dtype: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype)


def smooth(rng: np.random.Generator, n: int, y: int, x: int, d: int) -> np.ndarray:
    """Token grids alike from token to token, channels of falling variance."""
    image, coarse = rng.normal(size=(n, 1, 1, d)), rng.normal(size=(n, -(-y // 2), -(-x // 2), d))
    fine = rng.standard_t(4, size=(n, y, x, d))
    tokens = image + coarse.repeat(2, 1).repeat(2, 2)[:, :y, :x] + 0.4 * fine
    return (tokens / (1 + np.arange(d)) + rng.normal(size=d)).astype(np.float32)


@st.composite
def fitted(draw: st.DrawFn) -> tuple[nec.EmbeddingCodec, np.random.Generator]:
    """A codec of any kind, fitted to a small random sample."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    d = draw(st.integers(1, 7))
    options: dict[str, Any] = {
        "prior": draw(st.sampled_from(["hierarchical", "factorized"])),
        "klt": draw(st.booleans()),
        "rank": draw(st.integers(1, d)),
        "positions": draw(st.booleans()),
    }
    if options["prior"] == "hierarchical" and draw(st.booleans()):
        gains = draw(st.lists(st.floats(0.3, 3), min_size=1, max_size=5))
        options |= {"spatial": "haar", "gains": gains}
    sample = smooth(rng, 6, draw(st.integers(1, 9)), draw(st.integers(1, 9)), d)
    return nec.EmbeddingCodec.fit(sample, **options), rng


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    made_of=fitted(),
    shape=st.tuples(st.integers(0, 4), st.integers(1, 11), st.integers(1, 11)),
    level=st.integers(-40, 80),
    scale=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_symbols_and_values_of_random_codecs(
    ask: Callable[..., dict[str, Any]],
    made_of: tuple[nec.EmbeddingCodec, np.random.Generator],
    shape: tuple[int, int, int],
    level: int,
    scale: float,
) -> None:
    codec, rng = made_of
    frame = codec.encode(scale * smooth(rng, *shape, codec.dimensions), 2 ** (level / 8))
    found = ask(codec.to_dict(), frame)
    symbols, quality = codec.decode_symbols(frame)
    values = codec.decode(frame)
    assert found.get("error") is None, found
    assert found["shape"] == list(values.shape)
    assert found["quality"] == pytest.approx(quality)
    np.testing.assert_array_equal(array(found["symbols"], "<i4").reshape(symbols.shape), symbols)
    # Python adds in single precision where that is exact enough; the largest values bound its error.
    tolerance = 1e-6 * max(1.0, float(np.abs(values).max(initial=0)))
    np.testing.assert_allclose(array(found["values"], "<f4").reshape(values.shape), values, rtol=1e-6, atol=tolerance)
    spacing = 2
    while codec.prior == "hierarchical" and spacing < 2 * max(shape[1:]):
        coarse = codec.decode_coarse(frame, spacing)
        found = ask(codec.to_dict(), frame, spacing=spacing)
        assert (found["shape"], found["size"]) == (list(coarse.shape), codec.coarse_size(frame, spacing))
        np.testing.assert_allclose(
            array(found["values"], "<f4").reshape(coarse.shape), coarse, rtol=1e-6, atol=tolerance
        )
        spacing *= 2


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_forged_frames_are_refused_where_python_refuses(
    ask: Callable[..., dict[str, Any]], data: st.DataObject
) -> None:
    """Frames whose numbers or code were changed under a fitting checksum: the same symbols, or an error in both."""
    name = data.draw(st.sampled_from(made.CODECS))
    codec = test_bytes.codec_of(name)
    grid = data.draw(st.sampled_from([(3, 4, 4), (2, 3, 5), (1, 1, 6), (1, 1, 1)]))
    frame = bytearray(codec.encode(made.embeddings(*grid), data.draw(st.sampled_from([0.3, 1.0, 64.0]))))
    for _ in range(data.draw(st.integers(0, 3))):
        frame[data.draw(st.integers(12, len(frame) - 1))] = data.draw(st.integers(0, 255))
    frame = frame[: data.draw(st.sampled_from([len(frame)] * 3 + [len(frame) - 4]))]
    forged = make_vectors.forged(bytes(frame))
    limit = (8, 8, 8)
    try:
        codec.decode(forged, limit=limit)
        symbols: np.ndarray | None = codec.decode_symbols(forged)[0]
    except nec.CorruptError:
        symbols = None
    found = ask(codec.to_dict(), forged, limit=limit)
    if symbols is None:
        assert found.get("error") == "CorruptError", found
    else:
        np.testing.assert_array_equal(array(found["symbols"], "<i4").reshape(symbols.shape), symbols)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    size=st.integers(0, 150_000),
    kind=st.sampled_from(["noise", "skewed", "numbers", "text", "mask", "runs"]),
    level=st.sampled_from([-5, 1, 3, 9, 12, 19]),
    checksum=st.booleans(),
    damage=st.booleans(),
)
def test_zstandard(
    ask: Callable[..., dict[str, Any]], seed: int, size: int, kind: str, level: int, checksum: bool, damage: bool
) -> None:
    rng = np.random.default_rng(seed)
    data = {
        "noise": lambda: rng.integers(0, 256, size, np.uint8),
        "skewed": lambda: np.minimum(rng.geometric(0.15, size), 255).astype(np.uint8),
        "numbers": lambda: rng.integers(-3, 9, size // 8, np.int64),
        "text": lambda: np.frombuffer(
            "".join(f"Größe/image_{i % 977}.jpg\0" for i in range(size // 20)).encode(), np.uint8
        ),
        "mask": lambda: rng.random(size) < 0.02,
        "runs": lambda: rng.integers(0, 4, size // 500 + 1, np.uint8).repeat(500),
    }[kind]()
    frame = bytearray(Zstd(level=level, checksum=checksum).encode(data.tobytes()))
    if damage:
        frame[int(rng.integers(4, len(frame)))] ^= int(rng.integers(1, 256))
    found = ask(zstd=base64.b64encode(bytes(frame)).decode())
    if not damage:
        assert base64.b64decode(found["bytes"]) == data.tobytes()
    else:  # what stands above it has a CRC-32C: it must only come back
        assert found.keys() in ({"bytes"}, {"error", "message"})


def test_vectors_are_what_the_script_writes(tmp_path: Path) -> None:
    """The vectors follow from other fixtures; what decoders of other languages are tested with stays as it is."""
    make_vectors.main(tmp_path)
    names = sorted(path.name for path in make_vectors.FOLDER.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        old, new = (make_vectors.FOLDER / name).read_bytes(), (tmp_path / name).read_bytes()
        if ".values." in name or ".coarse-" in name:
            np.testing.assert_allclose(np.frombuffer(new, "<f4"), np.frombuffer(old, "<f4"), rtol=1e-6, atol=1e-6)
        else:
            assert hashlib.sha256(new).digest() == hashlib.sha256(old).digest(), name
    assert sum((make_vectors.FOLDER / name).stat().st_size for name in names) < 200_000


def test_the_schema_of_the_registry_takes_what_stores_say(folder: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "docs" / "nec.embedding" / "schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    stores = [Path(nec.open_store("eurosat").path), *(folder / "images" / name for name in made.image_stores())]
    stores += [folder / "rasters" / name for name in made.raster_stores()]
    for store in stores:
        sharding = json.loads((store / "embeddings" / "zarr.json").read_bytes())["codecs"][0]
        codec = sharding["configuration"]["codecs"][0]
        validator.validate(codec)
        for changed in ({"axes": ["n", "y", "x", "x"]}, {"quality": 0}, {"codec": {}}, {"other": 1}):
            assert not validator.is_valid({**codec, "configuration": codec["configuration"] | changed})
