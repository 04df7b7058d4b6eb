"""Images -> backbone -> codec -> store. Our own backbone needs the extra `[torch]`, rasters `[geo]`, clusters
`[dask]`."""

from nec.encoding.api import FitReport, encode, fit
from nec.encoding.codecs import fit_codec
from nec.encoding.options import Reading, Running, SceneOptions
from nec.encoding.reports import EncodeReport, ImagesReport, ScenesReport

__all__ = [
    "EncodeReport", "FitReport", "ImagesReport", "Reading", "Running", "SceneOptions", "ScenesReport", "encode", "fit",
    "fit_codec",
]  # fmt: skip
