"""What the small product of these tests is, and how a date of it is written."""

from __future__ import annotations

from typing import Any

import numpy as np

from nec.store import RasterWriter

GRID, D = (21, 30), 5
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}
"""What is decoded alone differs from a part of the whole in the last bits of float32 sums."""
TRANSFORM = (160.0, 0.0, 500_000.0, 0.0, -160.0, 5_000_000.0)
TIMES = ["2026-05-01T10:30:00", "2026-06-01T10:30:00"]


def write_date(writer: RasterWriter, time: str, tokens: np.ndarray, valid: np.ndarray, **options: Any) -> int:
    """Write and finish one date; `options` go to `append_time`."""
    index = writer.append_time(time, **options)
    for shard in writer.missing(index):
        window = writer.tiling.shard_window(*shard[1:])
        part = np.where(valid[window][..., None], tokens[window], np.nan)
        writer.write(shard, part, valid[window])
    writer.finish(index)
    return index
