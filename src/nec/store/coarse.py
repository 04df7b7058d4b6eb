"""Small grids from the beginnings of a store's frames: coarse spacing levels without the bytes of the fine ones."""

from __future__ import annotations

import numpy as np
from zarr.abc.store import RangeByteRequest, SuffixByteRequest

from nec.codec import EmbeddingCodec
from nec.errors import CorruptError
from nec.files import ZarrStore, read_key
from nec.store.layout import Tiling, index_bytes, shard_index

_START = 512
"""Bytes of a frame asked for first; they hold its header, and all of a coarse grid where rates are low."""


def read_coarse(
    store: ZarrStore,
    codec: EmbeddingCodec,
    tiling: Tiling,
    grid: tuple[int, int],
    images: tuple[int, int],
    spacing: int,
    where: str,
) -> np.ndarray:
    """Tokens (m, ceil(y / spacing), ceil(x / spacing), d) of images [start, stop); see `Store.coarse`.

    Reads the index of each shard, then of each frame its start.
    """
    start, stop = images
    blocks = []
    for shard in range(start // tiling.per_shard, -(-stop // tiling.per_shard)):
        key = tiling.shard_key(shard)
        index = read_key(store, key, SuffixByteRequest(index_bytes(tiling.chunks_per_shard)))
        if not index:
            raise CorruptError(f"{where}: {key} is missing; copy the store again from its origin")
        try:
            places = shard_index(index, tiling.chunks_per_shard)
        except CorruptError as error:
            raise CorruptError(f"{where}: {key} is damaged: {error}; copy the store again from its origin") from error
        for chunk in tiling.shard_chunks(shard):
            first, last = tiling.chunk_images(chunk)
            if first >= stop or last <= start:
                continue
            place = places[chunk - shard * tiling.chunks_per_shard]
            try:
                if place is None:
                    raise CorruptError("missing")
                frame = _start_of_frame(store, key, place, codec, spacing)
                block = codec.decode_coarse(frame, spacing, (tiling.per_chunk, *grid))
                shape = (last - first, *(-(-size // spacing) for size in grid))
                if block.shape[:3] != shape:
                    raise CorruptError(f"it holds {block.shape[:3]} images, rows and columns where {shape} belong")
            except CorruptError as error:
                raise CorruptError(
                    f"{where}: {tiling.describe_chunk(chunk)} is damaged: {error};"
                    " `nec verify` lists all damage, copy the store again from its origin"
                ) from error
            blocks.append(block[max(start - first, 0) : stop - first])
    return np.concatenate(blocks)


def _start_of_frame(store: ZarrStore, key: str, place: tuple[int, int], codec: EmbeddingCodec, spacing: int) -> bytes:
    """What of a frame `decode_coarse` needs, in one or two reads."""
    offset, length = place
    begin = _read(store, key, offset, offset + min(length, _START))
    needed = min(codec.coarse_size(begin, spacing), length)
    if needed <= len(begin):
        return begin[:needed]
    return begin + _read(store, key, offset + len(begin), offset + needed)


def _read(store: ZarrStore, key: str, start: int, stop: int) -> bytes:
    found = read_key(store, key, RangeByteRequest(start, stop)) or b""
    if len(found) != stop - start:
        raise CorruptError(f"{key} ends before byte {stop}")
    return found
