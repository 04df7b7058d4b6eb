"""Tiny generated copies of the published layouts."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nec.datasets.folders import EUROSAT, UCMERCED


def picture(seed: int, side: int = 16, width: int | None = None) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (side, width or side, 3), dtype=np.uint8))


@pytest.fixture(scope="session")
def eurosat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """EuroSAT_RGB/<Class>/<Class>_<n>.jpg, 12 images a class of 16 px."""
    root = tmp_path_factory.mktemp("eurosat") / "EuroSAT_RGB"
    for c, name in enumerate(EUROSAT.classes or ()):
        (root / name).mkdir(parents=True)
        for n in range(1, 13):
            picture(100 * c + n).save(root / name / f"{name}_{n}.jpg", quality=90)
    return root


@pytest.fixture(scope="session")
def ucmerced_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """UCMerced_LandUse/Images/<class>/<class>NN.tif, 5 images a class; one lacks a column, as in the original."""
    root = tmp_path_factory.mktemp("ucmerced") / "UCMerced_LandUse"
    for c, name in enumerate(UCMERCED.classes or ()):
        (root / "Images" / name).mkdir(parents=True)
        for n in range(5):
            picture(100 * c + n, 32, 31 if (c, n) == (3, 2) else 32).save(root / "Images" / name / f"{name}{n:02d}.tif")
    return root


@pytest.fixture(scope="session")
def zipped() -> Callable[[Path], Path]:
    """Zip of a folder, the folder's own name included, as the published zips are made."""

    def make(folder: Path) -> Path:
        out = folder.parent / f"{folder.name}.zip"
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted(folder.rglob("*"), reverse=True):  # any order but the sorted one
                file.write(path, path.relative_to(folder.parent).as_posix())
        return out

    return make
