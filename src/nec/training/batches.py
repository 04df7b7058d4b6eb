"""Batches that depend on seed and step alone, so that a resumed or a distributed run sees what one process would."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset

from nec.datasets import Dataset
from nec.errors import InputError
from nec.models import ModelConfig

# Decoded images up to this size stay in memory; reading a small JPEG costs more than a step on it.
_MEMORY_BYTES = 1 << 30


class Images:
    """The images of a dataset at `positions`, read once if they fit in memory, else with every batch.

    Raises:
        InputError: an unreadable image, images of unequal size without `size`, or a band count that is not `bands`.
    """

    def __init__(self, dataset: Dataset, positions: NDArray[np.int64], size: int, bands: int, workers: int = 2) -> None:
        self.dataset, self.positions, self.size, self.workers = dataset, positions, size, workers
        first = dataset.load(positions[:1], size)
        if first.shape[-1] != bands:
            name = dataset.names[int(positions[0])]
            raise InputError(f"{name} has {first.shape[-1]} band(s), the model takes {bands}")
        if first.dtype != np.uint8:
            raise InputError(f"{dataset.names[int(positions[0])]} is {first.dtype}; training takes bytes (uint8)")
        self.cache = None
        if first.nbytes * len(positions) <= _MEMORY_BYTES:
            self.cache = dataset.load(positions, size, workers)

    def __len__(self) -> int:
        return len(self.positions)

    def take(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Images (n, h, w, c) at `indices` into the positions."""
        if self.cache is not None:
            return self.cache[indices]
        return self.dataset.load(self.positions[indices], self.size, self.workers)


def training_images(dataset: Dataset, config: ModelConfig, limit: int | None = None) -> tuple[Images, Images | None]:
    """Images to train on (the training part, or all without a split; the first `limit`) and to validate on."""
    train = np.arange(len(dataset)) if dataset.split is None else dataset.indices("train")
    val = np.array([]) if dataset.split is None else np.flatnonzero(dataset.split == "val")
    size, bands = config.image_size, config.in_channels
    return Images(dataset, train[:limit], size, bands), Images(dataset, val, size, bands) if val.size else None


def step_indices(step: int, batch_size: int, count: int, seed: int) -> NDArray[np.int64]:
    """Which of `count` images make the batch of `step`: one permutation an epoch, batches running on over its end."""
    wanted = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = wanted // count
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(count) for epoch in np.unique(epochs)}
    return np.array([orders[epoch][place] for epoch, place in zip(epochs, wanted % count, strict=True)])


def step_generator(step: int, seed: int) -> torch.Generator:
    """Source of everything random in a step. Draw for the whole batch, then take the own share (`rank_share`)."""
    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def rank_share(batch_size: int, rank: int, world: int) -> slice:
    """The part of a batch that one of `world` processes, or one of so many accumulated parts, works on."""
    if world < 1 or batch_size % world:
        raise InputError(f"a batch of {batch_size} cannot be shared evenly by {world} devices times accumulated parts")
    share = batch_size // world
    return slice(rank * share, (rank + 1) * share)


class StepBatches(IterableDataset):
    """Yields (step, images (n, h, w, c) uint8) from `first` up to `steps`, the own share of each batch."""

    def __init__(self, images: Images, batch_size: int, steps: int, first: int, seed: int, share: slice) -> None:
        self.images, self.batch_size, self.seed, self.share = images, batch_size, seed, share
        self.first, self.steps = first, steps

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        for step in range(self.first, self.steps):
            indices = step_indices(step, self.batch_size, len(self.images), self.seed)[self.share]
            yield step, torch.from_numpy(self.images.take(indices))
