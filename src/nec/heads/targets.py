"""What heads learn beside labels and masks: targets from files or masks, and labelled places of a raster store."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError, MissingExtraError, missing_extra
from nec.heads.metrics import known_labels
from nec.labels import IGNORE

if TYPE_CHECKING:
    from nec.store import ImageStore, RasterStore

_READ_MASKS = 256  # images whose masks are read at once
_READ_TOKENS = 128  # side of the windows that a raster is read in


@dataclass(frozen=True)
class Targets:
    """`values` (n, targets) float32, NaN where an image has no value; one of `names` a column."""

    values: NDArray[np.float32]
    names: list[str]


def load_targets(store: ImageStore, source: str | Path, multilabel: bool = False, least_share: float = 0.01) -> Targets:
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


def class_fractions(store: ImageStore) -> Targets:
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


def _from_file(store: ImageStore, path: Path) -> Targets:
    if not path.is_file():
        raise InputError(f"{path}: no such file; give targets as .npy or .csv, or the word fractions")
    if path.suffix.lower() == ".npy":
        return _from_array(store, path)
    if path.suffix.lower() == ".csv":
        return _from_table(store, path)
    raise InputError(f"{path} is neither .npy nor .csv")


def _from_array(store: ImageStore, path: Path) -> Targets:
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


def _from_table(store: ImageStore, path: Path) -> Targets:
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


def _by_name(store: ImageStore, path: Path, names: Sequence[str], rows: NDArray[np.float32]) -> NDArray[np.float32]:
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


# -- labelled places of a raster store --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Samples:
    """Labelled tokens of a raster store, as a store of images of one token each.

    Attributes:
        embeddings: float32 (n, 1, 1, d).
        labels, class_names: of a classification, else None.
        targets: of a regression, else None.
        groups: (n,) block of space that a token lies in; a split takes whole blocks.
    """

    path: str
    embeddings: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    class_names: list[str] | None
    targets: Targets | None
    groups: NDArray[np.str_]
    bytes_per_image: float
    attrs: dict[str, Any]
    quality: float
    split: None = None
    grid: tuple[int, int] = (1, 1)

    def __len__(self) -> int:
        return len(self.embeddings)


def labelled_samples(
    store: RasterStore, labels: str | Path, column: str, task: str, time: str | None = None, block: int = 16
) -> Samples:
    """The valid tokens of a raster store under labelled points and polygons.

    A point labels the token that it lies in, a polygon those whose centre it covers (or, where that is none, those it
    touches). Of a token with two classes nothing is learnt; several numbers are averaged.

    Args:
        store: an open raster store.
        labels: GeoJSON (longitude and latitude, unless it names a CRS), or a file that geopandas reads.
        column: property that holds the class, or the number.
        task: "classification" or "regression".
        time: see `RasterStore.index`; None: its only date.
        block: side in tokens of the blocks of space in `groups`.

    Raises:
        InputError: no such file, property or date, no CRS, no labelled token that is valid.
        MissingExtraError: rasterio, or for other files than GeoJSON geopandas, is not installed.
    """
    if task not in ("classification", "regression"):
        raise InputError(f"a raster store is learnt for classification or regression, not for {task}")
    if block < 1:
        raise InputError(f"blocks of space are at least 1 token wide, not {block}")
    if store.crs is None:
        raise InputError(f"{store.path} has no CRS: nothing can be laid on it")
    date = date_of(store, time)
    found: dict[tuple[int, int], list[Any]] = {}
    for value, geometry in _features(Path(labels), column, store.crs):
        for place in _tokens_under(geometry, store.transform, store.grid):
            found.setdefault(place, []).append(value)
    if task == "classification":
        found = {place: values for place, values in found.items() if len(set(map(str, values))) == 1}
    places = np.array(sorted(found), np.int64).reshape(-1, 2)
    tokens = np.full((len(places), store.dimensions), np.nan, np.float32)
    windows = places // _READ_TOKENS
    for window in np.unique(windows, axis=0):
        inside = np.flatnonzero((windows == window).all(axis=1))
        rows, columns = (slice(low, low + _READ_TOKENS) for low in window * _READ_TOKENS)
        tokens[inside] = store.read(date, rows, columns)[tuple((places[inside] - window * _READ_TOKENS).T)]
    valid = np.isfinite(tokens).all(axis=1)
    places, tokens = places[valid], tokens[valid]
    if not len(places):
        raise InputError(f"{labels}: no point or polygon lies on a valid token of {store.path}")
    values = [found[row, column] for row, column in places.tolist()]
    classes = numbers = known = None
    if task == "classification":
        known = sorted({str(value[0]) for value in values})
        classes = np.array([known.index(str(value[0])) for value in values], np.int64)
    else:
        try:
            means = [[float(np.mean([float(one) for one in value]))] for value in values]
        except (TypeError, ValueError) as error:
            raise InputError(f"{labels}: {column} must hold numbers for a regression ({error})") from error
        numbers = Targets(np.array(means, np.float32), [column])
    blocks = np.array([f"{row},{across}" for row, across in (places // block).tolist()])
    cost = store.stored_bytes / max(1, store.valid_tokens)
    return Samples(store.path, tokens[:, None, None], classes, known, numbers, blocks, cost, store.attrs, store.quality)


def date_of(store: RasterStore, time: str | None) -> int:
    """Index of a raster store's date; `InputError` where it has several and none is named."""
    if time is None and len(store.times) > 1:
        raise InputError(f"{store.path} has {len(store.times)} dates: name one with --time, as {store.times[-1]}")
    return store.index(0 if time is None else time)


def _features(path: Path, column: str, crs: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """(value of the property, geometry in `crs`) of each feature that has both."""
    try:
        from rasterio.warp import transform_geom
    except ImportError as error:
        missing_extra("rasterio", "geo", error)
    if not path.is_file():
        raise InputError(f"{path}: no such file; give points or polygons, as GeoJSON for example")
    document = _read_features(path)
    features = document.get("features") or []
    names = sorted({name for feature in features for name in feature.get("properties") or {}})
    if column not in names:
        raise InputError(f"{path}: no feature has a property {column!r}; they have {', '.join(names) or 'none'}")
    source = ((document.get("crs") or {}).get("properties") or {}).get("name") or "OGC:CRS84"
    for feature in features:
        value, geometry = (feature.get("properties") or {}).get(column), feature.get("geometry")
        if value is None or geometry is None or not geometry.get("coordinates"):
            continue
        try:
            yield value, transform_geom(source, crs, geometry)
        except Exception as error:  # rasterio's own types, by version
            raise InputError(f"{path}: a geometry cannot be brought to the raster's CRS ({error})") from error


def _read_features(path: Path) -> dict[str, Any]:
    if path.suffix.lower() in (".geojson", ".json"):
        try:
            document = json.loads(path.read_bytes())
        except ValueError as error:
            raise InputError(f"{path} is not GeoJSON: {error}") from error
        if not isinstance(document, dict) or document.get("type") != "FeatureCollection":
            raise InputError(f"{path} is no GeoJSON FeatureCollection")
        return document
    try:
        import geopandas  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise MissingExtraError(f"reading {path} needs geopandas: install it, or give the labels as GeoJSON") from error
    try:
        table = geopandas.read_parquet(path) if path.suffix.lower() == ".parquet" else geopandas.read_file(path)
        document = table.__geo_interface__
    except Exception as error:  # of whichever driver reads it
        raise InputError(f"{path} is not a readable file of features: {error}") from error
    if table.crs is None:
        raise InputError(f"{path} names no CRS: save it with one")
    return {**document, "crs": {"properties": {"name": table.crs.to_wkt()}}}


def _tokens_under(
    geometry: dict[str, Any], transform: Sequence[float], grid: tuple[int, int]
) -> Iterator[tuple[int, int]]:
    """(row, column) of the tokens of a raster that a geometry in its CRS labels."""
    from rasterio import Affine
    from rasterio.features import bounds, rasterize

    place, kind = Affine(*transform), geometry["type"]
    if kind in ("Point", "MultiPoint"):
        for x, y, *_ in [geometry["coordinates"]] if kind == "Point" else geometry["coordinates"]:
            column, row = (math.floor(value) for value in ~place @ (x, y))
            if 0 <= row < grid[0] and 0 <= column < grid[1]:
                yield row, column
        return
    if kind not in ("Polygon", "MultiPolygon"):
        raise InputError(f"labels are points or polygons, not {kind}")
    left, bottom, right, top = bounds(geometry)
    columns, rows = np.array(
        [~place @ corner for corner in ((left, bottom), (left, top), (right, bottom), (right, top))]
    ).T
    first, last = (
        [max(0, math.floor(rows.min())), max(0, math.floor(columns.min()))],
        [min(grid[0], math.ceil(rows.max())), min(grid[1], math.ceil(columns.max()))],
    )
    shape = (last[0] - first[0], last[1] - first[1])
    if min(shape) < 1:
        return
    window = place @ Affine.translation(first[1], first[0])
    for touched in (False, True):
        covered = rasterize([geometry], shape, transform=window, all_touched=touched)
        if covered.any():
            yield from ((int(row) + first[0], int(column) + first[1]) for row, column in np.argwhere(covered))
            return
