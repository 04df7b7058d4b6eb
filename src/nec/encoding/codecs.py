"""Which codec a run takes, and at which quality: one that is there, or one fitted on a sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.codec import EmbeddingCodec
from nec.codec.embedding_codec import PriorName, SpatialName
from nec.codec.transform import level_quality
from nec.datasets import Dataset
from nec.encoding.embed import Stream, plan_inputs, sample_positions
from nec.encoding.options import Job, Reading
from nec.errors import InputError, NecError
from nec.models.backbone import Backbone
from nec.progress import Progress

# A few thousand images settle the tables and the basis; float embeddings beyond this would strain a laptop.
DEFAULT_LIMIT = 4000
MEMORY_BYTES = 512 * 2**20
_RUN = 256  # images that are read in one go
_SLACK = 0.95  # how far beside the target the last level in reach may lie
_COARSEST, _FINEST = -80, 80  # levels: qualities 1/1024 to 1024
_STEP = 8  # levels a first step away from quality 1, a factor of 2


def codec_for(
    backbone: Backbone,
    codec: EmbeddingCodec | str | Path | None,
    begun: str | Path | None,
    sample: Callable[[], NDArray[np.float32]],
    positions: bool | None = None,
) -> tuple[EmbeddingCodec, int | None]:
    """The codec of a run, and on how many grids it was fitted if it had to be.

    The one that is given, as it is or as a file; else the backbone's; else that of the store `begun`; else one fitted
    on `sample`, with means by `positions` or not. Raises `InputError` where it is for other dimensions.
    """
    found = EmbeddingCodec.load(codec) if isinstance(codec, str | Path) else codec or backbone.codec
    fitted_on = None
    if found is None and begun is not None:
        found = _codec_in(begun)
    if found is None:
        embeddings = sample()
        found, fitted_on = fit_codec(embeddings, positions=positions), len(embeddings)
    if found.dimensions != backbone.dimensions:
        raise InputError(
            f"the codec of {backbone.name} is for {found.dimensions} dimensions, the model has {backbone.dimensions}"
        )
    return found, fitted_on


def _codec_in(location: str | Path) -> EmbeddingCodec | None:
    """The codec of a store that may be incomplete; None where there is no store, or none that can be read."""
    from nec.store.check import open_any

    try:
        return open_any(location, allow_incomplete=True).codec
    except NecError:
        return None


def sample_embeddings(
    backbone: Backbone, dataset: Dataset, reading: Reading, job: Job, limit: int | None = None
) -> NDArray[np.float32]:
    """Embeddings (n, y, x, d) of a seeded sample of a dataset's images.

    Args:
        reading: with the parts of the split to draw from, so that a codec never sees the images it is judged on; all
            images where the dataset has no split, or for None.
        limit: most images; by default 4,000, or what fits 512 MiB.
    """
    parts = None if dataset.split is None else reading.parts
    order = np.arange(len(dataset)) if parts is None else dataset.indices(parts)
    inputs = plan_inputs(backbone, dataset, order, **reading.pixels())
    count = _count(limit, inputs.grid[0] * inputs.grid[1] * backbone.dimensions * 4)
    order = order[sample_positions(len(order), count, job.seed)]
    stream = Stream(backbone, dataset, order, inputs, job.batch_size, job.engine.readers)
    with Progress(len(order), "embedding", "images", quiet=not job.progress) as bar:
        return next(stream.blocks([(0, len(order))], bar.update))


def sample_array(source: NDArray[Any] | str | Path, *, limit: int | None = None, seed: int = 0) -> NDArray[np.float32]:
    """Embeddings (n, y, x, d) of a seeded sample of an array, or out of an .npy, .npz or .zarr.

    In the latter two they are named "embeddings".

    Raises:
        InputError: unreadable, another shape or type, or NaN and infinite values.
    """
    path = source if isinstance(source, str | Path) else "the array"
    array: Any = _open_array(Path(source)) if isinstance(source, str | Path) else source
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
    positions: bool | None = None,
) -> EmbeddingCodec:
    """Codec fitted on embeddings (n, y, x, d); see `nec.EmbeddingCodec.fit`. `positions` None: where they pay.

    `spatial` is for the hierarchical prior; the factorised one codes the tokens themselves.
    """
    spatial = spatial if prior == "hierarchical" else None
    return EmbeddingCodec.fit(embeddings, prior=prior, rank=rank, seed=seed, positions=positions, spatial=spatial)


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


def quality_for_bytes(codec: EmbeddingCodec, blocks: Sequence[NDArray[np.float32]], target: float) -> float:
    """Quality at which `blocks` of embeddings (n, y, x, d), one a chunk, take nearest to `target` bytes an image.

    Real bytes are counted, frames included. Bisects the integer quality level; one level changes the size by some 5 to
    15%, so the result is within half of that.

    Raises:
        InputError: a target below the smallest size or above the largest that the codec gives on these blocks.
    """
    if not (math.isfinite(target) and target > 0):
        raise InputError(f"--target-bytes must be a positive number of bytes an image, not {target}")
    sizes: dict[int, float] = {}

    def size(level: int) -> float:
        if level not in sizes:
            coded = sum(len(codec.encode(block, level_quality(level))) for block in blocks)
            sizes[level] = coded / sum(len(block) for block in blocks)
        return sizes[level]

    low, high, step = 0, 0, _STEP
    while size(low) > target and low > _COARSEST:
        low, step = max(low - step, _COARSEST), 2 * step
    while size(high) < target and high < _FINEST:
        high, step = min(high + step, _FINEST), 2 * step
    if not size(low) * _SLACK <= target <= size(high) / _SLACK:
        raise InputError(
            f"--target-bytes {target:g} is out of reach: an image takes at least {size(_COARSEST):.0f} bytes "
            f"and at most {size(_FINEST):.0f}"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) < target else (low, middle)
    return level_quality(min((low, high), key=lambda level: abs(math.log(size(level) / target))))
