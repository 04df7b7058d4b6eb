"""CRC-32C (Castagnoli), from google_crc32c where it is installed (zarr brings it), else in NumPy-free Python."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache


@cache
def _table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


def _crc32c_plain(data: bytes) -> int:
    table, crc = _table(), 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _fastest() -> Callable[[bytes], int]:
    try:
        import google_crc32c
    except ImportError:
        return _crc32c_plain
    return google_crc32c.value


crc32c: Callable[[bytes], int] = _fastest()
"""crc32c(data) -> unsigned 32-bit checksum; polynomial 0x1EDC6F41 reflected, as in iSCSI and Zarr."""
