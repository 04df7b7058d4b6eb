"""Which images train and which test: disjoint, stratified, refused where a class is too small."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nec.errors import InputError
from nec.heads import Split, choose_split

NAMES = ["a", "b", "c"]


def _stored(per_class: int = 20) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(3), per_class)
    parts = np.tile(np.array(["train"] * (per_class - 6) + ["val"] * 2 + ["test"] * 4), 3)
    return labels, parts


def _disjoint(split: Split) -> bool:
    parts = [set(part.tolist()) for part in (split.train, split.val, split.test)]
    return sum(map(len, parts)) == len(set.union(*parts)) and all(parts)


def test_stored_split_is_used() -> None:
    labels, parts = _stored()
    split = choose_split(labels, parts, NAMES)
    for name in ("train", "val", "test"):
        np.testing.assert_array_equal(getattr(split, name), np.flatnonzero(parts == name))
    assert split.warning is None


def test_two_names_hold_out_a_validation_part() -> None:
    labels, parts = _stored()
    split = choose_split(labels, parts, NAMES, names=("train", "val"))
    np.testing.assert_array_equal(split.test, np.flatnonzero(parts == "val"))
    np.testing.assert_array_equal(np.sort(np.concatenate([split.train, split.val])), np.flatnonzero(parts == "train"))
    assert set(labels[split.val]) == {0, 1, 2}


def test_unlabelled_images_are_left_out() -> None:
    labels, parts = _stored()
    labels[::5] = -1
    split = choose_split(labels, parts, NAMES)
    assert (labels[np.concatenate([split.train, split.val, split.test])] >= 0).all()


@settings(max_examples=30, deadline=None)
@given(
    counts=st.lists(st.integers(3, 30), min_size=3, max_size=3), fraction=st.floats(0.05, 0.6), seed=st.integers(0, 99)
)
def test_random_split(counts: list[int], fraction: float, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(3), counts))
    split = choose_split(labels, None, NAMES, test_fraction=fraction, seed=seed)
    assert _disjoint(split)
    assert len(split.train) + len(split.val) + len(split.test) == len(labels)
    for label, count in enumerate(counts):
        assert abs((labels[split.test] == label).sum() - fraction * count) <= 1
    again = choose_split(labels, None, NAMES, test_fraction=fraction, seed=seed)
    np.testing.assert_array_equal(split.test, again.test)


def test_resplit_needs_its_flag_and_warns() -> None:
    labels, parts = _stored()
    with pytest.raises(InputError, match="--resplit"):
        choose_split(labels, parts, NAMES, test_fraction=0.2)
    split = choose_split(labels, parts, NAMES, test_fraction=0.2, resplit=True)
    assert split.warning is not None
    assert "seen" in split.warning
    assert _disjoint(split)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ("train",)}, "two or three"),
        ({"names": ("train", "train")}, "two or three"),
        ({"names": ("train", "holdout")}, "'holdout'.*test, train, val"),
        ({"test_fraction": 1.5, "resplit": True}, "between 0 and 1"),
        ({"test_fraction": 0.2, "names": ("train", "test")}, "not both"),
    ],
)
def test_bad_requests(change: dict, message: str) -> None:
    labels, parts = _stored()
    with pytest.raises(InputError, match=message):
        choose_split(labels, parts, NAMES, **change)


def test_no_split_recorded() -> None:
    with pytest.raises(InputError, match="--test-fraction"):
        choose_split(_stored()[0], None, NAMES)


def test_small_classes_are_named() -> None:
    labels, parts = _stored()
    parts[labels == 1] = "train"
    with pytest.raises(InputError, match=r"testing.*b \(0\)"):
        choose_split(labels, parts, NAMES)
    with pytest.raises(InputError, match=r"c \(2\)"):
        choose_split(np.array([0, 0, 0, 1, 1, 1, 2, 2]), None, NAMES, test_fraction=0.3)
