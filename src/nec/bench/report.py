"""What is made of a benchmark's results: figures, tables, and one self-contained interactive page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from nec.bench import gallery, legend, plots, tables
from nec.bench.figures import Chart, data_uri
from nec.bench.gallery import Panel
from nec.bench.html import Page, resource, size_text
from nec.bench.legend import metric_name, style_of
from nec.bench.results import Results, headline
from nec.bench.tables import Summary, title

TITLE = "Rate and accuracy of compressed embeddings"


def write_report(results: Results, out: Path) -> list[Path]:
    """Write figures (PNG and SVG), `tables.md`, segmentation panels and `report.html` into the folder `out`.

    Panels come from the class maps that the runner left in `out/panels`; without them there are none.

    Returns:
        The paths written, `report.html` last.

    Raises:
        MissingExtraError: matplotlib is missing.
        CorruptError: a file of class maps is damaged.
    """
    out = Path(out)
    found = {name: tables.summaries(results, name) for name in results.datasets}
    chosen = {name: gallery.choose(gallery.load_panels(found[name], out)) for name in found}
    out.mkdir(parents=True, exist_ok=True)
    charts = plots.draw_all(results, out)
    written = [path for drawn in charts.values() for png, _ in drawn for path in (png, png.with_suffix(".svg"))]
    for name, some in chosen.items():
        if some:
            written.append(gallery.draw(out / f"panels-{name}.png", some, gallery.class_colours(results, name)))
    written.append(tables.write_tables(results, out / "tables.md"))
    page = build(results, found, chosen, {name: [c for _, c in drawn] for name, drawn in charts.items()})
    written.append(tables.write_text(out / "report.html", page))
    return written


def build(
    results: Results,
    found: dict[str, list[Summary]],
    chosen: dict[str, list[Panel]],
    charts: dict[str, list[Chart]],
) -> str:
    """The whole page as HTML."""
    lead = "Real stored bytes of the test images, and what small heads make of the decoded images or embeddings."
    style = _colours(results) + resource("report.css", "nec.bench")
    page = Page(TITLE, lead, style=style, script=resource("report.js", "nec.bench"))
    for name in results.datasets:
        tiles = [*tables.headline_tiles(results, name), *_best_tile(found[name], results, name)]
        if tiles:
            page.html(f'<h2 class="dataset">{escape(name)}</h2>')
            page.tiles(tiles)
    _curves(page, charts)
    _tables(page, results, found)
    _comparisons(page, results)
    _classes(page, results, found)
    _segmentation(page, results, chosen)
    _setup(page, results)
    _words(page, results)
    page.data("results", {**asdict(results), "headline": headline(results)})  # what results.json holds
    page.data("view", view(results, found))
    return page.render()


def view(results: Results, found: dict[str, list[Summary]]) -> dict[str, Any]:
    """What the page's script draws: datasets, how methods look, and the points averaged over seeds."""
    methods = dict.fromkeys(row.method for row in results.rows)
    return {
        "datasets": {
            name: {
                "task": results.task(name),
                "raw": results.datasets[name].get("raw_pixel_bytes_per_image"),
                "classes": results.datasets[name].get("class_names") or [],
                "metrics": [[m, title(metric_name(m))] for m in tables.metrics_of(results, name)],
                "fidelity": [
                    [key, title(text)]
                    for key, (text, _) in legend.FIDELITY.items()
                    if any(key in summary.fidelity for summary in found[name])
                ],
            }
            for name in results.datasets
        },
        "methods": {
            method: {"name": (style := style_of(method)).name, "marker": style.marker, "reference": style.reference}
            for method in methods
        },
        "points": [summary.to_dict() for some in found.values() for summary in some],
    }


def _colours(results: Results) -> str:
    """CSS variables with the colours of the methods, light and dark."""
    methods = dict.fromkeys(row.method for row in results.rows)

    def variables(which: str) -> str:
        pairs = [(method, getattr(style_of(method), which)) for method in methods]
        return "".join(f"--m-{m}:{'var(--ink)' if c == legend.INK else c};" for m, c in pairs)

    dark = "@media (prefers-color-scheme: dark) { @media not print { :root {" + variables("dark") + "} } }"
    return ":root {" + variables("light") + "}\n" + dark + "\n"


def _best_tile(found: Sequence[Summary], results: Results, name: str) -> list[tuple[str, str]]:
    """The smallest NEC point with the decoder that is within two points of its best."""
    metric = tables.metrics_of(results, name)[:1]
    points = [s for s in found if s.method.startswith("nec-") and metric and metric[0] in s.metrics]
    points = [s for s in points if s.decoder] or points
    if not points:
        return []
    best = max(s.metrics[metric[0]].mean for s in points)
    small = min((s for s in points if s.metrics[metric[0]].mean >= best - 0.02), key=lambda s: s.bytes_per_image)
    mean = small.metrics[metric[0]].mean
    setting = f"{style_of(small.method).name} {small.label}, {'with' if small.decoder else 'without'} decoder"
    return [(f"{mean:.1%}", f"{metric_name(metric[0])} at {size_text(small.bytes_per_image)} an image ({setting})")]


def _curves(page: Page, charts: dict[str, list[Chart]]) -> None:
    page.heading("Accuracy against size", "curves")
    page.text(
        "Each point is one setting of a method: its size is that of the coded test images divided by their number. "
        "Solid lines have the model's first decoder stage before the head, dashed ones have not. Bars are one standard "
        "deviation over the seeds of the heads. Horizontal lines are references that are not coded for a rate."
    )
    still = "".join(f"<figure>{chart.svg}</figure>" for drawn in charts.values() for chart in drawn)
    page.html(
        '<div id="controls" class="controls" role="group" aria-label="What the charts show"></div>'
        '<figure id="chart" class="plot"></figure>'
        '<div id="methods" class="methods" role="group" aria-label="Methods"></div>'
        '<p class="soft hint">Point at a mark, or focus a chart and use the arrow keys, to read its figures.</p>'
        f"<noscript>{still}</noscript>"
    )
    page.heading("Fidelity of the embeddings", "fidelity")
    texts = [f"{title(name)}: {about}." for name, about in legend.FIDELITY.values()]
    page.text(
        " ".join(texts) + " Both compare with the unadapted model's float embeddings or, for NEC, the adapted model's."
    )
    page.html(
        '<div id="fidelities" class="row"></div><div id="tip" class="tip" role="status" aria-live="polite"></div>'
    )


def _tables(page: Page, results: Results, found: dict[str, list[Summary]]) -> None:
    page.heading("Every point", "points")
    page.text("Mean ± sample standard deviation over the seeds, in percent. Press a column's title to sort by it.")
    for name, some in found.items():
        if some:
            page.html(_point_table(results, name, some))
            lines = tables.headline_lines(results, name)
            page.html("<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>" if lines else "")


def _comparisons(page: Page, results: Results) -> None:
    tabled = [table for name in results.datasets for table in tables.comparison_tables(results, name)]
    if not tabled:
        return
    page.heading("Bytes at equal accuracy", "bdrate")
    page.text(
        "How many more (+) or fewer (−) bytes the method of a line needs than the method of a column where both reach "
        "the same accuracy, averaged over the accuracies that both reach (Bjøntegaard's delta rate). Curves go through "
        "the points that are better than every smaller one."
    )
    for caption, head, rows in tabled:
        cells = [[(cell, None) for cell in row] for row in rows]
        page.html(sortable(caption, head, cells, text_columns=1))


def _point_table(results: Results, name: str, found: Sequence[Summary]) -> str:
    metrics, raw = tables.metrics_of(results, name), results.datasets[name].get("raw_pixel_bytes_per_image")
    fidelity = [key for key in legend.FIDELITY if any(key in summary.fidelity for summary in found)]
    head = ["Method", "Setting", "Decoder", "Size", "Raw : size", *(title(metric_name(m)) for m in metrics)]
    head += [*(title(legend.FIDELITY[key][0]) for key in fidelity), "Beside, once", "Seeds", "Verified"]
    rows = []
    for s in found:
        cells: list[tuple[str, Any]] = [(style_of(s.method).name, None), (s.label, s.setting)]
        cells += [("with" if s.decoder else "without", None), (size_text(s.bytes_per_image), s.bytes_per_image)]
        cells.append((tables.ratio_text(raw, s.bytes_per_image), raw / s.bytes_per_image if raw else None))
        for metric in metrics:
            point = s.metrics.get(metric)
            cells.append((tables.spread_text(point), point.mean if point else None))
        cells += [(tables.number_text(s.fidelity.get(key)), s.fidelity.get(key)) for key in fidelity]
        cells.append((size_text(s.side_information), s.side_information))
        cells += [(str(len(s.seeds)), len(s.seeds)), ("yes" if s.exact else "no", None)]
        rows.append(cells)
    return sortable(f"{name}: {tables.described(results, name)}", head, rows, text_columns=3)


def _classes(page: Page, results: Results, found: dict[str, list[Summary]]) -> None:
    tabled = {name: [s for s in some if s.confusion is not None] for name, some in found.items()}
    if not any(tabled.values()):
        return
    page.heading("Classes", "classes")
    page.text(
        "What each class is taken for: rows are the true class, columns the predicted one, summed over the seeds."
    )
    page.html(
        '<div id="picker" class="controls" role="group" aria-label="Which point"></div><div id="confusion"></div>'
    )
    for name, some in tabled.items():
        if some:
            page.html(_class_table(results, name, some))


def _class_table(results: Results, name: str, found: Sequence[Summary]) -> str:
    key, text = ("iou", "intersection over union") if results.task(name) == "segmentation" else ("recall", "recognised")
    count = len(found[0].confusion or [])
    names = (results.datasets[name].get("class_names") or [f"class {i}" for i in range(count)])[:count]
    rows = []
    for s in found:
        shares = tables.per_class(s)[key]
        cells: list[tuple[str, Any]] = [(style_of(s.method).name, None), (s.label, s.setting)]
        cells += [("with" if s.decoder else "without", None), (size_text(s.bytes_per_image), s.bytes_per_image)]
        cells += [(tables.DASH, None) if v != v else (f"{100 * v:.1f}", float(v)) for v in shares]
        rows.append(cells)
    caption = (
        f"{name}: share of each class that is {text}, in percent"
        if key == "recall"
        else f"{name}: {text} of each class, in percent"
    )
    table = sortable(caption, ["Method", "Setting", "Decoder", "Size", *names], rows, text_columns=3)
    return f"<details><summary>Every class at every point: {escape(name)}</summary>{table}</details>"


def sortable(caption: str, head: Sequence[str], rows: Sequence[Sequence[tuple[str, Any]]], text_columns: int) -> str:
    """A table whose columns the page's script sorts: cells are (text, number to sort by or None)."""
    titles = "".join(
        f'<th scope="col"{" class=text" if i < text_columns else ""}><button type="button">{escape(cell)}</button></th>'
        for i, cell in enumerate(head)
    )
    body = ""
    for row in rows:
        cells = "".join(
            f"<td{' class=text' if i < text_columns else ''}"
            + (f' data-v="{value!r}"' if value is not None else "")
            + f">{escape(text)}</td>"
            for i, (text, value) in enumerate(row)
        )
        body += f"<tr>{cells}</tr>"
    return (
        f'<div class="scroll" tabindex="0"><table class="sortable"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _segmentation(page: Page, results: Results, chosen: dict[str, list[Panel]]) -> None:
    for name, some in chosen.items():
        if not some:
            continue
        colours = gallery.class_colours(results, name)
        page.heading(f"Segmentation of {name}", f"panels-{name}")
        page.text(
            "Test images, their ground truth, and the classes predicted by a few methods at the sizes nearest to "
            "NEC's. Pixels without a label are striped in the ground truth; they count nowhere."
        )
        columns = gallery.pictures(some, colours)
        heads = "".join(f'<th scope="col">{escape(text).replace(chr(10), "<br>")}</th>' for text, _ in columns)
        body = ""
        for i in range(len(columns[0][1])):
            cells = (f'<td><img src="{data_uri(p[i])}" alt="{escape(t.split(chr(10))[0])}"></td>' for t, p in columns)
            body += f"<tr>{''.join(cells)}</tr>"
        page.html(
            f'<div class="scroll" tabindex="0"><table class="panels"><thead><tr>{heads}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )
        ignored = any((panel.truth == gallery.IGNORE).any() for panel in some)
        page.key([*colours, *([("not labelled", gallery.STRIPES)] if ignored else [])])


def _setup(page: Page, results: Results) -> None:
    page.heading("Recipe and environment", "recipe")
    facts = "".join(
        f"<tr><td>{escape(k)}</td><td>{escape(_plain(v))}</td></tr>" for k, v in results.environment.items()
    )
    page.html(f'<table class="facts"><caption>Environment</caption><tbody>{facts}</tbody></table>')
    recipe = escape(json.dumps(results.recipe, indent=2, ensure_ascii=False))
    page.html(f"<details open><summary>Recipe</summary><pre>{recipe}</pre></details>")
    page.html('<p><button type="button" id="save">Save results.json</button></p>')


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return ", ".join(map(_plain, value)) if isinstance(value, list) else str(value)


def _words(page: Page, results: Results) -> None:
    page.heading("Words", "words")
    methods = dict.fromkeys(row.method for row in results.rows)
    metrics = dict.fromkeys(metric for row in results.rows for metric in row.metrics)
    entries = [(style_of(m).name, style_of(m).about) for m in methods if style_of(m).about]
    entries += [legend.METRICS[m] for m in metrics if m in legend.METRICS]
    entries += [*legend.FIDELITY.values(), *legend.WORDS.items()]
    page.html("<dl>" + "".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>" for a, b in entries) + "</dl>")
