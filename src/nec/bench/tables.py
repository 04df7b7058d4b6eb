"""What a benchmark's results say in words: tables of points and of bytes at equal accuracy, the headline figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nec.bench import legend
from nec.bench.legend import metric_name, size_text, style_of, title
from nec.bench.results import BELOW, COMPRESSION, NEC, RIVALS, Point, Results, Summary, headline

DASH = "–"
Cell = tuple[str, float | None]  # the text, and the number to sort by


@dataclass(frozen=True)
class Table:
    """A table of a page or a document; the first `texts` columns are words."""

    caption: str
    head: list[str]
    rows: list[list[Cell]]
    texts: int = 1

    def markdown(self) -> str:
        """The table alone, in markdown."""
        rule = ["---"] * self.texts + ["---:"] * (len(self.head) - self.texts)
        lines = [self.head, rule, *([text for text, _ in row] for row in self.rows)]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def markdown(results: Results) -> str:
    """Each dataset's table of points and its headline figures, in markdown that can be pasted into documents."""
    parts = []
    for name in results.datasets:
        parts.append(f"### {name}\n\n{described(results, name)}\n\n{main_table(results, name).markdown()}")
        lines = headline_lines(results, name)
        if lines:
            parts.append("\n".join(f"- {line}" for line in lines))
        parts += [f"{table.caption}\n\n{table.markdown()}" for table in comparison_tables(results, name)]
    return "\n\n".join(parts) + "\n"


def main_table(results: Results, dataset: str) -> Table:
    """A line a setting of a method: its size, and its metrics without and with the decoder side by side."""
    found = results.of(dataset)
    metrics = [name for name in results.metrics(dataset) if name != "top5"][:2]
    fidelity = list(dict.fromkeys(name for summary in found for name in summary.fidelity))
    decoders = [decoder for decoder in (False, True) if any(s.decoder == decoder for s in found)]
    head = ["Method", "Setting", "Size an image", "Raw pixels : size"]
    head += [f"{title(metric_name(m))}, {'with decoder' if d else 'without'}, %" for m in metrics for d in decoders]
    head += [title(name.replace("_", " ")) for name in fidelity]
    pairs: dict[tuple[str, str, float], dict[bool, Summary]] = {}
    for summary in found:
        pairs.setdefault((summary.method, summary.label, summary.setting), {})[summary.decoder] = summary
    rows = []
    for group in pairs.values():
        first = next(iter(group.values()))
        row = [(style_of(first.method).name, None), (first.label, None), *_size_cells(results, first)]
        row += [_spread_cell(group[d].metrics.get(m) if d in group else None) for m in metrics for d in decoders]
        rows.append([*row, *(_number_cell(first.fidelity.get(name)) for name in fidelity)])
    return Table("", head, rows, texts=2)


def point_table(results: Results, dataset: str) -> Table | None:
    """A line a point with all that is known of it."""
    found, metrics = results.of(dataset), results.metrics(dataset)
    fidelity = [key for key in legend.FIDELITY if any(key in summary.fidelity for summary in found)]
    head = ["Method", "Setting", "Decoder", "Size", "Raw : size", *(title(metric_name(m)) for m in metrics)]
    head += [*(title(legend.FIDELITY[key][0]) for key in fidelity), "Beside, once", "Seeds", "Verified"]
    rows = [
        [
            *_name_cells(s),
            *_size_cells(results, s),
            *(_spread_cell(s.metrics.get(metric)) for metric in metrics),
            *(_number_cell(s.fidelity.get(key)) for key in fidelity),
            (size_text(s.side_information), s.side_information),
            (str(len(s.seeds)), len(s.seeds)),
            ("yes" if s.exact else "no", None),
        ]
        for s in found
    ]
    return Table(f"{dataset}: {described(results, dataset)}", head, rows, texts=3) if rows else None


def class_table(results: Results, dataset: str) -> Table | None:
    """The share of each class that is recognised, or its intersection over union, at every point."""
    found = [summary for summary in results.of(dataset) if summary.confusion is not None]
    if not found:
        return None
    key = "iou" if results.task(dataset) == "segmentation" else "recall"
    shares = "share of each class that is recognised" if key == "recall" else "intersection over union of each class"
    rows = [
        [
            *_name_cells(s),
            (size_text(s.bytes_per_image), s.bytes_per_image),
            *((DASH, None) if v != v else (f"{100 * v:.1f}", float(v)) for v in per_class(s)[key]),
        ]
        for s in found
    ]
    head = ["Method", "Setting", "Decoder", "Size", *classes_of(results, dataset, len(found[0].confusion or []))]
    return Table(f"{dataset}: {shares}, in percent", head, rows, texts=3)


def comparison_tables(results: Results, dataset: str) -> list[Table]:
    """BD-rates of each metric, without and with the decoder: a column a method of ours."""
    groups: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    for item in results.bd_rate:
        if item["dataset"] == dataset:
            groups.setdefault((item["metric"], item["decoder"]), []).append(item)
    found = []
    for (metric, decoder), items in groups.items():
        cells = {(item["method"], item["reference"]): (_rate_text(item), item["rate"]) for item in items}
        references = list(dict.fromkeys(item["reference"] for item in items))
        head = ["Bytes at equal accuracy", *(f"against {style_of(name).name}" for name in references)]
        methods = [m for m in results.methods(dataset) if any(m == method for method, _ in cells)]
        rows: list[list[Cell]] = [
            [(style_of(m).name, None), *(cells.get((m, name), (DASH, None)) for name in references)] for m in methods
        ]
        which = "with decoder" if decoder else "without decoder"
        caption = f"{dataset}: BD-rate by {metric_name(metric)}, {which}. {_resampled_text(items)}"
        found.append(Table(caption, head, rows))
    return found


def classes_of(results: Results, dataset: str, count: int) -> list[str]:
    """Names of a dataset's classes."""
    return (results.datasets[dataset].get("class_names") or [f"class {i}" for i in range(count)])[:count]


def per_class(summary: Summary) -> dict[str, np.ndarray]:
    """Shares of each class from the confusion: recall, precision, iou; NaN where a class does not occur."""
    counts = np.asarray(summary.confusion, float)
    hits, truth, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return {"recall": hits / truth, "precision": hits / predicted, "iou": hits / (truth + predicted - hits)}


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
    return any(m in NEC and d for m, d in small) and any(m in RIVALS for m, _ in small)


def headline_tiles(results: Results, dataset: str) -> list[tuple[str, str]]:
    """The headline figures as (figure, meaning), each of the variant of NEC that does best, and a good small point.

    That is the smallest within two percentage points of NEC's best, with the decoder or without.
    """
    figures = headline(results)[dataset]
    metric = metric_name(figures["metric"])
    tiles = []
    saved = [item for item in figures["bytes_saved"] if item["saved"] is not None]
    if saved:
        item = max(saved, key=lambda entry: float(entry["saved"]))
        rival = f"{style_of(item['reference']['method']).name} {item['reference']['label']}"
        meaning = f"of the bytes saved by {_named(item)} at the {metric} of the best coded raw data ({rival})"
        tiles.append((f"{100 * item['saved']:.1f} %", meaning))
    lost = [item for item in figures["accuracy_lost"] if item["lost"] is not None]
    if lost:
        item = min(lost, key=lambda entry: float(entry["lost"]))
        sign = "lost" if item["lost"] >= 0 else "gained"
        meaning = f"points of {metric} {sign} by {_named(item)} at {COMPRESSION:.1%} compression of the raw pixels"
        tiles.append((f"{100 * abs(item['lost']):.2f}", meaning))
    points = [s for s in results.of(dataset) if s.method.startswith("nec-") and figures["metric"] in s.metrics]
    if points:
        best = max(s.metrics[figures["metric"]].mean for s in points)
        good = [s for s in points if s.metrics[figures["metric"]].mean >= best - 0.02]
        small = min(good, key=lambda s: (s.bytes_per_image, -s.metrics[figures["metric"]].mean))
        setting = f"{style_of(small.method).name} {small.label}, {'with' if small.decoder else 'without'} decoder"
        meaning = f"{metric} at {size_text(small.bytes_per_image)} an image ({setting})"
        tiles.append((f"{small.metrics[figures['metric']].mean:.1%}", meaning))
    return tiles


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


def _rate_text(item: dict[str, Any]) -> str:
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


def spread_text(point: Point | None) -> str:
    """Percent: mean ± sample standard deviation over the seeds, the mean alone for one seed."""
    if point is None:
        return DASH
    return f"{100 * point.mean:.2f}" + (f" ± {100 * point.std:.2f}" if point.count > 1 else "")


def _spread_cell(point: Point | None) -> Cell:
    return spread_text(point), None if point is None else point.mean


def _number_cell(value: float | None) -> Cell:
    return (DASH, None) if value is None or math.isnan(value) else (f"{value:.3f}", value)


def _name_cells(summary: Summary) -> list[Cell]:
    """Method, setting, decoder."""
    decoder = "with" if summary.decoder else "without"
    return [(style_of(summary.method).name, None), (summary.label, summary.setting), (decoder, None)]


def _size_cells(results: Results, summary: Summary) -> list[Cell]:
    """The size of an image, and how many times smaller than the raw pixels that is."""
    raw, size = results.datasets[summary.dataset].get("raw_pixel_bytes_per_image"), summary.bytes_per_image
    if not raw:
        return [(size_text(size), size), (DASH, None)]
    ratio = raw / size
    return [(size_text(size), size), (f"{ratio:,.0f}" if ratio >= 99.5 else f"{ratio:.1f}", ratio)]
