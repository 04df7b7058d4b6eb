"""What a benchmark measured: rows, their files, points over seeds, and the headline figures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from nec.errors import CorruptError, InputError
from nec.files import write_bytes

if TYPE_CHECKING:
    import pandas as pd

VERSION = 1
VARIANT = "--"  # between the key of a family and what a recipe calls a variant of it
JSON_NAME, CSV_NAME = "results.json", "results.csv"
NEC = ("nec-factorized", "nec-hyperprior", "nec-hierarchical")
CODED_RAW = ("jpeg2000", "original")
RIVALS = ("uqe", "jpeg2000")
BELOW = 1024  # bytes: the range in which NEC with decoder is to lie above the others
COMPRESSION = 0.997  # the paper's

_PRIMARY = {"classification": "accuracy", "segmentation": "overall_accuracy"}


@dataclass(frozen=True)
class Row:
    """One measured head: a (dataset, method, setting, decoder, seed).

    Attributes:
        dataset: its name in the recipe.
        method: family: nec-factorized, nec-hyperprior, codec-hierarchical, codec-factorized, uqe, uqe-channel,
            jpeg2000, jpeg, rdc, float, original, fine-tune.
        label: the point within the family, for people ("λ=100", "4 bit").
        setting: the same as a number that orders the family's curve.
        decoder: whether the model's first decoder stage was trained with the head.
        seed: of the head.
        adapt_seed: of the adaptation; None where nothing was adapted.
        bytes_per_image: real bytes of the encoded test images, divided by their number.
        side_information: bytes that the consumer needs once (tables, codebooks); the decoder stage and head apart.
        metrics: of the test images; classification: accuracy, top5; segmentation: overall_accuracy, mean_iou, mean_f1.
        confusion: [truth][predicted] counts over the test images (pixels), or None.
        fidelity: relative_error and neighbour_recall of the embeddings against the float ones, or None.
        exact: the round trip was verified: lossless methods gave the input back, lossy ones the same values twice.
        seconds: encode, decode (of all images), head.
    """

    dataset: str
    method: str
    label: str
    setting: float
    decoder: bool
    seed: int
    bytes_per_image: float
    metrics: dict[str, float]
    adapt_seed: int | None = None
    side_information: int = 0
    confusion: list[list[int]] | None = None
    fidelity: dict[str, float] | None = None
    exact: bool = False
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """A metric at one setting of a method, over its seeds. `std` is the sample's, 0 for one seed."""

    setting: float
    label: str
    bytes_per_image: float
    mean: float
    std: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Summary:
    """One setting of a method with the decoder on or off, over all its rows, which differ in their seeds.

    Attributes:
        bytes_per_image, side_information: mean over the seeds.
        metrics: mean, spread and range of each metric over the seeds.
        values: each metric's value of every seed.
        fidelity: mean over the rows that have it, by name.
        confusion: counts [truth][predicted] summed over the seeds, or None.
        exact: every row's round trip was verified.
    """

    dataset: str
    method: str
    label: str
    setting: float
    decoder: bool
    bytes_per_image: float
    side_information: int
    seeds: list[int]
    metrics: dict[str, Point]
    values: dict[str, list[float]]
    fidelity: dict[str, float]
    confusion: list[list[int]] | None
    exact: bool

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Summary:
        """The rows of one setting."""
        first, metrics = rows[0], {}
        names = dict.fromkeys(name for row in rows for name in row.metrics)
        values = {name: [row.metrics[name] for row in rows if name in row.metrics] for name in names}
        for name, found in values.items():
            size = fmean(row.bytes_per_image for row in rows if name in row.metrics)
            spread = stdev(found) if len(found) > 1 else 0.0
            limits = min(found), max(found), len(found)
            metrics[name] = Point(first.setting, first.label, size, fmean(found), spread, *limits)
        known = [row.fidelity for row in rows if row.fidelity is not None]
        fidelity = {name: fmean(f[name] for f in known if name in f) for f in known for name in f}
        confusions = [row.confusion for row in rows if row.confusion is not None]
        return cls(
            first.dataset, first.method, first.label, first.setting, first.decoder,
            fmean(row.bytes_per_image for row in rows),
            round(fmean(row.side_information for row in rows)),
            [row.seed for row in rows], metrics, values, fidelity,
            np.sum(confusions, axis=0).tolist() if confusions else None,
            all(row.exact for row in rows),
        )  # fmt: skip


@dataclass(frozen=True)
class Results:
    """A whole benchmark: what was run, where, on what, and its rows.

    Attributes:
        recipe: as it was run, with every default filled in.
        environment: versions, cpu, threads, date.
        datasets: name -> task ("classification" or "segmentation"), kind, images, train, val, test (counts),
            raw_file_bytes_per_image and raw_pixel_bytes_per_image (of the test images), class_names, class_colors,
            split.
        rows: in the order of the recipe.
        bd_rate: `nec.bench.comparison.Comparison` of methods at equal accuracy; empty while the benchmark runs.
    """

    recipe: dict[str, Any]
    environment: dict[str, Any]
    datasets: dict[str, dict[str, Any]]
    rows: list[Row]
    bd_rate: list[dict[str, Any]] = field(default_factory=list)
    version: int = VERSION

    def to_dict(self) -> dict[str, Any]:
        """What `results.json` holds: the fields, and the headline figures."""
        return {**asdict(self), "headline": headline(self)}

    def write(self, out: str | Path) -> list[Path]:
        """Write `results.json` (with the headline figures) and `results.csv` to the folder `out` -> their paths."""
        paths = [Path(out) / JSON_NAME, Path(out) / CSV_NAME]
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        for path, content in zip(paths, (text, self.frame().to_csv(index=False)), strict=True):
            write_bytes(path, content.encode())
        return paths

    @classmethod
    def read(cls, path: str | Path) -> Results:
        """Read `results.json`, given itself or its folder.

        Raises:
            InputError: no such file, or of another version.
            CorruptError: it is not what `write` wrote.
        """
        path = Path(path)
        path = path / JSON_NAME if path.is_dir() else path
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"cannot read results from {path}: {error.strerror}; run nec bench first") from error
        except ValueError as error:
            raise CorruptError(f"{path} is damaged: not JSON ({error}); run nec bench again") from error
        return cls.from_dict(document, str(path))

    @classmethod
    def from_dict(cls, document: Any, where: str = "results") -> Results:
        """Inverse of the JSON form; errors as `read`."""
        if not isinstance(document, dict) or document.get("version") != VERSION:
            raise InputError(f"{where} is not of version {VERSION} of nec bench's results")
        try:
            rows = [Row(**row) for row in document["rows"]]
            found = document.get("bd_rate", [])  # results from before it was computed have none
            return cls(document["recipe"], document["environment"], document["datasets"], rows, found)
        except (KeyError, TypeError) as error:
            raise CorruptError(f"{where} is damaged: {error}; run nec bench again") from error

    def frame(self) -> pd.DataFrame:
        """A line a row; metrics, fidelity and seconds are columns of their own, confusions are left out."""
        import pandas as pd

        lines = []
        for row in self.rows:
            line = {**vars(row), **row.metrics, **(row.fidelity or {})}
            line |= {f"{name}_seconds": value for name, value in row.seconds.items()}
            lines.append({k: v for k, v in line.items() if k not in ("metrics", "fidelity", "seconds", "confusion")})
        frame = pd.DataFrame(lines)
        return frame.astype({"adapt_seed": "Int64"}) if lines else frame

    @cached_property
    def points(self) -> list[Summary]:
        """Every setting of every method over its seeds: in the rows' order of methods, then by bytes, then decoder."""
        groups: dict[tuple[str, str, float, str, bool], list[Row]] = {}
        for row in self.rows:
            groups.setdefault((row.dataset, row.method, row.setting, row.label, row.decoder), []).append(row)
        order = {key: i for i, key in enumerate(dict.fromkeys((row.dataset, row.method) for row in self.rows))}
        found = [Summary.of(rows) for rows in groups.values()]
        return sorted(found, key=lambda s: (order[s.dataset, s.method], s.bytes_per_image, s.setting, s.decoder))

    def of(self, dataset: str) -> list[Summary]:
        """The points of a dataset."""
        return [summary for summary in self.points if summary.dataset == dataset]

    def methods(self, dataset: str) -> list[str]:
        """Families of methods with rows of a dataset, in the order of the rows."""
        return list(dict.fromkeys(row.method for row in self.rows if row.dataset == dataset))

    def metrics(self, dataset: str) -> list[str]:
        """Metrics that rows of a dataset have, the primary one first."""
        names = dict.fromkeys(name for row in self.rows if row.dataset == dataset for name in row.metrics)
        return sorted(names, key=lambda name: name != primary_metric(self.task(dataset)))

    def task(self, dataset: str) -> str:
        """ "classification" or "segmentation"."""
        return str(self.datasets[dataset]["task"])


def primary_metric(task: str) -> str:
    """The metric that the figures show: accuracy, or overall_accuracy for segmentation."""
    return _PRIMARY[task]


def curve(results: Results, dataset: str, method: str, decoder: bool, metric: str | None = None) -> list[Point]:
    """Points of one method, averaged over the seeds of heads and adaptations, by rising bytes.

    Args:
        metric: a key of `Row.metrics`; the task's primary one if None.
    """
    metric = metric or primary_metric(results.task(dataset))
    chosen = [s for s in results.of(dataset) if (s.method, s.decoder) == (method, decoder) and metric in s.metrics]
    return sorted((s.metrics[metric] for s in chosen), key=lambda point: point.bytes_per_image)


def accuracy_at(points: Sequence[Point], size: float) -> float | None:
    """Mean metric that a curve offers for `size` bytes an image; None below its smallest point.

    Linear in log bytes between the points of the curve's upper envelope: who may spend b bytes may also spend fewer.
    Beyond the largest point it stays at the best.
    """
    if not points or size < points[0].bytes_per_image:
        return None
    sizes, means = envelope([p.bytes_per_image for p in points], [p.mean for p in points])
    return float(np.interp(math.log(size), np.log(sizes), means))


def bytes_for(points: Sequence[Point], accuracy: float) -> float | None:
    """Bytes an image at which a curve reaches a mean metric; None where it never does. Inverse of `accuracy_at`."""
    sizes, means = envelope([p.bytes_per_image for p in points], [p.mean for p in points])
    if not points or accuracy > means[-1]:
        return None
    return sizes[0] if accuracy <= means[0] else math.exp(np.interp(accuracy, means, np.log(sizes)))


def envelope(sizes: Sequence[float], means: Sequence[float]) -> tuple[list[float], list[float]]:
    """Bytes and means of the points that are better than every smaller one, by rising bytes."""
    kept: list[tuple[float, float]] = []
    for size, mean in sorted(zip(sizes, means, strict=True), key=lambda point: (point[0], -point[1])):
        if not kept or mean > kept[-1][1]:
            kept.append((size, mean))
    return [size for size, _ in kept], [mean for _, mean in kept]


# -- headline figures -------------------------------------------------------------------------------------------------


def headline(results: Results) -> dict[str, dict[str, Any]]:
    """The paper's headline figures of each dataset: `bytes_saved`, `accuracy_lost`, `below_others`."""
    return {
        name: {
            "metric": primary_metric(results.task(name)),
            "bytes_saved": bytes_saved(results, name),
            "accuracy_lost": accuracy_lost(results, name),
            "below_others": below_others(results, name),
        }
        for name in results.datasets
    }


def bytes_saved(results: Results, dataset: str) -> list[dict[str, Any]]:
    """Bytes that NEC saves at the accuracy of the best coded raw data, for each NEC variant and decoder on or off.

    The best coded raw point has the highest mean among JPEG 2000's and the files', decoder on or off; of equals the
    smallest. `nec_bytes` and `saved` (a share of the coded raw bytes) are None where NEC does not reach its accuracy;
    `nec_best` says how far it comes.
    """
    rivals = [(name, on, point) for name, on, points in _curves(results, dataset, CODED_RAW) for point in points]
    if not rivals:
        return []
    method, decoder, best = max(rivals, key=lambda rival: (rival[2].mean, -rival[2].bytes_per_image))
    reference = {"method": method, "label": best.label, "decoder": decoder}
    reference |= {"bytes_per_image": best.bytes_per_image, "accuracy": best.mean}
    found = []
    for name, with_decoder, points in _curves(results, dataset, NEC):
        needed = bytes_for(points, best.mean)
        saved = None if needed is None else 1 - needed / best.bytes_per_image
        figures = {"nec_bytes": needed, "saved": saved, "nec_best": max(point.mean for point in points)}
        found.append({"method": name, "decoder": with_decoder, "reference": reference, **figures})
    return found


def accuracy_lost(results: Results, dataset: str, compression: float = COMPRESSION) -> list[dict[str, Any]]:
    """Accuracy that NEC loses against uncompressed images where it leaves 1 - `compression` of the raw pixels' bytes.

    The reference are heads on the uncompressed images, "original" (else "float" or lossless "rdc"), with the decoder on
    or off as NEC's. `accuracy` and `lost` are None where NEC has no point as small.
    """
    size = float(results.datasets[dataset]["raw_pixel_bytes_per_image"]) * (1 - compression)
    found = []
    for name, decoder, points in _curves(results, dataset, NEC):
        raw = next((c for m in ("original", "float", "rdc") if (c := curve(results, dataset, m, decoder))), [])
        if not raw:
            continue
        reference, reached = max(point.mean for point in raw), accuracy_at(points, size)
        found.append({
            "method": name, "decoder": decoder, "compression": compression, "bytes_per_image": size,
            "reference_accuracy": reference, "accuracy": reached,
            "lost": None if reached is None else reference - reached,
            "smallest_nec_bytes": points[0].bytes_per_image,
        })  # fmt: skip
    return found


def below_others(results: Results, dataset: str) -> list[dict[str, Any]]:
    """Where NEC with decoder lies below another method, decoder on or off, under 1 KiB; empty is good.

    Every such point of another method is held against the NEC curve at its bytes (`accuracy_at`), and every NEC point
    against the other's curve. NEC has lost, too, where it has no point as small: `nec` is None there. `within_spread`
    says that the difference is no larger than the two standard deviations added.
    """
    found = []
    for name, decoder, nec in _curves(results, dataset, NEC):
        for other, other_decoder, points in _curves(results, dataset, RIVALS) if decoder else ():
            pairs = [_pair(p, nec, points, accuracy_at(nec, p.bytes_per_image), p.mean) for p in points]
            for p in nec:
                mine, reached = accuracy_at(nec, p.bytes_per_image), accuracy_at(points, p.bytes_per_image)
                pairs += [] if reached is None else [_pair(p, nec, points, mine, reached)]
            found += [
                {"method": name, "other": other, "other_decoder": other_decoder, **pair}
                for pair in sorted(pairs, key=lambda pair: float(pair["bytes_per_image"]))
                if pair["bytes_per_image"] < BELOW and (pair["nec"] is None or pair["nec"] < pair["other_accuracy"])
            ]
    return found


def _pair(
    at: Point, nec: Sequence[Point], others: Sequence[Point], mine: float | None, theirs: float
) -> dict[str, Any]:
    """NEC's accuracy and another's at the bytes of a point of either, with the deviations of their nearest points."""
    size = at.bytes_per_image
    spread = sum(min(c, key=lambda p: abs(math.log(p.bytes_per_image / size))).std for c in (nec, others))
    return {
        "at": at.label,
        "bytes_per_image": size,
        "nec": mine,
        "other_accuracy": theirs,
        "difference": None if mine is None else theirs - mine,
        "within_spread": mine is not None and theirs - mine <= spread,
    }


def _curves(results: Results, dataset: str, methods: Sequence[str]) -> list[tuple[str, bool, list[Point]]]:
    """(method, decoder, points) of the methods that have points."""
    curves = [(name, on, curve(results, dataset, name, on)) for name in methods for on in (False, True)]
    return [item for item in curves if item[2]]
