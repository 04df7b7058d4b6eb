"""Images -> backbone -> codec -> store. Our own backbone needs the extra `[torch]`, rasters `[geo]`, clusters
`[dask]`."""

from nec.encode.api import FitReport, encode, fit
from nec.encode.codecs import fit_codec
from nec.encode.options import Reading, Running, SceneOptions
from nec.encode.reports import EncodeReport, ImagesReport, ScenesReport

__all__ = [
    "EncodeReport", "FitReport", "ImagesReport", "Reading", "Running", "SceneOptions", "ScenesReport", "encode", "fit",
    "fit_codec",
]  # fmt: skip
