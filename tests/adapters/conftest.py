"""Let torchvision import beside a CPU build of PyTorch, whose operators it lacks. For tests only."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")  # kept: operators live as long as their library


def pytest_configure() -> None:
    try:
        import torchvision
    except ImportError:
        return
    except RuntimeError:  # operator torchvision::nms does not exist
        for schema in (
            "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        ):
            _LIBRARY.define(schema)
        _forget("torchvision")
        import torchvision  # noqa: F401


def _forget(package: str) -> None:
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        del sys.modules[name]
