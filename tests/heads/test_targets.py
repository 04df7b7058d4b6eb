"""Targets from files and masks, and the ridge probe against scikit-learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nec.errors import InputError
from nec.heads.linear import RIDGE_GRID, fit_ridge
from nec.heads.targets import class_fractions, load_targets

MakeStore = Callable[..., Any]


@pytest.fixture
def store(make_store: MakeStore) -> Any:
    made = make_store(per_class=4)
    made.names = [f"scene/{i}.png" for i in range(len(made))]
    return made


def test_fractions_of_the_labelled_pixels(store: Any) -> None:
    store.masks = np.full((12, 4, 4), 255, np.uint8)
    store.masks[0, 0] = [0, 0, 0, 1]
    store.masks[1] = 2
    store.mask_classes = ["a", "b", "c"]
    targets = class_fractions(store)
    assert targets.names == ["a", "b", "c"]
    np.testing.assert_allclose(targets.values[:2], [[0.75, 0.25, 0], [0, 0, 1]])
    assert np.isnan(targets.values[2:]).all()
    present = load_targets(store, "fractions", multilabel=True, least_share=0.3).values
    np.testing.assert_array_equal(present[:2], [[1, 0, 0], [0, 0, 1]])
    assert np.isnan(present[2:]).all()
    store.masks[3, 0, 0] = 7
    with pytest.raises(InputError, match="class 7"):
        class_fractions(store)


def test_csv_by_name(store: Any, tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("Name, depth ,age\nscene/3.png,1.5,\nelsewhere.png,9,9\nscene/0.png,nan,-2\n")
    targets = load_targets(store, file)
    assert targets.names == ["depth", "age"]
    assert targets.values[3, 0] == 1.5
    assert targets.values[0, 1] == -2
    assert np.isnan(targets.values).sum() == 22


def test_csv_and_npy_in_order(store: Any, tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((12, 2)).astype(np.float32)
    np.save(tmp_path / "t.npy", values)
    np.savetxt(tmp_path / "t.csv", values, delimiter=",", header="a,b", comments="")
    np.testing.assert_array_equal(load_targets(store, tmp_path / "t.npy").values, values)
    found = load_targets(store, str(tmp_path / "t.csv"))
    np.testing.assert_allclose(found.values, values)
    assert found.names == ["a", "b"]
    np.save(tmp_path / "one.npy", np.arange(12))
    assert load_targets(store, tmp_path / "one.npy").values.shape == (12, 1)


def test_unknown_labels(store: Any, tmp_path: Path) -> None:
    labels = np.tile([0.0, 1, -1, 255, np.nan, 1], 2)
    np.save(tmp_path / "t.npy", labels)
    found = load_targets(store, tmp_path / "t.npy", multilabel=True).values[:6, 0]
    np.testing.assert_array_equal(found, [0, 1, np.nan, np.nan, np.nan, 1])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.npy", None, "no such file"),
        ("t.txt", "1", "neither"),
        ("t.csv", "a\n1\n", "1 rows and the store 12"),
        ("t.csv", "name,a\nother.png,1\n", "names no image"),
        ("t.csv", "name,a\nscene/0.png,1\nscene/0.png,2\n", "scene/0.png twice"),
        ("t.csv", "name,a\nscene/0.png,much\n", "row 2.*much"),
        ("t.csv", "name,a\nscene/0.png,1,2\n", "row 2 has 3 cells"),
        ("t.csv", "name,a\nscene/0.png,inf\n", "infinite"),
        ("t.csv", "name,a\nscene/0.png,\n", "no image of"),
        ("t.csv", "a,a\n1,2\n", "once"),
        ("t.csv", "a\n", "a header and a row"),
        ("t.npy", "this is no array", "not a readable"),
    ],
)
def test_bad_files(store: Any, tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        load_targets(store, tmp_path / name)


def test_arrays_that_do_not_fit(store: Any, tmp_path: Path) -> None:
    for values in (np.zeros(5), np.array(["a"] * 12), np.zeros((12, 2, 2))):
        np.save(tmp_path / "t.npy", values)
        with pytest.raises(InputError, match=r"\(12, targets\)"):
            load_targets(store, tmp_path / "t.npy")
    np.save(tmp_path / "t.npy", np.full(12, 2))
    with pytest.raises(InputError, match="0 or 1"):
        load_targets(store, tmp_path / "t.npy", multilabel=True)
    with pytest.raises(InputError, match="no masks"):
        load_targets(store, "fractions")


def test_ridge_equals_scikit_learns() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(120, 9)) * rng.uniform(0.1, 5, 9) + 3, rng.normal(size=(9, 3))
    y = x @ weight + rng.normal(size=(120, 3))
    y[rng.random((120, 3)) < 0.2] = np.nan
    y[:, 2] = np.where(np.isnan(y[:, 1]), np.nan, x @ weight[:, 2])  # two targets known for the same images
    x[:, 4] = 7  # constant
    probe = fit_ridge((x[:80], y[:80]), (x[80:], y[80:]))
    for target in range(3):
        known = ~np.isnan(y[:80, target])
        fitting, spread = x[:80][known], x[:80][known].std(axis=0)
        spread[4] = 1
        z = (fitting - fitting.mean(axis=0)) / spread
        errors = []
        for l2 in RIDGE_GRID:
            other = linear_model.Ridge(alpha=len(z) * l2).fit(z, y[:80][known, target])
            predicted = other.predict((x[80:] - fitting.mean(axis=0)) / spread)
            errors.append(np.nanmean((predicted - y[80:, target]) ** 2))
            if l2 == probe.l2[target]:
                np.testing.assert_allclose(probe.scores(x[80:])[:, target], predicted, rtol=1e-6)
        assert probe.l2[target] == RIDGE_GRID[int(np.argmin(errors))]
    with pytest.raises(InputError, match="target 1"):
        fit_ridge((x[:80], np.where([True, False, True], y[:80], np.nan)), (x[80:], y[80:]))
