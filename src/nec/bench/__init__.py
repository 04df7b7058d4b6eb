"""Rate-accuracy benchmarks: one recipe runs encoding, head training and evaluation of every method.

`nec.bench.methods` needs the base install only; the names below need `[bench]`, and `bench` `[torch]` too.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nec.bench.results import Point, Results, Row, curve, headline, primary_metric
    from nec.bench.run import BenchReport, bench

__all__ = ["BenchReport", "Point", "Results", "Row", "bench", "curve", "headline", "primary_metric"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'nec.bench' has no attribute {name!r}")
    return getattr(import_module("nec.bench.run" if "bench" in name.lower() else "nec.bench.results"), name)
