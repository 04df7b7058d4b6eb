"""Where a product is written: a local folder, or a bucket (`bucket.py`). One writer has it at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

from nec.files import PARTIAL, is_url, open_location, remove, write_bytes
from nec.store.begin import begin
from nec.store.journal import Journal, Mark, is_intact
from nec.store.lock import WriterLock
from nec.store.patience import patiently

Write = Callable[[str, bytes], None]  # a key such as "shards/0.json", and what is to lie there


class Lock(Protocol):
    """What keeps other writers out."""

    def release(self) -> None:
        """Let the next writer in; a second call does nothing."""
        ...


class Notes(Protocol):
    """What a writer notes while it works: `nec.store.journal.Journal`, or the like of it in a bucket."""

    def note(self, place: tuple[int, ...], numbers: tuple[int, ...] = ()) -> None:
        """Add an entry, which stands in for an earlier one of the same place."""
        ...

    def entries(self, length: int) -> Iterator[list[int]]:
        """[*place, *numbers] of the entries that have so many integers."""
        ...

    def remove(self) -> None:
        """Forget everything."""
        ...


class Home(Protocol):
    """A product's files by key. Every file appears whole or not at all; what passes (a 503) is tried again."""

    @property
    def path(self) -> Path | str:
        """Where it is, as `open_product` takes it."""
        ...

    @property
    def notes(self) -> Notes:
        """The journal."""
        ...

    def begin(self, skeleton: Callable[[Path], None], *, overwrite: bool) -> None:
        """Make a product of the files that `skeleton` writes into a folder; `InputError` if something is in the way."""
        ...

    def lock(self) -> Lock:
        """Keep other writers out; `InputError` where there is nothing, or another writer has it."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Put `data` at `key`, in the place of what was there."""
        ...

    def remove(self, key: str) -> None:
        """Remove `key`; nothing happens where there is none."""
        ...

    def intact(self, marks: Mapping[str, Mark]) -> set[str]:
        """The keys at which there is what was noted; a mark of 0 bytes notes that there is no such file."""
        ...

    def tidy(self) -> None:
        """Remove what killed writers left half-written."""
        ...

    def destroy(self) -> bool:
        """Remove the product -> whether it is gone."""
        ...


def home_of(location: str | Path) -> Home:
    """The folder or bucket at `location`; `InputError` for a URL that cannot be written to."""
    if is_url(location):
        from nec.store.bucket import Bucket

        return Bucket(str(location))
    return Folder(Path(location))


class Folder:
    """A `Home` on a disk of this machine."""

    def __init__(self, path: Path) -> None:
        self.path: Path = path
        self.notes: Journal = Journal(path)

    def begin(self, skeleton: Callable[[Path], None], *, overwrite: bool) -> None:
        begin(self.path, skeleton, overwrite=overwrite).release()

    def lock(self) -> WriterLock:
        open_location(self.path)  # which says what is missing
        return WriterLock(self.path)

    def write(self, key: str, data: bytes) -> None:
        file = self.path / key
        file.parent.mkdir(exist_ok=True)
        patiently(partial(write_bytes, file, data))

    def remove(self, key: str) -> None:
        remove(self.path / key)

    def intact(self, marks: Mapping[str, Mark]) -> set[str]:
        return {key for key, mark in marks.items() if self._is_intact(self.path / key, mark)}

    @staticmethod
    def _is_intact(file: Path, mark: Mark) -> bool:
        return is_intact(file, mark) if mark[0] else not file.exists()

    def tidy(self) -> None:
        for leftover in self.path.rglob(f"*{PARTIAL}"):
            remove(leftover)

    def destroy(self) -> bool:
        return remove(self.path)
