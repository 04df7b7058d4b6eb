"""What a consumer does with a store: sizes, a survey of coarser rates, PCA of the tokens. Needs the base install
only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nec.heads import fit_probe, pooled_features
from nec.progress import Progress

if TYPE_CHECKING:
    from nec.store import ImageStore

EVERY = 4  # the survey reads every fourth chunk: real chunks, a quarter of the work
SAMPLED = 4  # images of each surveyed chunk that the PCA is fitted on
COARSER = (0.7, 0.5, 0.25)  # qualities of the transcodes, as shares of the store's own


def sizes(store: ImageStore) -> dict[str, Any]:
    """Bytes of the embeddings in the store, of what lies beside them, and of the same in other forms."""
    y, x = store.grid
    values = len(store) * y * x * store.dimensions
    side = store.side_information()
    return {
        "images": len(store),
        "grid": list(store.grid),
        "dimensions": store.dimensions,
        "quality": store.quality,
        "stored_bytes": store.stored_bytes,
        "bytes_per_image": store.bytes_per_image,
        "bits_per_value": 8 * store.stored_bytes / values,
        "side_information": side,
        "side_bytes": sum(side.values()),
        "float16_bytes": 2 * values,
        "image_files_bytes": (store.attrs.get("provenance") or {}).get("raw_bytes"),
    }


@dataclass(frozen=True)
class Survey:
    """Rate points (finest first) and a sample of decoded token grids (n, y, x, d) for a PCA."""

    points: list[dict[str, float]]
    images: dict[str, int]
    tokens: NDArray[np.float32]


def survey(store: ImageStore, images_per_chunk: int, l2: float, quiet: bool) -> Survey:
    """Recode every fourth chunk at coarser qualities with the store's own codec, and fit a linear probe at each.

    The bytes are those of whole coded chunks, as a store would hold them, its index apart. A coarser point is a
    transcode: quantised embeddings quantised again, which costs a little accuracy against coding the originals.
    `l2`: the penalty chosen for the whole store; it and a stronger one are tried, since coarser tokens can want more.
    """
    qualities = [store.quality, *(share * store.quality for share in COARSER)]
    starts = range(0, len(store), EVERY * images_per_chunk)
    coded = np.zeros(len(qualities))
    features: list[list[NDArray[np.float32]]] = [[] for _ in qualities]
    chosen, tokens = [], []
    with Progress(len(starts), "recoding", "chunks", quiet=quiet) as progress:
        for start in starts:
            stop = min(start + images_per_chunk, len(store))
            block = store.embeddings[start:stop]
            chosen.append(np.arange(start, stop))
            tokens.append(block[:SAMPLED])
            for i, quality in enumerate(qualities):
                blob = store.codec.encode(block, quality)
                coded[i] += len(blob)
                features[i].append(pooled_features(store.codec.decode(blob)))
            progress.update()
    index = np.concatenate(chosen)
    split, labels = np.asarray(store.split)[index], np.asarray(store.labels)[index]
    parts = {name: np.flatnonzero((split == name) & (labels >= 0)) for name in ("train", "val", "test")}
    points = []
    for quality, size, blocks in zip(qualities, coded, features, strict=True):
        pooled = np.concatenate(blocks)
        of = {name: (pooled[rows], labels[rows]) for name, rows in parts.items()}
        probe = fit_probe(of["train"], of["val"], len(store.class_names or []), (4 * l2, l2))
        hits = probe.predict(of["test"][0]) == of["test"][1]
        points.append({"quality": quality, "bytes_per_image": size / len(index), "accuracy": float(hits.mean())})
    return Survey(points, {name: len(rows) for name, rows in parts.items()}, np.concatenate(tokens))


@dataclass(frozen=True)
class TokenColours:
    """Three principal components of tokens shown as red, green and blue; fitted once so that pictures compare.

    Tokens of a masked autoencoder carry their place in the image. `mean` (y, x, d), what all images have in common at
    each place, is taken away first, or the pictures would all show the same gradient.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    explained: float

    @classmethod
    def fit(cls, grids: NDArray[np.float32]) -> TokenColours:
        """Fit to token grids (n, y, x, d); the 1st and 99th percentiles become black and full colour."""
        mean = grids.mean(axis=0, dtype=np.float64)
        centred = (grids - mean).reshape(-1, grids.shape[-1])
        variance, axes = np.linalg.eigh(centred.T @ centred / len(centred))
        axes = axes[:, :-4:-1]
        axes = axes * np.sign(axes.sum(axis=0))  # the sign of a component is arbitrary: fix it
        low, high = np.percentile(centred @ axes, [1, 99], axis=0)
        return cls(mean, axes, low, high, float(variance[-3:].sum() / variance.sum()))

    def paint(self, grid: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Token grids (..., y, x, d) -> colours (..., y, x, 3), uint8. A scene, read window by window, repeats the
        places.
        """
        rows, columns = (
            np.arange(size) % period for size, period in zip(grid.shape[-3:-1], self.mean.shape, strict=False)
        )
        centred = grid - self.mean[np.ix_(rows, columns)]
        parts = (centred @ self.axes - self.low) / (self.high - self.low)
        return np.rint(255 * parts.clip(0, 1)).astype(np.uint8)


def examples(store: ImageStore, per_class: int) -> NDArray[np.int64]:
    """The first `per_class` test images of each class, class by class."""
    split, labels = np.asarray(store.split), np.asarray(store.labels)
    rows = [
        np.flatnonzero((split == "test") & (labels == label))[:per_class]
        for label in range(len(store.class_names or []))
    ]
    return np.concatenate(rows)


def most_confused(confusion: NDArray[np.int64], names: Sequence[str], count: int) -> list[tuple[str, str, int]]:
    """The `count` commonest mistakes as (true class, taken for, images)."""
    table = confusion.copy()
    np.fill_diagonal(table, 0)
    order = np.argsort(-table, axis=None, kind="stable")[:count]
    return [(names[i // len(names)], names[i % len(names)], int(table.flat[i])) for i in order if table.flat[i]]
