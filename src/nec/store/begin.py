"""How a store appears: whole skeleton in one rename, locked, in the place of an old one only where that was asked."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

from nec.errors import CorruptError, InputError
from nec.files import is_url, make_folder, open_location, remove
from nec.store.document import read_document
from nec.store.lock import LOCK, WriterLock


def local_path(path: str | Path) -> Path:
    """`path` as a local one; `InputError` for a URL."""
    if is_url(path):
        raise InputError(
            f"{path}: stores of images are written to a local folder; copy it to object storage when it is complete"
        )
    return Path(path)


def begin(path: Path, write: Callable[[Path], None], *, overwrite: bool = False) -> WriterLock:
    """Let `write` make the skeleton in a fresh folder, which then becomes `path`; the lock on it is returned.

    Raises:
        InputError: `path` exists and is nothing of ours, or is a store and `overwrite` is not given, or another
            writer has it open.
    """
    replaces = _check_free(path, overwrite)
    make_folder(path.parent)
    fresh = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        write(fresh)
        return _swap_in(fresh, path, replaces)
    except BaseException:
        remove(fresh)
        raise


def _check_free(path: Path, overwrite: bool) -> bool:
    """Whether a store at `path` is to be replaced; `InputError` where something is in the way."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return False
    try:
        document = read_document(open_location(path), str(path), None)
    except (InputError, CorruptError) as error:
        raise InputError(
            f"{path} exists and is not a store that can be replaced: choose another name, or remove it"
        ) from error
    if not overwrite:
        way = (
            "is complete: choose another name, or give --overwrite"
            if document["attributes"]["nec"]["complete"]
            else "is incomplete: give --resume, or --overwrite"
        )
        raise InputError(f"the store {path} exists and {way}")
    return True


def _swap_in(fresh: Path, path: Path, replaces: bool) -> WriterLock:
    """Put the folder `fresh`, locked, at `path`; in an old store's place if `replaces` and nobody writes to that."""
    if replaces:
        WriterLock(path).release()
        old = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        path.rename(old)
        remove(old)
    lock = WriterLock(fresh)
    try:
        fresh.rename(path)
    except OSError as error:
        lock.release()
        raise InputError(f"cannot make the store {path}: {error.strerror}") from error
    lock.path = path / LOCK
    return lock
