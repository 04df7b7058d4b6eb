"""One writer a store."""

from __future__ import annotations

import json
import os
import socket
import stat
from pathlib import Path

from nec.errors import InputError, NecError

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
