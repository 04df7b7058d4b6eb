"""What is made of a benchmark's results: figures, tables, and one self-contained interactive page."""

from __future__ import annotations

import base64
import io
import json
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nec.bench import charts, legend, tables
from nec.bench.legend import size_text, style_of, title
from nec.bench.methods.images import pillow
from nec.bench.results import NEC, Results, Summary
from nec.errors import CorruptError, missing_extra
from nec.files import write_bytes
from nec.labels import IGNORE

if TYPE_CHECKING:
    from markupsafe import Markup

TITLE = "Rate and accuracy of compressed embeddings"
LEAD = "Real stored bytes of the test images, and what small heads make of the decoded images or embeddings."
MOST_IMAGES, MOST_PREDICTIONS, MOST_PIXELS = 4, 6, 320
STRIPES = "repeating-linear-gradient(135deg,#969696 0 3px,#cdcdcd 3px 6px)"  # what `paint` makes of ignored pixels
# Paul Tol's "muted" for the ten land-use classes of EuroSAT in their order, in colours that suggest them.
CLASS_COLOURS = (
    "#DDCC77", "#117733", "#999933", "#BBBBBB", "#AA4499", "#44AA99", "#CC6677", "#882255", "#88CCEE", "#332288",
)  # fmt: skip


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
    chosen = {name: choose(load_panels(results.of(name), out)) for name in results.datasets}
    out.mkdir(parents=True, exist_ok=True)
    written = charts.still(results, out)
    documents = {f"panels-{name}.png": sheet(some, class_colours(results, name))
                 for name, some in chosen.items() if some}  # fmt: skip
    documents["tables.md"] = tables.markdown(results).encode()
    documents["report.html"] = build(results, chosen).encode()
    for name, content in documents.items():
        write_bytes(out / name, content)
    return [*written, *(out / name for name in documents)]


def build(results: Results, chosen: dict[str, list[Panel]]) -> str:
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


def _dataset(results: Results, name: str, chosen: list[Panel]) -> dict[str, Any]:
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


def _panels(results: Results, name: str, chosen: list[Panel]) -> dict[str, Any]:
    """Heads, rows of (picture, what it shows) and the colours' key."""
    colours = class_colours(results, name)
    columns = pictures(chosen, colours)
    heads = [text.replace("\n", ", ") for text, _ in columns]
    rows = [
        [(data_uri(images[i]), f"Test image {i + 1}: {text}") for text, (_, images) in zip(heads, columns, strict=True)]
        for i in range(len(columns[0][1]))
    ]
    return {"heads": heads, "rows": rows, "key": key_of_colours(chosen, colours)}


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


# -- panels: what heads make of a few test images ---------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """Predicted classes of a few test images by one method point.

    Attributes:
        summary: the point.
        images: (n, y, x, 3) uint8, of any size.
        truth: (n, h, w) uint8 classes, 255 where there is no label.
        predicted: (n, h, w) uint8 classes.
    """

    summary: Summary
    images: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    predicted: NDArray[np.uint8]

    @property
    def title(self) -> str:
        """Method and size, in two lines."""
        style = style_of(self.summary.method)
        size = size_text(self.summary.bytes_per_image)
        return f"{style.name}\n{self.summary.label}, {size}" + ("" if self.summary.decoder else ", no decoder")


def load_panels(found: Sequence[Summary], out: Path) -> list[Panel]:
    """Panels of those points of a dataset that have any in `out/panels/<dataset>`, in the order of the points.

    Raises:
        CorruptError: a file is not what the runner writes.
    """
    points = {(s.method, s.label, s.decoder): (i, s) for i, s in enumerate(found)}
    folder = out / "panels" / found[0].dataset if found else out
    panels = {}
    for path in sorted(folder.glob("*.npz")) if found else ():
        key, arrays = _load(path)
        if key in points:
            place, summary = points[key]
            panels[place] = Panel(summary, *arrays)
    return [panels[place] for place in sorted(panels)]


def choose(panels: Sequence[Panel]) -> list[Panel]:
    """At most six to show: the middle one of NEC, of every other family the one nearest to it in size.

    A family shows a head with the decoder if it has one. References come last, one of them at most.
    """
    families: dict[str, list[Panel]] = {}
    for panel in panels:
        families.setdefault(panel.summary.method, []).append(panel)
    for method, members in families.items():
        families[method] = [panel for panel in members if panel.summary.decoder] or members
    curves = {m: f for m, f in families.items() if not style_of(m).reference}
    references = [m for m in ("original", "float", "fine-tune") if m in families][:1]
    if not curves:
        return [families[m][0] for m in references]
    main = next((m for m in NEC if m in curves), next(iter(curves)))
    middle = sorted(curves[main], key=lambda panel: panel.summary.bytes_per_image)[(len(curves[main]) - 1) // 2]
    near = [min(family, key=lambda panel: _distance(panel, middle)) for m, family in curves.items() if m != main]
    near = sorted(near, key=lambda panel: _distance(panel, middle))[: MOST_PREDICTIONS - 1 - len(references)]
    return [middle, *near, *(families[m][0] for m in references)]


def class_colours(results: Results, dataset: str) -> list[tuple[str, str]]:
    """(class name, #rrggbb) of a dataset: its own colours, else a palette's."""
    facts = results.datasets[dataset]
    names, colours = facts.get("class_names") or [], facts.get("class_colors")
    own = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in colours] if colours else []
    return [(name, own[i] if i < len(own) else CLASS_COLOURS[i % len(CLASS_COLOURS)]) for i, name in enumerate(names)]


def paint(classes: NDArray[np.uint8], colours: Sequence[tuple[str, str]]) -> NDArray[np.uint8]:
    """Class maps (n, h, w) -> RGB (n, h, w, 3); what has no class is striped grey."""
    table = np.zeros((256, 3), np.uint8)
    for i, (_, colour) in enumerate(colours[:IGNORE]):
        table[i] = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    y, x = np.ogrid[: classes.shape[1], : classes.shape[2]]
    stripes = np.where((y + x) // 3 % 2, 205, 150).astype(np.uint8)[None, :, :, None]
    return np.where((classes >= min(len(colours), IGNORE))[..., None], stripes, table[classes])


def pictures(chosen: Sequence[Panel], colours: Sequence[tuple[str, str]]) -> list[tuple[str, NDArray[np.uint8]]]:
    """Columns of the panel: (title, RGB (n, h, w, 3)): image, ground truth, then every prediction."""
    first = chosen[0]
    columns = [("image", _small(first.images)), ("ground truth", paint(_small(first.truth), colours))]
    return columns + [(panel.title, paint(_small(panel.predicted), colours)) for panel in chosen]


def _small(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The first few images, every k-th pixel where they are large."""
    step = -(-max(images.shape[1:3]) // MOST_PIXELS)
    return images[:MOST_IMAGES, ::step, ::step]


def sheet(chosen: Sequence[Panel], colours: Sequence[tuple[str, str]], side: int = 220, gap: int = 8) -> bytes:
    """The panel as a PNG file: a row an image, a column a method, titles above and the classes below."""
    image = pillow()
    from PIL import ImageDraw, ImageFont

    columns, letters = pictures(chosen, colours), ImageFont.load_default(14)
    rows, head = len(columns[0][1]), 44
    width = len(columns) * (side + gap) - gap
    whole = image.new("RGB", (width, head + rows * (side + gap) + 34), "white")
    pen = ImageDraw.Draw(whole)
    for j, (heading, images) in enumerate(columns):
        pen.multiline_text((j * (side + gap) + side / 2, head - 6), heading, "#1d2430", letters, "md", align="center")
        for i, array in enumerate(images):
            tile = image.fromarray(array).resize((side, side), image.Resampling.NEAREST)
            whole.paste(tile, (j * (side + gap), head + i * (side + gap)))
    x, y = 0.0, head + rows * (side + gap) + 8
    for name, colour in key_of_colours(chosen, colours):
        pen.rectangle((x, y, x + 14, y + 14), "#b0b0b0" if colour == STRIPES else colour)
        pen.text((x + 20, y - 1), name, "#1d2430", letters)
        x += 36 + pen.textlength(name, letters)
    return _png(whole)


def key_of_colours(chosen: Sequence[Panel], colours: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The classes, and stripes where any pixel has no label."""
    ignored = any(bool((panel.truth == IGNORE).any()) for panel in chosen)
    return [*colours, *([("not labelled", STRIPES)] if ignored else [])]


def data_uri(image: NDArray[np.uint8]) -> str:
    """An RGB or RGBA image (y, x, channels) as a `data:` URI for HTML."""
    return "data:image/png;base64," + base64.b64encode(_png(pillow().fromarray(image))).decode()


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _load(path: Path) -> tuple[tuple[str, str, bool], list[NDArray[np.uint8]]]:
    """A file's (method, label, decoder), and its images, truth and predicted."""
    try:
        with np.load(path) as file:
            key = str(file["method"]), str(file["label"]), bool(file["decoder"])
            arrays = [np.asarray(file[name], np.uint8) for name in ("images", "truth", "predicted")]
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise CorruptError(f"{path} is damaged: {error}; remove it and run nec bench again") from error
    images, truth, predicted = arrays
    if truth.ndim != 3 or predicted.shape != truth.shape or images.ndim != 4 or not len(truth) == len(images) > 0:
        raise CorruptError(
            f"{path} holds images {images.shape}, truth {truth.shape}, predicted {predicted.shape}, which do not fit "
            "together; remove it and run nec bench again"
        )
    return key, arrays


def _distance(a: Panel, b: Panel) -> float:
    return abs(math.log(max(a.summary.bytes_per_image, 1) / max(b.summary.bytes_per_image, 1)))
