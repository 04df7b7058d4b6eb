"""Fit a codec to embeddings: of a model on a dataset, or out of a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nec.datasets import Dataset
from nec.encode.embed import Stream, plan_inputs, sample_positions
from nec.errors import InputError
from nec.progress import Progress

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec
    from nec.codec.embedding_codec import PriorName, SpatialName
    from nec.models.mae import NecModel

# A few thousand images settle the tables and the basis; float embeddings beyond this would strain a laptop.
DEFAULT_LIMIT = 4000
MEMORY_BYTES = 512 * 2**20
_RUN = 256  # images that are read in one go


def sample_embeddings(
    model: NecModel,
    dataset: Dataset,
    *,
    limit: int | None = None,
    split: str | Sequence[str] | None = "train",
    image_size: int | None = None,
    scale: float | None = None,
    offset: float = 0.0,
    batch_size: int = 256,
    workers: int = 2,
    seed: int = 0,
    progress: bool = False,
) -> NDArray[np.float32]:
    """Embeddings (n, y, x, d) of a seeded sample of a dataset's images.

    Args:
        limit: most images; by default 4,000, or what fits 512 MiB.
        split: parts of the dataset's split to draw from, so that a codec never sees the images it is judged on; all
            images where the dataset has no split, or for None.

    The rest is as in `nec.encode.encode`.
    """
    order = np.arange(len(dataset)) if split is None or dataset.split is None else dataset.indices(split)
    inputs = plan_inputs(model, dataset, order, image_size=image_size, scale=scale, offset=offset)
    count = _count(limit, inputs.grid[0] * inputs.grid[1] * model.config.embed_dim * 4)
    order = order[sample_positions(len(order), count, seed)]
    stream = Stream(model, dataset, order, inputs, batch_size, workers)
    with Progress(len(order), "embedding", "images", quiet=not progress) as bar:
        return next(stream.blocks([(0, len(order))], bar.update))


def sample_array(path: str | Path, *, limit: int | None = None, seed: int = 0) -> NDArray[np.float32]:
    """Embeddings (n, y, x, d) of a seeded sample out of an .npy, .npz or .zarr; the latter two name them "embeddings".

    Raises:
        InputError: unreadable, another shape or type, or NaN and infinite values.
    """
    array = _open_array(Path(path))
    if len(array.shape) != 4 or 0 in array.shape or np.dtype(array.dtype).kind != "f":
        raise InputError(f"{path} holds {array.dtype} {array.shape}; embeddings are floats (n, y, x, d)")
    chosen = sample_positions(array.shape[0], _count(limit, 4 * int(np.prod(array.shape[1:]))), seed)
    sample = np.concatenate([_pick(array, chosen[chosen // _RUN == run]) for run in np.unique(chosen // _RUN)])
    bad = ~np.isfinite(sample).reshape(len(sample), -1).all(axis=1)
    if bad.any():
        raise InputError(f"{path} has NaN or infinite values in {bad.sum()} image(s), first in image {chosen[bad][0]}")
    return sample


def fit_codec(
    embeddings: NDArray[np.float32],
    *,
    prior: PriorName = "hierarchical",
    spatial: SpatialName | None = "haar",
    rank: int | None = None,
    seed: int = 0,
) -> EmbeddingCodec:
    """Codec fitted on embeddings (n, y, x, d); see `nec.EmbeddingCodec.fit`. Keeps means by position if they pay.

    `spatial` is for the hierarchical prior; the factorised one codes the tokens themselves.
    """
    from nec.codec import EmbeddingCodec

    spatial = spatial if prior == "hierarchical" else None
    return EmbeddingCodec.fit(embeddings, prior=prior, rank=rank, seed=seed, positions=None, spatial=spatial)


def _pick(array: Any, chosen: NDArray[np.int64]) -> NDArray[np.float32]:
    """Images `chosen`, near each other, read in one go: arrays on disk are decoded chunk by chunk, not by image."""
    first = int(chosen[0])
    return np.asarray(array[first : int(chosen[-1]) + 1])[chosen - first].astype(np.float32)


def _count(limit: int | None, item_bytes: int) -> int:
    if limit is None:
        return max(1, min(DEFAULT_LIMIT, MEMORY_BYTES // item_bytes))
    if limit < 1:
        raise InputError(f"--limit must be at least 1, not {limit}")
    return limit


def _open_array(path: Path) -> Any:
    """The array in a file, read when it is indexed where the format allows that."""
    if not path.exists():
        raise InputError(f"{path} does not exist")
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return _named(file, path)
        if path.suffix == ".zarr":
            return _open_zarr(path)
    except (OSError, EOFError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read: {error}") from error
    raise InputError(f"{path}: embeddings come as .npy, .npz or .zarr")


def _open_zarr(path: Path) -> Any:
    import zarr

    import nec.codec  # noqa: F401  registers the codec of our own stores

    node = zarr.open(path, mode="r")
    if isinstance(node, zarr.Array):
        return node
    if node.attrs.get("nec"):
        from nec.store import open_store

        return open_store(path).embeddings  # checks that the store is complete
    return _named(node, path)


def _named(group: Any, path: Path) -> Any:
    if "embeddings" not in group:
        raise InputError(f"{path} has no array named 'embeddings', but {', '.join(sorted(group)) or 'none'}")
    return group["embeddings"]
