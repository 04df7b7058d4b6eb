"""Where image files lie: a folder, or a zip that is read in place."""

from __future__ import annotations

import os
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, Protocol, cast

from nec.datasets.images import IMAGE_SUFFIXES
from nec.errors import InputError
from nec.scenes.rasters import printable

# An image file above this is refused, so that a zip that inflates to terabytes cannot fill the memory.
LARGEST_FILE = 2**31


# Lists and class tables that lie beside images.
DOCUMENT_SUFFIXES = (".csv", ".json", ".txt")


class Source(Protocol):
    """Files below a root by their relative path ("/" between the parts).

    `sizes` maps image files to their bytes, sorted by path; `documents` names the lists and class tables beside them.
    """

    path: Path
    sizes: dict[str, int]
    documents: list[str]

    def read(self, name: str) -> bytes: ...

    def stream(self, name: str) -> AbstractContextManager[BinaryIO]:
        """The open file, for readers that need its head only."""
        ...


def open_source(path: Path, *, nested: bool = False) -> Source:
    """Folder or zip -> its image files; `InputError` where the path is neither, or holds no image.

    `nested`: of a folder, also what is in the zips that lie in it.
    """
    if path.is_dir():
        source: Source = FolderSource(path)
        zips = sorted(file for file in path.iterdir() if zipfile.is_zipfile(file)) if nested else []
        if zips:
            source = JoinedSource(source, {file.name: ZipSource(file) for file in zips})
    elif zipfile.is_zipfile(path):
        source = ZipSource(path)
    elif path.exists():
        raise InputError(f"{path} is neither a folder nor a zip file")
    else:
        raise InputError(f"{path} does not exist")
    if not source.sizes:
        raise InputError(f"{path} holds no images ({', '.join(suffix[1:] for suffix in IMAGE_SUFFIXES)})")
    return source


def _visible(name: str) -> bool:
    return not any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in name.split("/"))


def _is_image(name: str) -> bool:
    return _visible(name) and name.lower().endswith(IMAGE_SUFFIXES)


def _is_document(name: str) -> bool:
    return _visible(name) and name.lower().endswith(DOCUMENT_SUFFIXES)


class FolderSource:
    """Image files in a folder and its sub-folders; links are followed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        files = sorted(self._walk(path, frozenset()), key=lambda file: file[0])
        self._files = {name: full for name, full, _ in files}
        self.sizes = {name: size for name, _, size in files if _is_image(name)}
        self.documents = [name for name, _, _ in files if _is_document(name)]

    def _walk(self, folder: Path, above: frozenset[str]) -> Iterator[tuple[str, Path, int]]:
        """Name, path and size of each image and document. What else lies there is not looked at."""
        real = os.path.realpath(folder)
        if real in above:  # a link back up
            return
        try:
            for entry in os.scandir(folder):
                if entry.name.startswith("."):  # .git and the like may be vast
                    continue
                full = folder / entry.name
                if entry.is_dir():
                    yield from self._walk(full, above | {real})
                elif _is_image(entry.name) or _is_document(entry.name):
                    yield printable(full.relative_to(self.path).as_posix()), full, full.stat().st_size
        except OSError as error:
            raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error

    def read(self, name: str) -> bytes:
        try:
            return self._files[name].read_bytes()
        except OSError as error:
            raise InputError(f"{self.path / name} cannot be read: {error.strerror}") from error

    @contextmanager
    def stream(self, name: str) -> Iterator[BinaryIO]:
        try:
            file = self._files[name].open("rb")
        except OSError as error:
            raise InputError(f"{self.path / name} cannot be read: {error.strerror}") from error
        with file:
            yield file


class ZipSource:
    """Image files in a zip. Entries are only ever read into memory, and each reading thread has its own handle."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._reset()
        with self._handle() as handle:
            files = [entry for entry in handle.infolist() if not entry.is_dir()]
        entries = [entry for entry in files if _is_image(entry.filename)]
        documents = [entry for entry in files if _is_document(entry.filename)]
        self.documents = sorted(entry.filename for entry in documents)
        for entry in (*entries, *documents):
            self._check(entry)
        self.sizes = {entry.filename: entry.file_size for entry in sorted(entries, key=lambda entry: entry.filename)}
        if len(self.sizes) != len(entries):
            raise InputError(f"{path} holds {len(entries) - len(self.sizes)} image name(s) twice; make the zip anew")

    def _check(self, entry: zipfile.ZipInfo) -> None:
        parts = entry.filename.split("/")
        if "" in parts or ".." in parts or "\\" in entry.filename or ":" in parts[0]:
            raise InputError(f"{self.path} has an entry with an unsafe name, {entry.filename!r}; make the zip anew")
        if entry.flag_bits & 1:
            raise InputError(f"{self.path} is encrypted ({entry.filename}); unpack it and give the folder")
        if entry.file_size > LARGEST_FILE:
            raise InputError(f"{entry.filename} in {self.path} unpacks to {entry.file_size} bytes, which is too large")

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[zipfile.ZipFile] = []
        self._owner = os.getpid()

    @contextmanager
    def _handle(self) -> Iterator[zipfile.ZipFile]:
        # Handles are reused, because opening one parses the whole directory (0.3 s for 27,000 entries), but never
        # across a fork: both processes would move the same file position.
        if self._owner != os.getpid():
            self._reset()
        with self._lock:
            handle = self._idle.pop() if self._idle else None
        if handle is None:
            try:
                handle = zipfile.ZipFile(self.path)
            except (OSError, zipfile.BadZipFile) as error:
                raise InputError(f"{self.path} is not a readable zip file: {error}") from error
        try:
            yield handle
        finally:
            with self._lock:
                self._idle.append(handle)

    def read(self, name: str) -> bytes:
        with self._handle() as handle:
            try:
                return handle.read(name)
            except (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
                raise InputError(f"{name} in {self.path} is damaged ({error}); replace the zip") from error

    @contextmanager
    def stream(self, name: str) -> Iterator[BinaryIO]:
        with self._handle() as handle:
            try:
                file: IO[bytes] = handle.open(name)
            except (OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
                raise InputError(f"{name} in {self.path} is damaged ({error}); replace the zip") from error
            with file:
                yield cast(BinaryIO, file)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "sizes": self.sizes, "documents": self.documents}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()


class JoinedSource:
    """A folder and the zips in it; a file in a zip has the zip's name before its path."""

    def __init__(self, folder: Source, zips: dict[str, ZipSource]) -> None:
        self.path = folder.path
        self.documents = folder.documents
        self._parts: dict[str, tuple[Source, str]] = {
            name: (folder, name) for name in (*folder.sizes, *folder.documents)
        }
        for prefix, part in zips.items():
            self._parts |= {f"{prefix}/{name}": (part, name) for name in part.sizes}
        self.sizes = {
            name: source.sizes[inside]
            for name, (source, inside) in sorted(self._parts.items(), key=lambda item: item[0])
            if inside in source.sizes
        }

    def read(self, name: str) -> bytes:
        source, inside = self._parts[name]
        return source.read(inside)

    def stream(self, name: str) -> AbstractContextManager[BinaryIO]:
        source, inside = self._parts[name]
        return source.stream(inside)
