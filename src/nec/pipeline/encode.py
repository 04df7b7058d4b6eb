"""Images -> model -> codec -> store, on threads: some read, one runs the model, one codes and writes."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nec.data import ArrayDataset, Dataset
from nec.errors import InputError, NecError
from nec.pipeline.embed import Inputs, Stream, plan_inputs, sample_positions, valid_extent
from nec.pipeline.masks import DatasetMasks
from nec.pipeline.target import quality_for_bytes
from nec.progress import Progress

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec
    from nec.models.mae import NecModel
    from nec.store import StoreWriter

# Float embeddings that a chunk, and a shard, may take in memory. Large enough that small images fill the default
# layout of 128 images a chunk and 8 chunks a shard.
CHUNK_BYTES = 64 * 2**20
SHARD_BYTES = 256 * 2**20
IMAGES_PER_CHUNK, CHUNKS_PER_SHARD = 128, 8


def encode(
    model: NecModel,
    dataset: Dataset,
    out: str | Path,
    quality: float = 1.0,
    *,
    batch_size: int = 256,
    workers: int = 2,
    resume: bool = False,
    overwrite: bool = False,
    split: str | Sequence[str] | None = None,
    target_bytes: float | None = None,
    image_size: int | None = None,
    scale: float | None = None,
    offset: float = 0.0,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Any]:
    """Encode the images of a dataset into a store.

    Batches begin at the store's shards, so a resumed store holds the same bytes as one written in one go.

    Args:
        model: what `nec.load_model` returns, with a codec.
        dataset: what `nec.data.open_dataset` returns.
        out: folder of the store.
        quality: what to code with; larger = finer.
        batch_size: images (scenes: windows) that go through the model at once.
        workers: threads that read images.
        resume: complete the store at `out`, made by the same arguments.
        overwrite: replace a store at `out`.
        split: encode the images of these parts of the dataset's split only.
        target_bytes: choose the quality such that an image takes about so many bytes, instead of `quality`.
        image_size: side in pixels that images are resized to.
        scale, offset: pixels * scale + offset lie in 0..1; for other types than bytes.
        seed: of the sample that `target_bytes` is measured on.
        progress: report on stderr.

    Returns:
        What `nec.store.info` gives, and raw_bytes, seconds, images_per_second, encoded_images.

    Raises:
        InputError: the model has no codec; images or arguments do not fit it; `out` is in the way. If nothing was
            stored yet, `out` is removed again.
    """
    began = time.monotonic()
    codec = _codec_of(model)
    order = np.arange(len(dataset)) if split is None else dataset.indices(split)
    inputs = plan_inputs(model, dataset, order, image_size=image_size, scale=scale, offset=offset)
    stream = Stream(model, dataset, order, inputs, batch_size, workers)
    layout = _layout(inputs, codec)
    if target_bytes is not None:
        quality = quality_for_bytes(codec, _sample_chunks(stream, layout, seed), target_bytes)
    keywords = {
        "codec": codec,
        "quality": quality,
        **_contents(dataset, order),
        **_masks(dataset, order, inputs),
        "grid": inputs.grid,
        "model": {
            "name": model.name,
            "sha256": model.sha256,
            "input": {**inputs.identity(), "batch_size": batch_size},
        },
        "provenance": _provenance(model, dataset, order, seed, target_bytes),
        **layout,
    }
    writer = _open_writer(out, resume, overwrite, keywords)
    encoded = _fill(writer, stream, removable=not resume, progress=progress)
    return _summary(out, dataset, order, encoded, time.monotonic() - began)


def encode_array(
    model: NecModel,
    images: NDArray[Any],
    out: str | Path,
    quality: float = 1.0,
    *,
    names: Sequence[str] | None = None,
    labels: Sequence[int] | NDArray[np.int64] | None = None,
    class_names: Sequence[str] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Encode images in memory, (n, height, width, bands), into a store; what `model.encode` calls.

    Bytes are scaled by the model; floats are taken to lie in 0..1, as `model.normalize` does, unless `scale` is given.
    The other `options` are those of `encode`.
    """
    dataset = ArrayDataset(images, names, labels, class_names)
    if np.asarray(images).dtype.kind == "f":
        options.setdefault("scale", 1.0)
    return encode(model, dataset, out, quality, **options)


def _codec_of(model: NecModel) -> EmbeddingCodec:
    codec = model.codec
    if codec is None:
        raise InputError(f"the model {model.name} has no codec yet: make one with `nec fit MODEL DATASET --out MODEL`")
    if codec.dimensions != model.config.embed_dim:
        raise InputError(
            f"the codec of {model.name} is for {codec.dimensions} dimensions, the model has {model.config.embed_dim}"
        )
    return codec


def _layout(inputs: Inputs, codec: EmbeddingCodec) -> dict[str, int]:
    """Images a chunk and chunks a shard: the default, less for large grids; depends on the grid only."""
    item = inputs.grid[0] * inputs.grid[1] * codec.dimensions * 4
    images = IMAGES_PER_CHUNK
    while images > 1 and images * item > CHUNK_BYTES:
        images //= 2
    return {
        "images_per_chunk": images,
        "chunks_per_shard": max(1, min(CHUNKS_PER_SHARD, SHARD_BYTES // (images * item))),
    }


def _contents(dataset: Dataset, order: NDArray[np.int64]) -> dict[str, Any]:
    return {
        "names": [dataset.names[i] for i in order],
        "labels": None if dataset.labels is None else dataset.labels[order],
        "class_names": dataset.class_names,
        "split": None if dataset.split is None else dataset.split[order],
    }


def _masks(dataset: Dataset, order: NDArray[np.int64], inputs: Inputs) -> dict[str, Any]:
    """The masks of a dataset that has them, read when they are written. They must show what the model sees."""
    if not getattr(dataset, "has_masks", False):
        return {}
    masks = DatasetMasks(dataset, order)
    height, width, _ = inputs.shape
    if masks.shape[1] * width != masks.shape[2] * height:
        raise InputError(
            f"{dataset.names[order[0]]} has a mask of {masks.shape[2]}x{masks.shape[1]} px, and the model sees"
            f" {width}x{height} px, another aspect ratio: cut the images into square windows with --tile N"
        )
    return {
        "groups": None if dataset.groups is None else dataset.groups[order],
        "masks": masks,
        "mask_classes": dataset.mask_classes,
        "mask_colors": dataset.mask_colors,
    }


def _provenance(
    model: NecModel, dataset: Dataset, order: NDArray[np.int64], seed: int, target_bytes: float | None
) -> dict[str, Any]:
    """Where the store comes from. Nothing in it depends on time or machine, but versions of software."""
    import torch

    from nec import __version__

    software = {
        "nec": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
    }
    facts: dict[str, Any] = {
        "dataset": dataset.description,
        "raw_bytes": _raw_bytes(dataset, order),
        "software": software,
        "seed": seed,
    }
    if target_bytes is not None:
        facts["target_bytes"] = target_bytes
    georeference = [_token_reference(model, dataset, int(index)) for index in order] if dataset.windowed else []
    if georeference:
        facts["georeference"] = georeference
    return facts


def _token_reference(model: NecModel, dataset: Dataset, index: int) -> dict[str, Any]:
    """CRS, valid pixels and affine of the tokens of a scene: x = a*column + b*row + c, y = d*column + e*row + f."""
    reference = dataset.georeference(index) or {"crs": None, "transform": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]}
    a, b, c, d, e, f = reference["transform"]
    patch = model.config.patch_size
    height, width, _ = dataset.shape(index)
    return {
        "crs": reference["crs"],
        "transform": [a * patch, b * patch, c, d * patch, e * patch, f],
        "pixels": [height, width],
        "valid_pixels": valid_extent(model, height, width),
    }


def _raw_bytes(dataset: Dataset, order: NDArray[np.int64]) -> int:
    return sum(dataset.file_sizes[i] for i in order)


def _sample_chunks(stream: Stream, layout: dict[str, int], seed: int) -> list[NDArray[np.float32]]:
    """Embeddings of a seeded sample, at most a shard, cut as the chunks of the store."""
    per_chunk = layout["images_per_chunk"]
    sample = sample_positions(len(stream), per_chunk * layout["chunks_per_shard"], seed)
    chosen = replace(stream, order=stream.order[sample])
    return list(chosen.blocks([(i, min(i + per_chunk, len(sample))) for i in range(0, len(sample), per_chunk)]))


def _open_writer(out: str | Path, resume: bool, overwrite: bool, keywords: dict[str, Any]) -> StoreWriter:
    from nec.store import StoreWriter

    if resume and overwrite:
        raise InputError("--resume completes a store and --overwrite replaces it: give one of them")
    return StoreWriter.resume(out, **keywords) if resume else StoreWriter.create(out, overwrite=overwrite, **keywords)


def _fill(writer: StoreWriter, stream: Stream, *, removable: bool, progress: bool) -> int:
    """Write every missing shard and finish the store -> number of images encoded."""
    shards = writer.missing()
    total = sum(stop - start for start, stop in shards)
    stored = 0
    try:
        with writer, Progress(total, "encoding", "images", quiet=not progress) as bar:
            # One thread codes and writes a shard while the model computes the next; never more than one waits.
            with ThreadPoolExecutor(1, thread_name_prefix="nec-write") as pool:
                pending: Future[None] | None = None
                for (start, _), block in zip(shards, stream.blocks(shards, bar.update), strict=True):
                    if pending is not None:
                        pending.result()
                        stored += 1
                    pending = pool.submit(writer.write, start, block)
                if pending is not None:
                    pending.result()
            writer.finish()
    except NecError as error:
        if removable and not stored:
            shutil.rmtree(writer.path, ignore_errors=True)
            raise
        raise type(error)(
            f"{error}. The store {writer.path} is incomplete: mend this and go on with --resume, or begin again with "
            "--overwrite"
        ) from error
    return total


def _summary(
    out: str | Path, dataset: Dataset, order: NDArray[np.int64], encoded: int, seconds: float
) -> dict[str, Any]:
    from nec.store import info

    return {
        **info(out),
        "raw_bytes": _raw_bytes(dataset, order),
        "encoded_images": encoded,
        "seconds": seconds,
        "images_per_second": encoded / seconds,
    }
