"""Which images of a store train a head, choose its epochs, and test it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError

#: Share of the training images held out as validation part where the store or the user names none.
HELD_OUT = 0.1


@dataclass(frozen=True)
class Split:
    """Ascending image numbers of the three parts, and a warning for the user if the parts are not the store's own."""

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]
    description: str
    warning: str | None = None


def _draw(
    labels: NDArray[np.int64],
    chosen: NDArray[np.int64],
    fraction: float,
    seed: int,
    leave: int,
    groups: NDArray[np.str_] | None,
) -> NDArray[np.bool_]:
    """Mark a seeded random `fraction` of each class among the images `chosen`, or of the `groups` of images: at least
    one, and all but `leave` at most.
    """
    rng = np.random.default_rng(seed)
    if groups is not None:
        unique, group = np.unique(groups[chosen], return_inverse=True)
        if len(unique) <= leave:
            raise InputError(
                f"a random split needs at least {leave + 1} different groups (tiles or scenes); there are {len(unique)}"
            )
        count = min(max(1, round(fraction * len(unique))), len(unique) - leave)
        return np.isin(group, rng.permutation(len(unique))[:count])
    marked = np.zeros(len(chosen), dtype=bool)
    for label in np.unique(labels[chosen]):
        members = np.flatnonzero(labels[chosen] == label)
        count = min(max(1, round(fraction * len(members))), len(members) - leave)
        marked[rng.permutation(members)[:count]] = True
    return marked


def choose_split(
    labels: NDArray[np.int64],
    stored: Sequence[str] | NDArray[np.str_] | None,
    class_names: Sequence[str],
    *,
    names: Sequence[str] | None = None,
    test_fraction: float | None = None,
    seed: int = 0,
    resplit: bool = False,
    groups: NDArray[np.str_] | None = None,
) -> Split:
    """Choose the parts: the store's own, or a seeded random re-split of all labelled images.

    `labels` (n,), negative where an image has none: it is left out. `stored` (n,) are the part names in the store.
    `names` are two (train, test) or three (train, val, test) part names; three by default. Where the part named `val`
    has no image, or two names are given, a seeded tenth of each class of the training part is held out instead.
    `test_fraction` re-splits; a store that records a split allows that with `resplit` only, since the foundation model
    may have seen the images then tested on. With `groups` (n,), the whole tile or scene of each image, what is drawn
    here are whole groups instead: pixels of one group would give away those beside them.

    Raises `InputError` for unknown names, fractions out of range, and classes with too few images.
    """
    labelled = labels >= 0
    if test_fraction is not None:
        if names is not None:
            raise InputError("give either --split or --test-fraction, not both")
        return _random_split(labels, stored is not None, class_names, test_fraction, seed, resplit, groups)
    if stored is None:
        raise InputError("the store records no split: give --test-fraction (for example 0.2)")
    parts = np.asarray(stored).astype(str)
    wanted = tuple(names or ("train", "val", "test"))
    if len(wanted) not in (2, 3) or len(set(wanted)) != len(wanted):
        raise InputError(
            f"--split takes two or three different part names (train/test or train/val/test), not {'/'.join(wanted)}"
        )
    members = {name: np.flatnonzero((parts == name) & labelled) for name in wanted}
    for name in (wanted[0], wanted[-1]):
        if not len(members[name]):
            known = ", ".join(sorted({str(part) for part in np.unique(parts)} - {""})) or "none"
            raise InputError(f"the store has no labelled image in part {name!r}; its parts: {known}")
    train, test = members[wanted[0]], members[wanted[-1]]
    val = members[wanted[1]] if len(wanted) == 3 else train[:0]
    description = "/".join(wanted)
    if not len(val):
        train, val = _hold_out(labels, train, class_names, seed, groups)
        description += f" (a tenth of {wanted[0]} held out for validation, seed {seed})"
    return _checked(Split(train, val, test, description), labels, class_names)


def _random_split(
    labels: NDArray[np.int64],
    recorded: bool,
    class_names: Sequence[str],
    fraction: float,
    seed: int,
    resplit: bool,
    groups: NDArray[np.str_] | None,
) -> Split:
    if not 0 < fraction < 1:
        raise InputError(f"--test-fraction must lie between 0 and 1, not {fraction}")
    if recorded and not resplit:
        raise InputError(
            "the store records a split: leave --test-fraction out, or add --resplit"
            " (accuracy may then be flattered: the foundation model may have seen the images tested on)"
        )
    chosen = np.flatnonzero(labels >= 0)
    if not len(chosen):
        raise InputError("the store has no labelled image")
    _require(labels[chosen], class_names, 3, "a random split")
    in_test = _draw(labels, chosen, fraction, seed, 2, groups)
    train, val = _hold_out(labels, chosen[~in_test], class_names, seed, groups)
    warning = "re-split: the foundation model may have seen some of the images tested on, so accuracy may be flattered"
    description = f"random, {fraction:g} of {'each class' if groups is None else 'the groups'} for testing, seed {seed}"
    return _checked(Split(train, val, chosen[in_test], description, warning if recorded else None), labels, class_names)


def _hold_out(
    labels: NDArray[np.int64],
    train: NDArray[np.int64],
    class_names: Sequence[str],
    seed: int,
    groups: NDArray[np.str_] | None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    _require(labels[train], class_names, 2, "training with a validation part held out")
    held = _draw(labels, train, HELD_OUT, seed, 1, groups)
    return train[~held], train[held]


def _checked(split: Split, labels: NDArray[np.int64], class_names: Sequence[str]) -> Split:
    _require(labels[split.train], class_names, 1, "training")
    _require(labels[split.test], class_names, 1, "testing")
    return split


def _require(labels: NDArray[np.int64], class_names: Sequence[str], least: int, purpose: str) -> None:
    counts = np.bincount(labels, minlength=len(class_names))
    few = [f"{name} ({count})" for name, count in zip(class_names, counts, strict=True) if count < least]
    if few:
        raise InputError(f"{purpose} needs at least {least} labelled image(s) of each class; too few: {', '.join(few)}")
