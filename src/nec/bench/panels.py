"""Qualitative segmentation: class maps that heads predict, kept by the runner, and their panel in the report."""

from __future__ import annotations

import base64
import io
import math
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nec.bench.legend import size_text, style_of
from nec.bench.results import NEC, Results, Summary
from nec.errors import CorruptError, missing_extra

if TYPE_CHECKING:
    from nec.bench.subset import Subset

IGNORE = 255
KEPT, SEARCHED = 6, 100  # test images whose class maps are kept, of the first hundred
MOST_IMAGES, MOST_PREDICTIONS, MOST_PIXELS = 4, 6, 320
STRIPES = "repeating-linear-gradient(135deg,#969696 0 3px,#cdcdcd 3px 6px)"  # what `paint` makes of ignored pixels
# Paul Tol's "muted" for the ten land-use classes of EuroSAT in their order, in colours that suggest them.
CLASS_COLOURS = (
    "#DDCC77", "#117733", "#999933", "#BBBBBB", "#AA4499", "#44AA99", "#CC6677", "#882255", "#88CCEE", "#332288",
)  # fmt: skip


# -- what the runner keeps --------------------------------------------------------------------------------------------


def panel_places(subset: Subset) -> tuple[int, ...]:
    """Places in the test part of the images that panels show: those with the most classes among the first hundred."""
    count = min(SEARCHED, len(subset.indices["test"]))
    masks = subset.dataset.masks(subset.indices["test"][:count])
    classes = np.array([len(np.unique(mask[mask < len(subset.classes)])) for mask in masks])
    return tuple(sorted(np.argsort(-classes, kind="stable")[:KEPT].tolist()))


def write_panel(path: Path, subset: Subset, source: Path, **facts: Any) -> None:
    """Write `images` (m, h, w, 3), `truth` and `predicted` (m, h, w) uint8 and `facts`, from a cached head."""
    chosen = subset.indices["test"][np.asarray(panel_places(subset))]
    with np.load(source) as file:
        predicted = file["predicted"]
    images, truth = subset.dataset.load(chosen, subset.plan.options.image_size), subset.dataset.masks(chosen)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_npz(path, images=images, truth=truth, predicted=predicted, **facts)


def save_npz(path: Path, **arrays: Any) -> None:
    """Write a compressed .npz, whole or not at all."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        np.savez_compressed(temporary, **arrays)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# -- what the report shows --------------------------------------------------------------------------------------------


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
    image, draw, font = _pillow("Image"), _pillow("ImageDraw"), _pillow("ImageFont")
    columns, letters = pictures(chosen, colours), font.load_default(14)
    rows, head = len(columns[0][1]), 44
    width = len(columns) * (side + gap) - gap
    whole = image.new("RGB", (width, head + rows * (side + gap) + 34), "white")
    pen = draw.Draw(whole)
    for j, (title, images) in enumerate(columns):
        pen.multiline_text((j * (side + gap) + side / 2, head - 6), title, "#1d2430", letters, "md", align="center")
        for i, array in enumerate(images):
            tile = image.fromarray(array).resize((side, side), image.Resampling.NEAREST)
            whole.paste(tile, (j * (side + gap), head + i * (side + gap)))
    entries = [*colours, *([("not labelled", "#b0b0b0")] if has_ignored(chosen) else [])]
    x, y = 0.0, head + rows * (side + gap) + 8
    for name, colour in entries:
        pen.rectangle((x, y, x + 14, y + 14), colour)
        pen.text((x + 20, y - 1), name, "#1d2430", letters)
        x += 36 + pen.textlength(name, letters)
    return _png(whole)


def has_ignored(chosen: Sequence[Panel]) -> bool:
    """Whether any pixel has no label."""
    return any(bool((panel.truth == IGNORE).any()) for panel in chosen)


def data_uri(image: NDArray[np.uint8]) -> str:
    """An RGB or RGBA image (y, x, channels) as a `data:` URI for HTML."""
    return "data:image/png;base64," + base64.b64encode(_png(_pillow("Image").fromarray(image))).decode()


def _png(image: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _pillow(name: str) -> Any:
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        missing_extra("Pillow", "bench", error)
    return {"Image": Image, "ImageDraw": ImageDraw, "ImageFont": ImageFont}[name]


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
