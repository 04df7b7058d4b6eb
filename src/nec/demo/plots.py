"""The report's charts and pictures. Needs matplotlib (extra `[bench]`)."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.errors import missing_extra

try:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
except ImportError as error:
    missing_extra("matplotlib", "bench", error)

# Okabe & Ito's palette, readable with every common kind of colour blindness; both stand out on white and on dark grey.
BLUE, ORANGE = "#0072B2", "#D55E00"
# Paul Tol's "muted" for the ten land-use classes of EuroSAT in their order, in colours that suggest them.
CLASS_COLOURS = (
    "#DDCC77", "#117733", "#999933", "#BBBBBB", "#AA4499", "#44AA99", "#CC6677", "#882255", "#88CCEE", "#332288",
)  # fmt: skip
INK = "#010203"  # a colour nobody would choose: replaced by the page's text colour in SVGs
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif", "font.size": 11, "svg.fonttype": "none", "svg.hashsalt": "nec",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": INK, "axes.labelcolor": INK,
    "xtick.color": INK, "ytick.color": INK, "text.color": INK, "axes.grid": True, "grid.alpha": 0.15,
    "grid.color": INK, "axes.axisbelow": True, "legend.frameon": False,
}  # fmt: skip


class Chart:
    """A drawn figure: a PNG file on white, and an SVG that takes the colours of the page around it."""

    def __init__(self, svg: str) -> None:
        self.svg = svg


@contextmanager
def _figure(png: Path, width: float, height: float) -> Iterator[tuple[Any, Any, Chart]]:
    chart = Chart("")
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
        try:
            yield figure, axes, chart
            figure.savefig(png, dpi=150, facecolor="white")
            text = io.StringIO()
            figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
            svg = text.getvalue()
            chart.svg = re.sub(r"(?i)#010203", "currentColor", svg[svg.index("<svg") :])
        finally:
            plt.close(figure)


def rate_accuracy(
    png: Path, points: Sequence[Mapping[str, float]], heads: Mapping[str, tuple[float, float]], float_bytes: float
) -> Chart:
    """Accuracy over bytes an image: the transcodes joined by a line, full-data heads {label: (bytes, accuracy)} as
    marks.
    """
    with _figure(png, 7, 3.8) as (_, axes, chart):
        size = [point["bytes_per_image"] for point in points]
        share = [100 * point["accuracy"] for point in points]
        axes.semilogx(size, share, "o-", color=BLUE, label="linear probe, a quarter of the images")
        for marker, (label, (x, y)) in zip("D^sv", heads.items(), strict=False):
            axes.plot(x, 100 * y, marker, color=ORANGE, markersize=9, label=label)
        axes.set(xlabel=f"stored bytes an image (float16 tokens: {float_bytes:,.0f})", ylabel="test accuracy, %")
        low = min([*share, *(100 * y for _, y in heads.values())])
        axes.set_ylim(max(0, 5 * np.floor((low - 4) / 5)), 100)
        axes.set_xlim(min(size) / 1.4, max(size) * 1.6)
        ticks = [t for t in (10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if min(size) / 1.4 <= t <= max(size) * 1.6]
        axes.set_xticks(ticks, [f"{t:,}" for t in ticks])
        axes.minorticks_off()
        axes.legend(loc="lower right")
    return chart


def per_class(png: Path, shares: Mapping[str, Mapping[str, float]]) -> Chart:
    """Horizontal bars of each class's accuracy, {head: {class: share}}, best class of the last head on top."""
    heads = list(shares)
    order = sorted(shares[heads[-1]], key=lambda name: shares[heads[-1]][name])
    with _figure(png, 7, 0.42 * len(order) + 1.1) as (_, axes, chart):
        rows, thick = np.arange(len(order)), 0.8 / len(heads)
        for i, (head, colour) in enumerate(zip(heads, (ORANGE, BLUE), strict=False)):
            values = [100 * shares[head][name] for name in order]
            at = rows + (i - (len(heads) - 1) / 2) * thick
            axes.barh(at, values, thick * 0.92, color=colour, label=head)
            if i == len(heads) - 1:
                for y, value in zip(at, values, strict=True):
                    axes.text(value + 0.6, y, f"{value:.1f}", va="center", fontsize=9)
        axes.set_yticks(rows, order)
        axes.set(xlabel="test images recognised, %", xlim=(0, 106))
        axes.grid(axis="y", visible=False)
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return chart


def png_bytes(image: NDArray[np.uint8]) -> bytes:
    """Encode an RGB or RGBA image (y, x, channels) as PNG."""
    buffer = io.BytesIO()
    plt.imsave(buffer, image, format="png")
    return buffer.getvalue()


def data_uri(image: NDArray[np.uint8]) -> str:
    """An RGB or RGBA image as a `data:` URI for HTML."""
    return "data:image/png;base64," + base64.b64encode(png_bytes(image)).decode()


def sheet(images: NDArray[np.uint8], columns: int, scale: int, gap: int = 4) -> NDArray[np.uint8]:
    """Tile images (n, y, x, 3 or 4) row by row on white, each pixel `scale` wide."""
    big = images.repeat(scale, axis=1).repeat(scale, axis=2)
    n, y, x, channels = big.shape
    rows = -(-n // columns)
    out = np.full((rows * (y + gap) - gap, columns * (x + gap) - gap, channels), 255, np.uint8)
    for i, image in enumerate(big):
        top, left = i // columns * (y + gap), i % columns * (x + gap)
        out[top : top + y, left : left + x] = image
    return out


def paint_classes(classes: NDArray[np.int64], window: int) -> NDArray[np.uint8]:
    """Class indices (y, x) of windows -> RGBA of the tokens they were cut from, each at its centre, the rest
    transparent.
    """
    table = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] + [255] for c in CLASS_COLOURS], np.uint8)
    before, after = window // 2, window - 1 - window // 2
    return np.pad(table[classes % len(table)], [(before, after), (before, after), (0, 0)])
