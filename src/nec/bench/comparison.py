"""Every method against ours at equal accuracy, with intervals from a paired bootstrap over test images and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.bench.bdrate import RateCurve, bd_rate
from nec.bench.results import Results, Row

METRICS = {"classification": ("accuracy",), "segmentation": ("overall_accuracy", "mean_iou")}
REPLICATES = 1000
COVERAGE = 0.95
FEWEST = 0.9  # an interval needs so large a share of replicates in which the two curves share accuracies

Outcome = NDArray[Any]  # right (n,) bool of the test images, or the confusions (g, k, k) of whole tiles


@dataclass(frozen=True)
class Comparison:
    """BD-rate of a method against a reference on one dataset, with the decoder in both or in neither.

    Attributes:
        rate: how many more bytes the method needs, 0.25 for 25%; None where the two reach no common accuracy.
        low, high: its 95% interval, None where nothing could be resampled.
        accuracy_low, accuracy_high: what `rate` is the mean over: the accuracies that both curves reach.
        seeds: how many seeds were resampled; 1 is none.
        resampled: "images" or "tiles", `units` of them; None where a head's outcomes are missing, and seeds alone were.
        replicates: how many of the bootstrap's had a common accuracy.
    """

    dataset: str
    metric: str
    decoder: bool
    method: str
    reference: str
    rate: float | None
    low: float | None
    high: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    seeds: int
    resampled: str | None
    units: int
    replicates: int


def ours(method: str) -> bool:
    """Whether a family is this package's own: an adapted model, or the codec on an unadapted one."""
    return method.startswith(("nec-", "codec-"))


def compare(results: Results, outcomes: Sequence[Outcome | None] = (), seed: int = 0) -> list[dict[str, Any]]:
    """Comparisons of every method that has a curve against each of ours that has one, as JSON holds them.

    Args:
        outcomes: of each row of the results in their order, None where unknown: images must be the same ones in the
            same order in all rows of a dataset, and so must tiles. Empty: unknown for all.
        seed: of the bootstrap.
    """
    known = list(outcomes) if len(outcomes) else [None] * len(results.rows)
    found = []
    for dataset in results.datasets:
        rows = [(row, known[i]) for i, row in enumerate(results.rows) if row.dataset == dataset]
        draws = _Draws.of(rows, results.task(dataset), np.random.default_rng(seed))
        for decoder in (False, True):
            chosen = [(row, outcome) for row, outcome in rows if row.decoder == decoder]
            for metric in METRICS[results.task(dataset)]:
                found += _compare_all(dataset, metric, decoder, chosen, draws)
    return [asdict(item) for item in found]


# -- what is drawn ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Draws:
    """The replicates of a dataset, the same for all its methods, so that comparisons are paired.

    Row 0 of each array is no draw but the data as they are.

    Attributes:
        unit: "images" or "tiles".
        units: (1 + replicates, number of units) how often each is drawn; None where no row has outcomes.
        seeds: head seed -> (1 + replicates,) how often it is drawn.
    """

    unit: str
    units: NDArray[np.float32] | None
    seeds: dict[int, NDArray[np.float64]]

    @classmethod
    def of(cls, rows: Sequence[tuple[Row, Outcome | None]], task: str, rng: np.random.Generator) -> _Draws:
        counts = {len(outcome) for _, outcome in rows if outcome is not None}
        units = _drawn(counts.pop(), rng).astype(np.float32) if len(counts) == 1 else None
        labels = sorted({row.seed for row, _ in rows})
        seeds = dict(zip(labels, _drawn(len(labels), rng).T.astype(np.float64), strict=True)) if labels else {}
        return cls("tiles" if task == "segmentation" else "images", units, seeds)


def _drawn(count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """How often each of `count` is drawn: once each, then for every replicate as many with replacement."""
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=REPLICATES)
    return np.concatenate([np.ones((1, count), np.int64), drawn])


# -- curves of the replicates -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Curves:
    """Curves of one method: `curves[0]` of the data, then one for each replicate."""

    curves: list[RateCurve | None]
    seeds: int
    resampled: bool


def _compare_all(
    dataset: str, metric: str, decoder: bool, rows: Sequence[tuple[Row, Outcome | None]], draws: _Draws
) -> list[Comparison]:
    curves: dict[str, dict[bool, _Curves]] = {}
    for method in dict.fromkeys(row.method for row, _ in rows):
        mine = [(row, outcome) for row, outcome in rows if row.method == method and metric in row.metrics]
        known = draws.units is not None and all(outcome is not None for _, outcome in mine)
        # Against a method whose outcomes are unknown only seeds can be drawn, of both.
        made = {resampled: _curves(mine, metric, draws, resampled) for resampled in {False, known}}
        ready = {resampled: item for resampled, item in made.items() if item is not None and item.curves[0] is not None}
        if ready:
            curves[method] = ready
    found = []
    for reference in filter(ours, curves):
        for method in curves:
            if method != reference:
                known = all(True in curves[name] for name in (method, reference))
                names = (dataset, metric, decoder, method, reference)
                found.append(_comparison(names, curves[method][known], curves[reference][known], draws))
    return found


def _curves(rows: Sequence[tuple[Row, Outcome | None]], metric: str, draws: _Draws, resampled: bool) -> _Curves | None:
    """Curves of a method's rows; None for fewer than two settings."""
    points: dict[tuple[float, str], list[tuple[Row, Outcome | None]]] = {}
    for row, outcome in rows:
        points.setdefault((row.setting, row.label), []).append((row, outcome))
    if len(points) < 2:
        return None
    averaged = [_point(group, metric, draws, resampled) for group in points.values()]
    sizes, accuracies = (np.stack(values, axis=1).tolist() for values in zip(*averaged, strict=True))
    seeds = min(len({row.seed for row, _ in group}) for group in points.values())
    curves = [RateCurve.through(size, accuracy) for size, accuracy in zip(sizes, accuracies, strict=True)]
    return _Curves(curves, seeds, resampled)


def _point(
    group: Sequence[tuple[Row, Outcome | None]], metric: str, draws: _Draws, resampled: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bytes and accuracy of one setting in every replicate: means over the seeds drawn."""
    weights = np.stack([draws.seeds[row.seed] for row, _ in group])
    weights[:, weights.sum(axis=0) == 0] = 1  # none of the point's own seeds was drawn
    weights /= weights.sum(axis=0)
    sizes = np.array([[row.bytes_per_image] for row, _ in group])
    values = np.stack([_values(row, outcome, metric, draws, resampled) for row, outcome in group])
    return (weights * sizes).sum(axis=0), (weights * values).sum(axis=0)


def _values(row: Row, outcome: Outcome | None, metric: str, draws: _Draws, resampled: bool) -> NDArray[np.float64]:
    """A head's metric in every replicate; the first is as it was reported."""
    length = 1 + REPLICATES
    if not resampled:
        return np.full(length, row.metrics[metric])
    assert outcome is not None
    assert draws.units is not None
    values = resampled_metric(metric, outcome, draws.units)
    values[0] = row.metrics[metric]
    return values


def resampled_metric(metric: str, outcome: Outcome, weights: NDArray[np.floating]) -> NDArray[np.float64]:
    """A metric of weighted images or tiles.

    Args:
        metric: "accuracy", "overall_accuracy" or "mean_iou", as `nec.heads` defines them.
        outcome: right (n,) bool, or confusions (n, k, k) [truth, predicted].
        weights: (r, n).

    Returns:
        (r,), NaN where nothing has weight.
    """
    weights = np.asarray(weights, np.float64) if outcome.ndim == 3 else weights
    totals = weights @ outcome.reshape(len(outcome), -1).astype(weights.dtype)
    with np.errstate(invalid="ignore", divide="ignore"):
        if metric == "accuracy":
            return (totals[:, 0] / weights.sum(axis=1)).astype(np.float64)
        confusion = totals.reshape(len(weights), *outcome.shape[1:])
        hits, truth = np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(axis=2)
        if metric == "overall_accuracy":
            return hits.sum(axis=1) / truth.sum(axis=1)
        shares = np.where(truth > 0, hits / (truth + confusion.sum(axis=1) - hits), np.nan)
        present = np.isfinite(shares)
        return np.where(present, shares, 0).sum(axis=1) / present.sum(axis=1)


def _comparison(
    names: tuple[str, str, bool, str, str], method: _Curves, reference: _Curves, draws: _Draws
) -> Comparison:
    deltas = [
        None if curve is None or other is None else bd_rate(curve, other)
        for curve, other in zip(method.curves, reference.curves, strict=True)
    ]
    estimate, drawn = deltas[0], [delta.rate for delta in deltas[1:] if delta is not None]
    seeds = min(method.seeds, reference.seeds)
    low = high = None
    if estimate is not None and len(drawn) >= FEWEST * REPLICATES and (method.resampled or seeds > 1):
        low, high = (float(v) for v in np.quantile(drawn, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2]))
    units = 0 if draws.units is None or not method.resampled else draws.units.shape[1]
    return Comparison(
        *names,
        rate=None if estimate is None else estimate.rate,
        low=low,
        high=high,
        accuracy_low=None if estimate is None else estimate.low,
        accuracy_high=None if estimate is None else estimate.high,
        seeds=seeds,
        resampled=draws.unit if method.resampled else None,
        units=units,
        replicates=len(drawn),
    )
