"""Where a store lies: a folder, a zip, a URL, a Zarr store object; and how its bytes are read.

Buckets and HTTP go through obstore, which tries again what a busy server refused and gives up after a timeout. Other
URLs (`hf://`, `memory://`) go through fsspec.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import zarr
import zarr.abc.store
import zarr.storage
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import WrapperStore

from nec.errors import InputError, MissingExtraError, NecError

# What Zarr, its codecs and NumPy raise for bytes that are not what they should be.
DAMAGE = (ValueError, LookupError, TypeError, ArithmeticError, EOFError, RuntimeError)

ZarrStore = zarr.abc.store.Store
Location = str | Path | ZarrStore | zarr.Group | zarr.Array

RETRIES = 4  # after a first attempt that failed with 429, 5xx, a timeout or a lost connection
FIRST_PAUSE = 0.5  # seconds, then twice as long each time
TIMEOUT = 60.0  # seconds that a server may take for an answer, unless the environment says NEC_TIMEOUT
BUCKETS = ("s3", "s3a", "gs", "az", "azure", "adl", "abfs", "abfss")
_MOST_RATIO, _ALWAYS_FINE = 200, 2**26  # of what an entry of a zip may grow to, and bytes that it always may


def is_url(location: object) -> bool:
    """Whether `location` is text such as `s3://bucket/key` or `https://host/path`."""
    return isinstance(location, str) and "://" in location


def open_location(location: Location) -> ZarrStore:
    """Open a folder, a zip, a URL or a Zarr store, group or array for reading.

    Raises:
        InputError: there is nothing, or a file that is no zip of a store.
        MissingExtraError: a URL needs a package that is not installed.
    """
    if isinstance(location, zarr.Group | zarr.Array):
        at = location.store_path
        inside = at.path if isinstance(location, zarr.Group) else at.path.rpartition("/")[0]
        return _below(_opened(at.store), inside)
    if isinstance(location, ZarrStore):
        return _opened(location)
    if is_url(location):
        return _open_url(str(location))
    path = Path(location)
    if not path.exists():
        raise InputError(f"no such store: {path}")
    if path.is_dir():
        return zarr.storage.LocalStore(path, read_only=True)
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is a file: a store is a folder, or a .zip of one")
    return _open_zip(path)


def _opened(store: ZarrStore) -> ZarrStore:
    with reachable(str(store)):
        sync(store._ensure_open())
    return store


def _open_zip(path: Path) -> ZarrStore:
    """The store in a zip: its root, or the one folder in it that has a group document nearest to the root."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    for entry in entries:
        if entry.file_size > max(_ALWAYS_FINE, _MOST_RATIO * entry.compress_size):
            raise InputError(f"{path}: {entry.filename} would grow to {entry.file_size} bytes")
    names = [entry.filename for entry in entries if entry.filename.split("/")[-1] == "zarr.json"]
    if not names:
        raise InputError(f"{path} is not a store: it has no zarr.json")
    return _below(
        _opened(zarr.storage.ZipStore(path, mode="r")), min(names, key=lambda name: name.count("/")).rpartition("/")[0]
    )


def _open_url(url: str) -> ZarrStore:
    scheme = url.partition("://")[0]
    try:
        if scheme in (*BUCKETS, "http", "https"):
            return zarr.storage.ObjectStore(object_store(url), read_only=True)
        return zarr.storage.FsspecStore.from_url(url, read_only=True)
    except ImportError as error:
        raise MissingExtraError(f"reading {url} needs fsspec and its driver ({error})") from error
    except ValueError as error:
        raise InputError(f"cannot open {url}: {error}") from error


def object_store(url: str) -> Any:
    """obstore's client of the objects below an `http(s)://` URL, or one of a bucket.

    Credentials and endpoints come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, `GOOGLE_...`, ...).

    Raises:
        MissingExtraError: obstore is not installed.
        InputError: the URL means nothing to it.
    """
    try:
        from obstore.exceptions import BaseError
        from obstore.store import HTTPStore, from_url
    except ImportError as error:
        raise MissingExtraError(f"{url} needs obstore: pip install 'neural-embedding-compression[remote]'") from error
    _settle_at_exit()
    timeout = _timeout()
    pauses = {"init_backoff": timedelta(seconds=FIRST_PAUSE), "max_backoff": timedelta(seconds=15), "base": 2}
    options: dict[str, Any] = {
        "client_options": {"allow_http": True, "timeout": f"{timeout:g}s", "connect_timeout": f"{min(timeout, 10):g}s"},
        "retry_config": {
            "max_retries": RETRIES, "backoff": pauses, "retry_timeout": timedelta(seconds=(RETRIES + 1) * timeout)
        },
    }  # fmt: skip
    try:
        return HTTPStore.from_url(url, **options) if url.startswith("http") else from_url(url, **options)
    except (BaseError, ValueError) as error:
        raise InputError(f"cannot open {url}: {reason_of(error)}") from error


@cache
def _settle_at_exit() -> None:
    """Give obstore's threads a moment before Python ends, once a process.

    They hand over results a little after a read has returned. Where Python ends in that moment they abort the process
    (https://github.com/PyO3/pyo3-async-runtimes/issues/40): six of ten short scripts on a busy machine.
    """
    atexit.register(time.sleep, 0.1)


def _timeout() -> float:
    text = os.environ.get("NEC_TIMEOUT", "")
    try:
        seconds = float(text) if text else TIMEOUT
    except ValueError:
        seconds = 0
    if not 0 < seconds < 1e6:
        raise InputError(f"NEC_TIMEOUT={text}: it must be the seconds that a server may take to answer")
    return seconds


def reason_of(error: Exception) -> str:
    """What an error says, on one line, without obstore's dump of its internals."""
    return " ".join(str(error).partition("\n\nDebug source")[0].split()) or type(error).__name__


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
        if type(error).__name__ == "NotSupportedError":  # of obstore, which need not be installed
            raise NecError(
                f"cannot read {where}: its server ignores range requests: take another server, or copy the store and"
                " open the copy"
            ) from error
        raise NecError(f"cannot read {where}: {reason_of(error)}; repeat it when it can be reached") from error


def read_key(store: ZarrStore, key: str, extent: ByteRequest | None = None) -> bytes | None:
    """Bytes under `key`, or an extent of them, or None where there are none."""
    return read_keys(store, [(key, extent)])[0]


def read_keys(store: ZarrStore, wanted: Sequence[tuple[str, ByteRequest | None]]) -> list[bytes | None]:
    """`read_key` of several, asked for at once."""

    async def ask(key: str, extent: ByteRequest | None) -> bytes | None:
        with reachable(f"{key} of {store}"):
            found = await store.get(key, default_buffer_prototype(), byte_range=extent)
        return None if found is None else found.to_bytes()

    async def ask_all() -> list[bytes | None]:
        return await asyncio.gather(*(ask(key, extent) for key, extent in wanted))

    return sync(ask_all())


def size_of_key(store: ZarrStore, key: str) -> int:
    """Bytes under `key`; 0 where there are none."""
    with reachable(f"the size of {key} of {store}"):
        try:
            return sync(store.getsize(key))
        except FileNotFoundError:
            return 0


def _below(store: ZarrStore, folder: str) -> ZarrStore:
    return _Folder(store, folder) if folder else store


class _Folder(WrapperStore[ZarrStore]):
    """What lies in a folder of another store, for reading."""

    def __init__(self, store: ZarrStore, folder: str) -> None:
        super().__init__(store)
        self._folder = folder.strip("/")

    def _with_store(self, store: ZarrStore) -> _Folder:
        return _Folder(store, self._folder)

    def __str__(self) -> str:
        return f"{self._store}/{self._folder}"

    def _at(self, key: str) -> str:
        return f"{self._folder}/{key}" if key else self._folder

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        return await super().get(self._at(key), prototype, byte_range)

    async def get_partial_values(self, prototype: BufferPrototype, key_ranges: Any) -> list[Buffer | None]:
        return await super().get_partial_values(prototype, [(self._at(key), extent) for key, extent in key_ranges])

    async def _get_many(self, requests: Any) -> Any:
        async for key, value in super()._get_many((self._at(key), *rest) for key, *rest in requests):
            yield key.removeprefix(self._folder + "/"), value

    async def exists(self, key: str) -> bool:
        return await super().exists(self._at(key))

    async def getsize(self, key: str) -> int:
        return await self._store.getsize(self._at(key))

    async def list(self) -> Any:
        async for key in super().list_prefix(self._folder + "/"):
            yield key.removeprefix(self._folder + "/")

    async def list_prefix(self, prefix: str) -> Any:
        async for key in super().list_prefix(self._at(prefix)):
            yield key.removeprefix(self._folder + "/")

    async def list_dir(self, prefix: str) -> Any:
        async for key in super().list_dir(self._at(prefix)):
            yield key


class CountingStore(WrapperStore[ZarrStore]):
    """Any store, counting the requests for its values and the bytes that came back (headers apart).

    >>> remote = CountingStore("https://example.org/product.zarr")  # doctest: +SKIP
    >>> tokens = nec.open_product(remote).read(0, slice(0, 64), slice(0, 64))  # doctest: +SKIP
    >>> remote.requests, remote.bytes_read  # doctest: +SKIP

    Args:
        store: a folder, a URL or a Zarr store object, as `nec.open_product` takes.
    """

    requests = 0
    bytes_read = 0

    def __init__(self, store: Location) -> None:
        super().__init__(open_location(store))
        self._where = str(store)

    def __str__(self) -> str:
        return self._where

    def _count(self, value: Buffer | None) -> Buffer | None:
        self.requests += 1
        self.bytes_read += 0 if value is None else len(value)
        return value

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """A value or an extent of it, counted."""
        return self._count(await super().get(key, prototype, byte_range))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Extents of values, counted."""
        return [self._count(value) for value in await super().get_partial_values(prototype, key_ranges)]

    async def _get_many(self, requests: Iterable[tuple[str, BufferPrototype, ByteRequest | None]]) -> Any:
        async for key, value in super()._get_many(requests):
            yield key, self._count(value)
