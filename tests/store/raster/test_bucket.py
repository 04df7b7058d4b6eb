"""Products written straight to a bucket: the bytes of a local one, 503s, other writers, killed ones."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from product_samples import TIMES, write_date

import nec
from nec.store import RasterSpec, RasterWriter, info, open_product, verify
from nec.store.backend import LOCK


def files(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def fill(url: str, spec: RasterSpec, rasters: np.ndarray, valid: np.ndarray, dates: int = 2) -> None:
    with RasterWriter.resume(url, spec) as writer:
        for date in range(dates):
            write_date(writer, TIMES[date], rasters[date], valid[date])


def test_the_bytes_are_those_of_a_local_product(
    bucket: Any, product_path: Path, spec: RasterSpec, rasters: np.ndarray, valid: np.ndarray
) -> None:
    RasterWriter.create(bucket.url, spec).close()
    with pytest.raises(nec.IncompleteError):
        open_product(bucket.url)
    fill(bucket.url, spec, rasters, valid)
    assert bucket.files() == files(product_path)
    assert verify(bucket.url).ok
    assert {**info(bucket.url), "path": ""} == {**info(product_path), "path": ""}
    with RasterWriter.resume(bucket.url, spec) as writer:
        assert writer.missing(0) == []
        with pytest.raises(nec.InputError, match="only a date that is not finished"):
            writer.discard(0)


def test_what_is_there_is_not_written_over(bucket: Any, spec: RasterSpec, build: Callable[..., Path]) -> None:
    RasterWriter.create(bucket.url, spec).close()
    with pytest.raises(nec.InputError, match="is incomplete: give --resume, or --overwrite"):
        RasterWriter.create(bucket.url, spec).close()
    bucket.put("embeddings/c.0.0.9.9", b"left over")
    RasterWriter.create(bucket.url, spec, overwrite=True).close()
    assert "embeddings/c.0.0.9.9" not in bucket.files()
    bucket.url += ".other"
    bucket.put("notes.txt", b"mine")
    with pytest.raises(nec.InputError, match="not a store that can be replaced"):
        RasterWriter.create(bucket.url, spec, overwrite=True).close()
    assert bucket.files() == {"notes.txt": b"mine"}
    with pytest.raises(nec.InputError, match="no such store"):
        RasterWriter.resume(bucket.url + ".none")
    for url in ("https://example.org/p.zarr", "file:///tmp/p.zarr"):
        with pytest.raises(nec.InputError, match="cannot be written to"):
            RasterWriter.create(url, spec).close()


@pytest.fixture(scope="module")
def first_date(tmp_path_factory: pytest.TempPathFactory, build: Callable[..., Path]) -> dict[str, bytes]:
    """The files of the product with its first date only."""
    return files(build(tmp_path_factory.mktemp("one") / "p.zarr", dates=1))


@pytest.mark.parametrize("fault", ["3 PUT embeddings/c", "4 PUT nec-journal", "3 PUT zarr.json", "2 GET ."])
def test_a_busy_store_is_tried_again(
    bucket: Any, first_date: dict[str, bytes], spec: RasterSpec, rasters: np.ndarray, valid: np.ndarray, fault: str
) -> None:
    RasterWriter.create(bucket.url, spec).close()
    bucket.faults.write_text(fault)
    fill(bucket.url, spec, rasters, valid, dates=1)
    assert bucket.faults.read_text().startswith("0")
    assert bucket.files() == first_date


def test_a_store_that_stays_away_is_named_and_the_run_goes_on_later(
    bucket: Any, first_date: dict[str, bytes], spec: RasterSpec, rasters: np.ndarray, valid: np.ndarray
) -> None:
    RasterWriter.create(bucket.url, spec).close()
    bucket.faults.write_text(r"999 PUT embeddings/c\.0\.0\.1\.2")
    with pytest.raises(nec.NecError, match=r"cannot write s3://.*c\.0\.0\.1\.2: .*after 4 retries.*[Tt]ry again"):
        fill(bucket.url, spec, rasters, valid, dates=1)
    bucket.faults.unlink()
    with RasterWriter.resume(bucket.url, spec) as writer:
        time = writer.append_time(TIMES[0])
        assert writer.missing(time)[0] == (time, 1, 2)
        assert len(writer.done(time)) == 6
        with pytest.raises(nec.IncompleteError, match="6 of 12"):
            writer.finish(time)
    bucket.put("valid/c.0.0.1", b"cut")  # not what was noted
    fill(bucket.url, spec, rasters, valid, dates=1)
    assert bucket.files() == first_date


def test_one_writer_at_a_time(bucket: Any, spec: RasterSpec) -> None:
    RasterWriter.create(bucket.url, spec).close()
    with RasterWriter.resume(bucket.url, spec):
        with pytest.raises(nec.InputError, match=f"another writer .process {os.getpid()}"):
            RasterWriter.resume(bucket.url, spec)
        with pytest.raises(nec.InputError, match="another writer"):
            RasterWriter.create(bucket.url, spec, overwrite=True).close()
    assert LOCK not in bucket.files()
    user = os.getuid()
    killed: dict[str, Any] = {"pid": 1, "host": socket.gethostname(), "user": user, "id": "x"}
    bucket.put(LOCK, json.dumps(killed).encode())
    with RasterWriter.resume(bucket.url, spec):  # nobody on this host holds it
        pass
    bucket.put(LOCK, json.dumps({**killed, "host": "elsewhere"}).encode())
    with pytest.raises(nec.InputError, match=r"process 1 on elsewhere.*or remove s3://"):
        RasterWriter.resume(bucket.url, spec)
    assert LOCK in bucket.files()


def test_of_two_that_claim_the_lock_at_once_one_gets_it(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from nec.store import bucket as module

    mine = module.Bucket(bucket.url)
    read = mine.read
    monkeypatch.setattr(mine, "read", lambda key: monkeypatch.setattr(mine, "read", read))  # None: nothing there yet
    bucket.put(LOCK, b'{"pid": 7, "host": "elsewhere"}')
    with pytest.raises(nec.InputError, match="process 7 on elsewhere"):
        module.BucketLock(mine)
    assert bucket.files() == {LOCK: b'{"pid": 7, "host": "elsewhere"}'}


def test_a_creation_that_was_killed_is_begun_again(
    bucket: Any, spec: RasterSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nec.store import bucket as module

    write, remove = module.Bucket.write, module.Bucket.remove

    def cut(self: Any, key: str, data: bytes) -> None:
        if key == "valid/zarr.json":
            raise KeyboardInterrupt
        write(self, key, data)

    monkeypatch.setattr(module.Bucket, "write", cut)
    monkeypatch.setattr(module.Bucket, "remove", lambda self, key: None)  # a process that is killed removes no lock
    with pytest.raises(KeyboardInterrupt):
        RasterWriter.create(bucket.url, spec).close()
    monkeypatch.setattr(module.Bucket, "write", write)
    monkeypatch.setattr(module.Bucket, "remove", remove)
    assert {LOCK, "time/zarr.json"} <= set(bucket.files())
    assert "zarr.json" not in bucket.files()
    RasterWriter.create(bucket.url, spec).close()
    assert {"zarr.json", "valid/zarr.json"} <= set(bucket.files())
    assert LOCK not in bucket.files()
