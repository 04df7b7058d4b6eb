"""Images -> embeddings: what of an image a model sees, and reading ahead of it in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nec.datasets import Dataset
from nec.encode.engine import read_ahead
from nec.errors import InputError, missing_extra

if TYPE_CHECKING:
    from nec.models.mae import NecModel


@dataclass(frozen=True)
class Inputs:
    """How the images of a dataset become the input of a model; made by `plan_inputs`.

    Attributes:
        shape: (height, width, bands) of each image as it is read.
        size: (height, width) that images are resized to, or None.
        windowed: the model runs window by window over scenes of that shape.
        scale, offset: pixels * scale + offset lie in 0..1; None for bytes, which the model scales itself.
        grid: (y, x) tokens an image.
    """

    shape: tuple[int, int, int]
    size: tuple[int, int] | None
    windowed: bool
    scale: float | None
    offset: float
    grid: tuple[int, int]

    def identity(self) -> dict[str, Any]:
        """JSON-able facts that decide the embeddings beside the model and the files."""
        height, width, _ = self.shape
        return {"height": height, "width": width, "windowed": self.windowed, "scale": self.scale, "offset": self.offset}


def plan_inputs(
    model: NecModel,
    dataset: Dataset,
    order: NDArray[np.int64],
    *,
    image_size: int | None = None,
    scale: float | None = None,
    offset: float = 0.0,
) -> Inputs:
    """Decide from the first image (scenes: from the headers of all) how images `order` become the model's input.

    Args:
        image_size: side in pixels that images are resized to; None keeps them, or takes the dataset's published size.
        scale: what pixels are multiplied with to reach 0..1, for other types than bytes; the model's own if None.
        offset: what is added then.

    Raises:
        InputError: band count, size or type do not fit the model; scenes of different token grids.
    """
    first = int(order[0])
    side = image_size or dataset.image_size
    if dataset.windowed and side is not None:
        raise InputError("scenes are read in windows of the model's own size: leave --image-size out for GeoTIFFs")
    size = None if side is None else (side, side)
    image = dataset.load([first], size)[0]
    _check_bands(model, dataset.names[first], image.shape[2])
    if scale is None:
        scale = getattr(model.config, "scale", None)
        offset = getattr(model.config, "offset", None) or 0.0
    if scale is None and image.dtype != np.uint8:
        raise InputError(
            f"{dataset.names[first]} has {image.dtype} pixels: give --scale S (and --offset O) such that "
            "pixel * S + O lies in 0..1, the range the model's mean and std are for (10000 reflectance: --scale 1e-4)"
        )
    patch = model.config.patch_size
    if dataset.windowed:
        grid = _common_grid(model, dataset, order)
    else:
        grid = _image_grid(image.shape[0], image.shape[1], patch, dataset.names[first])
    return Inputs(image.shape, size, dataset.windowed, scale, offset, grid)


def _check_bands(model: NecModel, name: str, bands: int) -> None:
    if bands != model.config.in_channels:
        raise InputError(f"{name} has {bands} band(s), and the model {model.name} takes {model.config.in_channels}")


def _image_grid(height: int, width: int, patch: int, name: str) -> tuple[int, int]:
    if height % patch or width % patch:
        near = max(patch, min(height, width) // patch * patch)
        raise InputError(
            f"{name} is {width}x{height} px, which is no multiple of the model's patch of {patch} px; resize with "
            f"--image-size {near}"
        )
    return height // patch, width // patch


def _common_grid(model: NecModel, dataset: Dataset, order: NDArray[np.int64]) -> tuple[int, int]:
    grids = []
    for index in order:
        height, width, bands = dataset.shape(int(index))
        _check_bands(model, dataset.names[index], bands)
        grids.append((_axis(height, model)[1], _axis(width, model)[1]))
        if grids[-1] != grids[0]:
            raise InputError(
                "all images of a store share one token grid (rows x columns): "
                f"{dataset.names[order[0]]} has {grids[0][0]}x{grids[0][1]}, {dataset.names[index]} has "
                f"{grids[-1][0]}x{grids[-1][1]}; write a store for each size"
            )
    return grids[0]


def _axis(pixels: int, model: NecModel) -> tuple[int, int]:
    """Pixels used and tokens kept along one axis of a scene (see `embed_scene`)."""
    patch, window = model.config.patch_size, model.config.image_size
    if pixels < window:
        return pixels, -(-pixels // patch)
    return pixels // patch * patch, pixels // patch


def valid_extent(model: NecModel, height: int, width: int) -> list[int]:
    """[rows, columns] of a scene's pixels that the tokens describe; what lies beyond is cropped or reflected."""
    return [_axis(height, model)[0], _axis(width, model)[0]]


@dataclass(frozen=True)
class Stream:
    """Images `order` of a dataset on their way through a model, in batches. Positions below count in `order`.

    Attributes:
        batch_size: images, or windows of a scene, that go through the model at once.
        workers: threads that read images ahead.
    """

    model: NecModel
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
        """Positions [start, stop) cut into batches, counted from `start`; scenes go one by one."""
        step = 1 if self.inputs.windowed else self.batch_size
        return [range(first, min(first + step, stop)) for first in range(start, stop, step)]

    def embed(self, batches: Sequence[range]) -> Iterator[NDArray[np.float32]]:
        """Embeddings (len(batch), y, x, d) of each batch of positions, in order.

        `workers` threads read at most `workers` + 1 batches ahead while the caller's thread runs the model.
        """
        return (embeddings for _, embeddings in self.pairs(batches))

    def pairs(self, batches: Sequence[range]) -> Iterator[tuple[NDArray[Any], NDArray[np.float32]]]:
        """Pixels (len(batch), height, width, bands) as they were read and resized, and the embeddings of `embed`."""
        return ((pixels, self._embedded(pixels)) for pixels in read_ahead(self._read, batches, self.workers))

    def _embedded(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        if self.inputs.windowed:
            return np.stack([embed_scene(self.model, scene, self.inputs, self.batch_size) for scene in pixels])
        return _embed(self.model, pixels, self.inputs)

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
        block = np.empty((stop - start, *self.inputs.grid, self.model.config.embed_dim), np.float32)
        for batch in self.batches(start, stop):
            block[batch.start - start : batch.stop - start] = next(parts)
            done(len(batch))
        return block

    def _read(self, batch: range) -> NDArray[Any]:
        indices = self.order[batch.start : batch.stop]
        images = self.dataset.load(indices, self.inputs.size, workers=1)
        if not self.inputs.windowed and images.shape[1:] != self.inputs.shape:
            first = np.empty(self.inputs.shape, images.dtype)
            self.dataset.check_alike(first, int(self.order[0]), images[0], int(indices[0]))
        return images


def _embed(model: NecModel, pixels: NDArray[Any], inputs: Inputs) -> NDArray[np.float32]:
    """Images (n, h, w, c) as read -> embeddings (n, y, x, d)."""
    if inputs.scale is not None:
        pixels = pixels.astype(np.float32) * np.float32(inputs.scale) + np.float32(inputs.offset)
    with _torch().inference_mode():
        return model.embed(model.normalize(pixels)).float().cpu().numpy()


def embed_scene(model: NecModel, scene: NDArray[Any], inputs: Inputs, batch_size: int) -> NDArray[np.float32]:
    """Scene (height, width, bands) -> tokens (y, x, d), by windows of the model's native input size.

    Along an axis not shorter than the window, the scene is cropped to whole patches and the last window is shifted
    inwards; along a shorter one it is padded by reflection at its end, and the tokens that hold no pixel of it are
    dropped.
    """
    patch, window = model.config.patch_size, model.config.image_size
    (rows, grid_rows), (columns, grid_columns) = _axis(scene.shape[0], model), _axis(scene.shape[1], model)
    scene = scene[:rows, :columns]
    missing = [(0, max(0, window - rows)), (0, max(0, window - columns)), (0, 0)]
    scene = np.pad(scene, missing, mode="reflect")
    corners = [(top, left) for top in _starts(scene.shape[0], window) for left in _starts(scene.shape[1], window)]
    side = window // patch
    out = np.empty((scene.shape[0] // patch, scene.shape[1] // patch, model.config.embed_dim), np.float32)
    for begin in range(0, len(corners), batch_size):
        part = corners[begin : begin + batch_size]
        windows = np.stack([scene[top : top + window, left : left + window] for top, left in part])
        for (top, left), tokens in zip(part, _embed(model, windows, inputs), strict=True):
            out[top // patch : top // patch + side, left // patch : left // patch + side] = tokens
    return out[:grid_rows, :grid_columns]


def _starts(length: int, window: int) -> list[int]:
    """First pixels of the windows that cover `length` pixels, which is at least one window."""
    return [*range(0, length - window, window), length - window]


def sample_positions(total: int, count: int, seed: int) -> NDArray[np.int64]:
    """At most `count` of the positions 0..`total`-1, drawn without replacement, in rising order."""
    return np.sort(np.random.default_rng(seed).choice(total, min(count, total), replace=False))


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        missing_extra("torch", "torch", error)
    return torch
