"""Bjøntegaard delta rate: how many more bytes one method needs than another at equal accuracy, on average.

After G. Bjøntegaard, "Calculation of average PSNR differences between RD-curves", ITU-T VCEG-M33, 2001, with a monotone
cubic, as JCT-VC came to use, instead of a polynomial, and accuracy in the place of PSNR.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from nec.bench.results import envelope


@dataclass(frozen=True)
class RateCurve:
    """log2 of the bytes an image as a function of accuracy, by PCHIP (Fritsch & Butland 1984) as SciPy has it.

    Accuracies measured on some thousand images go up and down from one setting to the next, and the curve must be
    monotone to have a rate for each accuracy. It goes through the points of the upper envelope: those that are better
    than every smaller one, since who may spend more bytes may also spend fewer. Noise lifts an envelope a little, that
    of every method alike.

    Attributes:
        accuracies: of the points, rising strictly.
        log_rates: log2 of their bytes, rising.
        slopes: derivatives there.
    """

    accuracies: tuple[float, ...]
    log_rates: tuple[float, ...]
    slopes: tuple[float, ...]

    @classmethod
    def through(cls, sizes: Sequence[float], accuracies: Sequence[float]) -> RateCurve | None:
        """The curve through points of so many bytes an image and such accuracy; None where fewer than two are left."""
        sizes, kept = envelope(sizes, accuracies)
        if len(kept) < 2:
            return None
        logs = [math.log2(size) for size in sizes]
        return cls(tuple(kept), tuple(logs), tuple(_slopes(kept, logs)))

    def log_rate(self, accuracy: float) -> float:
        """log2 of the bytes for an accuracy between the first and the last."""
        i, t = self._place(accuracy)
        width = self.accuracies[i + 1] - self.accuracies[i]
        (a, b), (da, db) = self.log_rates[i : i + 2], self.slopes[i : i + 2]
        low, high = (1 + 2 * t) * (1 - t) ** 2 * a, t * t * (3 - 2 * t) * b
        return low + high + width * t * (1 - t) * ((1 - t) * da - t * db)

    def integral(self, low: float, high: float) -> float:
        """Integral of `log_rate` over the accuracies from `low` to `high`, within the curve."""
        return self._area(high) - self._area(low)

    def _area(self, accuracy: float) -> float:
        """Integral from the curve's first accuracy."""
        i, t = self._place(accuracy)
        return sum(self._piece(j, 1.0) for j in range(i)) + self._piece(i, t)

    def _piece(self, i: int, t: float) -> float:
        """Integral over the first part `t` (0 to 1) of the piece after point i."""
        width = self.accuracies[i + 1] - self.accuracies[i]
        (a, b), (da, db) = self.log_rates[i : i + 2], self.slopes[i : i + 2]
        rise = t**3 - t**4 / 2
        bend = (t**2 / 2 - 2 * t**3 / 3 + t**4 / 4) * da + (t**4 / 4 - t**3 / 3) * db
        return width * ((t - rise) * a + rise * b + width * bend)

    def _place(self, accuracy: float) -> tuple[int, float]:
        """The piece that an accuracy lies in, and the share of it before the accuracy."""
        i = min(max(bisect_right(self.accuracies, accuracy) - 1, 0), len(self.accuracies) - 2)
        low, high = self.accuracies[i : i + 2]
        return i, min(max((accuracy - low) / (high - low), 0.0), 1.0)


@dataclass(frozen=True)
class Delta:
    """A mean difference of rates. `rate`: 0.25 is 25% more bytes; `low` to `high`: the accuracies it is over."""

    rate: float
    low: float
    high: float


def bd_rate(curve: RateCurve, reference: RateCurve) -> Delta | None:
    """Bytes that `curve` needs more than `reference` over the accuracies both reach; None where there are none.

    The mean over accuracy of the difference of log2 rates, d, as 2^d - 1.

    >>> half = RateCurve.through([50, 100, 200], [0.7, 0.8, 0.85])
    >>> full = RateCurve.through([100, 200, 400], [0.7, 0.8, 0.85])
    >>> round(bd_rate(half, full).rate, 6)
    -0.5
    """
    low = max(curve.accuracies[0], reference.accuracies[0])
    high = min(curve.accuracies[-1], reference.accuracies[-1])
    if not high > low:
        return None
    difference = (curve.integral(low, high) - reference.integral(low, high)) / (high - low)
    # Over an interval of a rounding error's width the quotient may be anything.
    return Delta(2**difference - 1, low, high) if high - low > 1e-9 and difference < 64 else None


def _slopes(x: Sequence[float], y: Sequence[float]) -> list[float]:
    """PCHIP's derivatives at points of strictly rising x and y."""
    widths = [b - a for a, b in pairwise(x)]
    rises = [(b - a) / width for (a, b), width in zip(pairwise(y), widths, strict=True)]
    if len(rises) == 1:
        return [rises[0], rises[0]]
    sides = zip(pairwise(widths), pairwise(rises), strict=True)
    inner = [_between(*width, *rise) for width, rise in sides]
    return [_end(*widths[:2], *rises[:2]), *inner, _end(*widths[:-3:-1], *rises[:-3:-1])]


def _between(width: float, next_width: float, rise: float, next_rise: float) -> float:
    """Weighted harmonic mean of the slopes on both sides."""
    first, second = 2 * next_width + width, next_width + 2 * width
    return (first + second) / (first / rise + second / next_rise)


def _end(width: float, next_width: float, rise: float, next_rise: float) -> float:
    """One-sided three-point derivative; 0 where that would fall."""
    return max(((2 * width + next_width) * rise - width * next_rise) / (width + next_width), 0.0)
