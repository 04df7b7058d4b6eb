"""Files that appear whole or not at all, and the few Zarr store calls that the room needs."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import google_crc32c
import zarr.abc.store
import zarr.storage
from zarr.abc.store import ByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from nec.errors import CorruptError, InputError, MissingExtraError, NecError

# What Zarr, its codecs and NumPy raise for bytes that are not what they should be.
DAMAGE = (ValueError, LookupError, TypeError, ArithmeticError, EOFError, RuntimeError)

PARTIAL = ".partial"  # ends the name of a file that is being written

ZarrStore = zarr.abc.store.Store
Location = str | Path | ZarrStore


@contextmanager
def atomic_path(path: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`, file or folder, which becomes `path` when the block ends without an error.

    On an error, Ctrl-C included, the temporary is removed and `path` is as it was.

    Raises:
        InputError: `path` exists (and `overwrite` is not given), is a folder with something in it, or the folder
            above it cannot be made.
    """
    path = Path(path)
    if path.is_dir() and any(path.iterdir()):
        raise InputError(f"{path} is a folder that is not empty: choose another name, or remove it")
    if path.exists() and not path.is_dir() and not overwrite:
        raise InputError(f"{path} exists: choose another name, or give --overwrite")
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        remove(temporary)
        raise


def make_folder(folder: Path) -> None:
    """Make `folder` and the folders above it; `InputError` where that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from error


def remove(path: Path) -> bool:
    """Remove a file, or a folder with all it holds, if there is one -> whether it is gone."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
    return not path.exists()


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` through a temporary file, so that the file is whole or as it was."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write compact JSON to `path` through a temporary file."""
    write_bytes(path, json_bytes(document))


def json_bytes(document: dict[str, Any]) -> bytes:
    """`document` as compact JSON."""
    return json.dumps(document, separators=(",", ":")).encode()


def checksum(data: bytes) -> str:
    """CRC-32C of `data`, 8 hexadecimal digits."""
    return f"{google_crc32c.value(data):08x}"


def is_url(location: Location) -> bool:
    """Whether `location` is text such as `s3://bucket/key` or `https://host/path`."""
    return isinstance(location, str) and "://" in location


def open_location(location: Location) -> ZarrStore:
    """Open a local folder, a URL (through fsspec) or a Zarr store object for reading.

    Raises:
        InputError: the folder does not exist or is a file.
        MissingExtraError: a URL needs a package that is not installed.
    """
    if isinstance(location, ZarrStore):
        return location
    if is_url(location):
        return _open_url(str(location))
    path = Path(location)
    if not path.exists():
        raise InputError(f"no such store: {path}")
    if not path.is_dir():
        raise InputError(f"{path} is a file: a store is a folder (unpack an archive first)")
    return zarr.storage.LocalStore(path, read_only=True)


def _open_url(url: str) -> ZarrStore:
    try:
        return zarr.storage.FsspecStore.from_url(url, read_only=True)
    except ImportError as error:
        raise MissingExtraError(
            f"reading {url} needs fsspec and its driver ({error}): pip install 'fsspec[http]' or 'fsspec[s3]'"
        ) from error
    except ValueError as error:
        raise InputError(f"cannot open {url}: {error}") from error


@contextmanager
def reachable(where: str) -> Iterator[None]:
    """Turn what file systems and HTTP or S3 clients raise (a timeout, a 503, no permission) into one clear error.

    Those clients have exception types of their own, so whatever is not damage and not ours is taken for theirs.
    """
    try:
        yield
    except (NecError, MemoryError, *DAMAGE):
        raise
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise NecError(f"cannot read {where}: {reason}; repeat it when it can be reached") from error


def read_key(store: ZarrStore, key: str, part: ByteRequest | None = None) -> bytes | None:
    """Bytes under `key`, or a part of them, or None where there are none."""
    with reachable(f"{key} of {store}"):
        buffer = sync(store.get(key, prototype=default_buffer_prototype(), byte_range=part))
    return None if buffer is None else buffer.to_bytes()


def size_of_key(store: ZarrStore, key: str) -> int:
    """Bytes under `key`; 0 where there are none."""
    with reachable(f"the size of {key} of {store}"):
        try:
            return sync(store.getsize(key))
        except FileNotFoundError:
            return 0


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """JSON object in `data`; `CorruptError` that names `where` if it is none."""
    try:
        document = json.loads(data)
    except ValueError as error:
        raise CorruptError(f"{where} is damaged: not JSON ({error}); copy it again from its origin") from error
    if not isinstance(document, dict):
        raise CorruptError(f"{where} is damaged: not a JSON object; copy it again from its origin")
    return document
