"""Images -> model -> codec -> store: some threads read, one runs the model, one codes, here or on a cluster."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nec.datasets import ArrayDataset, Dataset
from nec.encode.embed import Inputs, Stream, plan_inputs, sample_positions, valid_extent
from nec.encode.engine import Engine, resumable
from nec.encode.masks import DatasetMasks
from nec.encode.target import quality_for_bytes
from nec.errors import InputError
from nec.files import remove
from nec.progress import Progress

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec
    from nec.models.mae import NecModel
    from nec.store import StoreWriter
    from nec.store.shard import StoreShardEncoder

# Float embeddings that a chunk, and a shard, may take in memory. Large enough that small images fill the default
# layout of 128 images a chunk and 8 chunks a shard.
CHUNK_BYTES = 64 * 2**20
SHARD_BYTES = 256 * 2**20
IMAGES_PER_CHUNK, CHUNKS_PER_SHARD = 128, 8
CLUSTER_READERS = 2  # threads that read, in each worker of a cluster


def encode(
    model: NecModel,
    dataset: Dataset,
    out: str | Path,
    quality: float = 1.0,
    *,
    batch_size: int = 256,
    engine: str = "threads",
    scheduler: str | None = None,
    workers: int = 2,
    threads: int | None = None,
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
        dataset: what `nec.datasets.open_dataset` returns.
        out: folder of the store.
        quality: what to code with; larger = finer.
        batch_size: images (scenes: windows) that go through the model at once.
        engine: "threads" (this process) or "dask".
        scheduler: address of a Dask cluster; without one, "dask" starts `workers` processes here.
        workers: threads that read images; with "dask" processes, each with a model of its own.
        threads: threads on which each model computes. As many give the same bytes on any engine.
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
    runner = Engine(engine, scheduler, workers if engine == "dask" else 1, threads)
    codec = codec_of(model)
    order = np.arange(len(dataset)) if split is None else dataset.indices(split)
    inputs = plan_inputs(model, dataset, order, image_size=image_size, scale=scale, offset=offset)
    stream = Stream(model, dataset, order, inputs, batch_size, workers if engine == "threads" else CLUSTER_READERS)
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
            **model.identity,
            "input": {**inputs.identity(), "batch_size": batch_size},
        },
        "provenance": _provenance(model, dataset, order, seed, target_bytes),
        **layout,
    }
    writer = _open_writer(out, resume, overwrite, keywords)
    encoded = _fill(writer, stream, runner, begun=not resume, progress=progress)
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


def codec_of(model: NecModel) -> EmbeddingCodec:
    """The model's codec; `InputError` where it has none, or one for another model."""
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


def _provenance(
    model: NecModel, dataset: Dataset, order: NDArray[np.int64], seed: int, target_bytes: float | None
) -> dict[str, Any]:
    """Where the store comes from. Nothing in it depends on time or machine, but versions of software."""
    facts: dict[str, Any] = {
        "dataset": dataset.description,
        "raw_bytes": _raw_bytes(dataset, order),
        "software": software(),
        "seed": seed,
    }
    if target_bytes is not None:
        facts["target_bytes"] = target_bytes
    georeference = [_token_reference(model, dataset, int(index)) for index in order] if dataset.windowed else []
    if georeference:
        facts["georeference"] = georeference
    return facts


def software() -> dict[str, str]:
    """Versions of what decides the bytes of a store."""
    import torch

    from nec import __version__

    return {
        "nec": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
    }


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


@dataclass(frozen=True)
class _ImageWork:
    """A `nec.encode.engine.Work` whose tasks are the [start, stop) of a store's shards, positions of the stream."""

    stream: Stream
    encoder: StoreShardEncoder

    def blocks(self, tasks: Sequence[tuple[int, int]], done: Callable[[int], None]) -> Iterator[NDArray[np.float32]]:
        return self.stream.blocks(tasks, done)

    def code(self, task: tuple[int, int], block: NDArray[np.float32]) -> bytes:
        return self.encoder.encode(task[0], block)

    def size(self, task: tuple[int, int]) -> int:
        return task[1] - task[0]


def _fill(writer: StoreWriter, stream: Stream, runner: Engine, *, begun: bool, progress: bool) -> int:
    """Write every missing shard and finish the store -> number of images encoded. `begun`: by this run."""
    shards = writer.missing()
    total = sum(stop - start for start, stop in shards)
    with resumable(writer.path, partial(remove, writer.path) if begun else None) as state, writer:

        def put(task: tuple[int, int], data: bytes) -> None:
            writer.write_encoded(task[0], data)
            state.shards += 1

        with Progress(total, "encoding", "images", quiet=not progress) as bar:
            runner.run(_ImageWork(stream, writer.encoder), shards, put, bar.update)
        writer.finish()
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
