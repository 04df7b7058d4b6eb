"""What a user would do instead: raw data, image codecs and quantised embeddings, with the codec's interface.

Base install, except the image codecs, which need `[bench]`.
"""

from nec.baselines.images import Jpeg, Jpeg2000, Png
from nec.baselines.measure import Measured, measure
from nec.baselines.method import Method
from nec.baselines.modern import Avif, Htj2k, JpegXl, WebP
from nec.baselines.ours import CodecMethod
from nec.baselines.raw import Raw
from nec.baselines.spec import fit_methods, methods
from nec.baselines.uqe import UQE

__all__ = [
    "UQE",
    "Avif",
    "CodecMethod",
    "Htj2k",
    "Jpeg",
    "Jpeg2000",
    "JpegXl",
    "Measured",
    "Method",
    "Png",
    "Raw",
    "WebP",
    "fit_methods",
    "measure",
    "methods",
]
