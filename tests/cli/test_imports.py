"""Imports point one way, and the base install needs no extra."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import nec

PACKAGE = Path(nec.__file__).parent
# A room may import those on lower steps and itself.
STEPS = {
    "errors": 0, "labels": 0, "progress": 0, "report": 0, "settings": 1,
    "files": 1,
    "codec": 1,
    "search": 1.5,  # below the store: its classes are the halves of stores that search
    "store": 2, "system": 2,
    "scenes": 3, "exporting": 3,
    "datasets": 4, "models": 4,
    "training": 5, "encoding": 5,
    "heads": 6,
    "bench": 7,
    "demo": 8,
    "cli": 9,
    "__main__": 10,
}  # fmt: skip
EXTRAS = (
    "torch", "torchvision", "lightning", "pytorch_lightning", "torchmetrics", "safetensors", "tensorboard", "PIL",
    "rasterio", "altair", "vl_convert", "jinja2", "scipy", "sklearn", "pandas", "xarray", "numba", "dask",
    "distributed", "fsspec", "aiohttp", "imagecodecs", "pyarrow", "rioxarray", "geopandas", "obstore", "s3fs",
    "shapely", "pyproj", "antimeridian", "msgspec", "matplotlib",
)  # fmt: skip


def imported_names(file: Path, root: Path) -> Iterator[tuple[str, int]]:
    """Absolute names of what a file imports anywhere in it, with the line."""
    package = ("nec", *file.relative_to(root).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"), filename=str(file))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield module, node.lineno
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names if module == "nec")


def violations(root: Path) -> list[str]:
    """Imports that point the wrong way, each with its place."""
    found = []
    for file in sorted(root.rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        room = parts[0]
        if room == "__init__":  # the package's own front: it imports lazily from every room
            continue
        if room not in STEPS:
            found.append(f"{file.relative_to(root)}: room {room!r} is not in the map of this test")
            continue
        for name, line in imported_names(file, root):
            target = name.split(".")[1] if name.startswith("nec.") else None
            if target in STEPS and target != room and STEPS[target] >= STEPS[room]:
                found.append(f"{file.relative_to(root)}:{line}: {room} imports {name}")
    return found


def test_imports_point_one_way() -> None:
    assert violations(PACKAGE) == []


def test_the_check_itself_finds_violations(tmp_path: Path) -> None:
    for room, text in {
        "codec": "def f():\n    from nec.store import open_store",
        "models": "import nec.encoding.encode\nfrom nec import store",
        "scenes": "from ..models import vit\nfrom . import tiling\nfrom nec import errors, training",
        "attic": "",
    }.items():
        (tmp_path / room).mkdir()
        (tmp_path / room / "part.py").write_text(text)
    assert [line.replace(os.sep, "/") for line in violations(tmp_path)] == [
        "attic/part.py: room 'attic' is not in the map of this test",
        "codec/part.py:2: codec imports nec.store",
        "models/part.py:1: models imports nec.encoding.encode",
        "scenes/part.py:1: scenes imports nec.models",
        "scenes/part.py:3: scenes imports nec.training",
    ]


WITHOUT_EXTRAS = """
import sys

class Base:
    finders = list(sys.meta_path)

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in {extras!r}:
            return next((spec for finder in self.finders if (spec := finder.find_spec(name, path, target))), None)

sys.meta_path[:] = [Base()]
"""


def run_in_base_install(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python where only numpy, zarr, constriction and what they need can be imported."""
    command = [sys.executable, "-c", WITHOUT_EXTRAS.format(extras=set(EXTRAS)) + code, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    "module", ["nec", "nec.cli", "nec.codec", "nec.search", "nec.store", "nec.heads", "nec.progress"]
)
def test_the_base_install_imports(module: str) -> None:
    result = run_in_base_install(f"import importlib; importlib.import_module({module!r})")
    assert result.returncode == 0, result.stderr


def test_the_base_install_reads_a_store_and_runs_the_commands(store_path: Path) -> None:
    code = """
import nec
from nec.cli import main
path = sys.argv[1]
assert nec.open_store(path).embeddings[:2].shape == (2, 2, 3, 5)
assert main(["--help"]) == 0
assert main(["info", path]) == 0
assert main(["verify", path]) == 0
for suffix in ("npy", "npz", "zarr"):
    assert main(["decode", path, "--out", path + "." + suffix]) == 0
"""
    result = run_in_base_install(code, str(store_path))
    assert result.returncode == 0, result.stderr


def test_a_model_asks_for_its_extra() -> None:
    code = """
import nec
try:
    nec.load_model("eurosat-tiny")
except nec.MissingExtraError as error:
    print(error)
"""
    if not any(PACKAGE.glob("models/?*.py")) or "load_model" not in (PACKAGE / "models/__init__.py").read_text():
        pytest.skip("no model code in this checkout")
    result = run_in_base_install(code)
    assert "neural-embedding-compression[torch]" in result.stdout, result.stderr
