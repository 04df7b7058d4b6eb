"""The static figures: rate against accuracy with sizes at the points, and fidelity. Needs matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.bench import legend
from nec.bench.figures import INK, PAPER, Chart, figure
from nec.bench.html import size_text
from nec.bench.legend import metric_name, style_of
from nec.bench.results import Results
from nec.bench.tables import Summary, metrics_of, summaries

LABEL_SIZE = 7.5
# Places of a size's label around its point, in points: (dx, dy, horizontal, vertical alignment), the best first: curves
# rise to the right and error bars are upright, so the corners above left and below right are mostly free.
_PLACES = (
    (-4, 4, "right", "bottom"), (5, -4, "left", "top"), (7, 0, "left", "center"), (-7, 0, "right", "center"),
    (5, 4, "left", "bottom"), (-4, -4, "right", "top"), (5, -12, "left", "top"), (-4, 12, "right", "bottom"),
    (0, 10, "center", "bottom"), (0, -10, "center", "top"),
)  # fmt: skip


def draw_all(results: Results, out: Path) -> dict[str, list[tuple[Path, Chart]]]:
    """Draw every dataset's figures into the folder `out` -> {dataset: [(PNG path, chart), ...]}; an SVG lies beside."""
    drawn: dict[str, list[tuple[Path, Chart]]] = {}
    for name in results.datasets:
        found = summaries(results, name)
        charts = []
        if found:
            path = out / f"rate-accuracy-{name}.png"
            charts.append((path, rate_accuracy(path, results, name)))
        if any(summary.fidelity for summary in found):
            path = out / f"fidelity-{name}.png"
            charts.append((path, fidelity(path, found)))
        for path, chart in charts:
            path.with_suffix(".svg").write_text(_standalone(chart.svg), encoding="utf-8")
        drawn[name] = charts
    return drawn


def rate_accuracy(png: Path, results: Results, dataset: str) -> Chart:
    """Accuracy over the bytes of an image: a panel for classification; overall accuracy and mean IoU for segmentation.

    Solid lines have the decoder, dashed ones have not; bars are the standard deviation over seeds; references are
    horizontal. The size stands at each point of the upper of the two lines.
    """
    found = summaries(results, dataset)
    metrics = metrics_of(results, dataset)
    shown = metrics[:2] if results.task(dataset) == "segmentation" else metrics[:1]
    with figure(png, 8, 4.1 * len(shown) + 1.3, rows=len(shown)) as (whole, grid, chart):
        panels = list(grid) if len(shown) > 1 else [grid]
        for axes, metric in zip(panels, shown, strict=True):
            _curves(axes, found, metric)
            _references(axes, found, metric)
            axes.set(ylabel=f"{metric_name(metric)}, %")
            _byte_axis(axes, [s.bytes_per_image for s in found if not style_of(s.method).reference])
        panels[0].set_title(dataset, loc="left", fontsize=12)
        panels[-1].set_xlabel("size of an image")
        _legend(whole, found, columns=4)
        for axes, metric in zip(panels, shown, strict=True):
            _label_sizes(axes, [s for s in found if metric in s.metrics], metric)
    return chart


def fidelity(png: Path, found: Sequence[Summary]) -> Chart:
    """Relative error and neighbour recall of the decoded embeddings over bytes."""
    names = [name for name in legend.FIDELITY if any(name in summary.fidelity for summary in found)]
    curves = [s for s in found if s.fidelity and not style_of(s.method).reference]
    with figure(png, 5 * len(names), 3.9, columns=len(names)) as (whole, grid, chart):
        for axes, name in zip(list(grid) if len(names) > 1 else [grid], names, strict=True):
            for method in dict.fromkeys(summary.method for summary in curves):
                sizes = {s.label: (s.bytes_per_image, s.fidelity[name]) for s in curves if s.method == method}
                points = sorted(sizes.values())
                axes.plot(*zip(*points, strict=True), **_line(method, True))
            axes.set(xlabel="size of an image", ylabel=legend.FIDELITY[name][0])
            axes.set_ylim(bottom=0)
            _byte_axis(axes, [s.bytes_per_image for s in curves])
        _legend(whole, curves, columns=2 * len(names) + 1, lines=False)
    return chart


def colour_of(method: str) -> str:
    """The family's colour on a light page."""
    colour = style_of(method).light
    return INK if colour == legend.INK else colour


def _curves(axes: Any, found: Sequence[Summary], metric: str) -> None:
    curves = [s for s in found if metric in s.metrics and not style_of(s.method).reference]
    for method, decoder in dict.fromkeys((s.method, s.decoder) for s in curves):
        points = sorted(
            (s.bytes_per_image, s.metrics[metric]) for s in curves if (s.method, s.decoder) == (method, decoder)
        )
        sizes, means = [size for size, _ in points], [100 * point.mean for _, point in points]
        spread = [100 * point.std for _, point in points]
        axes.errorbar(sizes, means, yerr=spread, capsize=2.5, elinewidth=1, **_line(method, decoder))


def _line(method: str, decoder: bool) -> dict[str, Any]:
    colour = colour_of(method)
    return {
        "color": colour,
        "marker": style_of(method).marker,
        "linestyle": "-" if decoder else "--",
        "markerfacecolor": colour if decoder else PAPER,
        "linewidth": 1.6,
        "markersize": 6,
    }


def _references(axes: Any, found: Sequence[Summary], metric: str) -> None:
    """A horizontal line for the better of decoder on and off of each reference."""
    for method in _referred(found):
        heights = [s.metrics[metric].mean for s in found if s.method == method and metric in s.metrics]
        if heights:
            axes.axhline(100 * max(heights), **_reference_line(method))


def _referred(found: Sequence[Summary]) -> list[str]:
    return list(dict.fromkeys(s.method for s in found if style_of(s.method).reference))


def _reference_line(method: str) -> dict[str, Any]:
    dashes = dict(zip(legend.REFERENCES, (":", "-.", (0, (6, 2, 1, 2, 1, 2))), strict=True))
    return {"color": colour_of(method), "linewidth": 1.2, "linestyle": dashes[method], "zorder": 1}


def _byte_axis(axes: Any, sizes: Sequence[float]) -> None:
    """A logarithmic axis with ticks at powers of two, or four where many would stand close."""
    sizes = [size for size in sizes if size > 0] or [100.0, 1000.0]
    low, high = min(sizes) / 1.35, max(sizes) * 1.35
    axes.set_xscale("log", base=2)
    axes.set_xlim(low, high)
    powers = range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)
    step = 1 if len(powers) <= 9 else 2
    ticks = [2.0**power for power in powers if power % step == 0]
    axes.set_xticks(ticks, [tick_text(tick) for tick in ticks])
    axes.minorticks_off()


def tick_text(size: float) -> str:
    """A power of two as "512 B", "4 KiB"."""
    return f"{size:.0f} B" if size < 1024 else f"{size / 1024:.0f} KiB"


def _label_sizes(axes: Any, found: Sequence[Summary], metric: str) -> None:
    """Write the size at each setting's higher point, where a place around it is free of other labels and points."""
    tops: dict[tuple[str, str], Summary] = {}
    curves = [s for s in found if not style_of(s.method).reference]
    for summary in curves:
        key = summary.method, summary.label
        if key not in tops or summary.metrics[metric].mean > tops[key].metrics[metric].mean:
            tops[key] = summary
    axes.figure.canvas.draw()
    inside, taken = axes.get_window_extent(), [_box(axes, s, metric) for s in curves]
    curved = [_sampled(axes, line) for line in axes.get_lines() if len(line.get_xdata()) > 1]
    lines = np.concatenate([np.empty((0, 2)), *curved])  # a benchmark of single points has no curves
    for summary in tops.values():
        texts = [_size_label(axes, summary, metric, place) for place in _PLACES]
        boxes = [text.get_window_extent() for text in texts]
        costs = {
            i: int(((lines > box.min) & (lines < box.max)).all(axis=1).sum())
            for i, box in enumerate(boxes)
            if inside.x0 <= box.x0 and inside.y0 <= box.y0 and box.y1 <= inside.y1 and not box.count_overlaps(taken)
        }
        best = min(costs, key=lambda i: costs[i]) if costs else None
        for i, text in enumerate(texts):
            if i == best:
                taken.append(boxes[i])
            else:
                text.remove()


def _size_label(axes: Any, summary: Summary, metric: str, place: tuple[float, float, str, str]) -> Any:
    from matplotlib.patheffects import withStroke

    dx, dy, horizontal, vertical = place
    text = axes.annotate(
        size_text(summary.bytes_per_image), (summary.bytes_per_image, 100 * summary.metrics[metric].mean),
        xytext=(dx, dy), textcoords="offset points", ha=horizontal, va=vertical, fontsize=LABEL_SIZE,
        color=colour_of(summary.method), gid="size",
    )  # fmt: skip
    text.set_path_effects([withStroke(linewidth=2, foreground=PAPER)])
    return text


def _sampled(axes: Any, line: Any) -> NDArray[np.float64]:
    """Points (n, 2) a few pixels apart along a drawn line, in pixels of the figure."""
    corners = line.get_transform().transform(np.asarray(line.get_xydata(), float))
    steps = np.linspace(0, 1, 60)[:, None]
    return np.concatenate([a + (b - a) * steps for a, b in pairwise(corners)])


def _box(axes: Any, summary: Summary, metric: str, radius: float = 5) -> Any:
    """The marker's square in pixels of the figure."""
    from matplotlib.transforms import Bbox

    x, y = axes.transData.transform((summary.bytes_per_image, 100 * summary.metrics[metric].mean))
    return Bbox([[x - radius, y - radius], [x + radius, y + radius]])


def _legend(whole: Any, found: Sequence[Summary], columns: int, *, lines: bool = True) -> None:
    """Below the panels: methods, and with `lines` what solid, dashed and horizontal lines are."""
    from matplotlib.lines import Line2D

    methods = dict.fromkeys(s.method for s in found if not style_of(s.method).reference)
    handles = [Line2D([], [], label=style_of(method).name, **_line(method, True)) for method in methods]
    if lines and len({s.decoder for s in found}) > 1:
        handles += [
            Line2D([], [], color="#555555", linestyle="-", label="with decoder"),
            Line2D([], [], color="#555555", linestyle="--", label="without decoder"),
        ]
    for method in _referred(found) if lines else ():
        size = next(s.bytes_per_image for s in found if s.method == method)
        text = style_of(method).name + (f", {size_text(size)}" if size else "")
        handles.append(Line2D([], [], label=text, **_reference_line(method)))
    whole.legend(handles=handles, loc="outside lower center", ncols=min(columns, max(1, len(handles))), fontsize=9)


def _standalone(svg: str) -> str:
    """An SVG file of its own: dark text on white and no CSS variables, so that it reads in any viewer."""
    plain = svg.replace("currentColor", "#1d2430").replace("var(--page, #fff)", "#ffffff")
    return '<?xml version="1.0" encoding="utf-8"?>\n' + plain.replace("<svg ", '<svg style="background:#ffffff" ', 1)
