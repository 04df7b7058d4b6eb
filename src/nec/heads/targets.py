"""Targets of regression and multi-label heads: from a file, or from the masks that a store carries. Base install."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError
from nec.heads.metrics import known_labels
from nec.store import IGNORE

if TYPE_CHECKING:
    from nec.store import Store

_READ_MASKS = 256  # images whose masks are read at once


@dataclass(frozen=True)
class Targets:
    """`values` (n, targets) float32, NaN where an image has no value; one of `names` a column."""

    values: NDArray[np.float32]
    names: list[str]


def load_targets(store: Store, source: str | Path, multilabel: bool = False, least_share: float = 0.01) -> Targets:
    """Targets of a store's images.

    Args:
        store: an open store.
        source: "fractions" (share of each class among an image's labelled mask pixels), or a file:
            `.npy`, (n,) or (n, targets) in the store's order; `.csv` with a header, a column a target; if its first
            column is headed `name`, rows belong to the images of these names (others are passed over, and images
            without a row have no value), else to the images in the store's order. Empty cells and "nan" are no value.
        multilabel: values become 0 and 1: fractions 1 from `least_share` on; a file's must be 0 or 1 already (NaN,
            negative or 255 where not known).
        least_share: see there.

    Raises:
        InputError: no masks, an unreadable file, numbers of rows or names that do not fit the store, other values.
    """
    if str(source) == "fractions":
        targets = class_fractions(store)
        if multilabel:
            values = np.where(np.isnan(targets.values), np.nan, targets.values >= least_share)
            targets = Targets(values.astype(np.float32), targets.names)
    else:
        targets = _from_file(store, Path(source))
        if multilabel:
            known = known_labels(targets.values)
            targets = Targets(np.where(known, targets.values, np.float32(np.nan)), targets.names)
    if np.isinf(targets.values).any():
        raise InputError(f"{source}: targets are infinite; leave a cell empty or NaN where there is no value")
    if np.isnan(targets.values).all():
        raise InputError(f"{source}: no image of {store.path} has a value")
    return targets


def class_fractions(store: Store) -> Targets:
    """Share (0..1) of each mask class among an image's labelled pixels; NaN for an image without labelled pixels."""
    masks = getattr(store, "masks", None)
    if masks is None:
        raise InputError(f"{store.path} has no masks: encode a dataset with masks, or give targets in a file")
    names: list[str] | None = store.mask_classes
    if not names:
        raise InputError(f"{store.path} does not name the classes of its masks")
    values = np.empty((len(store), len(names)), np.float32)
    for start in range(0, len(store), _READ_MASKS):
        for i, mask in enumerate(np.asarray(masks[start : start + _READ_MASKS]), start):
            counts = np.bincount(mask[mask != IGNORE].reshape(-1), minlength=len(names))
            if len(counts) > len(names):
                raise InputError(f"{store.path}: a mask holds class {len(counts) - 1} of {len(names)} classes")
            values[i] = counts / counts.sum() if counts.sum() else np.nan
    return Targets(values, list(names))


def _from_file(store: Store, path: Path) -> Targets:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give targets as .npy or .csv, or the word fractions")
    if path.suffix.lower() == ".npy":
        return _from_array(store, path)
    if path.suffix.lower() == ".csv":
        return _from_table(store, path)
    raise InputError(f"{path} is neither .npy nor .csv")


def _from_array(store: Store, path: Path) -> Targets:
    try:
        values = np.load(path, allow_pickle=False)
        values = values.astype(np.float32) if values.dtype.kind in "fiub" else None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is not a readable .npy file: {error}") from error
    if values is None or values.ndim not in (1, 2) or len(values) != len(store) or not values.size:
        found = "no numbers" if values is None else f"shape {values.shape}"
        raise InputError(f"{path} holds {found}; the store's {len(store)} images need ({len(store)}, targets) numbers")
    values = values.reshape(len(values), -1)
    return Targets(values, [f"target {i}" for i in range(values.shape[1])])


def _from_table(store: Store, path: Path) -> Targets:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a readable CSV file: {error}") from error
    if len(rows) < 2:
        raise InputError(f"{path} needs a header and a row for each image")
    header, body = rows[0], rows[1:]
    named = header[0].strip().lower() == "name"
    names = [name.strip() for name in header[named:]]
    if not names or len(set(names)) != len(names):
        raise InputError(f"{path}: the header must name each target once")
    values = np.array([_numbers(path, i, row, header)[named:] for i, row in enumerate(body, 2)], np.float32)
    if not named:
        if len(values) != len(store):
            raise InputError(
                f"{path} has {len(values)} rows and the store {len(store)} images: give one row an image, or a first"
                " column headed `name`"
            )
        return Targets(values, names)
    return Targets(_by_name(store, path, [row[0].strip() for row in body], values), names)


def _numbers(path: Path, line: int, row: Sequence[str], header: Sequence[str]) -> list[float]:
    """The cells of a row; that of a name is not looked at."""
    if len(row) != len(header):
        raise InputError(f"{path}: row {line} has {len(row)} cells, the header {len(header)}")
    named = header[0].strip().lower() == "name"
    try:
        return [np.nan] * named + [float(cell) if cell.strip() else np.nan for cell in row[named:]]
    except ValueError as error:
        raise InputError(f"{path}: row {line}: {error}") from error


def _by_name(store: Store, path: Path, names: Sequence[str], rows: NDArray[np.float32]) -> NDArray[np.float32]:
    places: dict[str, Any] = {name: i for i, name in enumerate(store.names)}
    if len(set(names)) != len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise InputError(f"{path} names the image {twice} twice")
    values = np.full((len(store), rows.shape[1]), np.nan, np.float32)
    found = [(places[name], row) for name, row in zip(names, rows, strict=True) if name in places]
    if not found:
        raise InputError(f"{path} names no image of the store (its first is {store.names[0]}, the file's {names[0]})")
    for place, row in found:
        values[place] = row
    return values
