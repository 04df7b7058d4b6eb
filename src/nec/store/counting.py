"""How much a reader fetches: a Zarr store that counts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from nec.store.location import Location, ZarrStore, open_location


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
