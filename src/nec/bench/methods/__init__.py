"""What a user would do instead: raw data, image codecs and quantised embeddings, with the codec's interface.

Base install, except the image codecs, which need `[bench]`.
"""

from nec.bench.methods.images import Jpeg, Jpeg2000, Png
from nec.bench.methods.measure import Measured, measure
from nec.bench.methods.method import Method
from nec.bench.methods.modern import Avif, Htj2k, JpegXl, WebP
from nec.bench.methods.ours import CodecMethod
from nec.bench.methods.raw import Raw
from nec.bench.methods.spec import fit_methods, methods
from nec.bench.methods.uqe import UQE

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
