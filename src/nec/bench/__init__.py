"""Rate-accuracy benchmarks: one recipe runs encoding, head training and evaluation of every method."""

from __future__ import annotations

from nec.bench.results import Point, Results, Row, curve, headline, primary_metric

__all__ = ["Point", "Results", "Row", "curve", "headline", "primary_metric"]
