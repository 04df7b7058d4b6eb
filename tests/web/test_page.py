"""The page of web/ in Chromium: what it draws and finds is what Python computes from the same store."""

from __future__ import annotations

import base64
import gzip
import io
import json
import math
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import numpy as np
import pytest

import nec
import test_bytes
from nec.exporting.quicklook import Colouring
from nec.exporting.serve import make_server
from nec.exporting.web import page_files, page_folder

HERE = Path(__file__).resolve().parent
# What the page must have come to, in JavaScript.
DRAWN = "document.querySelector('.tile') && !document.querySelector('.tile:not([data-drawn=exact])')"
SETTLED = "document.querySelector('.tile') && !document.querySelector('.tile:not([data-drawn=exact]):not(.broken)')"
FINE = (
    "(([a, b]) => b > 1 && a === b)"
    "((document.querySelector('[data-fine]')?.dataset.fine ?? '0/1').split('/').map(Number))"
)
NEARLY = FINE.replace("a === b", "a === b - 1")
FAILED = "document.querySelector('#errors p')"


@pytest.fixture(scope="session")
def look() -> Callable[..., dict[str, Any]]:
    """What page.js sees; skips where Node, playwright-core or Chromium is missing."""
    node = shutil.which("node")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if node is None:
        pytest.skip("Node is not installed: the page is not tested")
    if not (HERE / "node_modules" / "playwright-core").is_dir():
        pytest.skip("playwright-core is not installed (npm install in tests/web): the page is not tested")
    if program is None:
        pytest.skip("Chromium is not installed: the page is not tested")

    def looked(url: str, waits: str, **question: Any) -> dict[str, Any]:
        asked = json.dumps({"url": url, "program": program, "waits": waits, **question})
        result = subprocess.run([node, str(HERE / "page.js"), asked], capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)

    return looked


@contextmanager
def served(server: ThreadingHTTPServer) -> Iterator[str]:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return test_bytes.build_images(tmp_path / "images.zarr", "everything")


@pytest.fixture
def raster(tmp_path: Path) -> Path:
    return test_bytes.build_raster(tmp_path / "raster.zarr", "earth")


def damage(file: Path, share: float) -> None:
    """Change a byte of a file."""
    data = bytearray(file.read_bytes())
    data[int(share * len(data))] ^= 0x55
    file.write_bytes(data)


def tile_colours(tokens: np.ndarray, per_chunk: int) -> np.ndarray:
    """What the page documents: PCA of tokens less the mean of their place, of up to 8 chunks and 2048 tokens."""
    n, y, x, d = tokens.shape
    chunks = -(-n // per_chunk)
    sampled = np.concatenate([tokens[i * per_chunk : (i + 1) * per_chunk] for i in range(0, chunks, -(-chunks // 8))])
    places = sampled.mean(axis=0, dtype=np.float64)
    flat = (sampled - places).reshape(-1, d)
    step = -(-len(flat) // 2048)
    while math.gcd(step, y * x) > 1:
        step += 1
    colouring = Colouring.fit(flat[::step])
    valid = np.ones((y, x), bool)
    return np.stack([colouring.apply(image - places, valid) for image in tokens])


def test_tiles_and_neighbours_are_those_of_python(look: Callable[..., dict[str, Any]], images: Path) -> None:
    store = nec.open_store(images)
    tokens = store[:]
    with served(make_server(images)) as url:
        seen = look(url, DRAWN, image=7)
    assert (seen["console"], seen["errors"]) == ([], [])
    assert "50 images of 8 × 8 tokens" in seen["facts"]
    assert {address.split("/")[2] for address in seen["requests"]} == {url.split("/")[2]}
    pooled = tokens.mean(axis=(1, 2), dtype=np.float64)
    unit = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
    order = np.argsort(-(unit @ unit[7]), kind="stable")
    assert seen["neighbours"] == [int(i) for i in order if i != 7][:10]
    wanted = tile_colours(tokens, store.images_per_chunk)
    assert sorted(tile["image"] for tile in seen["tiles"]) == list(range(50))
    for tile in seen["tiles"]:
        found = np.array(tile["pixels"]).reshape(8, 8, 4)
        np.testing.assert_allclose(found, wanted[tile["image"]].astype(int), atol=3)


@pytest.mark.parametrize("name", ["bare", "factorized"])
def test_stores_of_other_codecs(look: Callable[..., dict[str, Any]], tmp_path: Path, name: str) -> None:
    path = test_bytes.build_images(tmp_path / name, name)
    with served(make_server(path)) as url:
        seen = look(url, DRAWN, width=390)
    assert (seen["console"], seen["errors"], len(seen["tiles"])) == ([], [], 50)
    assert seen["overflow"] <= 0


def test_a_damaged_chunk_of_images_is_named_and_the_rest_stays(
    look: Callable[..., dict[str, Any]], images: Path
) -> None:
    damage(images / "embeddings" / "c.4.0.0.0", 0.5)  # the last shard has one chunk, of images 48 and 49
    with served(make_server(images)) as url:
        seen = look(url, SETTLED)
    assert len(seen["errors"]) >= 1
    assert all("chunk 12 (images 48 to 49" in text or "c.4.0.0.0" in text for text in seen["errors"])
    assert {tile["image"] for tile in seen["tiles"] if tile["broken"]} == {48, 49}
    assert sum(tile.get("drawn") == "exact" for tile in seen["tiles"]) == 48


def test_images_of_a_folder_cover_their_tokens(
    look: Callable[..., dict[str, Any]], tmp_path: Path, images: Path
) -> None:
    pillow = pytest.importorskip("PIL.Image")
    file = tmp_path / "pictures" / nec.open_store(images).names[3]
    file.parent.mkdir(parents=True)
    pillow.new("RGB", (16, 16), (10, 120, 60)).save(file)
    with served(make_server(images, images=str(tmp_path / "pictures"))) as url:
        seen = look(url, f"{DRAWN} && document.querySelectorAll('.tile img').length === 1")
    assert (seen["pictures"], seen["errors"]) == (1, [])


def picture(text: str) -> np.ndarray:
    image = pytest.importorskip("PIL.Image").open(io.BytesIO(base64.b64decode(text)))
    return np.asarray(image.convert("RGBA")).astype(int)


def test_map_and_similarity_are_those_of_python(look: Callable[..., dict[str, Any]], raster: Path) -> None:
    store = nec.open_product(raster)
    tokens, valid = store.read(1), store.read_valid(1)
    with served(make_server(raster)) as url:
        seen = look(url, FINE, picks=[[10, 20, False], [20, 3, True]])
    assert (seen["console"], seen["errors"]) == ([], [])
    colours, alike = (picture(text) for text in seen["maps"])
    np.testing.assert_array_equal(colours[..., 3] > 0, valid)
    # The page fits its colours to coarse tokens; any colouring is an affine map of the tokens, cut to 0 to 255.
    inside = valid[..., None] & (colours[..., :3] > 2) & (colours[..., :3] < 253)
    for k in range(3):
        chosen = inside[..., k]
        sides = np.column_stack([tokens[chosen], np.ones(chosen.sum())])
        fitted = sides @ np.linalg.lstsq(sides, colours[chosen][:, k], rcond=None)[0]
        assert np.abs(fitted - colours[chosen][:, k]).max() < 1.5
    # Its axes are close to those of all tokens: the first colour follows the first component.
    first = Colouring.fit(tokens[valid]).apply(np.nan_to_num(tokens), valid)
    assert np.corrcoef(first[valid][:, 0], colours[valid][:, 0])[0, 1] > 0.9
    unit = tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)
    scores = unit @ unit[10, 20] - unit @ unit[20, 3]
    low, high = map(float, seen["legend"])
    lightness = alike[..., :3].sum(axis=-1)
    middle = valid & (scores > low + 0.02) & (scores < high - 0.02)
    order = np.argsort(scores[middle])
    assert np.diff(lightness[middle][order]).min() >= -40  # rises throughout, but for rounding and the ramp's hues
    assert np.corrcoef(scores[middle], lightness[middle])[0, 1] > 0.9


def test_a_damaged_chunk_of_a_raster_is_named_and_the_rest_stays(
    look: Callable[..., dict[str, Any]], raster: Path
) -> None:
    shard = sorted((raster / "embeddings").glob("c.1.0.*"))[-1]
    damage(shard, 0.02)
    with served(make_server(raster)) as url:
        seen = look(url, NEARLY)
    assert seen["errors"]
    assert all(shard.name in text for text in seen["errors"])
    assert (picture(seen["maps"][0])[..., 3] > 0).sum() > 0.8 * nec.open_product(raster).read_valid(1).sum()


# ---- Files


def test_export_writes_a_site(tmp_path: Path, images: Path) -> None:
    beside = nec.export(images, tmp_path / "site", format="web")
    assert 'data-store="../images.zarr"' in (beside / "index.html").read_text()
    assert not (beside / "data").exists()
    within = nec.export(images, tmp_path / "deep" / "site", format="web")
    assert 'data-store="data"' in (within / "index.html").read_text()
    assert nec.verify(within / "data").ok
    assert {path.relative_to(within).as_posix() for path in within.rglob("*.js")} >= {"nec.js", "viewer/main.js"}
    linked = nec.export(images, tmp_path / "far", format="web", href="https://example.org/a.zarr")
    text = (linked / "index.html").read_text()
    assert 'data-store="https://example.org/a.zarr"' in text
    assert "connect-src &#x27;self&#x27; https://example.org;" in text


@pytest.mark.parametrize(
    "href", ["https://user:word@example.org/a.zarr", "https://example.org/a?sig=1", "s3://bucket/a"]
)
def test_addresses_that_no_page_may_hold_are_refused(tmp_path: Path, images: Path, href: str) -> None:
    with pytest.raises(nec.InputError):
        nec.export(images, tmp_path / "site", format="web", href=href)
    assert not (tmp_path / "site").exists()


def test_an_exported_site_works_on_any_server_of_ranges(
    look: Callable[..., dict[str, Any]], tmp_path: Path, images: Path
) -> None:
    """And one without ranges, such as Python's own, is named."""
    nec.export(images, tmp_path / "site", format="web")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with served(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as url:
        seen = look(f"{url}site/", FAILED)
    assert any("does not answer range requests" in text for text in seen["errors"])


def test_server_ranges_hosts_and_folders(tmp_path: Path, images: Path) -> None:
    (tmp_path / "secret").write_text("no")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "a.png").write_bytes(b"12345")
    data = (images / "embeddings" / "c.0.0.0.0").read_bytes()

    def ask(url: str, **headers: str) -> tuple[int, bytes]:
        try:
            with urlopen(Request(url, headers=headers)) as answer:
                return answer.status, answer.read()
        except OSError as error:
            return error.code, b""  # type: ignore[attr-defined]

    with served(make_server(images, images=str(pictures))) as url:
        key = f"{url}data/embeddings/c.0.0.0.0"
        assert ask(key) == (200, data)
        assert ask(key, Range="bytes=5-9") == (206, data[5:10])
        assert ask(key, Range=f"bytes={len(data) - 3}-") == (206, data[-3:])
        assert ask(key, Range=f"bytes={len(data)}-")[0] == 416
        assert ask(f"{url}images/a.png") == (200, b"12345")
        assert ask(f"{url}data/embeddings/c.9.0.0.0")[0] == 404
        for path in ("images/../secret", "images/%2e%2e/secret", "data/../secret", "data/%2e%2e/secret", "other"):
            assert ask(url + path)[0] == 404
        assert ask(key, Host="example.org")[0] == 403


def test_the_page_is_small() -> None:
    """Its own scripts and styles, beside the decoder, as servers send them."""
    own = [name for name in page_files() if name.startswith("viewer/") or name == "index.html"]
    assert sum(len(gzip.compress((page_folder() / name).read_bytes())) for name in own) < 20_000
