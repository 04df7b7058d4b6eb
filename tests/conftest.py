"""Fixtures that all rooms share."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Deadlines would be timing assertions, and machines of CI are slow when they are busy.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real datasets: `$NEC_DATA`, else `../shared/data` beside the checkout; skips where none exists."""
    folder = Path(os.environ.get("NEC_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not found in {folder}: set NEC_DATA to the folder that holds EuroSAT_RGB.zip")
    return folder


@dataclass
class Bucket:
    """A place of its own, `url`, in a bucket of an S3 API, and the file that makes the server fail (s3_server.py)."""

    url: str
    faults: Path

    def files(self) -> dict[str, bytes]:
        """The objects below `url`."""
        system, root = self._system(), self.url.removeprefix("s3://")
        return {name.removeprefix(root + "/"): system.cat_file(name) for name in system.find(root)}

    def put(self, key: str, data: bytes) -> None:
        self._system().pipe_file(f"{self.url}/{key}", data)

    def _system(self) -> Any:
        import s3fs

        return s3fs.S3FileSystem(use_listings_cache=False)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address of a server that speaks S3, a process of its own, with the bucket `made`; and its file of faults."""
    pytest.importorskip("moto")
    pytest.importorskip("s3fs")
    faults = tmp_path_factory.mktemp("s3") / "faults"
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    command = [sys.executable, str(Path(__file__).with_name("s3_server.py")), str(faults)]
    with (faults.parent / "log").open("wb") as log, subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment
    ) as process:  # fmt: skip
        assert process.stdout is not None
        address = f"http://127.0.0.1:{process.stdout.readline().strip()}"
        urllib.request.urlopen(urllib.request.Request(f"{address}/made", method="PUT"), timeout=60).close()
        yield address, faults
        process.terminate()


@pytest.fixture
def bucket(s3_server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """A place in the bucket, with the environment that leads there; clients do not wait before they try again."""
    address, faults = s3_server
    faults.unlink(missing_ok=True)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": address, "AWS_MAX_ATTEMPTS": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("nec.store.location.FIRST_PAUSE", 0.001)
    return Bucket(f"s3://made/{uuid.uuid4().hex}/p.zarr", faults)
