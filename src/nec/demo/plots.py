"""The report's charts and pictures. Needs matplotlib (extra `[bench]`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nec.bench.figures import BLUE, CLASS_COLOURS, ORANGE, Chart, figure


def rate_accuracy(
    png: Path, points: Sequence[Mapping[str, float]], heads: Mapping[str, tuple[float, float]], float_bytes: float
) -> Chart:
    """Accuracy over bytes an image: the transcodes joined by a line, full-data heads {label: (bytes, accuracy)} as
    marks.
    """
    with figure(png, 7, 3.8) as (_, axes, chart):
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
    with figure(png, 7, 0.42 * len(order) + 1.1) as (_, axes, chart):
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


def paint_classes(classes: NDArray[np.int64], window: int) -> NDArray[np.uint8]:
    """Class indices (y, x) of windows -> RGBA of the tokens they were cut from, each at its centre, the rest
    transparent.
    """
    table = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] + [255] for c in CLASS_COLOURS], np.uint8)
    before, after = window // 2, window - 1 - window // 2
    return np.pad(table[classes % len(table)], [(before, after), (before, after), (0, 0)])
