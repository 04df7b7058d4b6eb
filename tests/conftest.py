"""Fixtures that all rooms share."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

# Deadlines would be timing assertions, and machines of CI are slow when they are busy.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real datasets: `$NEC_DATA`, else `../shared/data` beside the checkout; skips where none exists."""
    folder = Path(os.environ.get("NEC_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"real data not found in {folder}: set NEC_DATA to the folder that holds EuroSAT_RGB.zip")
    return folder
