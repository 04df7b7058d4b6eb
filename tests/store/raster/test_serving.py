"""Products are read over HTTP and S3 from real servers, and only what a window needs travels."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr.storage
from product_samples import ROUNDING

import nec
from nec.store import CountingStore, RasterStore, open_product, verify

WINDOW = slice(9, 11), slice(18, 23)  # the two upper chunks of shard (1, 2)
SERVER = Path(__file__).with_name("range_server.py")


@dataclass
class Served:
    """A web server's address, and what it answered since `forget`."""

    url: str
    root: Path
    log: Path

    def forget(self) -> None:
        self.answers()
        self.log.write_text("")

    def answers(self) -> list[dict[str, Any]]:
        """Nothing is said of a request before it was answered, so the log is read when it has come to rest."""
        text, before = self.log.read_text(), None
        while text != before:
            time.sleep(0.1)
            text, before = self.log.read_text(), text
        return [json.loads(line) for line in text.splitlines()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            assert process.poll() is None, f"the server of {url} ended with status {process.returncode}"
            time.sleep(0.2)
    raise AssertionError(f"no server at {url}")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, product_path: Path) -> Iterator[Served]:
    """The product behind Python's web server with ranges, a process of its own."""
    root, log = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("log") / "requests"
    shutil.copytree(product_path, root / "toy.zarr")
    log.touch()
    command = [sys.executable, str(SERVER), str(root), str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        yield Served(f"http://127.0.0.1:{port}/toy.zarr", root, log)
        process.terminate()


def by_fsspec(url: str) -> Any:
    pytest.importorskip("aiohttp")
    return url


def by_obstore(url: str) -> Any:
    stores = pytest.importorskip("obstore.store")
    return zarr.storage.ObjectStore(stores.HTTPStore(url, client_options={"allow_http": True}), read_only=True)


def needed_bytes(path: Path, product: RasterStore) -> int:
    """What the window costs at least: its chunks, their shard's index, the shard's validity."""
    shard = (path / "embeddings" / "c.0.0.1.2").read_bytes()
    slots = product.tiling.slots[0] * product.tiling.slots[1]
    index = np.frombuffer(shard[-16 * slots - 4 : -4], "<u8").reshape(slots, 2)
    return int(index[:2, 1].sum()) + 16 * slots + 4 + (path / "valid" / "c.0.1.2").stat().st_size


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory, product_path: Path) -> Iterator[Served]:
    """The product behind nginx."""
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    fields = '"method": "$request_method", "path": "$uri", "status": $status, "bytes": $body_bytes_sent'
    own = "".join(
        f"{kind}_temp_path {folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; {'user root; ' if os.geteuid() == 0 else ''}pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{ {own}\n"
        f'log_format line escape=json \'{{{fields}, "range": "$http_range"}}\';\n'
        f"access_log {folder}/requests line;\n"
        f"server {{ listen 127.0.0.1:{port}; root {product_path.parent}; }} }}\n"
    )
    with subprocess.Popen(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]) as process:
        url = f"http://127.0.0.1:{port}/{product_path.name}"
        wait_for(f"{url}/zarr.json", process)
        yield Served(url, product_path.parent, folder / "requests")
        process.terminate()


@pytest.mark.parametrize("server", ["served", "nginx"])
@pytest.mark.parametrize("client", [by_fsspec, by_obstore])
def test_over_http_only_the_chunks_of_a_window_travel(
    request: pytest.FixtureRequest, server: str, product_path: Path, client: Callable[[str], Any]
) -> None:
    served: Served = request.getfixturevalue(server)
    remote = CountingStore(client(served.url))
    served.forget()
    product = open_product(remote)
    opened = served.answers()
    paths = [answer["path"].strip("/") for answer in opened if answer["method"] == "GET"]
    assert paths == ["toy.zarr/zarr.json"]
    served.forget()
    np.testing.assert_array_equal(product.read(0, *WINDOW), open_product(product_path).read(0, *WINDOW))
    answers = served.answers()
    assert {answer["path"].strip("/") for answer in answers} == {
        "toy.zarr/valid/c.0.1.2",
        "toy.zarr/embeddings/c.0.0.1.2",
    }
    assert all(answer["range"] for answer in answers if "embeddings" in answer["path"] and answer["method"] == "GET")
    sent = sum(answer["bytes"] for answer in answers)
    assert sent == needed_bytes(product_path, product)
    assert remote.bytes_read == sent + sum(answer["bytes"] for answer in opened)
    assert remote.requests == 1 + sum(answer["method"] == "GET" for answer in answers)


def test_xarray_reads_a_window_over_http(served: Served, product_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    dataset = xarray.open_zarr(by_fsspec(served.url), chunks=None)
    served.forget()
    part = dataset.embeddings.where(dataset.valid).isel(time=0, y=WINDOW[0], x=WINDOW[1])
    expected = open_product(product_path).read(0, *WINDOW)
    np.testing.assert_allclose(part.transpose("y", "x", "embedding").values, expected, **ROUNDING)


def test_verify_and_damage_over_http(served: Served) -> None:
    by_fsspec(served.url)
    assert verify(served.url).ok
    file = served.root / "toy.zarr" / "embeddings" / "c.0.0.1.2"
    data = file.read_bytes()
    try:
        file.write_bytes(data[:40] + bytes([data[40] ^ 8]) + data[41:])
        with pytest.raises(nec.CorruptError, match=r"c\.0\.0\.1\.2"):
            open_product(served.url).read(0, slice(8, 16), slice(16, 24))
    finally:
        file.write_bytes(data)


def test_a_server_that_fails_is_not_taken_for_damage(served: Served) -> None:
    product = open_product(by_fsspec(served.url))
    (served.root / "overloaded").touch()
    try:
        for read in (
            lambda: product.read(0),
            lambda: product.read_valid(0),
            lambda: verify(served.url),
        ):
            with pytest.raises(nec.NecError, match=r"cannot read .*503") as caught:
                read()
            assert not isinstance(caught.value, nec.CorruptError)
    finally:
        (served.root / "overloaded").unlink()
    assert product.read(0, *WINDOW).shape == (2, 5, 5)


@pytest.mark.slow
def test_an_s3_api_serves_it(bucket: Any, product_path: Path) -> None:
    stores = pytest.importorskip("obstore.store")
    for file in filter(Path.is_file, product_path.rglob("*")):
        bucket.put(file.relative_to(product_path).as_posix(), file.read_bytes())
    expected = open_product(product_path).read(0, *WINDOW)
    name, _, prefix = bucket.url.removeprefix("s3://").partition("/")
    address = os.environ["AWS_ENDPOINT_URL"]
    store = stores.S3Store(name, prefix=prefix, endpoint=address, client_options={"allow_http": True})
    for location in (bucket.url, zarr.storage.ObjectStore(store, read_only=True)):
        remote = CountingStore(location)
        product = open_product(remote)
        opened = remote.bytes_read
        np.testing.assert_allclose(product.read(0, *WINDOW), expected, **ROUNDING)
        assert remote.bytes_read - opened == needed_bytes(product_path, product)
