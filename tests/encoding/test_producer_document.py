"""The producer's walk-through of docs/products.md runs as it stands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("rasterio")

from nec.cli import main
from nec.store import open_product
from scenes import write_scene

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "products.md"


def commands() -> list[list[str]]:
    part = DOCUMENT.read_text(encoding="utf-8").split("## Making a product")[1].split("\n## ")[0]
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", part, re.DOTALL)).splitlines()
    return [shlex.split(line)[1:] for line in lines]


def test_the_producer_s_walk_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("may.tif", "june.tif"):
        write_scene(tmp_path / name)
    assert [main(command) for command in commands()] == [0] * len(commands())
    assert [str(time)[:10] for time in open_product("product.zarr").times] == ["2026-05-01", "2026-06-01"]
