"""Files of results, curves and headline figures on hand-made numbers."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest

from nec.bench.measure import neighbour_recall, relative_error
from nec.bench.results import (
    Results,
    Row,
    accuracy_at,
    accuracy_lost,
    below_others,
    bytes_for,
    bytes_saved,
    curve,
    headline,
)
from nec.errors import CorruptError, InputError


def rows(method: str, decoder: bool, points: list[tuple[float, list[float]]]) -> list[Row]:
    """(bytes, accuracy of each seed) -> rows."""
    return [
        Row("d", method, f"{size:g}", size, decoder, seed, size, {"accuracy": value}, exact=True)
        for size, values in points
        for seed, value in enumerate(values)
    ]


def results(*parts: list[Row]) -> Results:
    facts = {"task": "classification", "raw_pixel_bytes_per_image": 100_000.0}
    return Results({"name": "made up"}, {"cores": 2}, {"d": facts}, [row for part in parts for row in part])


NEC = rows("nec-factorized", True, [(100, [0.70, 0.74]), (400, [0.80, 0.84]), (1600, [0.90, 0.90])])
RAW = rows("original", True, [(6400, [0.86, 0.88])])


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    made = results(NEC, RAW)
    assert [path.name for path in made.write(tmp_path)] == ["results.json", "results.csv"]
    assert Results.read(tmp_path) == made == Results.read(tmp_path / "results.json")
    table = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text())))
    assert [float(line["accuracy"]) for line in table] == [row.metrics["accuracy"] for row in made.rows]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_files_that_are_not_results_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run nec bench first"):
        Results.read(tmp_path)
    (tmp_path / "results.json").write_text('{"version": 7}')
    with pytest.raises(InputError, match="version 1"):
        Results.read(tmp_path)
    (tmp_path / "results.json").write_text('{"version": 1, "rows": [{}]}')
    with pytest.raises(CorruptError):
        Results.read(tmp_path)


def test_curves_average_over_seeds() -> None:
    first = curve(results(NEC), "d", "nec-factorized", True)[0]
    assert (first.bytes_per_image, first.count, first.low, first.high) == (100, 2, 0.70, 0.74)
    assert first.mean == pytest.approx(0.72)
    assert first.std == pytest.approx(np.std([0.70, 0.74], ddof=1))
    assert curve(results(NEC), "d", "nec-factorized", False) == []


def test_between_points_accuracy_is_linear_in_log_bytes() -> None:
    points = curve(results(NEC), "d", "nec-factorized", True)
    assert accuracy_at(points, 99) is None
    assert accuracy_at(points, 200) == pytest.approx(0.77)  # half way in octaves from 0.72 to 0.82
    assert accuracy_at(points, 1e6) == pytest.approx(0.90)
    assert bytes_for(points, 0.77) == pytest.approx(200)
    assert bytes_for(points, 0.5) == 100
    assert bytes_for(points, 0.91) is None


def test_a_dip_does_not_lower_what_can_be_had() -> None:
    points = curve(results(rows("uqe", True, [(100, [0.8]), (200, [0.7]), (400, [0.9])])), "d", "uqe", True)
    assert accuracy_at(points, 200) == pytest.approx(0.85)


def test_bytes_saved_at_the_accuracy_of_coded_raw() -> None:
    (saved,) = bytes_saved(results(NEC, RAW), "d")
    # original reaches 0.87: on NEC's curve 5/8 of the two octaves from 400 to 1600
    assert saved["nec_bytes"] == pytest.approx(400 * 4 ** (0.05 / 0.08))
    assert saved["saved"] == pytest.approx(1 - saved["nec_bytes"] / 6400)
    better = rows("jpeg2000", False, [(3200, [0.95])])
    (missed,) = bytes_saved(results(NEC, RAW, better), "d")
    assert missed["reference"]["method"] == "jpeg2000"
    assert missed["nec_bytes"] is missed["saved"] is None
    assert missed["nec_best"] == pytest.approx(0.90)


def test_accuracy_lost_at_the_papers_compression() -> None:
    (lost,) = accuracy_lost(results(NEC, RAW), "d")  # 0.3% of 100,000 bytes: 300
    assert lost["bytes_per_image"] == pytest.approx(300)
    assert lost["accuracy"] == pytest.approx(0.72 + 0.1 * math.log(3, 4))
    assert lost["lost"] == pytest.approx(0.87 - lost["accuracy"])
    (none,) = accuracy_lost(results(NEC, RAW), "d", compression=0.9999)
    assert none["accuracy"] is none["lost"] is None


def test_where_nec_lies_below_others() -> None:
    assert below_others(results(NEC, rows("uqe", True, [(200, [0.70]), (900, [0.80])])), "d") == []
    places = below_others(results(NEC, rows("jpeg2000", False, [(200, [0.78, 0.80]), (1600, [0.99])])), "d")
    assert [(place["at"], place["other_decoder"]) for place in places] == [("200", False), ("400", False)]
    assert places[0]["difference"] == pytest.approx(0.79 - 0.77)
    assert places[0]["within_spread"]  # two deviations of 0.014 and 0.028
    assert places[1]["other_accuracy"] == pytest.approx(0.79 + (0.99 - 0.79) / 3)


def test_a_rival_below_the_smallest_nec_point_is_a_place_too() -> None:
    (place,) = below_others(results(NEC, rows("uqe", True, [(50, [0.3])])), "d")
    assert place["nec"] is None
    assert not place["within_spread"]


def test_headline_of_a_dataset_without_nec() -> None:
    assert headline(results(RAW))["d"] == {
        "metric": "accuracy",
        "bytes_saved": [],
        "accuracy_lost": [],
        "below_others": [],
    }


def test_relative_error_against_the_plain_formula() -> None:
    rng = np.random.default_rng(0)
    reference = rng.normal(3, 2, (300, 2, 2, 5)).astype(np.float32)
    decoded = reference + rng.normal(0, 0.5, reference.shape).astype(np.float32)
    variance = np.square(reference - reference.mean((0, 1, 2))).sum()
    assert relative_error(decoded, reference) == pytest.approx(
        np.square(decoded - reference).sum() / variance, rel=1e-4
    )
    assert relative_error(reference, reference) == 0


def test_neighbour_recall_against_brute_force() -> None:
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(40, 6))
    decoded = reference + rng.normal(0, 0.5, reference.shape)

    def nearest(vectors: np.ndarray, i: int) -> set[int]:
        distances = np.linalg.norm(vectors - vectors[i], axis=1)
        return {int(j) for j in np.argsort(distances) if j != i} & set(np.argsort(distances)[:11].tolist()) - {i}

    wanted = np.mean([len(nearest(decoded, i) & nearest(reference, i)) / 10 for i in range(40)])
    assert neighbour_recall(decoded, reference) == pytest.approx(wanted)
    assert neighbour_recall(reference * 2 + 5, reference) == 1
