"""What this installation is: versions, the coder in use, devices. For bug reports."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib import metadata

from nec.report import Report

#: Extra -> a package that it brings.
EXTRAS = {
    "torch": "torch", "geo": "rasterio", "remote": "obstore", "dask": "distributed", "bench": "altair", "timm": "timm",
    "torchgeo": "torchgeo", "terratorch": "terratorch", "hf": "transformers", "onnx": "onnxruntime",
}  # fmt: skip
BASE = ("numpy", "zarr", "constriction")


@dataclass(frozen=True)
class System(Report):
    """Of this process.

    Attributes:
        nec, python, platform: versions.
        coder: "compiled" or "plain", which give the same bytes; plain where the kernel was not built, or on request.
        packages: version of each package of the base install and of each extra; None where it is not installed.
        devices: that a model can run on.
    """

    nec: str
    python: str
    platform: str
    coder: str
    packages: dict[str, str | None]
    devices: list[str]

    def __str__(self) -> str:
        extras = {package: extra for extra, package in EXTRAS.items()}
        lines = [
            f"nec {self.nec}, Python {self.python}, {self.platform}",
            f"coder: {self.coder}" + ("" if self.coder == "compiled" else " (slower, the same bytes)"),
            f"devices: {', '.join(self.devices)}",
        ]
        for package, version in self.packages.items():
            missing = f"not installed: pip install 'neural-embedding-compression[{extras.get(package)}]'"
            lines.append(f"  {package:<14}{version or missing}")
        return "\n".join(lines)


def system() -> System:
    """Versions, coder and devices; imports torch only where it is installed."""
    from nec import __version__
    from nec.codec import coder

    packages = {name: _version(name) for name in (*BASE, *EXTRAS.values())}
    devices = ["cpu"]
    if packages["torch"]:
        import torch

        devices += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
        devices += ["mps"] if torch.backends.mps.is_available() else []
    return System(__version__, sys.version.split()[0], platform.platform(terse=True), coder.active(), packages, devices)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
