"""The whole tile or scene that each image was cut from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nec
from nec.store import info


def test_groups_are_read_as_text_and_counted(make: Callable[..., Path], tmp_path: Path) -> None:
    groups = [f"Tile {i % 4} ä" for i in range(53)]
    path = make(tmp_path / "g.zarr", groups=groups)
    assert nec.open_store(path).groups.tolist() == groups
    assert nec.open_store(path).groups.dtype.kind == "U"
    assert info(path)["groups"] == 4
