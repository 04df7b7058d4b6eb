"""The report's charts in Altair: interactive in the page, where they take its colours, and still as PNG and SVG files.

Every builder takes `page`: with it colours are the page's CSS variables (light, dark, print) and the chart has its
controls and fills its container; without it, colours are those of a light page and everything is shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nec.bench import legend
from nec.bench.legend import metric_name, size_text, style_of, title
from nec.bench.results import Results, Summary
from nec.bench.tables import spread_text
from nec.errors import missing_extra

try:
    import altair as alt
    import pandas as pd
except ImportError as error:
    missing_extra("altair", "bench", error)

WIDE = 640  # pixels from which a chart has room for labels of sizes and references
WIDTH, HEIGHT = 820, 420
DECODERS = {True: "with decoder", False: "without decoder"}
_BYTES = "datum.value < 1024 ? datum.value + ' B' : datum.value / 1024 + ' KiB'"
_INK = {"--ink": legend.INK, "--soft": "#5b6675", "--line": "#dfe3e8", "--page": "#ffffff", "--mark": "#0072b2"}


def still(results: Results, out: Path) -> list[Path]:
    """Write every dataset's figures into the folder `out`, PNG and SVG -> the paths."""
    written = []
    for name in results.datasets:
        charts = {"rate-accuracy": rate_accuracy(results, name), "fidelity": fidelity(results, name)}
        for kind, chart in charts.items():
            if chart is not None:
                for path in (out / f"{kind}-{name}.png", out / f"{kind}-{name}.svg"):
                    chart.save(path, **({"ppi": 150} if path.suffix == ".png" else {}))
                    written.append(path)
    return written


def rate_accuracy(results: Results, dataset: str, *, page: bool = False) -> Any:
    """Accuracy over the bytes of an image, or None without points.

    Solid lines and filled marks have the decoder, dashed and hollow ones have not; bars are the standard deviation over
    seeds; references are horizontal. In the page metric, decoder and methods are chosen; else there is a panel for
    accuracy, or two for segmentation.
    """
    found = results.of(dataset)
    metrics = results.metrics(dataset)
    rows = [row for name in metrics for row in _rows(found, name)]
    if not rows:
        return None
    titles = [title(metric_name(name)) for name in metrics]
    panel = partial(_rate_panel, pd.DataFrame(rows), _scales(found, page), page=page)
    if page:
        metric = alt.param("metric", value=titles[0], bind=alt.binding_radio(options=titles, name="Metric "))
        labels = ["both", "with (solid)", "without (dashed)"]
        choice = alt.binding_radio(options=["both", "with", "without"], labels=labels, name="Decoder ")
        decoder = alt.param("decoder", value="both", bind=choice)
        return dressed(panel().add_params(metric, decoder), page)
    shown = titles[:2] if results.task(dataset) == "segmentation" else titles[:1]
    return dressed(alt.vconcat(*(panel(metric=name) for name in shown), title=dataset), page)


def fidelity(results: Results, dataset: str, *, page: bool = False, name: str | None = None) -> Any:
    """Relative error and neighbour recall of the decoded embeddings over bytes, or `name` alone; None without any."""
    found = [s for s in results.of(dataset) if s.fidelity and not style_of(s.method).reference]
    once = list({(s.method, s.label): s for s in found}.values())
    panels = []
    for key in [name] if name else legend.FIDELITY:
        rows = [
            {**_facts(s), "value": s.fidelity[key], "tip": f"{_named(s)}\n{s.fidelity[key]:.3f}"}
            for s in once
            if key in s.fidelity
        ]
        if rows:
            base = _base(pd.DataFrame(rows), _scales(once, page), legend.FIDELITY[key][0], page, zero=True)
            scales = _scales(once, page)
            marks = base.mark_point(size=85, opacity=1).encode(**_symbols(scales, page))
            layers = [base.mark_line(strokeWidth=2), marks]
            panels.append(_sized(alt.layer(*layers), page, 260 if page else 300, 380))
    if not panels:
        return None
    return dressed(panels[0] if page else alt.hconcat(*panels, title=dataset), page)


def confusion(found: Sequence[Summary], classes: Sequence[str]) -> Any:
    """What each class is taken for, in percent of the true class; the point is chosen in the page."""
    names = [f"{_named(s)}, {size_text(s.bytes_per_image)}, {DECODERS[s.decoder]}" for s in found]
    frame = pd.DataFrame({"point": names, "n": [[n for row in s.confusion or [] for n in row] for s in found]})
    chosen = alt.param("point", value=names[0], bind=alt.binding_select(options=names, name="Point "))
    at = f"{list(classes)!r}[floor((datum.i - 1) {{}} {len(classes)})]"
    base = (
        alt.Chart(frame)
        .transform_filter("datum.point == point")
        .transform_flatten(["n"])
        .transform_window(i="row_number()")
        .transform_calculate(truth=at.format("/"), predicted=at.replace("floor", "").format("%"))
        .transform_joinaggregate(total="sum(n)", groupby=["truth"])
        .transform_calculate(
            share="datum.total ? 100 * datum.n / datum.total : 0",
            tip="datum.n + ' of ' + datum.truth + ' taken for ' + datum.predicted",
        )
        .encode(
            x=alt.X("predicted:N", sort=list(classes), title="predicted class", axis=alt.Axis(labelAngle=-40)),
            y=alt.Y("truth:N", sort=list(classes), title="true class"),
            tooltip="tip:N",
        )
    )
    right = alt.datum.truth == alt.datum.predicted
    squares = base.mark_rect(stroke="var(--page)").encode(
        color=alt.when(right).then(alt.value("#56b4e9")).otherwise(alt.value("#e69f00")),
        fillOpacity=alt.FillOpacity("share:Q", legend=None, scale=alt.Scale(type="sqrt", domain=[0, 100])),
    )
    texts = base.transform_filter("datum.share >= 0.05").mark_text(
        fontSize={"expr": "width / domain('x').length < 30 ? 8 : 11"}
    )
    texts = texts.encode(text=alt.Text("share:Q", format=".1f"))
    height = max(180, min(34 * len(classes), 640))
    return dressed(_sized(alt.layer(squares, texts), True, height, WIDTH).add_params(chosen), True)


# -- panels -----------------------------------------------------------------------------------------------------------


def _rate_panel(frame: pd.DataFrame, scales: dict[str, Any], page: bool, metric: str | None = None) -> Any:
    wide = f"width >= {WIDE}" if page else "true"
    if metric is not None:
        frame = frame[frame.metric == metric]
    base = _base(frame, scales, "percent" if page else f"{metric}, %", page, zero=False)
    if page:
        base = base.transform_filter("datum.metric == metric")
        base = base.transform_filter("decoder == 'both' || datum.decoder == decoder + ' decoder'")
        chosen = alt.selection_point(name="chosen", fields=["method"], bind="legend")
        base = base.transform_filter(chosen)
    curves = base.transform_filter("!datum.reference")
    dash = alt.StrokeDash(
        "decoder:N",
        scale=alt.Scale(domain=list(DECODERS.values()), range=[[1, 0], [6, 4]]),
        legend=None if page else alt.Legend(title=None, orient="bottom", symbolType="stroke", symbolSize=400),
    )
    lines = curves.mark_line(strokeWidth=2).encode(strokeDash=dash)
    bars = curves.transform_filter("datum.high > datum.low").mark_rule().encode(y="low:Q", y2="high:Q")
    symbols = _symbols(scales, page)
    hollow = alt.when(alt.datum.decoder == DECODERS[False]).then(alt.value(_ink("--page", page)))
    symbols["fill"] = hollow.otherwise(symbols["fill"])
    marks = curves.mark_point(size=85, opacity=1).encode(**symbols)
    marks = marks.add_params(chosen) if page else marks
    shown = "datum.reference && (decoder == 'both' ? datum.best : true)" if page else "datum.reference && datum.best"
    references = base.transform_filter(shown)
    rules = references.mark_rule(strokeDash=[2, 4], strokeWidth=1.5).encode(x=alt.value(0), x2=alt.value("width"))
    names = references.mark_text(align="left", dx=6, fontSize=11).encode(
        x=alt.value("width"), y="at:Q", text=alt.Text("name:N")
    )
    names = names.transform_calculate(name=f"{wide} ? datum.method + ' ' + format(datum.value, '.1f') : ''")
    sizes = [
        curves.transform_filter(f"datum.place == '{place}' && {wide}")
        .mark_text(align=align, dx=dx, dy=dy, fontSize=11)
        .encode(text="size:N")
        for place, align, dx, dy in (("above", "right", -6, -9), ("below", "left", 6, 12))
    ]
    return _sized(alt.layer(rules, lines, bars, marks, names, *sizes), page, HEIGHT if page else 380, WIDTH)


def _base(frame: pd.DataFrame, scales: dict[str, Any], label: str, page: bool, *, zero: bool) -> Any:
    ticks = [2**i for i in range(math.floor(math.log2(scales["low"])), math.ceil(math.log2(scales["high"])) + 1)]
    base = alt.Chart(frame).encode(
        x=alt.X(
            "bytes:Q",
            title="size of an image (logarithmic)",
            scale=alt.Scale(type="log", base=2, domain=[scales["low"], scales["high"]], nice=False),
            axis=alt.Axis(values=ticks, labelExpr=_BYTES, labelOverlap=True, labelSeparation=8),
        ),
        y=alt.Y("value:Q", title=label, scale=alt.Scale(zero=zero, padding=0 if zero else 12)),
        color=alt.Color("method:N", scale=scales["colour"], legend=_key(page)),
        tooltip="tip:N",
        description="tip:N",
    )
    return base


def _symbols(scales: dict[str, Any], page: bool) -> dict[str, Any]:
    """Channels of filled symbols."""
    shape = alt.Shape("method:N", scale=scales["shape"], legend=_key(page))
    return {"shape": shape, "fill": alt.Fill("method:N", scale=scales["colour"], legend=None)}


def _key(page: bool) -> Any:
    columns = {"expr": f"width < {WIDE} ? 1 : 4"} if page else 4
    return alt.Legend(title=None, orient="bottom", columns=columns, labelLimit=300)


def _scales(found: Sequence[Summary], page: bool) -> dict[str, Any]:
    """Colours and symbols of the methods, and the sizes that the axis goes over."""
    methods = {method: style_of(method) for method in dict.fromkeys(summary.method for summary in found)}
    names = [style.name for style in methods.values()]
    colours = [f"var(--m-{method})" if page else style.light for method, style in methods.items()]
    sizes = [s.bytes_per_image for s in found if not style_of(s.method).reference and s.bytes_per_image > 0]
    return {
        "colour": alt.Scale(domain=names, range=colours),
        "shape": alt.Scale(domain=names, range=[style.shape for style in methods.values()]),
        "low": min(sizes or [100.0]) / 1.3,
        "high": max(sizes or [1000.0]) * 1.3,
    }


# -- data -------------------------------------------------------------------------------------------------------------


def _facts(summary: Summary) -> dict[str, Any]:
    style = style_of(summary.method)
    return {"method": style.name, "reference": style.reference, "bytes": summary.bytes_per_image}


def _named(summary: Summary) -> str:
    return f"{style_of(summary.method).name}, {summary.label}"


def _rows(found: Sequence[Summary], metric: str) -> list[dict[str, Any]]:
    """A row a point: its value in percent, what hovering tells, and where its size may be written."""
    summaries = [s for s in found if metric in s.metrics]
    places = _places([s for s in summaries if not style_of(s.method).reference], metric)
    best = {method: max((s for s in summaries if s.method == method), key=lambda s: s.metrics[metric].mean)
            for method in {s.method for s in summaries}}  # fmt: skip
    rows = []
    for s in summaries:
        point = s.metrics[metric]
        seeds = "; ".join(f"{n}: {100 * value:.2f}" for n, value in zip(s.seeds, s.values[metric], strict=False))
        others = [f"{title(metric_name(name))} {spread_text(p)} %" for name, p in s.metrics.items()]
        tip = [_named(s), DECODERS[s.decoder], f"{size_text(s.bytes_per_image)} an image", *others, f"seeds {seeds}"]
        tip += [f"{title(legend.FIDELITY[key][0])} {value:.3f}" for key, value in s.fidelity.items()]
        rows.append({
            **_facts(s), "decoder": DECODERS[s.decoder], "metric": title(metric_name(metric)), "label": s.label,
            "value": 100 * point.mean, "low": 100 * (point.mean - point.std), "high": 100 * (point.mean + point.std),
            "size": size_text(s.bytes_per_image), "place": places.get(id(s), ""), "best": best[s.method] is s,
            "tip": "\n".join(tip), "at": 100 * point.mean,
        })  # fmt: skip
    return _spread_labels(rows)


def _spread_labels(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Heights of the references' names, so far apart that they can be read."""
    span = max(row["high"] for row in rows) - min(row["low"] for row in rows) if rows else 0
    free = math.inf
    for row in sorted((row for row in rows if row["reference"] and row["best"]), key=lambda row: -row["value"]):
        row["at"] = free = min(row["value"], free - 0.036 * span)
    return rows


def _places(curves: Sequence[Summary], metric: str) -> dict[int, str]:
    """Where the size of a setting's higher point stands, by `id`: above left or below right, where it is free."""
    tops: dict[tuple[str, str], Summary] = {}
    for s in curves:
        key = s.method, s.label
        if key not in tops or s.metrics[metric].mean > tops[key].metrics[metric].mean:
            tops[key] = s
    if not tops:
        return {}
    xs, ys = [math.log2(max(s.bytes_per_image, 1)) for s in curves], [s.metrics[metric].mean for s in curves]
    wide, high = 640 / max(max(xs) - min(xs), 1e-9), 330 / max(max(ys) - min(ys), 1e-9)  # pixels a unit, roughly

    def pixel(s: Summary) -> tuple[float, float]:
        return wide * math.log2(max(s.bytes_per_image, 1)), high * s.metrics[metric].mean

    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in map(pixel, curves)]
    found = {}
    for s in tops.values():
        (x, y), length = pixel(s), 6.5 * len(size_text(s.bytes_per_image))
        boxes = {"above": (x - 6 - length, y + 4, x - 6, y + 16), "below": (x + 6, y - 18, x + 6 + length, y - 6)}
        for place, box in boxes.items():
            if not any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken):
                found[id(s)] = place
                taken.append(box)
                break
    return found


# -- looks ------------------------------------------------------------------------------------------------------------


def _ink(name: str, page: bool) -> str:
    return f"var({name})" if page else _INK[name]


def _sized(chart: Any, page: bool, height: int, width: int) -> Any:
    return chart.properties(width="container" if page else width, height=height)


def dressed(chart: Any, page: bool) -> Any:
    """The chart in the page's colours or on white."""
    ink, soft, line = (_ink(name, page) for name in ("--ink", "--soft", "--line"))
    fonts: dict[str, Any] = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    fonts |= {"labelColor": ink, "titleColor": soft}
    return (
        chart.configure(background="transparent" if page else "white", font="system-ui, sans-serif")
        .configure_axis(gridColor=line, domainColor=soft, tickColor=line, **fonts)
        .configure_legend(**fonts)
        .configure_title(color=ink, anchor="start", fontSize=14)
        .configure_text(color=ink)
        .configure_view(stroke=None)
    )
