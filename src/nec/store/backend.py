"""Where a store is written: a folder of this machine, or a bucket (`bucket.py`). One writer has it at a time.

A backend holds a store's files by key; every file appears whole or not at all. Its journal is what a writer notes while
it works, so that a run that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from nec.errors import CorruptError, InputError, NecError
from nec.files import PARTIAL, flush, make_folder, remove, write_bytes
from nec.store.document import read_document
from nec.store.location import ZarrStore, is_url, open_location
from nec.store.shards import Mark, mark

if TYPE_CHECKING:
    from nec.store.bucket import Bucket

JOURNAL = ".nec-journal"


def parse_entry(text: str, length: int) -> list[int] | None:
    """The `length` integers in `text`; None where it holds anything else."""
    try:
        entry = json.loads(text)
    except ValueError:
        return None
    whole = isinstance(entry, list) and len(entry) == length and all(type(value) is int for value in entry)
    return entry if whole else None


def backend_of(location: str | Path) -> Folder | Bucket:
    """The folder or bucket at `location`; `InputError` for a URL that cannot be written to."""
    if is_url(location):
        from nec.store.bucket import Bucket

        return Bucket(str(location))
    return Folder(Path(location))


def reason_to_keep(store: ZarrStore, path: str, overwrite: bool) -> str | None:
    """Why what lies there must stay, as "exists and ..."; None if it may be replaced."""
    try:
        document = read_document(store, path, None)
    except (InputError, CorruptError):
        return "is not a store that can be replaced: choose another name, or remove it"
    if overwrite:
        return None
    if document["attributes"]["nec"]["complete"]:
        return "is complete: choose another name, or give --overwrite"
    return "is incomplete: give --resume, or --overwrite"


class Folder:
    """A store on a disk of this machine; `path` is where, as `nec.open` takes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal = Journal(path)
        self._unsafe: set[str] = set()  # keys of files that a power cut might still lose

    def begin(self, skeleton: Callable[[Path], None], *, overwrite: bool) -> WriterLock:
        """Make a store of the files that `skeleton` writes into a folder -> the lock on it.

        Raises:
            InputError: something is in the way, or another writer has it open.
        """
        replaces = self._replaces(overwrite)
        make_folder(self.path.parent)
        fresh = self._temporary()
        try:
            skeleton(fresh)
            return self._swap_in(fresh, replaces)
        except BaseException:
            remove(fresh)
            raise

    def _replaces(self, overwrite: bool) -> bool:
        """Whether a store is to be replaced; `InputError` where something is in the way."""
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return False
        reason = "is not a store: choose another name" if not self.path.is_dir() else None
        reason = reason or reason_to_keep(open_location(self.path), str(self.path), overwrite)
        if reason is not None:
            raise InputError(f"{self.path} exists and {reason}")
        return True

    def _temporary(self) -> Path:
        return self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex[:8]}.tmp")

    def _swap_in(self, fresh: Path, replaces: bool) -> WriterLock:
        """Put the folder `fresh`, locked, at its path; instead of an old store if nobody writes to that."""
        if replaces:
            WriterLock(self.path).release()
            old = self._temporary()
            self.path.rename(old)
            remove(old)
        lock = WriterLock(fresh)
        try:
            fresh.rename(self.path)
        except OSError as error:
            lock.release()
            raise InputError(f"cannot make the store {self.path}: {error.strerror}") from error
        lock.path = self.path / LOCK
        return lock

    def lock(self) -> WriterLock:
        """Keep other writers out; `InputError` where there is nothing, or another writer has it."""
        open_location(self.path)  # which says what is missing
        return WriterLock(self.path)

    def write(self, key: str, data: bytes) -> None:
        """Put `data` at `key`, instead of what was there."""
        file = self.path / key
        file.parent.mkdir(exist_ok=True)
        write_bytes(file, data)
        self._unsafe.add(key)

    def publish(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Write metadata, in this order, after all that was written before is safe from a power cut."""
        for leftover in [*self.path.rglob(f"*{PARTIAL}"), *self.path.rglob(".*.tmp")]:
            remove(leftover)
        for key in self._unsafe:
            flush(self.path / key)
        folders = {self.path / key.rpartition("/")[0] for key in self._unsafe}
        self._unsafe.clear()
        for key, data in files:
            file = self.path / key
            for folder in folders:
                flush(folder)
            file.parent.mkdir(exist_ok=True)
            write_bytes(file, data, durable=True)
            folders = {file.parent}
        flush(self.path)
        flush(self.path.absolute().parent)

    def remove(self, key: str) -> None:
        """Remove `key`; nothing happens where there is none."""
        remove(self.path / key)
        self._unsafe.discard(key)

    def intact(self, marks: Mapping[str, Mark]) -> set[str]:
        """The keys at which there is what was noted; a mark of 0 bytes notes that there is no such file."""
        return {key for key, noted in marks.items() if self._is_intact(key, noted)}

    def _is_intact(self, key: str, noted: Mark) -> bool:
        file = self.path / key
        if not noted[0]:
            return not file.exists()
        if not file.is_file() or mark(file.read_bytes()) != noted:
            return False
        self._unsafe.add(key)
        return True

    def destroy(self) -> bool:
        """Remove the store -> whether it is gone."""
        return remove(self.path)


class Journal:
    """One JSON list a line. A line that was cut short by a kill or a full disk counts as never written."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL

    def note(self, shard: tuple[int, ...], numbers: tuple[int, ...] = ()) -> None:
        """Add a line; of several of the same shard the last counts."""
        line = json.dumps([*shard, *numbers]) + "\n"
        with open(self.path, "ab+") as file:
            if file.seek(0, 2):
                file.seek(-1, 2)
                if file.read(1) != b"\n":  # a torn line: ours must not join it
                    line = "\n" + line
            file.write(line.encode())

    def entries(self, length: int) -> Iterator[list[int]]:
        """The lines that hold a list of `length` integers, in order."""
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        for line in text.splitlines():
            entry = parse_entry(line, length)
            if entry is not None:
                yield entry

    def remove(self) -> None:
        """Forget everything; nothing happens where there is no journal."""
        self.path.unlink(missing_ok=True)


try:
    import fcntl
except ImportError:  # Windows, where stores are read but not written
    fcntl = None  # type: ignore[assignment]

LOCK = ".nec-lock"


class WriterLock:
    """Lock file in the store's folder, with the writer's process id and host.

    The system drops the lock when its process dies, however it dies, so a killed writer's file is taken over; one of
    another host is not, since its process cannot be seen from here. `name` is what messages call the store.
    """

    def __init__(self, folder: Path, name: str | None = None) -> None:
        self.path = folder / LOCK
        self._name = name
        self._file = self._acquire()

    def _acquire(self) -> int:
        while True:
            try:  # never through a link: what it leads to would be emptied
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            except OSError as error:
                what = "is a link" if self.path.is_symlink() else f"cannot be opened ({error.strerror})"
                raise InputError(f"the lock {self.path} {what}: look what it is, and remove it") from error
            try:
                _check_plain(descriptor, self.path)
                self._claim(descriptor)
                if self._is_current(descriptor):
                    break
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # the former writer removed the file between our open and our lock
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), "host": socket.gethostname()}).encode(), 0)
        return descriptor

    def _claim(self, descriptor: int) -> None:
        if fcntl is None:
            raise NecError(
                "writing a store needs Linux or macOS: this system has no file locks that end with a process"
            )
        holder = self._holder(descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(self._refusal(holder)) from error
        if holder and holder.get("host") != socket.gethostname():
            raise InputError(self._refusal(holder))

    def _is_current(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(os.fstat(descriptor), os.stat(self.path))
        except FileNotFoundError:
            return False

    @staticmethod
    def _holder(descriptor: int) -> dict[str, object]:
        try:
            holder = json.loads(os.pread(descriptor, 4096, 0))
        except ValueError:  # new, or its writer was killed while writing this line
            return {}
        return holder if isinstance(holder, dict) else {}

    def _refusal(self, holder: dict[str, object]) -> str:
        who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
        return (
            f"another writer ({who}) has {self._name or self.path.parent} open: wait for it,"
            f" or remove {self.path} if that process has ended"
        )

    @property
    def held(self) -> bool:
        """Whether it was not released yet."""
        return self._file >= 0

    def release(self) -> None:
        """Remove the lock file and let the next writer in; a second call does nothing."""
        if self.held:
            self.path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = -1


def _check_plain(descriptor: int, path: Path) -> None:
    """`InputError` unless an open lock is an ordinary file with no other name, so that emptying it harms nothing."""
    facts = os.fstat(descriptor)
    if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:
        raise InputError(f"the lock {path} is no file of its own: look what it is, and remove it")


def own_folder(folder: Path) -> Path:
    """Make a folder that only this user may write to; `InputError` where another user made it, or a link is there."""
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
        raise InputError(f"{folder} belongs to another user or is open to others: remove it, or set TMPDIR")
    return folder
