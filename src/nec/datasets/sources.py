"""Where image files lie: a folder, or a zip that is read in place."""

from __future__ import annotations

import os
import threading
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from nec.datasets.images import IMAGE_SUFFIXES
from nec.errors import InputError
from nec.scenes.rasters import printable

# An image file above this is refused, so that a zip that inflates to terabytes cannot fill the memory.
LARGEST_FILE = 2**31


# Lists and class tables that lie beside images.
DOCUMENT_SUFFIXES = (".csv", ".json", ".txt")


class Source(ABC):
    """Files below a root by their relative path ("/" between the parts).

    Attributes:
        sizes: image files and their bytes, sorted by path.
        documents: the lists and class tables beside them.
    """

    path: Path
    sizes: dict[str, int]
    documents: list[str]

    @abstractmethod
    def stream(self, name: str) -> AbstractContextManager[BinaryIO]:
        """The open file, for readers that need its head only. Raises `InputError` where it is damaged."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """All of a file; raises as `stream`."""


def open_source(path: Path, *, nested: bool = False) -> Source:
    """Folder or zip -> its image files; `InputError` where the path is neither, or holds no image.

    `nested`: of a folder, also what is in the zips that lie in it.
    """
    if path.is_dir():
        source: Source = FolderSource(path, nested)
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


class FolderSource(Source):
    """Image files in a folder and its sub-folders; links are followed.

    `nested`: the images in zips that lie in it, too, with the zip's name before their paths.
    """

    def __init__(self, path: Path, nested: bool = False) -> None:
        self.path = path
        files = sorted(self._walk(path, frozenset()), key=lambda file: file[0])
        self._files = {name: full for name, full, _ in files}
        self.sizes = {name: size for name, _, size in files if _is_image(name)}
        self.documents = [name for name, _, _ in files if _is_document(name)]
        zips = sorted(file for file in path.iterdir() if zipfile.is_zipfile(file)) if nested else []
        self._zips = {file.name: ZipSource(file) for file in zips}
        for prefix, packed in self._zips.items():
            self.sizes |= {f"{prefix}/{name}": size for name, size in packed.sizes.items()}
        self.sizes = dict(sorted(self.sizes.items()))

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
        with self.stream(name) as file:
            return file.read()

    @contextmanager
    def stream(self, name: str) -> Iterator[BinaryIO]:
        prefix, _, inside = name.partition("/")
        if prefix in self._zips:
            with self._zips[prefix].stream(inside) as packed:
                yield packed
            return
        try:
            with self._files[name].open("rb") as file:
                yield file
        except OSError as error:
            raise InputError(f"{self.path / name} cannot be read: {error.strerror}") from error


class ZipSource(Source):
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
        with self.stream(name) as file:
            return file.read()

    @contextmanager
    def stream(self, name: str) -> Iterator[BinaryIO]:
        with self._handle() as handle:
            try:
                with handle.open(name) as file:
                    yield cast(BinaryIO, file)
            except (OSError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
                raise InputError(f"{name} in {self.path} is damaged ({error}); replace the zip") from error

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "sizes": self.sizes, "documents": self.documents}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()
