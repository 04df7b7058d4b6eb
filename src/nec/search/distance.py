"""Distances between vectors, and the least of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nec.errors import InputError

METRICS = ("cosine", "euclidean")


def check_metric(metric: str) -> None:
    """Raise `InputError` for a metric that there is not."""
    if metric not in METRICS:
        raise InputError(f"no metric {metric!r}: give one of {', '.join(METRICS)}")


def query_vector(values: ArrayLike, dimensions: int, metric: str) -> NDArray[np.float64]:
    """The vector (d,) of a query: itself, or the mean of its tokens (..., d).

    Raises:
        InputError: it is not a vector of numbers of that many dimensions, or has no direction and the metric needs one.
    """
    check_metric(metric)
    try:
        tokens = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"a query must be numbers ({dimensions},) or (y, x, {dimensions}): {error}") from error
    if tokens.ndim not in (1, 3) or tokens.shape[-1] != dimensions or not tokens.size:
        raise InputError(
            f"the query has shape {tokens.shape}: give ({dimensions},) or (y, x, {dimensions}), as the store's vectors"
        )
    vector = tokens.reshape(-1, dimensions).mean(axis=0)
    if not np.isfinite(vector).all():
        raise InputError("the query holds NaN or infinity: give finite numbers")
    if metric == "cosine" and not vector.any():
        raise InputError("the query is zero, which has no direction: use the metric euclidean")
    return vector


def distances(vectors: NDArray[Any], query: NDArray[Any], metric: str) -> NDArray[np.float64]:
    """Distances (...,) of `vectors` (..., d) from `query`, which broadcasts against them.

    "cosine": 1 minus the cosine, from 0 to 2, and 1 where a vector is zero; "euclidean": the length of the
    difference. NaN stays NaN.
    """
    vectors, query = np.asarray(vectors, np.float64), np.asarray(query, np.float64)
    if metric == "euclidean":
        return np.sqrt(np.square(vectors - query).sum(axis=-1))
    lengths = np.linalg.norm(vectors, axis=-1) * np.linalg.norm(query, axis=-1)
    products = np.einsum("...d,...d->...", vectors, query)
    return 1 - np.divide(products, lengths, out=np.zeros_like(products), where=lengths != 0).clip(-1, 1)


def least(values: NDArray[np.float64], k: int) -> NDArray[np.int64]:
    """Places of the k least values, in order; of equal ones the first."""
    border = np.partition(values, k - 1)[k - 1]
    some = np.flatnonzero(values <= border)
    return some[np.argsort(values[some], kind="stable")][:k]
