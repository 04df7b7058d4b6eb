"""Search among the images of a store: by their mean tokens first, which the beginnings of frames hold."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nec.errors import InputError
from nec.files import atomic_path
from nec.report import Report
from nec.search.distance import check_metric, distances, least, query_vector


class Images(Protocol):
    """What search needs of a store of images."""

    path: str
    attrs: dict[str, Any]
    tiling: Any
    embeddings: Any
    grid: tuple[int, int]
    dimensions: int

    def __len__(self) -> int: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def labels(self) -> np.ndarray | None: ...
    @property
    def split(self) -> np.ndarray | None: ...
    @property
    def class_names(self) -> list[str] | None: ...
    @property
    def codec(self) -> Any: ...
    def counted(self) -> tuple[Self, Any]: ...


@dataclass(frozen=True, eq=False)
class Matches(Report):
    """What a search found, nearest first.

    Attributes:
        indices: int64 (k,), of a raster row * columns + column.
        distances: float64 (k,).
        names: of each image; of a raster's tokens "x,y" of the centre in its CRS.
        labels: class of each image by name, "" where it has none; None for a store without labels.
        metric: "cosine" or "euclidean".
        exact: whether all vectors were decoded whole.
        bytes_read: bytes of embeddings that the search read.
    """

    indices: NDArray[np.int64]
    distances: NDArray[np.float64]
    names: list[str]
    labels: list[str] | None
    metric: str
    exact: bool
    bytes_read: int

    def __str__(self) -> str:
        wide = max(map(len, self.names))
        labels = self.labels or [""] * len(self.names)
        rows = zip(self.indices, self.distances, self.names, labels, strict=True)
        lines = [f"{index:>8}  {far:8.5f}  {name:<{wide}}  {label}".rstrip() for index, far, name, label in rows]
        return "\n".join([f"{'index':>8}  distance  name", *lines, f"{self.bytes_read} bytes read"])


class SearchableImages:
    """The half of `ImageStore` that searches."""

    def pooled(self: Images, *, index: bool | str | Path = False) -> NDArray[np.float32]:
        """One vector an image, the mean of its tokens, float32 (n, d), from the beginnings of the frames alone.

        With a codec whose `spatial` is "haar" this is the mean of the decoded tokens; with another hierarchical codec,
        the mean of every second token along both axes. The factorised codec has no coarse grids: everything is read.
        Memory: the result and one shard.

        Args:
            index: keep the vectors, and take them from there the next time: True for a file in the user's cache
                (`$XDG_CACHE_HOME/nec`), else the file (.npz).

        Raises:
            InputError: `index` is the index of another store, or no index.
            CorruptError: a frame is damaged, cut or missing.
        """
        file = _index_file(self, index)
        if file is not None and file.exists():
            return _load_index(file, self)
        out = np.empty((len(self), self.dimensions), np.float32)
        for images, vectors in _pooled(self, self.embeddings, np.ones(len(self), bool)):
            out[images] = vectors
        if file is not None:
            with atomic_path(file, overwrite=True) as temporary, temporary.open("wb") as stream:
                np.savez(stream, vectors=out, store=np.array(_identity(self)))
        return out

    def search(
        self: Images,
        query: int | str | ArrayLike,
        k: int = 10,
        metric: str = "cosine",
        exact: bool = False,
        *,
        label: str | int | None = None,
        split: str | None = None,
        candidates: int | None = None,
        index: bool | str | Path = False,
    ) -> Matches:
        """The k images whose mean token is nearest to that of a query.

        Two stages: distances from `pooled` vectors choose candidates, then these alone are decoded whole, which also
        checks their bytes. An image of the store finds itself first.

        >>> nec.open("eurosat").search("River/River_7.jpg", k=3).names[0]
        'River/River_7.jpg'

        Args:
            query: index of an image, its name, a vector (d,), or tokens (y, x, d) of any grid.
            k: how many images.
            metric: "cosine" or "euclidean".
            exact: decode every image instead.
            label: search only among the images of a class, by name or number.
            split: search only among the images of a split.
            candidates: images that are decoded, k or more; by default half as many again as k, without "haar" 4 k.
            index: see `pooled`.

        Raises:
            InputError: no such image, class, split or metric; a query of another dimension; k below 1 or above the
                number of images searched.
            CorruptError: something that was read is damaged.
        """
        check_metric(metric)
        wanted = _wanted(self, label, split)
        count = int(wanted.sum())
        if not 1 <= k <= count:
            raise InputError(f"k is {k}: there are {count} images to search, so give 1 to {count}")
        if candidates is not None and candidates < k:
            raise InputError(f"{candidates} candidates are fewer than k, which is {k}")
        file = _index_file(self, index)
        reader, counter = self.counted()
        vector = query_vector(_tokens_of(self, reader, query), self.dimensions, metric)
        chosen = np.flatnonzero(wanted)
        most = candidates or (k + (k + 1) // 2 if self.codec.spatial == "haar" else 4 * k)
        if not exact:
            found = np.full(len(self), np.inf)
            if file is not None:
                found[wanted] = distances(SearchableImages.pooled(reader, index=file)[wanted], vector, metric)
            else:
                for images, vectors in _pooled(self, reader.embeddings, wanted):
                    found[images] = distances(vectors, vector, metric)
            chosen = np.sort(least(np.where(wanted, found, np.inf), min(most, count)))
        exactly = np.empty(len(chosen))
        at = 0
        for _, tokens in reader.embeddings.batches(self.tiling.shard[0], chosen):
            exactly[at : at + len(tokens)] = distances(_means(tokens), vector, metric)
            at += len(tokens)
        order = least(exactly, k)
        indices = chosen[order]
        names, labels, classes = self.names, self.labels, self.class_names
        found_labels = None if labels is None else [_class_name(classes, int(labels[i])) for i in indices]
        return Matches(
            indices, exactly[order], [names[i] for i in indices], found_labels, metric, exact, counter.bytes_read
        )


def _means(tokens: NDArray[Any]) -> NDArray[np.float64]:
    return tokens.mean(axis=(1, 2), dtype=np.float64)


def _pooled(store: Images, embeddings: Any, wanted: NDArray[np.bool_]) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """(images, their vectors (m, d)), shard by shard; only runs that hold wanted images are read."""
    coarse = store.codec.prior != "factorized" and max(store.grid) > 1
    spacing = 1 << (max(store.grid) - 1).bit_length() if store.codec.spatial == "haar" else 2
    for shard in range(0, len(wanted), store.tiling.shard[0]):
        some = np.flatnonzero(wanted[shard : shard + store.tiling.shard[0]])
        if len(some):
            images = slice(shard + int(some[0]), shard + int(some[-1]) + 1)
            frames = embeddings.frames
            yield images, _means(frames.coarse(images, spacing) if coarse else frames.read((images,)))


def _wanted(store: Images, label: str | int | None, split: str | None) -> NDArray[np.bool_]:
    wanted = np.ones(len(store), bool)
    if label is not None:
        labels, classes = store.labels, store.class_names or []
        if labels is None:
            raise InputError(f"{store.path} has no labels to search by")
        number = classes.index(label) if label in classes else label
        if isinstance(number, str) and number.isdigit():
            number = int(number)
        if isinstance(number, str) or not (labels == number).any():
            raise InputError(f"{store.path} has no images of class {label!r}: it has {', '.join(classes)}")
        wanted &= labels == number
    if split is not None:
        splits = store.split
        if splits is None:
            raise InputError(f"{store.path} has no split to search by")
        if not (splits == split).any():
            raise InputError(f"{store.path} has no split {split!r}: it has {', '.join(sorted(set(splits) - {''}))}")
        wanted &= splits == split
    return wanted


def _tokens_of(store: Images, reader: Images, query: Any) -> Any:
    if isinstance(query, str):
        try:
            query = store.names.index(query)
        except ValueError:
            near = difflib.get_close_matches(query, store.names[:20_000], 1)
            hint = f": did you mean {near[0]}?" if near else ""
            raise InputError(f"{store.path} has no image {query!r}{hint}") from None
    if isinstance(query, int | np.integer) and not isinstance(query, bool):
        if not -len(store) <= query < len(store):
            raise InputError(f"{store.path} has no image {query}: it has {len(store)}")
        return reader.embeddings[int(query)]
    return query


def _class_name(classes: list[str] | None, label: int) -> str:
    return "" if label < 0 else classes[label] if classes else str(label)


# ---- the index: pooled vectors in a file


def _identity(store: Images) -> str:
    """Text that no other store has: its attributes hold the checksums of all shards."""
    return hashlib.sha256(json.dumps(store.attrs, sort_keys=True).encode()).hexdigest()


def _index_file(store: Images, index: bool | str | Path) -> Path | None:
    if index is False:
        return None
    if index is not True:
        return Path(index)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "nec" / f"pooled-{_identity(store)[:32]}.npz"


def _load_index(file: Path, store: Images) -> NDArray[np.float32]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            vectors, identity = arrays["vectors"], str(arrays["store"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{file} is not an index of pooled vectors: remove it, or name another file") from error
    except Exception as error:  # zipfile.BadZipFile, zlib.error
        raise InputError(f"{file} is damaged ({error}): remove it") from error
    if identity != _identity(store) or vectors.shape != (len(store), store.dimensions):
        raise InputError(f"{file} is the index of another store than {store.path}: remove it, or name another file")
    return vectors
