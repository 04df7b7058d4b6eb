"""What a user would do instead: raw data, image codecs and quantised embeddings, with the codec's interface.

Base install, except the image codecs, which need `[bench]`.
"""

from nec.baselines.images import Jpeg, Jpeg2000, Png
from nec.baselines.measure import Measured, measure
from nec.baselines.method import Method
from nec.baselines.ours import CodecMethod
from nec.baselines.raw import Raw
from nec.baselines.spec import fit_methods, methods
from nec.baselines.uqe import UQE

__all__ = [
    "UQE",
    "CodecMethod",
    "Jpeg",
    "Jpeg2000",
    "Measured",
    "Method",
    "Png",
    "Raw",
    "fit_methods",
    "measure",
    "methods",
]
