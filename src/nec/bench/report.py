"""What is made of a benchmark's results: figures, tables, and one self-contained interactive page."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nec.bench import charts, legend, panels, tables
from nec.bench.legend import style_of, title
from nec.bench.results import Results
from nec.errors import missing_extra
from nec.files import write_bytes

if TYPE_CHECKING:
    from markupsafe import Markup

TITLE = "Rate and accuracy of compressed embeddings"
LEAD = "Real stored bytes of the test images, and what small heads make of the decoded images or embeddings."


def write_report(results: Results, out: Path) -> list[Path]:
    """Write figures (PNG and SVG), `tables.md`, segmentation panels and `report.html` into the folder `out`.

    Panels come from the class maps that the runner left in `out/panels`; without them there are none.

    Returns:
        The paths written, `report.html` last.

    Raises:
        MissingExtraError: a package of `[bench]` is missing.
        CorruptError: a file of class maps is damaged.
    """
    out = Path(out)
    chosen = {name: panels.choose(panels.load_panels(results.of(name), out)) for name in results.datasets}
    out.mkdir(parents=True, exist_ok=True)
    written = charts.still(results, out)
    documents = {f"panels-{name}.png": panels.sheet(some, panels.class_colours(results, name))
                 for name, some in chosen.items() if some}  # fmt: skip
    documents["tables.md"] = tables.markdown(results).encode()
    documents["report.html"] = build(results, chosen).encode()
    for name, content in documents.items():
        write_bytes(out / name, content)
    return [*written, *(out / name for name in documents)]


def build(results: Results, chosen: dict[str, list[panels.Panel]]) -> str:
    """The whole page as HTML."""
    metrics = dict.fromkeys(metric for row in results.rows for metric in row.metrics)
    styles = [style_of(method) for method in dict.fromkeys(row.method for row in results.rows)]
    words = [(style.name, style.about) for style in styles if style.about]
    words += [legend.METRICS[metric] for metric in metrics if metric in legend.METRICS]
    return render(
        "report.html",
        TITLE,
        LEAD,
        colours=_colours(results),
        datasets=[_dataset(results, name, some) for name, some in chosen.items()],
        fidelity_words=list(legend.FIDELITY.values()),
        environment={name: _plain(value) for name, value in results.environment.items()},
        recipe=json.dumps(results.recipe, indent=2, ensure_ascii=False),
        words=[*words, *legend.FIDELITY.values(), *legend.WORDS.items()],
        results=script_json(results.to_dict()),
    )


def render(template: str, heading: str, lead: str, colours: Markup | str = "", **values: Any) -> str:
    """A page of `nec.bench.page`: one HTML file with its style, scripts and data inside, light and dark.

    Args:
        colours: CSS of the page's own, marked safe.
        values: what the template reads; text is escaped, charts go in as `spec` gives them.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        missing_extra("jinja2", "bench", error)
    pages = Environment(loader=PackageLoader("nec.bench", "page"), autoescape=True, undefined=StrictUndefined)
    pages.filters["capital"] = title
    style, script = (
        Markup((files("nec.bench") / "page" / name).read_text("utf-8")) for name in ("style.css", "page.js")
    )
    shared = {"title": heading, "lead": lead, "style": style, "script": script, "bundle": _bundle(), "colours": colours}
    return pages.get_template(template).render(**shared, **values)


def spec(chart: Any) -> Markup | None:
    """A chart as a page holds it."""
    return None if chart is None else script_json(chart.to_dict())


def script_json(document: Any) -> Markup:
    """JSON for a <script> element; NaN and infinities are refused."""
    from markupsafe import Markup

    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # Inside <script> only "</script" and "<!--" could end or change the text: JSON may write < as an escape.
    return Markup(text.replace("<", "\\u003c"))


@cache
def _bundle() -> Markup:
    """Vega, Vega-Lite and vega-embed as one script (0.9 MB), so that a page needs no network."""
    try:
        from markupsafe import Markup
        from vl_convert import javascript_bundle
    except ImportError as error:
        missing_extra("vl-convert-python", "bench", error)
    return Markup(javascript_bundle().replace("</script", "<\\/script").replace("<!--", "<\\!--"))  # type: ignore[call-arg]


def _dataset(results: Results, name: str, chosen: list[panels.Panel]) -> dict[str, Any]:
    """What the template shows of a dataset."""
    found = [summary for summary in results.of(name) if summary.confusion is not None]
    classes = tables.classes_of(results, name, len(found[0].confusion or [])) if found else []
    fidelity = [
        (words[0], spec(charts.fidelity(results, name, page=True, name=key))) for key, words in legend.FIDELITY.items()
    ]
    return {
        "name": name,
        "tiles": tables.headline_tiles(results, name),
        "curves": spec(charts.rate_accuracy(results, name, page=True)),
        "fidelity": [item for item in fidelity if item[1] is not None],
        "points": tables.point_table(results, name),
        "lines": tables.headline_lines(results, name),
        "comparisons": tables.comparison_tables(results, name),
        "confusion": spec(charts.confusion(found, classes)) if found else None,
        "classes": tables.class_table(results, name),
        "panels": _panels(results, name, chosen) if chosen else None,
    }


def _panels(results: Results, name: str, chosen: list[panels.Panel]) -> dict[str, Any]:
    """Heads, rows of (picture, what it shows) and the colours' key."""
    colours = panels.class_colours(results, name)
    columns = panels.pictures(chosen, colours)
    heads = [text.replace("\n", ", ") for text, _ in columns]
    rows = [
        [
            (panels.data_uri(images[i]), f"Test image {i + 1}: {text}")
            for text, (_, images) in zip(heads, columns, strict=True)
        ]
        for i in range(len(columns[0][1]))
    ]
    ignored = [("not labelled", panels.STRIPES)] if panels.has_ignored(chosen) else []
    return {"heads": heads, "rows": rows, "key": [*colours, *ignored]}


def _colours(results: Results) -> Markup:
    """CSS variables with the colours of the methods, light and dark."""
    from markupsafe import Markup

    methods = {method: style_of(method) for method in dict.fromkeys(row.method for row in results.rows)}

    def variables(which: str) -> str:
        found = {method: getattr(style, which) for method, style in methods.items()}
        pairs = "".join(f"--m-{m}:{'var(--ink)' if c == legend.INK else c};" for m, c in found.items())
        return f":root {{{pairs}}}"

    return Markup(f"{variables('light')}\n@media screen and (prefers-color-scheme: dark) {{ {variables('dark')} }}\n")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return ", ".join(map(_plain, value)) if isinstance(value, list) else str(value)
