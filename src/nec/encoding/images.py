"""Images -> backbone -> codec -> image store: what of an image a backbone sees, and reading ahead of it in threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nec.datasets import ArrayDataset, Dataset
from nec.encoding.codecs import codec_for, quality_for_bytes, sample_positions, sample_size
from nec.encoding.engine import read_ahead, resumable
from nec.encoding.options import Encoding, Job, Reading
from nec.encoding.reports import ImagesReport, software, store_info
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


@dataclass(frozen=True)
class Inputs:
    """How the images of a dataset become the input of a backbone; made by `plan_inputs`.

    Attributes:
        shape: (height, width, bands) of each image as it is read.
        size: (height, width) that images are resized to, or None.
        scale, offset: pixels * scale + offset lie in 0..1; None for bytes, which the backbone scales itself.
        grid: (y, x) tokens an image.
    """

    shape: tuple[int, int, int]
    size: tuple[int, int] | None
    scale: float | None
    offset: float
    grid: tuple[int, int]

    def identity(self) -> dict[str, Any]:
        """JSON-able facts that decide the embeddings beside the backbone and the files."""
        height, width, _ = self.shape
        # "windowed" is what stores of another route said; those that are here go on saying that they are none.
        return {"height": height, "width": width, "windowed": False, "scale": self.scale, "offset": self.offset}


def plan_inputs(
    backbone: Backbone, dataset: Dataset, order: NDArray[np.int64], reading: Reading | None = None
) -> Inputs:
    """Decide from the first image how images `order` become the backbone's input.

    `reading` may give `image_size` (else the dataset's published size, the input size of a backbone that takes no
    other, or as they are), `scale` and `offset` (see `pixel_scale`). Raises `InputError` where band count, size or type
    do not fit the backbone.
    """
    reading, first = reading or Reading(), int(order[0])
    side = reading.image_size or dataset.image_size
    size = (side, side) if side is not None else None if backbone.any_size else backbone.input_size
    name, image = dataset.names[first], dataset.load([first], size)[0]
    scale, offset = pixel_scale(backbone, dataset, image, name, reading.scale, reading.offset)
    try:
        grid = backbone.grid(*image.shape[:2])
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    return Inputs(image.shape, size, scale, offset, grid)


def pixel_scale(
    backbone: Backbone, dataset: Dataset, image: NDArray[Any], name: str, scale: float | None, offset: float
) -> tuple[float | None, float]:
    """What an image's pixels are multiplied with, and what is added then, to lie in 0..1; None for bytes.

    What is given wins; then what the reflectances of the dataset or the numbers of the file are to the backbone; floats
    in memory are scaled already. Raises `InputError` where nothing tells, and for another number of bands.
    """
    bands, wanted = image.shape[2], backbone.pixels.in_channels
    if bands != wanted:
        raise InputError(f"{name} has {bands} band(s), and the model {backbone.name} takes {wanted}")
    if scale is not None:
        return scale, offset
    if dataset.physical:
        low, high = backbone.pixels.reflectance or (0.0, 1.0)
        return 1 / (high - low), -low / (high - low)
    if image.dtype == np.uint8:
        return None, 0.0
    if backbone.pixels.scale is not None:
        return backbone.pixels.scale, backbone.pixels.offset
    if isinstance(dataset, ArrayDataset) and image.dtype.kind == "f":
        return 1.0, backbone.pixels.offset
    raise InputError(
        f"{name} has {image.dtype} pixels: give --scale S (and --offset O) such that "
        "pixel * S + O lies in 0..1, the range the model's mean and std are for (10000 reflectance: --scale 1e-4)"
    )


@dataclass(frozen=True)
class Stream:
    """Images `order` of a dataset on their way through a model, in batches. Positions below count in `order`.

    Attributes:
        batch_size: images that go through the backbone at once.
        workers: threads that read images ahead.
    """

    backbone: Backbone
    dataset: Dataset
    order: NDArray[np.int64]
    inputs: Inputs
    batch_size: int = 256
    workers: int = 2

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 1:
            raise InputError(f"batch size and workers must be at least 1, not {self.batch_size} and {self.workers}")

    def __len__(self) -> int:
        return len(self.order)

    def batches(self, start: int, stop: int) -> list[range]:
        """Positions [start, stop) cut into batches, counted from `start`."""
        return [range(first, min(first + self.batch_size, stop)) for first in range(start, stop, self.batch_size)]

    def embed(self, batches: Sequence[range]) -> Iterator[NDArray[np.float32]]:
        """Embeddings (len(batch), y, x, d) of each batch of positions, in order.

        `workers` threads read at most `workers` + 1 batches ahead while the caller's thread runs the model.
        """
        return (embeddings for _, embeddings in self.pairs(batches))

    def pairs(self, batches: Sequence[range]) -> Iterator[tuple[NDArray[Any], NDArray[np.float32]]]:
        """Pixels (len(batch), height, width, bands) as they were read and resized, and the embeddings of `embed`."""
        read = read_ahead(self._read, batches, self.workers)
        return ((pixels, embed(self.backbone, pixels, self.inputs)) for pixels in read)

    def blocks(
        self, ranges: Sequence[tuple[int, int]], done: Callable[[int], None] = lambda images: None
    ) -> Iterator[NDArray[np.float32]]:
        """Embeddings of each [start, stop), whose batches begin at its start. Reading runs on across the borders.

        `done` is called with the number of images of each finished batch.
        """
        parts = self.embed([batch for start, stop in ranges for batch in self.batches(start, stop)])
        return (self._block(start, stop, parts, done) for start, stop in ranges)

    def _block(
        self, start: int, stop: int, parts: Iterator[NDArray[np.float32]], done: Callable[[int], None]
    ) -> NDArray[np.float32]:
        block = np.empty((stop - start, *self.inputs.grid, self.backbone.dimensions), np.float32)
        for batch in self.batches(start, stop):
            block[batch.start - start : batch.stop - start] = next(parts)
            done(len(batch))
        return block

    def _read(self, batch: range) -> NDArray[Any]:
        indices = self.order[batch.start : batch.stop]
        images = self.dataset.load(indices, self.inputs.size, workers=1)
        if images.shape[1:] != self.inputs.shape:
            first = np.empty(self.inputs.shape, images.dtype)
            self.dataset.check_alike(first, int(self.order[0]), images[0], int(indices[0]))
        return images


def embed(backbone: Backbone, pixels: NDArray[Any], inputs: Inputs) -> NDArray[np.float32]:
    """Images (n, h, w, c) as read -> embeddings (n, y, x, d)."""
    if inputs.scale is not None:
        pixels = pixels.astype(np.float32) * np.float32(inputs.scale) + np.float32(inputs.offset)
    return backbone.embed(backbone.normalize(pixels))


def positions_of(dataset: Dataset, parts: list[str] | None) -> NDArray[np.int64]:
    """Images of these parts of a dataset's split; None: all of them."""
    return np.arange(len(dataset)) if parts is None else dataset.indices(parts)


def sample_embeddings(
    backbone: Backbone, dataset: Dataset, reading: Reading, job: Job, limit: int | None = None
) -> NDArray[np.float32]:
    """Embeddings (n, y, x, d) of a seeded sample of a dataset's images.

    Args:
        reading: with the parts of the split to draw from, so that a codec never sees the images it is judged on; all
            images where the dataset has no split, or for None.
        limit: most images; by default 4,000, or what fits 512 MiB.
    """
    order = positions_of(dataset, None if dataset.split is None else reading.parts)
    inputs = plan_inputs(backbone, dataset, order, reading)
    count = sample_size(limit, inputs.grid[0] * inputs.grid[1] * backbone.dimensions * 4)
    order = order[sample_positions(len(order), count, job.seed)]
    stream = Stream(backbone, dataset, order, inputs, job.batch_size, job.engine.readers)
    with Progress(len(order), "embedding", "images", quiet=not job.progress) as bar:
        return next(stream.blocks([(0, len(order))], bar.update))


# -- into a store ------------------------------------------------------------------------------------------------------


def encode_images(dataset: Dataset, encoding: Encoding) -> ImagesReport:
    """Encode the images of a dataset into a store; see `nec.encode`.

    Batches begin at the store's shards, so a resumed store holds the same bytes as one written in one go.
    """
    from nec.store import ImageSpec, ImageWriter

    began, backbone, reading, job = time.monotonic(), encoding.backbone, encoding.reading, encoding.job
    out, mode, resume = encoding.out, encoding.mode, encoding.mode == "resume"
    if mode not in ("create", "resume", "overwrite"):
        raise InputError("--append adds dates to a raster store; images are encoded in one go")
    order = positions_of(dataset, reading.parts)
    inputs = plan_inputs(backbone, dataset, order, reading)
    stream = Stream(backbone, dataset, order, inputs, job.batch_size, job.engine.readers)

    def sample() -> NDArray[np.float32]:
        train = ["train"] if dataset.split is not None and "train" in dataset.split else None
        return sample_embeddings(backbone, dataset, replace(reading, split=reading.parts or train), job)

    codec, fitted_on = codec_for(encoding, out if resume else None, sample)
    per_chunk, chunks = _layout(inputs, codec)
    raw_bytes = sum(dataset.file_sizes[i] for i in order)
    quality = encoding.quality
    # Nothing in it depends on time or machine, but versions of software.
    made = {"dataset": dataset.description, "raw_bytes": raw_bytes, "software": software(), "seed": job.seed}
    if encoding.target_bytes is not None:
        # Of a seeded sample, at most a shard, cut as the chunks of the store.
        places = sample_positions(len(stream), per_chunk * chunks, job.seed)
        ranges = [(i, min(i + per_chunk, len(places))) for i in range(0, len(places), per_chunk)]
        blocks = list(replace(stream, order=order[places]).blocks(ranges))
        quality = quality_for_bytes(codec, blocks, encoding.target_bytes)
        made["target_bytes"] = encoding.target_bytes
    spec = ImageSpec(
        codec=codec,
        quality=quality,
        names=[dataset.names[i] for i in order],
        labels=None if dataset.labels is None else dataset.labels[order],
        class_names=dataset.class_names,
        split=None if dataset.split is None else dataset.split[order],
        groups=None if dataset.groups is None else dataset.groups[order],
        grid=inputs.grid,
        model={**backbone.identity, "input": {**inputs.identity(), "batch_size": job.batch_size}},
        provenance=made,
        masks=DatasetMasks(dataset, order, inputs.size) if dataset.has_masks else None,
        mask_classes=dataset.mask_classes,
        mask_colors=dataset.mask_colors,
        images_per_chunk=per_chunk,
        chunks_per_shard=chunks,
    )
    writer = ImageWriter.resume(out, spec) if resume else ImageWriter.create(out, spec, overwrite=mode == "overwrite")
    encoded = _fill(writer, stream, job, begun=not resume)
    seconds = time.monotonic() - began
    return ImagesReport(str(out), store_info(out), fitted_on, seconds, raw_bytes, encoded, encoded / seconds)


def _layout(inputs: Inputs, codec: EmbeddingCodec) -> tuple[int, int]:
    """Images a chunk and chunks a shard: the default, less for large grids; depends on the grid only."""
    item = inputs.grid[0] * inputs.grid[1] * codec.dimensions * 4
    images = IMAGES_PER_CHUNK
    while images > 1 and images * item > CHUNK_BYTES:
        images //= 2
    return images, max(1, min(CHUNKS_PER_SHARD, SHARD_BYTES // (images * item)))


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
