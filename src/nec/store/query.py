"""What stores are asked, as functions of a location that write files: `nec search`, `sample`, `change`, `similar`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nec.errors import InputError
from nec.files import atomic_path
from nec.report import Report
from nec.search import Change, Matches, ScoreMap
from nec.search.distance import least
from nec.search.places import import_geopandas, read_points
from nec.store.images import ImageStore
from nec.store.location import Location
from nec.store.opening import open, open_product
from nec.store.rasters import RasterStore

_TABLES = (".csv", ".parquet", ".geoparquet", ".geojson", ".npy")


@dataclass(frozen=True)
class Sampled(Report):
    """What `sample` wrote.

    Attributes:
        out: the file.
        points: points that were asked for.
        sampled: those that lie on a valid token; the others are NaN.
        dimensions: values a point.
        bytes_read: bytes of the store that were read.
    """

    out: str
    points: int
    sampled: int
    dimensions: int
    bytes_read: int

    def __str__(self) -> str:
        missing = self.points - self.sampled
        return f"{self.out}: {self.points} points, {missing} outside or not valid, {self.bytes_read} bytes read"


@dataclass(frozen=True)
class Zones(Report):
    """What `zonal` wrote.

    Attributes:
        out: the file.
        polygons: rows in it.
        empty: polygons without a valid token; their vectors are NaN.
        tokens: tokens that were averaged.
        bytes_read: bytes of the store that were read.
    """

    out: str
    polygons: int
    empty: int
    tokens: int
    bytes_read: int

    def __str__(self) -> str:
        return f"{self.out}: {self.polygons} polygons, {self.empty} of them empty, {self.bytes_read} bytes read"


def search(
    store: ImageStore | RasterStore | Location,
    like: str | int | None = None,
    vector: str | Path | None = None,
    k: int = 10,
    *,
    metric: str = "cosine",
    exact: bool = False,
    label: str | None = None,
    split: str | None = None,
    index: str | Path | None = None,
    time: str | int | None = None,
    crs: str | None = None,
) -> Matches:
    """Find the images of a store, or the tokens of a raster, that are nearest to one.

    Args:
        store: an open store, or what `nec.open` takes.
        like: name or number of an image; of a raster, a place "x,y".
        vector: .npy file of a vector (d,), or of tokens (y, x, d), instead of `like`.
        k: how many to find.
        metric: "cosine" or "euclidean"; rasters know the cosine alone.
        exact: decode every image, instead of candidates that coarse grids choose.
        label: search only among the images of this class.
        split: search only among the images of this split.
        index: .npz file that keeps the coarse vectors for the next search; made where there is none.
        time: date of a raster; by default its last.
        crs: CRS of the place "x,y"; by default the raster's own.

    Returns:
        The k nearest, with their distances and the bytes that were read.

    Raises:
        InputError: neither or both of `like` and `vector`, nothing of that name, a vector of another dimension, k above
            the number that is searched, or an option that means nothing to this kind of store.
    """
    if (like is None) == (vector is None):
        raise InputError("give what to look for: like or vector, one of them")
    opened = store if isinstance(store, ImageStore | RasterStore) else open(store)
    given = None if vector is None else _load(Path(vector))
    if isinstance(opened, ImageStore):
        if time is not None or crs is not None:
            raise InputError(f"{opened.path} is a store of images, to which time and crs mean nothing")
        wanted: Any = given if like is None else like
        if isinstance(like, str) and like.removeprefix("-").isdigit() and like not in opened.names:
            wanted = int(like)
        return opened.search(wanted, k, metric, exact, label=label, split=split, index=index or False)
    if exact or label is not None or split is not None or index is not None or metric != "cosine":
        raise InputError(f"{opened.path} is a raster, to which exact, label, split, index and metric mean nothing")
    when = _date(time)
    if given is not None:
        scores = opened.similar(vectors=given, time=when)
    else:
        scores = opened.similar(*_place(str(like)), crs=crs, time=when)
    assert scores.values is not None
    far = 1 - scores.values.astype(np.float64).ravel()
    if not 1 <= k <= scores.valid:
        raise InputError(f"k is {k}: there are {scores.valid} valid tokens, so give 1 to {scores.valid}")
    found = least(np.where(np.isnan(far), np.inf, far), k)
    a, b, c, d, e, f = opened.transform
    rows, columns = found // opened.grid[1] + 0.5, found % opened.grid[1] + 0.5
    places = zip(a * columns + b * rows + c, d * columns + e * rows + f, strict=True)
    names = [f"{x:.10g},{y:.10g}" for x, y in places]
    return Matches(found, far[found], names, None, "cosine", True, scores.bytes_read)


def sample(
    raster: RasterStore | Location,
    points: Any,
    out: str | Path,
    *,
    crs: str = "EPSG:4326",
    method: str = "nearest",
    time: str | int | None = None,
    overwrite: bool = False,
) -> Sampled:
    """Write the embeddings of a raster at points.

    Args:
        raster: an open raster, or what `nec.open` takes.
        points: file of points: CSV or Parquet with columns x and y or lon and lat, GeoParquet, GeoJSON.
        out: .csv, .parquet, .geojson (the points' own columns and a column a dimension, e0, e1, ...; in Parquet one
            column `embedding`), or .npy (float32 (n, d)). NaN or empty outside and where the raster is not valid.
        crs: CRS of plain columns of points.
        method: "nearest" or "bilinear".
        time: date; by default the last.
        overwrite: replace `out` if it exists.

    Returns:
        How many points were written, and the bytes that were read.

    Raises:
        InputError: no points, points without a CRS, all of them outside, no such date or method, or `out` exists.
        MissingExtraError: geopandas is not installed.
    """
    target = Path(out)
    if target.suffix not in _TABLES:
        raise InputError(f"{target}: the name of the samples must end in one of {', '.join(_TABLES)}")
    with atomic_path(target, overwrite=overwrite) as temporary:
        reader, counter = (raster if isinstance(raster, RasterStore) else open_product(raster)).counted()
        places, own_crs, frame = read_points(points, crs)
        vectors = reader.sample(places if frame is None else frame, own_crs, method, time=_date(time))
        if target.suffix == ".npy":
            with temporary.open("wb") as file:
                np.save(file, vectors)
        else:
            _write_table(temporary, target.suffix, places, own_crs, frame, vectors)
    sampled = int((~np.isnan(vectors).any(axis=1)).sum())
    return Sampled(str(target), len(vectors), sampled, reader.dimensions, counter.bytes_read)


def similar(
    raster: RasterStore | Location,
    out: str | Path,
    *,
    like: str | None = None,
    vector: str | Path | None = None,
    crs: str | None = None,
    time: str | int | None = None,
    overwrite: bool = False,
) -> ScoreMap:
    """Write a map of the cosine similarity of each token of a raster with what lies at a place.

    Args:
        raster: an open raster, or what `nec.open` takes.
        out: Cloud Optimized GeoTIFF to write.
        like: the place, "x,y".
        vector: .npy file of a vector (d,) or several (m, d), instead of `like`.
        crs: CRS of the place; by default the raster's own.
        time: date; by default the last.
        overwrite: replace `out` if it exists.

    Returns:
        Size and range of the map, and the bytes that were read.

    Raises:
        InputError: neither or both of `like` and `vector`, a place outside or not valid, a vector of another dimension,
            no such date, or `out` exists.
    """
    if (like is None) == (vector is None):
        raise InputError("give what to look for: like or vector, one of them")
    opened, when = raster if isinstance(raster, RasterStore) else open_product(raster), _date(time)
    if vector is not None:
        return opened.similar(vectors=_load(Path(vector)), time=when, out=out, overwrite=overwrite)
    return opened.similar(*_place(str(like)), crs=crs, time=when, out=out, overwrite=overwrite)


def change(
    raster: RasterStore | Location,
    t0: str | int,
    t1: str | int,
    out: str | Path,
    *,
    metric: str = "cosine",
    overwrite: bool = False,
) -> Change:
    """Write a map of the distance of each token of a raster between two dates.

    Args:
        raster: an open raster, or what `nec.open` takes.
        t0: first date: ISO text, which may be cut short, or its number.
        t1: second date.
        out: Cloud Optimized GeoTIFF to write, NaN where either date is not valid; its tag THRESHOLD says above which
            distance a token counts as changed.
        metric: "cosine" or "euclidean".
        overwrite: replace `out` if it exists.

    Returns:
        Threshold, changed tokens, and the bytes that were read.

    Raises:
        InputError: no such date, twice the same, no token valid on both, or `out` exists.
    """
    opened = raster if isinstance(raster, RasterStore) else open_product(raster)
    return opened.change(_date(t0), _date(t1), out, metric=metric, overwrite=overwrite)


def zonal(
    raster: RasterStore | Location,
    polygons: Any,
    out: str | Path,
    *,
    time: str | int | None = None,
    overwrite: bool = False,
) -> Zones:
    """Write the mean and standard deviation of a raster's embeddings over polygons.

    Args:
        raster: an open raster, or what `nec.open` takes.
        polygons: file of polygons: GeoJSON, GeoParquet, GeoPackage, or what else geopandas reads.
        out: GeoParquet to write: the polygons with the columns `tokens`, `mean` and `std`.
        time: date; by default the last.
        overwrite: replace `out` if it exists.

    Returns:
        How many polygons were written, and the bytes that were read.

    Raises:
        InputError: geometry other than polygons, without a CRS, all outside, no such date, or `out` exists.
        MissingExtraError: geopandas is not installed.
    """
    reader, counter = (raster if isinstance(raster, RasterStore) else open_product(raster)).counted()
    frame = reader.zonal(polygons, time=_date(time), out=out, overwrite=overwrite)
    counts = frame["tokens"].to_numpy()
    return Zones(str(out), len(frame), int((counts == 0).sum()), int(counts.sum()), counter.bytes_read)


def _date(time: str | int | None) -> str | int:
    """A date as `RasterStore.index` takes it; short numbers are indices, which a shell gives as text."""
    if time is None:
        return -1
    return int(time) if isinstance(time, str) and len(time) < 4 and time.removeprefix("-").isdigit() else time


def _place(text: str) -> tuple[float, float]:
    try:
        x, y = map(float, text.split(","))
    except ValueError as error:
        raise InputError(f"{text!r} is not a place: give x,y such as 500080,4999920") from error
    return x, y


def _load(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot read a vector from {path}: give a .npy file") from error


def _write_table(path: Path, suffix: str, points: np.ndarray, crs: Any, frame: Any, vectors: np.ndarray) -> None:
    geopandas = import_geopandas()
    import pandas

    if frame is None:
        frame = geopandas.GeoDataFrame(geometry=geopandas.points_from_xy(*points.T), crs=crs)
    if suffix in (".parquet", ".geoparquet"):
        frame.assign(embedding=list(vectors)).to_parquet(path)
        return
    columns = pandas.DataFrame(vectors, columns=[f"e{i}" for i in range(vectors.shape[1])], index=frame.index)
    if suffix == ".geojson":
        path.write_text(frame.join(columns).to_json(to_wgs84=frame.crs is not None, drop_id=True), encoding="utf-8")
        return
    plain = pandas.DataFrame(frame.drop(columns=frame.geometry.name))
    if not {"x", "y"} & {str(name).lower() for name in plain.columns}:
        plain = plain.assign(x=points[:, 0], y=points[:, 1])
    plain.join(columns).to_csv(path, index=False)
