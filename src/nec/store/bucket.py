"""Stores written straight to object storage (S3, Google, Azure), through obstore."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from nec.errors import InputError, NecError
from nec.store.backend import JOURNAL, LOCK, WriterLock, own_folder, parse_entry, reason_to_keep
from nec.store.location import BUCKETS, object_store, open_location, reason_of
from nec.store.shards import Mark

_GROUP = "zarr.json"
_READERS = 16  # threads that read the journal
_Result = TypeVar("_Result")


class Bucket:
    """What `nec.store.backend.Folder` is on a disk, below a URL such as `s3://bucket/store.zarr`.

    An object appears whole or not at all, so nothing is renamed, and of what was noted only the size is looked up
    again: clients and stores compare checksums of what they send, and `nec verify URL` reads everything. The journal
    and the lock are objects below the store too, so a run goes on from any machine.
    """

    def __init__(self, url: str) -> None:
        self.path = url.rstrip("/")
        if url.partition("://")[0] not in BUCKETS:
            raise InputError(f"{url} cannot be written to: give a folder, or the URL of a bucket (s3://, gs://, az://)")
        self._objects = object_store(self.path)
        self.journal = BucketJournal(self)

    def begin(self, skeleton: Callable[[Path], None], *, overwrite: bool) -> BucketLock:
        with tempfile.TemporaryDirectory() as name:
            made = Path(name) / "store"
            skeleton(made)  # what is wrong with it is found before anything is touched
            lock = self._free(overwrite)
            try:
                files = sorted(file.relative_to(made).as_posix() for file in made.rglob("*") if file.is_file())
                for key in sorted(files, key=_GROUP.__eq__):  # the group comes last: it makes the rest a store
                    self.write(key, (made / key).read_bytes())
            except BaseException:
                lock.release()
                raise
        return lock

    def _free(self, overwrite: bool) -> BucketLock:
        """Make room for a new store -> the lock on it."""
        there = set(self.sizes()) - {LOCK}
        if there and not self._abandoned(there):
            reason = reason_to_keep(open_location(self.path), self.path, overwrite)
            if reason is not None:
                raise InputError(f"{self.path} exists and {reason}")
        lock = BucketLock(self, creating=True)
        try:
            for key in sorted(there, key=_GROUP.__ne__):  # the group goes first: what is left is no store
                self.remove(key)
        except BaseException:
            lock.release()
            raise
        return lock

    def _abandoned(self, there: set[str]) -> bool:
        """Whether what is there was left by a writer that was killed while it began, or replaced, a store."""
        return _GROUP not in there and _holder(self.read(LOCK) or b"").get("creating") is True

    def lock(self) -> BucketLock:
        if self.read(_GROUP) is None:
            raise InputError(f"no such store: {self.path}")
        return BucketLock(self)

    def read(self, key: str) -> bytes | None:
        """What lies at `key`, or None."""
        try:
            return self._do("read", key, lambda: bytes(self._objects.get(key).bytes()))
        except FileNotFoundError:
            return None

    def write(self, key: str, data: bytes) -> None:
        self._do("write", key, lambda: self._objects.put(key, data))

    def publish(self, files: Iterable[tuple[str, bytes]]) -> None:
        for key, data in files:
            self.write(key, data)

    def create(self, key: str, data: bytes) -> bool:
        """Put `data` at `key` if nothing lies there -> whether it was put."""
        try:
            self._do("write", key, lambda: self._objects.put(key, data, mode="create"))
        except FileExistsError:
            return False
        return True

    def remove(self, key: str) -> None:
        with suppress(FileNotFoundError):
            self._do("remove", key, lambda: self._objects.delete(key))

    def sizes(self, below: str | None = None) -> dict[str, int]:
        """Bytes of every object below the store, or below a folder of it."""
        listed = self._do("list", below or "", lambda: [entry for page in self._objects.list(below) for entry in page])
        return {entry["path"]: entry["size"] for entry in listed}

    def intact(self, marks: Mapping[str, Mark]) -> set[str]:
        sizes = self.sizes()
        return {key for key, (size, _) in marks.items() if sizes.get(key, 0) == size}

    def destroy(self) -> bool:
        try:
            for key in sorted(self.sizes(), key=_GROUP.__ne__):
                self.remove(key)
        except NecError:
            return False
        return True

    def _do(self, what: str, key: str, action: Callable[[], _Result]) -> _Result:
        """The result of `action`, its errors in words; `FileNotFoundError` and `FileExistsError` as they are."""
        from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError

        try:
            return action()
        except (NotFoundError, FileNotFoundError) as error:
            raise FileNotFoundError(key) from error
        except AlreadyExistsError as error:
            raise FileExistsError(key) from error
        except (BaseError, OSError) as error:
            raise NecError(f"cannot {what} {self.path}/{key}: {reason_of(error)}") from error


class BucketJournal:
    """What `nec.store.backend.Journal` is in a folder, as objects, one an entry, named by its shard."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket

    def note(self, shard: tuple[int, ...], numbers: tuple[int, ...] = ()) -> None:
        """Write an entry, instead of an earlier one."""
        data = json.dumps([*shard, *numbers]).encode()
        self.bucket.write(f"{JOURNAL}/{'.'.join(map(str, shard))}", data)

    def entries(self, length: int) -> Iterator[list[int]]:
        """The entries of `length` integers."""
        with ThreadPoolExecutor(_READERS) as threads:
            for data in threads.map(self.bucket.read, sorted(self.bucket.sizes(JOURNAL))):
                entry = parse_entry((data or b"").decode(errors="replace"), length)
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
    `creating` marks what lies there without a group as no store yet.
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
    above = own_folder(Path(tempfile.gettempdir()) / f"nec-locks-{_here()['user']}")
    return own_folder(above / hashlib.sha256(url.encode()).hexdigest()[:16])


def _holder(data: bytes) -> dict[str, Any]:
    try:
        holder = json.loads(data)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}
