"""Ridge regression in NumPy on pooled tokens, with missing target values. Needs the base install only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nec.errors import InputError

#: Strengths of the penalty tried on the validation part, on standardised features.
RIDGE_GRID = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)


@dataclass(frozen=True)
class RidgeProbe:
    """A fitted probe: `scores = features @ weight + bias`; features (n, f), weight (f, targets), `l2` a target."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    l2: NDArray[np.float64]

    @property
    def parameters(self) -> int:
        return self.weight.size + self.bias.size

    def scores(self, features: ArrayLike) -> NDArray[np.float64]:
        """Predicted targets (n, targets) of features (n, f)."""
        return np.asarray(features) @ self.weight + self.bias


def fit_ridge(
    train: tuple[ArrayLike, ArrayLike], val: tuple[ArrayLike, ArrayLike], l2: Sequence[float] = RIDGE_GRID
) -> RidgeProbe:
    """Fit (features (n, f), targets (n, t)) for each penalty, and keep for each target the one best on `val`.

    Minimises mean squared error + l2 |w|^2 on standardised features with a free bias: scikit-learn's
    `Ridge(alpha=n * l2)`. Only images whose value is known (not NaN) count for a target; of equally good penalties, and
    where `val` knows none, the strongest wins.

    Raises `InputError` where a target has fewer than two known values in `train`, and for features that are not finite.
    """
    (x, y), (x_val, y_val) = ((np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in (train, val))
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise InputError(f"features {x.shape} and targets {y.shape} must be (n, f) and (n, targets)")
    if not np.isfinite(x).all():
        raise InputError("features hold values that are not finite")
    known = ~np.isnan(y)
    if (known.sum(axis=0) < 2).any():
        raise InputError(f"target {int(np.argmin(known.sum(axis=0)))} has fewer than two values in the training part")
    penalties = np.sort(np.asarray(l2, np.float64))[::-1]
    weight, bias, chosen = np.empty((x.shape[1], y.shape[1])), np.empty(y.shape[1]), np.empty(y.shape[1])
    # Targets that are known for the same images share one eigendecomposition: mostly all of them.
    patterns, group = np.unique(known, axis=1, return_inverse=True)
    for index, rows in enumerate(patterns.T):
        columns = np.flatnonzero(group.reshape(-1) == index)
        weights, biases = _paths(x[rows], y[np.ix_(rows, columns)], penalties)
        for i, column in enumerate(columns):
            best = _best(weights[:, :, i], biases[:, i], x_val, y_val[:, column])
            weight[:, column], bias[column], chosen[column] = weights[best, :, i], biases[best, i], penalties[best]
    return RidgeProbe(weight, bias, chosen)


def _paths(
    x: NDArray[np.float64], y: NDArray[np.float64], penalties: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (penalties, f, t) and biases (penalties, t) for features as they were given."""
    mean, spread = x.mean(axis=0), x.std(axis=0)
    spread = np.where(spread > 1e-12, spread, np.inf)  # a constant feature gets weight 0
    z = (x - mean) / spread
    curvature, basis = np.linalg.eigh(z.T @ z / len(z))
    slopes = basis.T @ (z.T @ (y - y.mean(axis=0)) / len(z))
    shrunk = slopes / (np.maximum(curvature, 0)[:, None] + penalties[:, None, None])
    weights = (basis @ shrunk) / spread[:, None]
    return weights, y.mean(axis=0) - mean @ weights


def _best(
    weights: NDArray[np.float64], biases: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
) -> int:
    """The penalty of the lowest error where `y` (n,) is known."""
    known = ~np.isnan(y)
    if not known.any():
        return 0
    errors = np.square(x[known] @ weights.T + biases - y[known, None]).mean(axis=0)
    return int(np.argmin(errors))
