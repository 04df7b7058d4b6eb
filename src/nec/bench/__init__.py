"""Rate-accuracy benchmarks: one recipe runs encoding, head training and evaluation of every method."""

from __future__ import annotations

from nec.bench.bdrate import RateCurve, bd_rate
from nec.bench.results import Point, Results, Row, curve, headline, primary_metric

__all__ = ["Point", "RateCurve", "Results", "Row", "bd_rate", "curve", "headline", "primary_metric"]
