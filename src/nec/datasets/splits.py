"""Recorded splits into train, val and test."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError

PARTS = ("train", "val", "test")


def seeded_split(
    names: Sequence[str], labels: NDArray[np.int64], percent: tuple[int, int, int], seed: int = 0
) -> NDArray[np.str_]:
    """Split by a seeded permutation within each class -> str (n,) of "train", "val", "test".

    The permutation orders a class by SHA-256 of "seed:name": it depends on nothing but the names and the seed, while
    a generator of random numbers may change between versions of its library.

    Args:
        names: unique names of the images.
        labels: (n,) class of each.
        percent: shares of train, val and test; they add up to 100.
        seed: any integer; recorded with the dataset.
    """
    keys = [hashlib.sha256(f"{seed}:{name}".encode()).digest() for name in names]
    split = np.full(len(names), "test", dtype="<U5")
    for label in np.unique(labels):
        members = sorted(np.flatnonzero(labels == label), key=lambda i: keys[i])
        train_end = (percent[0] * len(members) + 50) // 100
        val_end = ((percent[0] + percent[1]) * len(members) + 50) // 100
        split[members[:train_end]] = "train"
        split[members[train_end:val_end]] = "val"
    return split


def group_folds(groups: NDArray[np.str_], folds: int, seed: int = 0) -> list[NDArray[np.str_]]:
    """Cross-validation that never cuts a group -> `folds` splits, str (n,) of "train", "val", "test" each.

    Each group is tested in exactly one fold. The first group of the next fold's test groups is the validation part.
    Set `dataset.split` to one of them to work on that fold.

    Args:
        groups: (n,) the whole tile or scene of each item, `Dataset.groups`.
        folds: how many; at least 2 and at most as many as there are groups, and groups must be at least 3.
        seed: of the groups' order, by hashes as in `seeded_split`.
    """
    names = sorted(set(map(str, groups)), key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    if len(names) < 3 or not 2 <= folds <= len(names):
        raise InputError(f"{len(names)} groups cannot be held out in {folds} folds with one for validation beside them")
    tested = [[names[i] for i in part] for part in np.array_split(np.arange(len(names)), folds)]
    splits = []
    for fold, test in enumerate(tested):
        split = np.full(len(groups), "train", dtype="<U5")
        split[np.asarray(groups) == tested[(fold + 1) % folds][0]] = "val"
        split[np.isin(groups, test)] = "test"
        splits.append(split)
    return splits


def listed_split(
    names: Sequence[str], lists: Mapping[str, str | Path], groups: Sequence[str] | None = None
) -> NDArray[np.str_]:
    """Split by list files, one image a line (its path in the dataset, or its file name); images in no list get "".

    A line may also be one of the `groups` (n,), which then goes to the part whole, or have the form "file class
    number", as in the lists of Remote-Sensing-RVSA.

    Raises:
        InputError: an unreadable list, a name that the dataset lacks or has twice, an image in two lists.
    """
    where = _places(names, groups)
    split = np.full(len(names), "", dtype="<U5")
    for part, path in lists.items():
        if part not in PARTS:
            raise InputError(f"split list {part!r} is unknown; parts are {', '.join(PARTS)}")
        for line in list_lines(Path(path)):
            places = where.get(line) or where.get(list_fields(line)[0])
            if not places:
                raise InputError(f"{path} lists {line!r}, which the dataset does not hold")
            if places == _TWICE:
                raise InputError(f"{path} lists {line!r}, a file name that occurs twice; give the path in the dataset")
            if any(split[place] not in ("", part) for place in places):
                raise InputError(f"{line!r} is in the lists of both {split[places[0]]} and {part}")
            split[places] = part
    return split


_TWICE = [-1]


def _places(names: Sequence[str], groups: Sequence[str] | None) -> dict[str, list[int]]:
    """Positions of what a line of a list may name: paths, file names, groups; `_TWICE` for an ambiguous file name."""
    where: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        base = name.rsplit("/", 1)[-1]
        where[base] = _TWICE if base in where else [i]
    members: dict[str, list[int]] = {}
    for i, group in enumerate(groups or ()):
        members.setdefault(group, []).append(i)
    return where | members | {name: [i] for i, name in enumerate(names)}


def list_fields(line: str) -> list[str]:
    """Parts of a line "file class number" of a list, between blanks or commas."""
    return re.split(r"[\s,]+", line)


def list_lines(path: Path) -> list[str]:
    """Lines of a text file without those that are blank; `InputError` where it cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"split list {path} cannot be read: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
