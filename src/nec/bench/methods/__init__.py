"""What a user would do instead: raw data, image codecs and quantised embeddings, with the codec's interface.

Base install, except the image codecs, which need `[bench]`.
"""

from nec.bench.methods.images import Avif, Htj2k, Jpeg, Jpeg2000, JpegXl, Png, WebP
from nec.bench.methods.method import Method
from nec.bench.methods.raw import UQE, Raw
from nec.bench.methods.spec import CodecMethod, fit_methods, methods

__all__ = [
    "UQE",
    "Avif",
    "CodecMethod",
    "Htj2k",
    "Jpeg",
    "Jpeg2000",
    "JpegXl",
    "Method",
    "Png",
    "Raw",
    "WebP",
    "fit_methods",
    "methods",
]
