"""Products written straight to object storage, through fsspec (`s3fs` for S3, `gcsfs`, `adlfs`)."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from nec.errors import CorruptError, InputError, MissingExtraError, NecError
from nec.files import open_location
from nec.store.document import read_document
from nec.store.journal import JOURNAL, Mark, parse_entry
from nec.store.lock import LOCK, WriterLock
from nec.store.patience import ATTEMPTS, passing, patiently

_READ_ONLY = ("http", "https", "file", "local")
_GROUP = "zarr.json"
_Result = TypeVar("_Result")


class Bucket:
    """A `nec.store.home.Home` below a URL such as `s3://bucket/product.zarr`.

    An object appears whole or not at all, so nothing is renamed, and of what was noted only the size is looked up
    again: clients and stores compare checksums of what they send, and `nec verify URL` reads everything. The journal
    and the lock are objects below the product too, so a run goes on from any machine.
    """

    def __init__(self, url: str) -> None:
        self.path = url.rstrip("/")
        self._files, self._root = _open(self.path)
        self.notes = BucketJournal(self)

    def begin(self, skeleton: Callable[[Path], None], *, overwrite: bool) -> None:
        with tempfile.TemporaryDirectory() as name:
            made = Path(name) / "product"
            skeleton(made)  # what is wrong with it is found before anything is touched
            lock = self._free(overwrite)
            try:
                files = sorted(file.relative_to(made).as_posix() for file in made.rglob("*") if file.is_file())
                for key in sorted(files, key=_GROUP.__eq__):  # the group comes last: it makes the rest a product
                    self.write(key, (made / key).read_bytes())
            finally:
                lock.release()

    def _free(self, overwrite: bool) -> BucketLock:
        """Make room for a new product -> the lock on it."""
        there = set(self.sizes()) - {LOCK}
        way = self._way(overwrite) if there and not self._abandoned(there) else None
        if way is not None:
            raise InputError(f"{self.path} exists and {way}")
        lock = BucketLock(self, creating=True)
        try:
            for key in sorted(there, key=_GROUP.__ne__):  # the group goes first: what is left is no product
                self.remove(key)
        except BaseException:
            lock.release()
            raise
        return lock

    def _abandoned(self, there: set[str]) -> bool:
        """Whether what is there was left by a writer that was killed while it began, or replaced, a product."""
        return _GROUP not in there and _holder(self.read(LOCK) or b"").get("creating") is True

    def _way(self, overwrite: bool) -> str | None:
        """Why what is there must stay; None if it may be replaced."""
        try:
            document = read_document(open_location(self.path), self.path, None)
        except (InputError, CorruptError):
            return "is not a product that can be replaced: choose another name, or remove it"
        if overwrite:
            return None
        if document["attributes"]["nec"]["complete"]:
            return "is complete: choose another name, or give --overwrite"
        return "is incomplete: give --resume, or --overwrite"

    def lock(self) -> BucketLock:
        if self.read(_GROUP) is None:
            raise InputError(f"no such store: {self.path}")
        return BucketLock(self)

    def read(self, key: str) -> bytes | None:
        """What lies at `key`, or None."""
        try:
            return self._do("read", key, partial(self._files.cat_file, self._at(key)))
        except FileNotFoundError:
            return None

    def read_all(self, keys: list[str]) -> list[bytes]:
        """What lies at each of several keys, asked for at once."""
        found = self._do("read", JOURNAL, partial(self._files.cat, [self._at(key) for key in keys])) if keys else {}
        return list(found.values())

    def write(self, key: str, data: bytes) -> None:
        self._do("write", key, partial(self._files.pipe_file, self._at(key), data))

    def create(self, key: str, data: bytes) -> bool:
        """Put `data` at `key` if nothing lies there -> whether it was put."""
        try:
            self._do("write", key, partial(self._files.pipe_file, self._at(key), data, mode="create"))
        except FileExistsError:
            return False
        return True

    def remove(self, key: str) -> None:
        with suppress(FileNotFoundError):
            self._do("remove", key, partial(self._files.rm_file, self._at(key)))

    def sizes(self, below: str = "") -> dict[str, int]:
        """Bytes of every object below the product, or below a part of it."""
        start = self._at(below) if below else self._root
        try:
            found = self._do("list", below, partial(self._files.find, start, detail=True, withdirs=False))
        except FileNotFoundError:
            return {}
        return {name.removeprefix(self._root).lstrip("/"): int(facts["size"]) for name, facts in found.items()}

    def intact(self, marks: Mapping[str, Mark]) -> set[str]:
        sizes = self.sizes()
        return {key for key, (size, _) in marks.items() if sizes.get(key, 0) == size}

    def tidy(self) -> None:
        pass

    def destroy(self) -> bool:
        try:
            for key in sorted(self.sizes(), key=_GROUP.__ne__):
                self.remove(key)
        except NecError:
            return False
        return True

    def _at(self, key: str) -> str:
        return f"{self._root}/{key}"

    def _do(self, what: str, key: str, action: Callable[[], _Result]) -> _Result:
        """`action`, tried again where that may help; its errors in words, `FileNotFoundError` and the like as they are.

        The clients of object stores have exceptions of their own, so all of them are caught.
        """

        def once() -> _Result:
            self._files.invalidate_cache()
            try:
                return action()
            except (FileNotFoundError, FileExistsError, NecError, MemoryError):
                raise
            except Exception as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                tried = f", {ATTEMPTS} times" if passing(error) else ""
                raise NecError(f"cannot {what} {self.path}/{key}{tried}: {reason}") from error

        return patiently(once)


class BucketJournal:
    """`nec.store.journal.Journal` as objects, one an entry, named by its place."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket

    def note(self, place: tuple[int, ...], numbers: tuple[int, ...] = ()) -> None:
        """Write an entry, in the place of an earlier one."""
        data = json.dumps([*place, *numbers]).encode()
        self.bucket.write(f"{JOURNAL}/{'.'.join(map(str, place))}", data)

    def entries(self, length: int) -> Iterator[list[int]]:
        """The entries of `length` integers."""
        for data in self.bucket.read_all(sorted(self.bucket.sizes(JOURNAL))):
            entry = parse_entry(data.decode(errors="replace"), length)
            if entry is not None:
                yield entry

    def remove(self) -> None:
        """Forget everything."""
        for key in self.bucket.sizes(JOURNAL):
            self.bucket.remove(key)


class BucketLock:
    """An object that names the writer, put with the condition that there is none, which S3, GCS and Azure keep.

    A lock file on this machine, which the system drops with its process, tells the lock of a writer of this host and
    user that was killed, which is taken over, from a living one's. Of another host this cannot be told: refused.
    `creating` marks what lies there without a group as no product yet.
    """

    def __init__(self, bucket: Bucket, *, creating: bool = False) -> None:
        self._bucket = bucket
        self._here = WriterLock(_lock_folder(bucket.path), bucket.path)
        self._token = json.dumps({"pid": os.getpid(), **_here(), "creating": creating, "id": uuid.uuid4().hex}).encode()
        try:
            self._claim()
        except BaseException:
            self._here.release()
            raise

    def _claim(self) -> None:
        held = self._bucket.read(LOCK)
        if held is not None and _here().items() <= _holder(held).items():
            self._bucket.write(LOCK, self._token)  # we have the lock file here, so that writer has ended
        elif held is not None or not self._bucket.create(LOCK, self._token):
            held = self._bucket.read(LOCK) or b""
            if held != self._token:  # ours, if the answer to an earlier attempt was lost
                raise InputError(self._refusal(_holder(held)))

    def _refusal(self, holder: dict[str, Any]) -> str:
        who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
        return (
            f"another writer ({who}) has {self._bucket.path} open: wait for it,"
            f" or remove {self._bucket.path}/{LOCK} if that process has ended"
        )

    def release(self) -> None:
        """Let the next writer in. Where the bucket cannot be reached, the next on this host takes the lock over."""
        if self._here.held:
            with suppress(NecError):
                self._bucket.remove(LOCK)
            self._here.release()


def _here() -> dict[str, Any]:
    """Whose lock files this process sees."""
    return {"host": socket.gethostname(), "user": os.getuid() if hasattr(os, "getuid") else 0}


def _lock_folder(url: str) -> Path:
    """A folder of this machine and user that stands for `url`."""
    name = hashlib.sha256(url.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"nec-locks-{_here()['user']}" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _holder(data: bytes) -> dict[str, Any]:
    try:
        holder = json.loads(data)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _open(url: str) -> tuple[Any, str]:
    """File system and path in it."""
    kind = url.partition("://")[0]
    if kind in _READ_ONLY:
        raise InputError(f"{url} cannot be written to: give a folder, or the URL of a bucket (s3://, gs://, az://)")
    try:
        import fsspec

        files, root = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise MissingExtraError(
            f"writing to {url} needs fsspec and its driver ({error}): pip install 'fsspec[s3]'"
        ) from error
    except ValueError as error:
        raise InputError(f"cannot open {url}: {error}") from error
    return files, root.rstrip("/")
