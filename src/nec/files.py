"""Files that appear whole or not at all."""

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

from nec.errors import CorruptError, InputError

PARTIAL = ".partial"  # ends the name of a file that is being written


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


def write_bytes(path: Path, data: bytes, *, durable: bool = False) -> None:
    """Write `data` to `path` through a temporary file, so that the file is whole or as it was.

    `durable`: wait until it is on the disk itself.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    try:
        temporary.write_bytes(data)
        if durable:
            flush(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk itself, so that they outlive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write compact JSON to `path` through a temporary file."""
    write_bytes(path, json_bytes(document))


def json_bytes(document: dict[str, Any]) -> bytes:
    """`document` as compact JSON."""
    return json.dumps(document, separators=(",", ":")).encode()


def checksum(data: bytes) -> str:
    """CRC-32C of `data`, 8 hexadecimal digits."""
    return f"{google_crc32c.value(data):08x}"


def parse_json(data: bytes, where: str) -> dict[str, Any]:
    """JSON object in `data`; `CorruptError` that names `where` if it is none."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{where} is damaged: not JSON ({error}); copy it again from its origin") from error
    if not isinstance(document, dict):
        raise CorruptError(f"{where} is damaged: not a JSON object; copy it again from its origin")
    return document
