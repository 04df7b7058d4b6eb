"""Recorded splits into train, val and test."""

from __future__ import annotations

import hashlib
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


def listed_split(names: Sequence[str], lists: Mapping[str, str | Path]) -> NDArray[np.str_]:
    """Split by list files, one image a line (its file name, or its path in the dataset); images in no list get "".

    Raises:
        InputError: an unreadable list, a name that the dataset lacks, an image in two lists.
    """
    where = {name: i for i, name in enumerate(names)}
    for i, name in enumerate(names):
        where.setdefault(name.rsplit("/", 1)[-1], i)
    split = np.full(len(names), "", dtype="<U5")
    for part, path in lists.items():
        if part not in PARTS:
            raise InputError(f"split list {part!r} is unknown; parts are {', '.join(PARTS)}")
        for line in _lines(Path(path)):
            if line not in where:
                raise InputError(f"{path} lists {line!r}, which the dataset does not hold")
            if split[where[line]] not in ("", part):
                raise InputError(f"{line!r} is in the lists of both {split[where[line]]} and {part}")
            split[where[line]] = part
    return split


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"split list {path} cannot be read: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
