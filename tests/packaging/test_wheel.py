"""The built wheel in an environment with the base install alone: opens what ships, without torch, under 200 MB.

And the sdist: it builds with a compiler and without one, and either wheel decodes everything.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from nec.store.opening import shipped

ROOT = Path(__file__).parents[2]
BASE_LIMIT = 200 * 10**6

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "pyproject.toml").is_file(), reason="needs the source tree"),
]


CLEAN = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the source tree: setuptools writes beside what it builds."""
    folder = tmp_path_factory.mktemp("source") / "nec"
    away = shutil.ignore_patterns(".git", ".venv*", "runs", "build", "*.so", "*.pyd", "*.egg-info")
    return Path(shutil.copytree(ROOT, folder, ignore=away))


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(source)]
    subprocess.run(command, check=True, env=CLEAN)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def base_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, "-c", str(ROOT / "constraints.txt"), str(wheel)], check=True, env=CLEAN)
    return python


def run(python: Path, *arguments: str) -> str:
    result = subprocess.run(
        [str(python), *arguments], capture_output=True, text=True, env=CLEAN, cwd=python.parent, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_wheel_carries_what_ships(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {"eurosat"} <= set(shipped("stores"))
    assert {"eurosat-tiny", "eurosat-symmetric"} <= set(shipped("models"))
    for kind in ("stores", "models"):
        for folder in shipped(kind).values():
            inside = [file for file in folder.rglob("*") if file.is_file()]
            assert inside
            for file in inside:
                assert f"nec/assets/{kind}/{file.relative_to(folder.parent).as_posix()}" in names
    assert {"nec/web/index.html", "nec/web/nec.js", "nec/web/viewer/main.js"} <= set(names)
    assert not [name for name in names if name.endswith((".jpg", ".npy", ".npz", ".ckpt", ".pt"))]
    licences = [name for name in names if name.endswith("LICENSE")]
    assert licences


def test_base_install_is_small_and_has_no_torch(base_python: Path) -> None:
    site = next((base_python.parent.parent / "lib").glob("python*/site-packages"))
    size = sum(file.stat().st_size for file in site.rglob("*") if file.is_file())
    assert size < BASE_LIMIT, f"{size / 1e6:.0f} MB"
    assert not list(site.glob("torch*"))


def test_shipped_store_opens_in_the_base_install(base_python: Path) -> None:
    code = "import nec; print(nec.open_store('eurosat').embeddings[:2].shape)"
    assert run(base_python, "-c", code).strip() == "(2, 8, 8, 192)"


def test_plain_zarr_finds_the_codec_by_its_entry_point(base_python: Path) -> None:
    code = (
        "import zarr, sys, importlib.util, pathlib\n"
        "folder = pathlib.Path(importlib.util.find_spec('nec').submodule_search_locations[0])\n"
        "values = zarr.open(folder / 'assets/stores/eurosat.zarr')['embeddings'][:2]\n"
        "assert 'torch' not in sys.modules\n"
        "print(values.shape, bool((values == values).all()))"
    )
    assert run(base_python, "-c", code).strip() == "(2, 8, 8, 192) True"


def test_commands_of_the_base_install(base_python: Path) -> None:
    nec = base_python.parent / "nec"
    info = json.loads(run(base_python, str(nec), "info", "eurosat", "--json"))
    assert info["images"] == 27000
    assert info["stored_bytes"] < 8e6
    verified = json.loads(run(base_python, str(nec), "verify", "eurosat", "--json"))
    assert verified["ok"] is True


@pytest.fixture(scope="module")
def sdist(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("build")
    folder = tmp_path_factory.mktemp("sdist")
    command = [sys.executable, "-m", "build", "--sdist", "--outdir", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True, env=CLEAN)
    (built,) = folder.glob("*.tar.gz")
    return built


@pytest.mark.parametrize("compiler", ["cc", "false"])
def test_an_sdist_installs_with_a_compiler_and_without(
    sdist: Path, base_python: Path, compiler: str, tmp_path: Path
) -> None:
    if compiler == "cc" and shutil.which("cc") is None:
        pytest.skip("this machine has no C compiler")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), str(sdist)]
    subprocess.run(command, check=True, env={**CLEAN, "CC": compiler})
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import nec\n"
        "from nec.codec import coder\n"
        "print(nec.__file__, coder.active(), nec.open_store('eurosat').embeddings[:2].shape)"
    )
    where, active, *shape = run(base_python, "-c", code).split(maxsplit=2)
    assert where.startswith(str(tmp_path))
    assert active == ("compiled" if compiler == "cc" else "plain")
    assert shape == ["(2, 8, 8, 192)\n"]
