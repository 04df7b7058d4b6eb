"""What rows come to: one summary a point of each method, and the tables made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nec.bench.html import size_text
from nec.bench.legend import metric_name, style_of
from nec.bench.results import BELOW, COMPRESSION, NEC, Point, Results, Row, curve, headline, primary_metric
from nec.files import atomic_path

DASH = "–"


@dataclass(frozen=True)
class Summary:
    """A point of a method with the decoder on or off, over all its seeds.

    Attributes:
        bytes_per_image: mean over the seeds.
        seeds: of the heads, as in the rows; with `adapt_seeds` of the adaptations, None where nothing was adapted.
        metrics: mean, spread and range of each metric over the seeds.
        values: each metric's value of every seed.
        fidelity: mean over the rows that have it, by name.
        confusion: counts [truth][predicted] summed over the seeds, or None.
        exact: every row's round trip was verified.
        seconds: mean over the rows, by name.
    """

    dataset: str
    method: str
    label: str
    setting: float
    decoder: bool
    bytes_per_image: float
    side_information: int
    seeds: list[int]
    adapt_seeds: list[int | None]
    metrics: dict[str, Point]
    values: dict[str, list[float]]
    fidelity: dict[str, float]
    confusion: list[list[int]] | None
    exact: bool
    seconds: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


def summaries(results: Results, dataset: str) -> list[Summary]:
    """The points of every method of a dataset, in the order of the rows' methods, then by bytes, then decoder."""
    found = []
    for method in results.methods(dataset):
        rows = [row for row in results.rows if (row.dataset, row.method) == (dataset, method)]
        for decoder in sorted({row.decoder for row in rows}):
            chosen = [row for row in rows if row.decoder == decoder]
            found += _of_method(results, dataset, method, chosen)
    order = {method: i for i, method in enumerate(results.methods(dataset))}
    return sorted(found, key=lambda s: (order[s.method], s.bytes_per_image, s.setting, s.decoder))


def metrics_of(results: Results, dataset: str) -> list[str]:
    """Metrics that rows of a dataset have, the primary one first."""
    names = dict.fromkeys(name for row in results.rows if row.dataset == dataset for name in row.metrics)
    primary = primary_metric(results.task(dataset))
    return sorted(names, key=lambda name: name != primary)


def per_class(summary: Summary) -> dict[str, np.ndarray]:
    """Shares of each class from the confusion: recall, precision, iou; NaN where a class does not occur."""
    counts = np.asarray(summary.confusion, float)
    hits, truth, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {"recall": hits / truth, "precision": hits / predicted, "iou": hits / (truth + predicted - hits)}


def write_tables(results: Results, path: Path) -> Path:
    """Write the tables of all datasets as markdown."""
    return write_text(path, markdown(results))


def write_text(path: Path, text: str) -> Path:
    """Write a text file that appears whole or not at all."""
    with atomic_path(path, overwrite=True) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def markdown(results: Results) -> str:
    """Each dataset's table of points and its headline figures, in markdown that can be pasted into documents."""
    parts = []
    for name in results.datasets:
        parts.append(f"### {name}\n\n{described(results, name)}\n\n{_markdown_table(*main_table(results, name))}")
        lines = headline_lines(results, name)
        if lines:
            parts.append("\n".join(f"- {line}" for line in lines))
        for caption, head, rows in comparison_tables(results, name):
            parts.append(f"{caption}\n\n{_markdown_table(head, rows, texts=1)}")
    return "\n\n".join(parts) + "\n"


def main_table(results: Results, dataset: str) -> tuple[list[str], list[list[str]]]:
    """Head and rows: a method's setting, its size, and its metrics without and with the decoder side by side."""
    found = summaries(results, dataset)
    metrics = [name for name in metrics_of(results, dataset) if name != "top5"][:2]
    fidelity = list(dict.fromkeys(name for summary in found for name in summary.fidelity))
    decoders = [decoder for decoder in (False, True) if any(s.decoder == decoder for s in found)]
    head = ["Method", "Setting", "Size an image", "Raw pixels : size"]
    head += [f"{title(metric_name(m))}, {_with(d)}, %" for m in metrics for d in decoders]
    head += [title(name.replace("_", " ")) for name in fidelity]
    raw = results.datasets[dataset].get("raw_pixel_bytes_per_image")
    rows = []
    for group in _pairs(found):
        first = next(iter(group.values()))
        row = [style_of(first.method).name, first.label, size_text(first.bytes_per_image)]
        row.append(ratio_text(raw, first.bytes_per_image))
        row += [spread_text(group[d].metrics.get(m)) if d in group else DASH for m in metrics for d in decoders]
        rows.append([*row, *(number_text(first.fidelity.get(name)) for name in fidelity)])
    return head, rows


def comparison_tables(results: Results, dataset: str) -> list[tuple[str, list[str], list[list[str]]]]:
    """(caption, head, rows) of the BD-rates of each metric, without and with the decoder: a column a method of ours."""
    groups: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    for item in results.bd_rate:
        if item["dataset"] == dataset:
            groups.setdefault((item["metric"], item["decoder"]), []).append(item)
    found = []
    for (metric, decoder), items in groups.items():
        cells = {(item["method"], item["reference"]): rate_text(item) for item in items}
        references = list(dict.fromkeys(item["reference"] for item in items))
        head = ["Bytes at equal accuracy", *(f"against {style_of(name).name}" for name in references)]
        methods = [m for m in results.methods(dataset) if any(m == method for method, _ in cells)]
        rows = [[style_of(m).name, *(cells.get((m, name), DASH) for name in references)] for m in methods]
        which = "with decoder" if decoder else "without decoder"
        caption = f"{dataset}: BD-rate by {metric_name(metric)}, {which}. {_resampled_text(items)}"
        found.append((caption, head, rows))
    return found


def rate_text(item: dict[str, Any]) -> str:
    """A BD-rate in percent with its interval; a dagger where seeds alone could be resampled."""
    if item["rate"] is None:
        return "no common accuracy"
    text = f"{_percent(item['rate'])}"
    if item["low"] is not None:
        text += f" ({_percent(item['low'])} to {_percent(item['high'])})"
    return text + ("" if item["resampled"] else " †")


def _percent(rate: float) -> str:
    return f"{100 * rate:+,.0f}%".replace("-", "−")


def _resampled_text(items: Sequence[dict[str, Any]]) -> str:
    """What the intervals of a table are from."""
    known = [item for item in items if item["resampled"]]
    seeds = max(item["seeds"] for item in items)
    crossed = f", crossed with {seeds} seeds" if seeds > 1 else ""
    text = ""
    if known:
        unit, count = known[0]["resampled"], known[0]["units"]
        text = f"In brackets the 95% interval of a paired bootstrap over {count:,} test {unit}{crossed}"
        text += "; so few tiles give a rough one." if unit == "tiles" and count < 30 else "."
    if len(known) < len(items):
        drawn = f"their interval is over the {seeds} seeds alone" if seeds > 1 else "they have no interval"
        text += f" † The heads' outcomes of single {_unit(items)} are not in the cache: {drawn}."
    return text.strip()


def _unit(items: Sequence[dict[str, Any]]) -> str:
    return "images" if items[0]["metric"] == "accuracy" else "tiles"


def headline_lines(results: Results, dataset: str) -> list[str]:
    """The headline figures in sentences."""
    figures = headline(results)[dataset]
    metric = metric_name(figures["metric"])
    lines = [_saved_line(item, metric) for item in figures["bytes_saved"]]
    lines += [_lost_line(item, metric) for item in figures["accuracy_lost"]]
    if _rivals_are_small(results, dataset):
        lines += _below_lines(figures["below_others"], metric)
    return lines


def _rivals_are_small(results: Results, dataset: str) -> bool:
    """Whether NEC with decoder, and a method it is held against, have points in the range that is compared."""
    small = {(r.method, r.decoder) for r in results.rows if r.dataset == dataset and r.bytes_per_image < BELOW}
    return any(m in NEC and d for m, d in small) and any(m in ("uqe", "jpeg2000") for m, _ in small)


def spread_text(point: Point | None) -> str:
    """Percent: mean ± sample standard deviation over the seeds, the mean alone for one seed."""
    if point is None:
        return DASH
    return f"{100 * point.mean:.2f}" + (f" ± {100 * point.std:.2f}" if point.count > 1 else "")


def ratio_text(raw: float | None, size: float) -> str:
    """How many times smaller than the raw pixels."""
    if not raw:
        return DASH
    ratio = raw / size
    return f"{ratio:,.0f}" if ratio >= 99.5 else f"{ratio:.1f}"


def title(text: str) -> str:
    """The first letter a capital, the others as they are."""
    return text[:1].upper() + text[1:]


def number_text(value: float | None) -> str:
    """A plain number with three decimals."""
    return DASH if value is None or math.isnan(value) else f"{value:.3f}"


def _of_method(results: Results, dataset: str, method: str, rows: Sequence[Row]) -> list[Summary]:
    decoder = rows[0].decoder
    curves: dict[str, dict[tuple[float, str], Point]] = {
        metric: {(p.setting, p.label): p for p in curve(results, dataset, method, decoder, metric)}
        for metric in metrics_of(results, dataset)
    }
    groups: dict[tuple[float, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.setting, row.label), []).append(row)
    return [_summary(group, {m: c[key] for m, c in curves.items() if key in c}) for key, group in groups.items()]


def _summary(rows: Sequence[Row], metrics: dict[str, Point]) -> Summary:
    first = rows[0]
    confusions = [row.confusion for row in rows if row.confusion is not None]
    return Summary(
        first.dataset, first.method, first.label, first.setting, first.decoder,
        bytes_per_image=float(np.mean([row.bytes_per_image for row in rows])),
        side_information=round(float(np.mean([row.side_information for row in rows]))),
        seeds=[row.seed for row in rows],
        adapt_seeds=[row.adapt_seed for row in rows],
        metrics=metrics,
        values={name: [row.metrics[name] for row in rows if name in row.metrics] for name in metrics},
        fidelity=_means([row.fidelity or {} for row in rows]),
        confusion=np.sum(confusions, axis=0).tolist() if confusions else None,
        exact=all(row.exact for row in rows),
        seconds=_means([row.seconds for row in rows]),
    )  # fmt: skip


def _means(entries: Sequence[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for entry in entries for name in entry)
    return {name: float(np.mean([entry[name] for entry in entries if name in entry])) for name in names}


def _pairs(found: Sequence[Summary]) -> list[dict[bool, Summary]]:
    """Summaries of one setting, decoder off and on, together."""
    groups: dict[tuple[str, str, float], dict[bool, Summary]] = {}
    for summary in found:
        groups.setdefault((summary.method, summary.label, summary.setting), {})[summary.decoder] = summary
    return list(groups.values())


def described(results: Results, dataset: str) -> str:
    """A sentence on a dataset: its task, counts and uncoded sizes."""
    facts = results.datasets[dataset]
    text = f"{str(facts['task']).capitalize()}"
    if "train" in facts and "test" in facts:
        text += f", {facts['train']:,} training, {facts.get('val', 0):,} validation and {facts['test']:,} test images"
    if facts.get("raw_pixel_bytes_per_image"):
        text += f"; raw pixels {size_text(facts['raw_pixel_bytes_per_image'])} an image"
    if facts.get("raw_file_bytes_per_image"):
        text += f", its file {size_text(facts['raw_file_bytes_per_image'])}"
    return text + ". Mean ± sample standard deviation over the seeds."


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 2) -> str:
    lines = [head, [*["---"] * texts, *["---:"] * (len(head) - texts)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _with(decoder: bool) -> str:
    return "with decoder" if decoder else "without"


def _named(item: dict[str, Any]) -> str:
    return f"{style_of(item['method']).name} {'with' if item['decoder'] else 'without'} decoder"


def _saved_line(item: dict[str, Any], metric: str) -> str:
    rival = item["reference"]
    against = (
        f"the best coded raw data ({style_of(rival['method']).name} {rival['label']}, "
        f"{size_text(rival['bytes_per_image'])}, {metric} {rival['accuracy']:.2%})"
    )
    if item["saved"] is None:
        return f"{_named(item)} does not reach {against}: {item['nec_best']:.2%} at best."
    share = f"{item['saved']:.1%} fewer bytes" if item["saved"] >= 0 else f"{-item['saved']:.1%} more bytes"
    return f"{_named(item)} needs {share} than {against}: {size_text(item['nec_bytes'])}."


def _lost_line(item: dict[str, Any], metric: str) -> str:
    where = f"at {item['compression']:.1%} compression of the raw pixels ({size_text(item['bytes_per_image'])})"
    if item["lost"] is None:
        return f"{_named(item)} has no point {where}; its smallest is {size_text(item['smallest_nec_bytes'])}."
    change = "loses" if item["lost"] >= 0 else "gains"
    points = f"{100 * abs(item['lost']):.2f} percentage points of {metric}"
    reached = f"{item['accuracy']:.2%}, uncompressed {item['reference_accuracy']:.2%}"
    return f"{_named(item)} {change} {points} {where}: {reached}."


def _below_lines(items: Sequence[dict[str, Any]], metric: str) -> list[str]:
    if not items:
        return [f"Below {BELOW:,} bytes, NEC with decoder lies nowhere below UQE or JPEG 2000."]
    return [
        f"At {size_text(item['bytes_per_image'])}, {style_of(item['other']).name} "
        f"{'with' if item['other_decoder'] else 'without'} decoder lies above {style_of(item['method']).name} with "
        f"decoder: {metric} {item['other_accuracy']:.2%} against "
        f"{'no point as small' if item['nec'] is None else format(item['nec'], '.2%')}"
        f"{' (within the spread over the seeds)' if item['within_spread'] else ''}."
        for item in items
    ]


def headline_tiles(results: Results, dataset: str) -> list[tuple[str, str]]:
    """The headline figures as (figure, meaning), each of the variant of NEC that does best."""
    figures = headline(results)[dataset]
    metric = metric_name(figures["metric"])
    tiles = []
    saved = [item for item in figures["bytes_saved"] if item["saved"] is not None]
    if saved:
        item = max(saved, key=lambda entry: float(entry["saved"]))
        rival = item["reference"]
        tiles.append(
            (
                f"{100 * item['saved']:.1f} %",
                f"of the bytes saved by {_named(item)} at the {metric} of the best coded raw data "
                f"({style_of(rival['method']).name} {rival['label']})",
            )
        )
    lost = [item for item in figures["accuracy_lost"] if item["lost"] is not None]
    if lost:
        item = min(lost, key=lambda entry: float(entry["lost"]))
        sign = "lost" if item["lost"] >= 0 else "gained"
        meaning = f"points of {metric} {sign} by {_named(item)} at {COMPRESSION:.1%} compression of the raw pixels"
        tiles.append((f"{100 * abs(item['lost']):.2f}", meaning))
    return tiles
