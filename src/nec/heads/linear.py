"""Linear probes in NumPy on pooled tokens: logistic regression, and ridge regression with missing targets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nec.errors import InputError

#: Strengths of the L2 penalty tried on the validation part, strongest first: each fit starts from the one before.
L2_GRID = (1e-1, 1e-2, 3e-3, 1e-3, 3e-4)

#: The same of ridge regression, on standardised features.
RIDGE_GRID = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)


def pooled_features(embeddings: ArrayLike) -> NDArray[np.float32]:
    """Summarise token grids (n, y, x, d) as (n, f): mean and standard deviation over the grid, and the four quadrants'
    means.

    The quadrants (f = 6 d instead of 2 d) are left out for grids less than two tokens high or wide.
    """
    grid = np.asarray(embeddings, dtype=np.float32)
    if grid.ndim != 4:
        raise InputError(f"embeddings must be (n, y, x, d), not {grid.shape}")
    parts = [grid.mean(axis=(1, 2)), grid.std(axis=(1, 2))]
    rows, columns = grid.shape[1] // 2, grid.shape[2] // 2
    if rows and columns:
        for band in (grid[:, :rows], grid[:, rows:]):
            parts += [band[:, :, :columns].mean(axis=(1, 2)), band[:, :, columns:].mean(axis=(1, 2))]
    return np.concatenate(parts, axis=1)


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe: `scores = features @ weight + bias`; features (n, f), weight (f, classes or targets).

    `l2` is the penalty kept, of ridge regression one a target; `iterations` are those of L-BFGS.
    """

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    l2: float | NDArray[np.float64]
    iterations: int = 0

    @property
    def parameters(self) -> int:
        return self.weight.size + self.bias.size

    def scores(self, features: ArrayLike) -> NDArray[np.float64]:
        """Logits, or predicted targets, (n, k) of features (n, f)."""
        return np.asarray(features) @ self.weight + self.bias

    def predict(self, features: ArrayLike) -> NDArray[np.int64]:
        """Class index of each row of `features` (n, f)."""
        return self.scores(features).argmax(axis=1)


class _Problem:
    """Standardised features in their eigenbasis, where the curvature's upper bound is diagonal: few L-BFGS steps then
    do.
    """

    def __init__(self, features: NDArray[np.floating], labels: NDArray[np.integer], classes: int) -> None:
        self.mean = features.mean(axis=0, dtype=np.float64)
        spread = features.std(axis=0, dtype=np.float64)
        self.spread = np.where(spread > 1e-12, spread, np.inf)  # a constant feature gets weight 0
        dtype = np.result_type(features.dtype, np.float32)
        z = ((features - self.mean) / self.spread).astype(dtype)
        self.curvature, self.basis = np.linalg.eigh((z.T @ z).astype(np.float64) / len(z))
        self.curvature = np.maximum(self.curvature, 0)
        self.inputs = z @ self.basis.astype(dtype)
        self.labels = labels
        self.rows = np.arange(len(labels))
        self.classes = classes

    def loss(self, x: NDArray[np.float64], l2: float) -> tuple[float, NDArray[np.float64]]:
        """Mean cross-entropy + l2/2 |W|^2 and its gradient, at x = (weights, then one row of biases)."""
        dtype = self.inputs.dtype
        scores = (self.inputs @ x[:-1].astype(dtype) + x[-1].astype(dtype)).astype(np.float64)
        scores -= scores.max(axis=1, keepdims=True)
        probability = np.exp(scores)
        total = probability.sum(axis=1)
        value = np.mean(np.log(total) - scores[self.rows, self.labels]) + 0.5 * l2 * np.sum(x[:-1] ** 2)
        probability /= total[:, None]
        probability[self.rows, self.labels] -= 1
        probability /= len(self.labels)
        slope = self.inputs.T @ probability.astype(dtype)
        return float(value), np.vstack([slope + l2 * x[:-1], probability.sum(axis=0)])

    def solve(
        self, start: NDArray[np.float64], l2: float, tolerance: float, max_iterations: int
    ) -> tuple[NDArray[np.float64], int]:
        """Minimise by L-BFGS (Nocedal & Wright, algorithm 7.4), preconditioned by the curvature's diagonal bound."""
        # Boehning (1992): the Hessian of the cross-entropy is at most half the features' second moment.
        inverse = 1 / (0.25 * np.append(self.curvature, 1.0) + np.append(np.full(len(self.curvature), l2), 0.0) + 1e-8)
        x = start
        value, gradient = self.loss(x, l2)
        memory: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
        for iteration in range(max_iterations):
            if np.abs(gradient).max() < tolerance:
                return x, iteration
            direction = _two_loops(gradient, memory, inverse)
            slope, step = float(np.sum(direction * gradient)), 1.0
            while True:
                new_value, new_gradient = self.loss(x + step * direction, l2)
                if new_value <= value + 1e-4 * step * slope or step < 1e-6:
                    break
                step /= 2
            if new_value >= value:  # rounding errors are all that is left
                return x, iteration
            move, change = step * direction, new_gradient - gradient
            if np.sum(move * change) > 0:
                memory = [*memory[-9:], (move, change)]
            x, value, gradient = x + move, new_value, new_gradient
        return x, max_iterations

    def probe(self, x: NDArray[np.float64], l2: float, iterations: int) -> LinearProbe:
        """Express the solution for features as they were given."""
        weight = (self.basis @ x[:-1]) / self.spread[:, None]
        return LinearProbe(weight, x[-1] - self.mean @ weight, l2, iterations)


def _two_loops(
    gradient: NDArray[np.float64],
    memory: Sequence[tuple[NDArray[np.float64], NDArray[np.float64]]],
    inverse: NDArray[np.float64],
) -> NDArray[np.float64]:
    q, factors = -gradient, []
    for move, change in reversed(memory):
        factors.append(np.sum(move * q) / np.sum(move * change))
        q = q - factors[-1] * change
    q = q * inverse[:, None]
    if memory:  # the bound is loose where probabilities saturate: scale it by the curvature met last
        move, change = memory[-1]
        q *= np.sum(move * change) / np.sum(change**2 * inverse[:, None])
    for (move, change), factor in zip(memory, reversed(factors), strict=True):
        q = q + move * (factor - np.sum(change * q) / np.sum(move * change))
    return q


def fit_path(
    features: ArrayLike,
    labels: ArrayLike,
    classes: int,
    l2: Iterable[float] = L2_GRID,
    tolerance: float = 1e-4,
    max_iterations: int = 100,
) -> list[LinearProbe]:
    """Fit one probe for each penalty in `l2`, each started from the one before (give the strongest first).

    Features (n, f) are standardised inside, so the penalty acts on standardised weights; biases are free. Minimises
    mean cross-entropy + l2/2 |W|^2, which is scikit-learn's `LogisticRegression(C=1 / (n * l2))`. Deterministic.
    """
    x, y = np.asarray(features), np.asarray(labels)
    if x.ndim != 2 or y.shape != x.shape[:1] or not len(x):
        raise InputError(f"features {x.shape} and labels {y.shape} must be (n, f) and (n,) with n > 0")
    if not np.isfinite(x).all():
        raise InputError("features hold values that are not finite")
    problem = _Problem(x, y, classes)
    point = np.zeros((x.shape[1] + 1, classes))
    probes = []
    for strength in l2:
        point, iterations = problem.solve(point, strength, tolerance, max_iterations)
        probes.append(problem.probe(point, strength, iterations))
    return probes


def fit_probe(
    train: tuple[ArrayLike, ArrayLike],
    val: tuple[ArrayLike, ArrayLike],
    classes: int,
    l2: Sequence[float] = L2_GRID,
) -> LinearProbe:
    """Fit on `train` (features, labels) with each penalty, and return the probe that is most accurate on `val`.

    Of equally accurate ones the most strongly regularised wins.
    """
    probes = fit_path(*train, classes, l2)
    features, labels = np.asarray(val[0]), np.asarray(val[1])
    return max(probes, key=lambda probe: (np.mean(probe.predict(features) == labels), probe.l2))


def fit_ridge(
    train: tuple[ArrayLike, ArrayLike], val: tuple[ArrayLike, ArrayLike], l2: Sequence[float] = RIDGE_GRID
) -> LinearProbe:
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
    return LinearProbe(weight, bias, chosen)


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
