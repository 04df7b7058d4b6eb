"""Charts drawn once as a PNG file and as an SVG inside a page, and pictures. Needs matplotlib (extra `[bench]`)."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator
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
PAPER = "#fdfefc"  # likewise, for the page's own colour
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif", "font.size": 11, "svg.fonttype": "none", "svg.hashsalt": "nec",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": INK, "axes.labelcolor": INK,
    "xtick.color": INK, "ytick.color": INK, "text.color": INK, "axes.grid": True, "grid.alpha": 0.15,
    "grid.color": INK, "axes.axisbelow": True, "legend.frameon": False,
}  # fmt: skip


class Chart:
    """A drawn figure: a PNG file on white, and an SVG that takes the colours of the page around it."""

    def __init__(self) -> None:
        self.svg = ""


@contextmanager
def figure(png: Path, width: float, height: float, rows: int = 1, columns: int = 1) -> Iterator[tuple[Any, Any, Chart]]:
    """Yield (figure, axes, chart); the block draws, its end writes `png` and completes the chart's `svg`.

    `width` and `height` are in inches. The axes are an array (rows, columns) if there is more than one.
    """
    chart = Chart()
    with plt.rc_context(STYLE):
        drawn, axes = plt.subplots(rows, columns, figsize=(width, height), layout="constrained")
        try:
            yield drawn, axes, chart
            drawn.savefig(png, dpi=150, facecolor="white")
            text = io.StringIO()
            drawn.savefig(text, format="svg", transparent=True, metadata={"Date": None})
            svg = text.getvalue()
            svg = re.sub("(?i)" + INK, "currentColor", svg[svg.index("<svg") :])
            chart.svg = re.sub("(?i)" + PAPER, "var(--page, #fff)", svg)
        finally:
            plt.close(drawn)


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
