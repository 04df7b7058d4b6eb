"""Scenes over HTTP with range requests, and from an S3 API."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasters import noise, rasterio, write

from nec.datasets import open_input
from nec.errors import InputError
from nec.scenes import open_scene
from nec.scenes.rasters import gdal_path, is_remote, public_link


class Server(ThreadingHTTPServer):
    """Serves a folder with ranges; counts the bytes it sent, and answers 503 to the next `failures` requests."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.sent, self.failures = folder, 0, 0
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.server.folder / self.path.partition("?")[0].lstrip("/")
        self.server.asked.append(self.path)
        if self.server.failures or not path.is_file():
            status = 503 if self.server.failures else 404
            self.server.failures = max(0, self.server.failures - 1)
            data, headers = b"", {}
        else:
            status, data, headers = 200, path.read_bytes(), {"Accept-Ranges": "bytes"}
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if wanted:
                size, first = len(data), int(wanted[1])
                data = data[first : int(wanted[2]) + 1 if wanted[2] else size]
                status, headers = 206, {"Content-Range": f"bytes {first}-{first + len(data) - 1}/{size}"}
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data)
            self.server.sent += len(data)

    def log_message(self, *arguments: Any) -> None:
        """Nothing on stderr."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def cog(tmp_path: Path) -> np.ndarray:
    """scene.tif, tiled, 3 bands of 512 x 640 px that do not compress."""
    bands = np.random.default_rng(0).integers(0, 65536, (3, 512, 640)).astype(np.uint16)
    write(tmp_path / "scene.tif", bands, tiled=True, blockxsize=64, blockysize=64)
    return bands


def test_a_window_over_http_costs_its_blocks(server: Server, cog: np.ndarray) -> None:
    scene = open_scene(f"{server.url}/scene.tif")
    assert (scene.name, scene.shape) == ("scene", (512, 640))
    pixels, valid = scene.read(130, 200, 60, 50)
    assert valid.all()
    np.testing.assert_array_equal(pixels, cog[:, 130:190, 200:250].transpose(1, 2, 0))
    assert server.sent < 0.25 * cog.nbytes
    assert {path.partition("?")[0] for path in server.asked} == {"/scene.tif"}  # no .aux.xml, no listing
    assert scene.source_links == [{"rel": "derived_from", "href": f"{server.url}/scene.tif"}]


def test_query_strings_and_lists_over_http(server: Server, cog: np.ndarray) -> None:
    scene = open_scene([f"{server.url}/scene.tif?signature=a%2Fb&time=1"], bands=[2])
    assert scene.name == "scene"
    # A signature lets others in, and links are published.
    assert scene.source_links == [{"rel": "derived_from", "href": f"{server.url}/scene.tif"}]
    np.testing.assert_array_equal(scene.read(0, 0, 9, 9)[0][..., 0], cog[1, :9, :9])


def test_a_busy_server_is_asked_again(server: Server, cog: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GDAL_HTTP_RETRY_DELAY", "0.05")
    scene = open_scene(f"{server.url}/scene.tif")
    server.failures = 2
    np.testing.assert_array_equal(scene.read(300, 300, 64, 64)[0], cog[:, 300:364, 300:364].transpose(1, 2, 0))
    assert server.failures == 0


def test_errors_over_http_name_the_file(server: Server, cog: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"none\.tif is missing"):
        open_scene(f"{server.url}/none.tif")
    scene = open_scene(f"{server.url}/scene.tif")
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    server.failures = 10**6
    with pytest.raises(InputError, match=r"scene\.tif is missing, damaged or not a readable"):
        scene.read(300, 300, 64, 64)
    server.failures = 0
    np.testing.assert_array_equal(scene.read(0, 0, 5, 5)[0], cog[:, :5, :5].transpose(1, 2, 0))


def test_an_item_over_http_with_relative_assets(server: Server, cog: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("pystac")
    document = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "remote",
        "geometry": None,
        "properties": {"datetime": "2025-03-02T00:00:00Z"},
        "links": [],
        "assets": {"image": {"href": "../scene.tif", "type": "image/tiff", "roles": ["data"]}},
    }
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / "remote").write_text(json.dumps(document))
    scene = open_scene(f"{server.url}/items/remote")
    np.testing.assert_array_equal(scene.read(5, 6, 7, 8)[0], cog[:, 5:12, 6:14].transpose(1, 2, 0))
    assert [band.name for band in scene.bands] == ["image_1", "image_2", "image_3"]


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("https://a.b/c/d.tif?e=f", "/vsicurl/https://a.b/c/d.tif?e=f"),
        ("http://a.b/c.tif", "/vsicurl/http://a.b/c.tif"),
        ("s3://bucket/a/b.tif", "/vsis3/bucket/a/b.tif"),
        ("gs://bucket/b.tif", "/vsigs/bucket/b.tif"),
        ("az://container/b.tif", "/vsiaz/container/b.tif"),
        ("/vsizip/a.zip/b.tif", "/vsizip/a.zip/b.tif"),
        ("file:///tmp/a.tif", "/tmp/a.tif"),
        (Path("/tmp/../tmp/a.tif"), "/tmp/a.tif"),
    ],
)
def test_paths_as_gdal_opens_them(source: str | Path, path: str) -> None:
    assert gdal_path(source) == path
    assert is_remote(path) == path.startswith(("/vsicurl", "/vsis3", "/vsigs", "/vsiaz"))


def test_a_signature_longer_than_a_name(server: Server, cog: np.ndarray) -> None:
    url = f"{server.url}/scene.tif?bands=1,2,3&sig={'x' * 500}"
    assert open_scene(url).shape == open_input(url)[0].shape == (512, 640)


def test_links_tell_no_secrets() -> None:
    for url in ("https://me:word@a.b/c.tif", "https://a.b/c.tif?sig=x&se=y#z"):
        assert public_link(url) == "https://a.b/c.tif"
    assert public_link("folder/a?b.tif") == "folder/a?b.tif"


def test_a_relative_path_survives_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.tif", noise())
    monkeypatch.chdir(tmp_path)
    scene = open_scene("a.tif")
    monkeypatch.chdir("/")
    assert scene.read(0, 0, 2, 2)[1].all()


def test_s3(cog: np.ndarray, tmp_path: Path) -> None:
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    boto3 = pytest.importorskip("boto3")
    server.start()
    try:
        host, port = server.get_host_and_port()
        options = {"AWS_S3_ENDPOINT": f"{host}:{port}", "AWS_HTTPS": "NO", "AWS_VIRTUAL_HOSTING": "FALSE"}
        keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        client = boto3.client(
            "s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1",
            aws_access_key_id="a", aws_secret_access_key="b",
        )  # fmt: skip
        client.create_bucket(Bucket="scenes")
        client.upload_file(str(tmp_path / "scene.tif"), "scenes", "2025/scene.tif")
        with pytest.MonkeyPatch.context() as patch:
            for key, value in {**options, **keys}.items():
                patch.setenv(key, value)
            scene = open_scene("s3://scenes/2025/scene.tif")
            pixels, valid = scene.read(500, 600, 40, 50)
    finally:
        server.stop()
    assert valid.sum() == 12 * 40
    np.testing.assert_array_equal(pixels[:12, :40], cog[:, 500:, 600:].transpose(1, 2, 0))


assert rasterio  # imported through `rasters`, which skips these tests without it
