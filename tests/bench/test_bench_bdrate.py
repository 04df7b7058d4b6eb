"""BD-rate against curves whose answer is known and SciPy's interpolation; the bootstrap against counting."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import made_up

from nec.bench.comparison import REPLICATES, bd_rate, compare, rate_curve, resampled_metric
from nec.bench.results import Results, Row
from nec.bench.subset import Cache
from nec.bench.tables import comparison_tables


def through(points: list[tuple[float, float]]) -> Any:
    made = rate_curve([size for size, _ in points], [accuracy for _, accuracy in points])
    assert made is not None
    return made


def test_rates_of_known_curves() -> None:
    """log2 rate = 4 + 20 a against 5 + 22 a over the accuracies both have, [0.6, 0.8]: 2^-(1 + 2 * 0.7) - 1."""
    first = through([(2 ** (4 + 20 * a), a) for a in (0.5, 0.6, 0.75, 0.8)])
    second = through([(2 ** (5 + 22 * a), a) for a in (0.6, 0.65, 0.8, 0.9)])
    found = bd_rate(first, second)
    assert found is not None
    assert found.rate == pytest.approx(2**-2.4 - 1)
    assert (found.low, found.high) == (0.6, 0.8)
    back = bd_rate(second, first)
    assert back is not None
    assert (1 + back.rate) * (1 + found.rate) == pytest.approx(1)


def test_rates_against_numerical_integration() -> None:
    """Saturating curves: accuracy 0.9 - 0.5 (bytes / 40)^-0.8, and one that needs 1.7 to 2.6 times the bytes."""
    accuracies = np.array([0.55, 0.62, 0.7, 0.76, 0.8, 0.83])

    def size(a: np.ndarray) -> np.ndarray:
        return 40 * ((0.9 - a) / 0.5) ** (-1 / 0.8)

    def factor(a: np.ndarray) -> np.ndarray:
        return 1.7 + (a - 0.55) * 3.2

    first = rate_curve(size(accuracies).tolist(), accuracies.tolist())
    second = rate_curve((size(accuracies) * factor(accuracies)).tolist(), accuracies.tolist())
    assert first is not None
    assert second is not None
    fine = np.linspace(0.55, 0.83, 20001)
    wanted = 2 ** (np.trapezoid(np.log2(factor(fine)), fine) / 0.28)
    found = bd_rate(second, first)
    assert found is not None
    assert found.rate == pytest.approx(wanted - 1, rel=0.005)


def test_noise_leaves_a_monotone_curve() -> None:
    noisy = through([(100, 0.7), (200, 0.69), (300, 0.8), (350, 0.8), (900, 0.79), (1000, 0.81)])
    assert noisy.x.tolist() == [0.7, 0.8, 0.81]
    assert 2 ** noisy(noisy.x) == pytest.approx([100, 300, 1000])
    assert (np.diff(noisy(np.linspace(0.7, 0.81, 50))) > 0).all()
    assert rate_curve([100, 200], [0.8, 0.7]) is None
    assert bd_rate(noisy, through([(10, 0.2), (20, 0.6)])) is None


def test_resampled_metrics_count_what_was_drawn() -> None:
    rng = np.random.default_rng(3)
    right, weights = rng.random(50) < 0.7, rng.multinomial(50, np.full(50, 0.02), size=4)
    for row, found in zip(weights, resampled_metric("accuracy", right, weights), strict=True):
        assert found == pytest.approx(np.repeat(right, row).mean())
    tiles = rng.integers(0, 30, (6, 3, 3))
    tiles[:, 2] = 0  # a class that never occurs in the truth is left out of the mean
    for row in rng.multinomial(6, np.full(6, 1 / 6), size=4):
        drawn = np.repeat(tiles, row, axis=0).sum(axis=0)
        shares = [drawn[i, i] / (drawn[i].sum() + drawn[:, i].sum() - drawn[i, i]) for i in (0, 1)]
        assert resampled_metric("mean_iou", tiles, row[None])[0] == pytest.approx(np.mean(shares))
        assert resampled_metric("overall_accuracy", tiles, row[None])[0] == pytest.approx(drawn.trace() / drawn.sum())


def test_resampled_means_agree_with_the_tasks_metrics() -> None:
    from nec.heads.metrics import segmentation_metrics

    counts = np.random.default_rng(0).integers(0, 9, (5, 4, 4))
    whole = segmentation_metrics(counts.sum(axis=0), list("abcd"))
    for metric in ("overall_accuracy", "mean_iou"):
        assert resampled_metric(metric, counts, np.ones((1, 5)))[0] == pytest.approx(whole[metric])


def synthetic(images: int, seeds: int, *, same: bool) -> tuple[Results, list[np.ndarray]]:
    """A method and one at twice the bytes, right on the same images (`same`) or on others of the same accuracy."""
    rng = np.random.default_rng(1)
    difficulty = rng.random(images)
    rows, outcomes = [], []
    for method, factor in (("nec-factorized", 1), ("uqe", 2)):
        for i, level in enumerate((0.6, 0.7, 0.8, 0.9)):
            for seed in range(seeds):
                own = difficulty if same else rng.random(images)
                outcomes.append(own < level)
                accuracy = float(outcomes[-1].mean())
                rows.append(Row("d", method, str(i), i, False, seed, 100 * 2**i * factor, {"accuracy": accuracy}))
    return Results({}, {}, {"d": {"task": "classification"}}, rows), outcomes


def test_intervals_are_paired() -> None:
    """Right on the same images, the factor of two is the factor of two in every replicate; else it is not."""
    (found,) = compare(*synthetic(500, 2, same=True))
    assert (found["method"], found["reference"]) == ("uqe", "nec-factorized")
    assert (found["resampled"], found["units"], found["seeds"]) == ("images", 500, 2)
    assert [found["rate"], found["low"], found["high"]] == pytest.approx([1, 1, 1])
    (loose,) = compare(*synthetic(500, 2, same=False))
    assert loose["low"] < loose["rate"] < loose["high"]
    assert loose["low"] < 1 < loose["high"]
    assert loose["high"] - loose["low"] > 0.1
    (wide,) = compare(*synthetic(60, 2, same=False))
    assert wide["high"] - wide["low"] > loose["high"] - loose["low"]


def test_without_outcomes_seeds_alone_are_drawn() -> None:
    results, outcomes = synthetic(300, 3, same=False)
    (seeds_only,) = compare(results)
    assert seeds_only["resampled"] is None
    assert seeds_only["low"] is not None
    some: list[np.ndarray | None] = list(outcomes)
    some[-1] = None
    assert compare(results, some) == [seeds_only]
    (known,) = compare(results, outcomes)
    assert known["rate"] == seeds_only["rate"]
    (one,) = compare(synthetic(300, 1, same=False)[0])
    assert (one["low"], one["high"]) == (None, None)


def test_curves_that_never_meet_have_no_rate() -> None:
    results, _ = synthetic(100, 2, same=True)
    far = [
        replace(r, metrics={"accuracy": r.metrics["accuracy"] * (0.1 if r.method == "uqe" else 1)})
        for r in results.rows
    ]
    (found,) = compare(replace(results, rows=far))
    assert (found["rate"], found["low"], found["replicates"]) == (None, None, 0)
    (table,) = comparison_tables(replace(results, rows=far, bd_rate=[found]), "d")
    assert [[text for text, _ in row] for row in table.rows] == [["UQE", "no common accuracy"]]
    assert "over the 2 seeds alone" in table.caption


def test_every_method_is_held_against_each_of_ours() -> None:
    results = made_up(names=("dubai",), decoders=(True,))
    tiles = [np.asarray(row.confusion)[None].repeat(4, axis=0) for row in results.rows]
    found = compare(results, tiles)
    curves = ["nec-factorized", "nec-hyperprior", "codec-hierarchical", "uqe", "uqe-channel", "jpeg2000"]
    wanted = {
        (m, method, ref)
        for m in ("overall_accuracy", "mean_iou")
        for ref in curves[:3]
        for method in curves
        if method != ref
    }
    assert {(i["metric"], i["method"], i["reference"]) for i in found} == wanted
    assert {(i["resampled"], i["units"], i["seeds"]) for i in found} == {("tiles", 4, 3)}
    assert all(i["replicates"] == REPLICATES and math.isfinite(i["rate"]) for i in found)
    table = comparison_tables(replace(results, bd_rate=found), "dubai")[0]
    assert "4 test tiles, crossed with 3 seeds; so few tiles" in table.caption
    assert len(table.head) == 4
    assert [row[0][0] for row in table.rows][:2] == ["NEC, factorised prior", "NEC, scale hyperprior"]


def test_outcomes_come_back_from_the_cache(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    rng = np.random.default_rng(0)
    for array in (rng.random(1001) < 0.5, rng.integers(0, 4096, (7, 5, 5))):
        cache.put_array("outcome", "a", array)
        found = cache.get_array("outcome", "a")
        assert found is not None
        np.testing.assert_array_equal(found, array)
        assert (found.dtype == np.bool_) == (array.dtype == np.bool_)
    assert cache.path("outcome", "a", ".npz").stat().st_size < 1200
    cache.path("outcome", "a", ".npz").write_bytes(b"PK")
    assert cache.get_array("outcome", "a") is None
