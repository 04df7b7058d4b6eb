"""Versions of what decides the bytes of a store."""

from __future__ import annotations

import platform
import sys

import numpy as np


def software() -> dict[str, str]:
    """Versions of this package, Python, NumPy and PyTorch, where that computed."""
    from nec import __version__

    found = {"nec": __version__, "python": platform.python_version(), "numpy": np.__version__}
    return found | ({"torch": sys.modules["torch"].__version__} if "torch" in sys.modules else {})
