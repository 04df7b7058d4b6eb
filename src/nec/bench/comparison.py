"""Every method against ours at equal accuracy: Bjøntegaard delta rates, with intervals from a paired bootstrap.

After G. Bjøntegaard, "Calculation of average PSNR differences between RD-curves", ITU-T VCEG-M33, 2001, with a monotone
cubic, as JCT-VC came to use, instead of a polynomial, and accuracy in the place of PSNR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nec.bench.results import Results, Row, envelope

if TYPE_CHECKING:
    from scipy.interpolate import PchipInterpolator

METRICS = {"classification": ("accuracy",), "segmentation": ("overall_accuracy", "mean_iou")}
REPLICATES = 1000
COVERAGE = 0.95
FEWEST = 0.9  # an interval needs so large a share of replicates in which the two curves share accuracies

Outcome = NDArray[Any]  # right (n,) bool of the test images, or the confusions (g, k, k) of whole tiles


@dataclass(frozen=True)
class Delta:
    """A mean difference of rates. `rate`: 0.25 is 25% more bytes; `low` to `high`: the accuracies it is over."""

    rate: float
    low: float
    high: float


def rate_curve(sizes: Sequence[float], accuracies: Sequence[float]) -> PchipInterpolator | None:
    """log2 of the bytes an image as a function of accuracy, by a monotone cubic; None for fewer than two points.

    Accuracies measured on some thousand images go up and down from one setting to the next, and the curve must be
    monotone to have a rate for each accuracy. It goes through the points of the upper envelope: those that are better
    than every smaller one, since who may spend more bytes may also spend fewer. Noise lifts an envelope a little, that
    of every method alike.
    """
    from scipy.interpolate import PchipInterpolator

    sizes, kept = envelope(sizes, accuracies)
    with np.errstate(all="ignore"):  # accuracies a rounding error apart
        return PchipInterpolator(kept, np.log2(sizes)) if len(kept) > 1 else None


def bd_rate(curve: PchipInterpolator, reference: PchipInterpolator) -> Delta | None:
    """Bytes that `curve` needs more than `reference` over the accuracies both reach; None where there are none.

    The mean over accuracy of the difference of log2 rates, d, as 2^d - 1.

    >>> half = rate_curve([50, 100, 200], [0.7, 0.8, 0.85])
    >>> full = rate_curve([100, 200, 400], [0.7, 0.8, 0.85])
    >>> round(bd_rate(half, full).rate, 6)
    -0.5
    """
    low, high = float(max(curve.x[0], reference.x[0])), float(min(curve.x[-1], reference.x[-1]))
    if not high - low > 1e-9:  # over an interval of a rounding error's width the quotient may be anything
        return None
    difference = float(curve.integrate(low, high) - reference.integrate(low, high)) / (high - low)
    return Delta(2**difference - 1, low, high) if difference < 64 else None


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
    found: list[Comparison] = []
    for dataset in results.datasets:
        rows = [(row, known[i]) for i, row in enumerate(results.rows) if row.dataset == dataset]
        draws = _Draws.of(rows, results.task(dataset), np.random.default_rng(seed))
        for decoder in (False, True):
            chosen = [(row, outcome) for row, outcome in rows if row.decoder == decoder]
            for metric in METRICS[results.task(dataset)]:
                curves = _curves_of_methods(chosen, metric, draws)
                for reference in filter(ours, curves):
                    for method in curves:
                        if method != reference:
                            # Against a method whose outcomes are unknown only seeds can be drawn, of both.
                            resampled = all(True in curves[name] for name in (method, reference))
                            pair = curves[method][resampled], curves[reference][resampled]
                            figures = _figures(*pair, draws, resampled)
                            found.append(Comparison(dataset, metric, decoder, method, reference, **figures))
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

# Curves of a method, of the data and then of every replicate, and how many seeds each of its settings has at least.
_Curves = tuple[list["PchipInterpolator | None"], int]


def _curves_of_methods(
    rows: Sequence[tuple[Row, Outcome | None]], metric: str, draws: _Draws
) -> dict[str, dict[bool, _Curves]]:
    """By method its curves with seeds alone drawn (False), and where all outcomes are known with units too (True)."""
    found: dict[str, dict[bool, _Curves]] = {}
    for method in dict.fromkeys(row.method for row, _ in rows):
        mine = [(row, outcome) for row, outcome in rows if row.method == method and metric in row.metrics]
        known = draws.units is not None and all(outcome is not None for _, outcome in mine)
        for resampled in {False, known}:
            made = _curves(mine, metric, draws, resampled)
            if made is not None and made[0][0] is not None:
                found.setdefault(method, {})[resampled] = made
    return found


def _curves(rows: Sequence[tuple[Row, Outcome | None]], metric: str, draws: _Draws, resampled: bool) -> _Curves | None:
    """Curves of a method's rows; None for fewer than two settings."""
    settings: dict[tuple[float, str], list[tuple[Row, Outcome | None]]] = {}
    for row, outcome in rows:
        settings.setdefault((row.setting, row.label), []).append((row, outcome))
    if len(settings) < 2:
        return None
    sizes, accuracies = [], []  # of each setting, (1 + replicates,)
    for group in settings.values():
        counts = np.stack([draws.seeds[row.seed] for row, _ in group])
        counts[:, counts.sum(axis=0) == 0] = 1  # where no row's seed was drawn all count alike
        shares = counts / counts.sum(axis=0)
        values = np.repeat([[row.metrics[metric]] for row, _ in group], 1 + REPLICATES, axis=1)
        for value, (_, outcome) in zip(values, group, strict=True):
            if resampled and outcome is not None and draws.units is not None:
                value[1:] = resampled_metric(metric, outcome, draws.units)[1:]  # the first stays as reported
        sizes.append(shares.T @ [row.bytes_per_image for row, _ in group])
        accuracies.append((shares * values).sum(axis=0))
    replicates = zip(np.transpose(sizes).tolist(), np.transpose(accuracies).tolist(), strict=True)
    seeds = min(len({row.seed for row, _ in group}) for group in settings.values())
    return [rate_curve(size, accuracy) for size, accuracy in replicates], seeds


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


def _figures(method: _Curves, reference: _Curves, draws: _Draws, resampled: bool) -> dict[str, Any]:
    """The fields of a `Comparison` that are computed."""
    pairs = zip(method[0], reference[0], strict=True)
    deltas = [None if own is None or other is None else bd_rate(own, other) for own, other in pairs]
    estimate, drawn = deltas[0], [delta.rate for delta in deltas[1:] if delta is not None]
    seeds = min(method[1], reference[1])
    low = high = None
    if estimate is not None and len(drawn) >= FEWEST * REPLICATES and (resampled or seeds > 1):
        low, high = np.quantile(drawn, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2]).tolist()
    return {
        "rate": None if estimate is None else estimate.rate,
        "low": low,
        "high": high,
        "accuracy_low": None if estimate is None else estimate.low,
        "accuracy_high": None if estimate is None else estimate.high,
        "seeds": seeds,
        "resampled": draws.unit if resampled else None,
        "units": 0 if draws.units is None or not resampled else draws.units.shape[1],
        "replicates": len(drawn),
    }
