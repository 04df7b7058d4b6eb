"""What heads take from a store: decoded grids of its parts, and the decoder stage of the model that made it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError
from nec.progress import Progress

if TYPE_CHECKING:
    from nec.models.mae import DecoderStage
    from nec.store import Store

READ_IMAGES = 1024  # a whole shard of a store written with default settings


HEADS = ("attention", "linear")


def check_request(head: str, seeds: int, epochs: int | None, with_decoder: bool) -> None:
    """`InputError` for an unknown head, fewer than one seed or epoch, or a decoder stage with the linear head."""
    if head not in HEADS:
        raise InputError(f"unknown head {head!r}: {' or '.join(HEADS)}")
    if seeds < 1 or (epochs is not None and epochs < 1):
        raise InputError("the number of seeds and of epochs must be at least 1")
    if with_decoder and head == "linear":
        raise InputError("--with-decoder trains the decoder stage with the attention head: use --head attention")


def opened(store: Store | str | Path) -> Store:
    """An open store, or what `nec.open_store` makes of a path, URL or shipped name."""
    if isinstance(store, str | Path):
        from nec.store import open_store

        return open_store(store)
    return store


def read_parts(
    store: Store,
    parts: Sequence[NDArray[np.int64]],
    convert: Callable[[NDArray[np.float32]], NDArray[Any]],
    quiet: bool,
) -> list[NDArray[Any]]:
    """Decode the images of each part once, block by block, and keep `convert` of them: one array a part."""
    kept: list[list[NDArray[Any]]] = [[] for _ in parts]
    with Progress(len(store), "decoding", "images", quiet=quiet) as progress:
        for start in range(0, len(store), READ_IMAGES):
            stop = min(start + READ_IMAGES, len(store))
            inside = [part[slice(*np.searchsorted(part, (start, stop)))] - start for part in parts]
            if any(len(rows) for rows in inside):
                block = convert(store.embeddings[start:stop])
                for rows, arrays in zip(inside, kept, strict=True):
                    arrays.append(block[rows])
            progress.update(stop - start)
    return [np.concatenate(arrays) for arrays in kept]


def decoder_stage(store: Store, location: str | Path | None) -> DecoderStage:
    """First decoder stage of the model that made the store, for the store's grid.

    `location`: folder or name of the model; the name that the store records if None. Raises `InputError` where it is
    another model, or none is named.
    """
    from nec.models import load_model

    recorded = store.attrs.get("model") or {}
    if location is None and not recorded.get("name"):
        raise InputError("the store does not name its model: give --model for --with-decoder")
    model = load_model(str(location or recorded["name"]))
    if recorded.get("sha256") and model.sha256 and model.sha256 != recorded["sha256"]:
        raise InputError(
            f"model {model.name!r} is not the one that made the store: its sha256 begins"
            f" {model.sha256[:12]}, the store names {recorded['sha256'][:12]}"
        )
    return model.decoder_stage().on_grid(store.grid)


def half_grids(block: NDArray[np.float32]) -> NDArray[np.float16]:
    """Embeddings (n, y, x, d) in half precision, finer than the codec's steps. `InputError` beyond its range."""
    with np.errstate(over="ignore"):
        grids = block.astype(np.float16)
    if not np.isfinite(grids).all():
        raise InputError("the embeddings hold values beyond half precision (65504) or not finite: rescale them")
    return grids


def half_tokens(block: NDArray[np.float32]) -> NDArray[np.float16]:
    """`half_grids` as tokens, (n, y, x, d) -> (n, y*x, d)."""
    return half_grids(block).reshape(len(block), -1, block.shape[-1])
