"""Images -> backbone -> codec -> image store."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nec.datasets import Dataset
from nec.encoding.codecs import codec_for, quality_for_bytes, sample_embeddings
from nec.encoding.embed import Inputs, Stream, plan_inputs, sample_positions
from nec.encoding.engine import resumable
from nec.encoding.options import Coding, Job, Mode, Reading
from nec.encoding.provenance import software
from nec.encoding.reports import ImagesReport, store_info
from nec.errors import InputError
from nec.models.backbone import Backbone
from nec.progress import Progress

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec
    from nec.store import EncodedShard, ImageWriter, ShardEncoder

# Float embeddings that a chunk, and a shard, may take in memory. Large enough that small images fill the default
# layout of 128 images a chunk and 8 chunks a shard.
CHUNK_BYTES = 64 * 2**20
SHARD_BYTES = 256 * 2**20
IMAGES_PER_CHUNK, CHUNKS_PER_SHARD = 128, 8


def encode_images(
    dataset: Dataset,
    out: str | Path,
    backbone: Backbone,
    codec: EmbeddingCodec | str | Path | None,
    coding: Coding,
    mode: Mode,
    reading: Reading,
    job: Job,
) -> ImagesReport:
    """Encode the images of a dataset into a store; see `nec.encode`.

    Batches begin at the store's shards, so a resumed store holds the same bytes as one written in one go.
    """
    began = time.monotonic()
    if mode not in ("create", "resume", "overwrite"):
        raise InputError("--append adds dates to a raster store; images are encoded in one go")
    order = np.arange(len(dataset)) if reading.parts is None else dataset.indices(reading.parts)
    inputs = plan_inputs(backbone, dataset, order, **reading.pixels())
    stream = Stream(backbone, dataset, order, inputs, job.batch_size, job.engine.readers)

    def sample() -> NDArray[np.float32]:
        train = ["train"] if dataset.split is not None and "train" in dataset.split else None
        return sample_embeddings(backbone, dataset, replace(reading, split=reading.parts or train), job)

    codec, fitted_on = codec_for(backbone, codec, out if mode == "resume" else None, sample)
    layout = _layout(inputs, codec)
    quality = coding.quality
    if coding.target_bytes is not None:
        quality = quality_for_bytes(codec, _sample_chunks(stream, layout, job.seed), coding.target_bytes)
    keywords = {
        "codec": codec,
        "quality": quality,
        **_contents(dataset, order),
        **_masks(dataset, order, inputs),
        "grid": inputs.grid,
        "model": {**backbone.identity, "input": {**inputs.identity(), "batch_size": job.batch_size}},
        "provenance": _provenance(dataset, order, job.seed, coding.target_bytes),
        **layout,
    }
    encoded = _fill(_open_writer(out, mode, keywords), stream, job, begun=mode != "resume")
    seconds = time.monotonic() - began
    return ImagesReport(
        str(out), store_info(out), fitted_on, seconds, _raw_bytes(dataset, order), encoded, encoded / seconds
    )


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
        "groups": None if dataset.groups is None else dataset.groups[order],
    }


def _masks(dataset: Dataset, order: NDArray[np.int64], inputs: Inputs) -> dict[str, Any]:
    """The masks of a dataset that has them, read when they are written."""
    if not dataset.has_masks:
        return {}
    return {
        "masks": DatasetMasks(dataset, order, inputs.size),
        "mask_classes": dataset.mask_classes,
        "mask_colors": dataset.mask_colors,
    }


class DatasetMasks:
    """Masks of the images `order` of a dataset, (n, h, w) uint8, read when sliced: all of them may not fit in memory.

    `size`: (height, width) that the images are cropped and resized to, and the masks with them, or None.

    Raises `InputError` where masks differ in size.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, dataset: Dataset, order: NDArray[np.int64], size: tuple[int, int] | None) -> None:
        self._dataset = dataset
        self._order = order
        self._size = size
        self.shape: tuple[int, ...] = (len(order), *self[:1].shape[1:])

    def __getitem__(self, part: slice) -> NDArray[np.uint8]:
        return self._dataset.masks(self._order[part], self._size)


def _provenance(dataset: Dataset, order: NDArray[np.int64], seed: int, target_bytes: float | None) -> dict[str, Any]:
    """Where the store comes from. Nothing in it depends on time or machine, but versions of software."""
    facts: dict[str, Any] = {
        "dataset": dataset.description,
        "raw_bytes": _raw_bytes(dataset, order),
        "software": software(),
        "seed": seed,
    }
    return facts if target_bytes is None else facts | {"target_bytes": target_bytes}


def _raw_bytes(dataset: Dataset, order: NDArray[np.int64]) -> int:
    return sum(dataset.file_sizes[i] for i in order)


def _sample_chunks(stream: Stream, layout: dict[str, int], seed: int) -> list[NDArray[np.float32]]:
    """Embeddings of a seeded sample, at most a shard, cut as the chunks of the store."""
    per_chunk = layout["images_per_chunk"]
    sample = sample_positions(len(stream), per_chunk * layout["chunks_per_shard"], seed)
    chosen = replace(stream, order=stream.order[sample])
    return list(chosen.blocks([(i, min(i + per_chunk, len(sample))) for i in range(0, len(sample), per_chunk)]))


def _open_writer(out: str | Path, mode: Mode, keywords: dict[str, Any]) -> ImageWriter:
    from nec.store import ImageSpec, ImageWriter

    if mode == "resume":
        return ImageWriter.resume(out, ImageSpec(**keywords))
    return ImageWriter.create(out, ImageSpec(**keywords), overwrite=mode == "overwrite")


@dataclass(frozen=True)
class _ImageWork:
    """A `nec.encoding.engine.Work` whose tasks are the [start, stop) of a store's shards, positions of the stream."""

    stream: Stream
    encoder: ShardEncoder

    def block(self, task: tuple[int, int], done: Callable[[int], None]) -> Callable[[], NDArray[np.float32]]:
        return partial(next, self.stream.blocks([task], done))

    def code(self, task: tuple[int, int], block: NDArray[np.float32]) -> EncodedShard:
        return self.encoder.encode((task[0] // self.encoder.tiling.shard[0],), block)

    def size(self, task: tuple[int, int]) -> int:
        return task[1] - task[0]


def _fill(writer: ImageWriter, stream: Stream, job: Job, *, begun: bool) -> int:
    """Write every missing shard and finish the store -> number of images encoded. `begun`: by this run."""
    shards = writer.missing()
    total = sum(stop - start for start, stop in shards)
    with resumable(writer.path, writer.destroy if begun else None) as state, writer:

        def put(task: tuple[int, int], encoded: EncodedShard) -> None:
            writer.write_encoded(task[0], encoded)
            state.shards += 1

        with Progress(total, "encoding", "images", quiet=not job.progress) as bar:
            job.engine.run(_ImageWork(stream, writer.encoder), shards, put, bar.update)
        writer.finish()
    return total
