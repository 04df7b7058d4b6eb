"""Images -> embeddings: what of an image a backbone sees, and reading ahead of it in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.datasets import ArrayDataset, Dataset
from nec.encoding.engine import read_ahead
from nec.errors import InputError
from nec.models.backbone import Backbone


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
    backbone: Backbone,
    dataset: Dataset,
    order: NDArray[np.int64],
    *,
    image_size: int | None = None,
    scale: float | None = None,
    offset: float = 0.0,
) -> Inputs:
    """Decide from the first image how images `order` become the backbone's input.

    Args:
        image_size: side in pixels that images are resized to. None: the dataset's published size, the input size of a
            backbone that takes no other, or as they are.
        scale: what pixels are multiplied with to reach 0..1, for other types than bytes; the backbone's own if None,
            and 1 for floats in memory.
        offset: what is added then.

    Raises:
        InputError: band count, size or type do not fit the backbone.
    """
    first = int(order[0])
    side = image_size or dataset.image_size
    size = (side, side) if side is not None else None if backbone.any_size else backbone.input_size
    name, image = dataset.names[first], dataset.load([first], size)[0]
    if image.shape[2] != backbone.pixels.in_channels:
        raise InputError(
            f"{name} has {image.shape[2]} band(s), and the model {backbone.name} takes {backbone.pixels.in_channels}"
        )
    if scale is None:
        offset = 0.0
    if scale is None and dataset.physical:
        low, high = backbone.pixels.reflectance or (0.0, 1.0)
        scale, offset = 1 / (high - low), -low / (high - low)
    if scale is None and image.dtype != np.uint8:
        scale, offset = backbone.pixels.scale, backbone.pixels.offset
        if scale is None and isinstance(dataset, ArrayDataset) and image.dtype.kind == "f":
            scale = 1.0
    if scale is None and image.dtype != np.uint8:
        raise InputError(
            f"{name} has {image.dtype} pixels: give --scale S (and --offset O) such that "
            "pixel * S + O lies in 0..1, the range the model's mean and std are for (10000 reflectance: --scale 1e-4)"
        )
    try:
        grid = backbone.grid(*image.shape[:2])
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    return Inputs(image.shape, size, scale, offset, grid)


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


def sample_positions(total: int, count: int, seed: int) -> NDArray[np.int64]:
    """At most `count` of the positions 0..`total`-1, drawn without replacement, in rising order."""
    return np.sort(np.random.default_rng(seed).choice(total, min(count, total), replace=False))
