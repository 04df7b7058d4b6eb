"""Stores that were made to mislead, servers that misbehave, links in the way: one clear error, never a wrong number."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
import zarr

import nec
from nec.store import ImageSpec, ImageWriter, RasterSpec, RasterWriter, info, verify
from nec.store.backend import LOCK, WriterLock
from nec.store.document import covered_attributes, metadata_checksum
from nec.store.shards import pack_shard

Make = Callable[..., Path]


def rewrite(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change a store's document, with a checksum that fits: it is no signature."""
    file = path / "zarr.json"
    document = json.loads(file.read_bytes())
    change(document)
    nec = document["attributes"]["nec"]
    arrays = document["consolidated_metadata"]["metadata"]
    nec["seal"] = metadata_checksum(nec, arrays, covered_attributes(document["attributes"]))
    file.write_text(json.dumps(document))


@pytest.fixture
def raster_path(tmp_path: Path) -> Path:
    """Two dates of 9 x 10 tokens without a CRS, in shards of 8 x 8."""
    tokens = np.random.default_rng(0).normal(size=(9, 10, 5)).astype(np.float32)
    codec = nec.EmbeddingCodec.fit(tokens[None])
    spec = RasterSpec(
        grid=(9, 10), dimensions=5, codec=codec, quality=1.0, crs=None, transform=(1, 0, 0, 0, -1, 0), patch_px=8,
        chunk=(4, 4), shard=(2, 2),
    )  # fmt: skip
    with RasterWriter.create(tmp_path / "raster.zarr", spec) as writer:
        for t, date in enumerate(("2026-05-01", "2026-06-01")):
            time = writer.append_time(date)
            for shard in writer.missing(time):
                values = tokens[writer.tiling.shard_window(*shard[1:])] + t
                writer.write(shard, values, np.ones(values.shape[:2], bool))
            writer.finish(time)
    return tmp_path / "raster.zarr"


# ---- frames and shards that are not what the metadata say


def test_a_frame_with_fewer_rows_than_its_chunk_is_no_nan(store_path: Path, embeddings: np.ndarray) -> None:
    codec = nec.open_store(store_path).codec
    frames = [codec.encode(embeddings[:4, :2], 2.0), *(codec.encode(embeddings[i : i + 4], 2.0) for i in (4, 8))]
    data = pack_shard(frames)
    (store_path / "embeddings" / "c.0.0.0.0").write_bytes(data)

    def note(document: dict[str, Any]) -> None:
        shards = document["attributes"]["nec"]["shards"]
        shards["bytes"][0], shards["crc32c"][0] = len(data), google_crc32c.value(data)

    for _ in range(2):
        store = nec.open_store(store_path)
        for read in (lambda: store.embeddings[:4], lambda: store.embeddings[0], lambda: store.embeddings[:]):  # noqa: B023
            with pytest.raises(nec.CorruptError, match="chunk 0"):
                read()
        assert not verify(store_path).ok
        rewrite(store_path, note)


def test_shards_exchanged_are_found_by_reading_whole_ones(store_path: Path, raster_path: Path) -> None:
    shutil.copy(store_path / "embeddings" / "c.1.0.0.0", store_path / "embeddings" / "c.0.0.0.0")
    with pytest.raises(nec.CorruptError, match=r"c\.0\.0\.0\.0 .*not the shard that was written"):
        nec.open_store(store_path).embeddings[:12]
    shutil.copy(raster_path / "embeddings" / "c.1.0.0.0", raster_path / "embeddings" / "c.0.0.0.0")
    with pytest.raises(nec.CorruptError, match=r"c\.0\.0\.0\.0 .*not the shard that was written"):
        nec.open(raster_path).read(0)


def test_verify_finds_damage_in_every_file(raster_path: Path, store_path: Path) -> None:
    for path in (raster_path, store_path):
        assert verify(path).ok
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            data = file.read_bytes()
            middle = len(data) // 2
            for damaged in (data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :], None):
                if damaged is None:
                    file.unlink()
                else:
                    file.write_bytes(damaged)
                with contextlib.suppress(nec.NecError):  # no store at all any more
                    assert not verify(path).ok, (file, damaged is None)
            file.write_bytes(data)


# ---- metadata


def places(node: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        if key not in ("seal", "codec", "data") or at == ("attributes", "nec"):
            yield (*at, key)
            yield from places(value, (*at, key))


def use(path: Path) -> None:
    store = nec.open(path)
    repr(store)
    if isinstance(store, nec.store.ImageStore):
        _ = store.embeddings[:2], store.labels, store.names, store.split, store.coarse(2, 0, 2), store.bytes_per_image
    else:
        _ = store.read(0, slice(0, 3), slice(0, 3)), store.times, store.bounds, store.window((1, -3, 2, -2))
    verify(path)
    info(path)


@pytest.mark.parametrize("kind", ["images", "raster"])
def test_metadata_that_lie_give_one_of_our_errors(kind: str, store_path: Path, raster_path: Path) -> None:
    path = store_path if kind == "images" else raster_path
    text = (path / "zarr.json").read_bytes()
    values = [None, 0, -1, True, 1.5, 10**30, 10**400, "x", [], {}, [None], {"a": 1}]
    rng = np.random.default_rng(0)
    everywhere = [place for place in places(json.loads(text)) if "seal" not in place]
    for i in rng.permutation(len(everywhere))[:150]:
        place, value = everywhere[i], values[rng.integers(len(values))]

        def change(document: dict[str, Any], place: Any = place, value: Any = value) -> None:
            node: Any = document
            for key in place[:-1]:
                node = node[key]
            if value is None:
                del node[place[-1]]
            else:
                node[place[-1]] = value

        try:
            rewrite(path, change)
        except (LookupError, TypeError, AttributeError):
            pass  # no checksum can be made: what lies there is the former
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    use(path)
                except nec.NecError:
                    pass
                except BaseException as error:
                    raise AssertionError(f"{place} = {value!r}") from error
        (path / "zarr.json").write_bytes(text)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"attributes": {"nec": ' + "9" * 6000 + "}}"])
def test_documents_that_exhaust_a_parser(store_path: Path, text: str) -> None:
    (store_path / "zarr.json").write_text(text)
    with pytest.raises(nec.CorruptError, match=r"zarr\.json is damaged"):
        nec.open(store_path)


# ---- links


def test_a_lock_is_never_opened_through_a_link(tmp_path: Path, store_path: Path, keywords: dict[str, Any]) -> None:
    victim = tmp_path / "precious"
    victim.write_text("my only copy")
    for link in (os.symlink, os.link):
        link(victim, store_path / LOCK)
        with pytest.raises(nec.InputError, match="lock"):
            ImageWriter.resume(store_path, ImageSpec(**keywords))
        (store_path / LOCK).unlink()
    assert victim.read_text() == "my only copy"


def test_lock_folders_of_others_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nec.store import bucket

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    url, victim = "s3://bucket/victim.zarr", tmp_path / "precious.txt"
    victim.write_text("my only copy")
    above = tmp_path / f"nec-locks-{os.getuid()}"
    above.mkdir(mode=0o700)
    (above / hashlib.sha256(url.encode()).hexdigest()[:16]).symlink_to(tmp_path)
    with pytest.raises(nec.InputError, match="belongs to another user"):
        bucket._lock_folder(url)
    shutil.rmtree(above)
    above.mkdir()
    above.chmod(0o777)
    with pytest.raises(nec.InputError, match="open to others"):
        bucket._lock_folder(url)
    above.chmod(0o700)
    WriterLock(bucket._lock_folder(url)).release()
    assert victim.read_text() == "my only copy"


# ---- zips and Zarr objects


def zipped(folder: Path, file: Path, inside: str = "") -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for each in sorted(folder.rglob("*")):
            if each.is_file():
                archive.write(each, inside + each.relative_to(folder).as_posix())
    return file


@pytest.mark.parametrize("inside", ["", "deep/er/"])
def test_zipped_stores_are_read_in_place(
    tmp_path: Path, store_path: Path, raster_path: Path, decoded: np.ndarray, inside: str
) -> None:
    images = nec.open(zipped(store_path, tmp_path / "i.zip", inside))
    np.testing.assert_array_equal(images.embeddings[5:30], decoded[5:30])
    assert images.names == nec.open(store_path).names
    raster = nec.open(str(zipped(raster_path, tmp_path / "r.zip", inside)))
    np.testing.assert_array_equal(raster.read(1), nec.open(raster_path).read(1))
    assert verify(tmp_path / "i.zip").ok
    assert verify(tmp_path / "r.zip").ok
    assert info(tmp_path / "i.zip")["images"] == 53


def test_zarr_objects_open_or_not(tmp_path: Path, store_path: Path, decoded: np.ndarray) -> None:
    zipped(store_path, tmp_path / "i.zip")
    group = zarr.open_group(store_path, mode="r")
    memory = zarr.storage.MemoryStore()
    zarr.create_group(memory)
    for file in filter(Path.is_file, store_path.rglob("*")):
        memory._store_dict["a/b/" + file.relative_to(store_path).as_posix()] = zarr.core.buffer.cpu.Buffer.from_bytes(
            file.read_bytes()
        )
    for location in (
        zarr.storage.ZipStore(tmp_path / "i.zip", mode="r"), group, group["embeddings"],
        zarr.open_group(memory, path="a/b", mode="r"), zarr.open_group(memory, path="a/b", mode="r")["labels"],
    ):  # fmt: skip
        with nec.open(location) as store:
            np.testing.assert_array_equal(store[7:9], decoded[7:9])
            assert store.labels is not None


def test_zips_that_are_no_stores(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "plain.zip", "w") as archive:
        archive.writestr("a.txt", "x")
    with pytest.raises(nec.InputError, match=r"no zarr\.json"):
        nec.open(tmp_path / "plain.zip")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zarr.json", bytes(2**27))
    with pytest.raises(nec.InputError, match="would grow"):
        nec.open(tmp_path / "bomb.zip")


# ---- servers


class _Server(SimpleHTTPRequestHandler):
    """Files by whole requests or ranges; `mode` says how it misbehaves for paths with "embeddings/c.1"."""

    protocol_version = "HTTP/1.1"
    mode = ""
    requests = 0

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        file = Path(self.directory) / self.path.strip("/")
        data = file.read_bytes() if file.is_file() else b""
        status, extent = 200 if file.is_file() else 404, ""
        if "embeddings/c.1" in self.path:
            type(self).requests += 1
            if self.mode == "busy twice" and self.requests <= 2:
                status, data = 503, b""
            if self.mode == "silent":
                time.sleep(5)
        if status == 200 and "Range" in self.headers and self.mode != "no ranges":
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            start = int(first) if first else len(data) - int(last)
            stop = int(last) + 1 if first and last else len(data)
            status, extent, data = 206, f"bytes {start}-{stop - 1}/{len(data)}", data[start:stop]
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if extent:
            self.send_header("Content-Range", extent)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(store_path: Path) -> Iterator[tuple[str, type[_Server]]]:
    pytest.importorskip("obstore")
    kind = type("Server", (_Server,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(kind, directory=str(store_path.parent))) as served:
        served.daemon_threads, served.block_on_close = True, False
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{served.server_port}/{store_path.name}", kind
        served.shutdown()


def test_readers_try_again(server: tuple[str, type[_Server]], decoded: np.ndarray) -> None:
    url, kind = server
    kind.mode = "busy twice"
    np.testing.assert_array_equal(nec.open(url).embeddings[:], decoded)
    assert kind.requests == 3


def test_readers_do_not_wait_for_ever(server: tuple[str, type[_Server]], monkeypatch: pytest.MonkeyPatch) -> None:
    url, kind = server
    kind.mode = "silent"
    monkeypatch.setenv("NEC_TIMEOUT", "1")
    monkeypatch.setattr("nec.store.location.RETRIES", 1)
    store = nec.open(url)
    with pytest.raises(nec.NecError, match=r"cannot read embeddings/c\.1") as caught:
        store.embeddings[:]
    assert not isinstance(caught.value, nec.CorruptError)
    monkeypatch.setenv("NEC_TIMEOUT", "soon")
    with pytest.raises(nec.InputError, match="NEC_TIMEOUT"):
        nec.open(url)


def test_a_server_without_ranges_is_named(server: tuple[str, type[_Server]], decoded: np.ndarray) -> None:
    url, kind = server
    kind.mode = "no ranges"
    store = nec.open(url)
    with pytest.raises(nec.NecError, match="ignores range requests") as caught:
        store.embeddings[0]
    assert not isinstance(caught.value, nec.CorruptError)
    np.testing.assert_array_equal(store.embeddings[:], decoded)  # whole shards need none


# ---- power cuts


def test_files_are_on_the_disk_before_a_store_says_that_it_is_complete(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    plain = os.fsync

    def fsync(descriptor: int) -> None:
        flushed.append(os.readlink(f"/proc/self/fd/{descriptor}").rpartition("/")[2])
        plain(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc to look names up in")
    monkeypatch.setattr(os, "fsync", fsync)
    make(tmp_path / "s.zarr")
    last = max(i for i, name in enumerate(flushed) if name.startswith(".zarr.json"))
    assert {f"c.{i}.0.0.0" for i in range(5)} | {"embeddings"} <= set(flushed[:last])
    assert flushed[last + 1 :] == ["s.zarr", tmp_path.name]
