"""Methods by name: "uqe:2,4 jpeg2000:16,48 png"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nec.bench.methods.fitted import PcaEntropy, PcaInt8
from nec.bench.methods.images import Avif, Htj2k, Jpeg, Jpeg2000, JpegXl, Png, WebP
from nec.bench.methods.method import Method
from nec.bench.methods.ours import CodecMethod
from nec.bench.methods.raw import UQE, Raw
from nec.bench.methods.vectors import Itq, ProductQuantiser, ResidualQuantiser, SignBits
from nec.errors import InputError

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec

DEFAULT = (
    "rdc:uint8,uint8-zstd,uint16,uint16-zstd png jpeg2000:1,8,16,24,48,96 jpeg:90,50,10 "
    "webp:0,30,70 avif:0,30,60 jpegxl:25,8,2 htj2k:0.3,0.1,0.03 pca-int8:2,8 pca-entropy:0.5,0.2,0.05 sign itq:64 "
    "float:32,32-zstd,16 uqe:2,3,4,5,8,16 uqe-channel:2,3,4,5,8 nec:0.1,0.3,1,3"
)
PLAIN = ("png", "sign")  # families without a setting
_Make = Callable[[str], Method]


def methods(spec: str = DEFAULT, codec: EmbeddingCodec | None = None) -> list[Method]:
    """Methods that a text names, in its order: FAMILY:SETTING,SETTING,... separated by spaces or semicolons.

    | family | settings |
    |---|---|
    | rdc | uint8, uint16, each also with -zstd |
    | jpeg2000 | compression ratio; 1 is lossless |
    | jpeg2000-psnr | PSNR in dB of each image |
    | htj2k | quantiser step, a share of the pixels' range |
    | jpegxl | Butteraugli distance, 0.01 to 25 |
    | webp, avif | quality 0 to 100 |
    | jpeg | quality 1 to 100 |
    | png | none |
    | float | 32, 16, each also with -zstd |
    | uqe, uqe-channel | bits: 1 to 8, and 16 for uqe |
    | pca-int8 | rank |
    | pca-entropy | error, a share of the variance |
    | pq, rq | bits a token: 1 to 8, or whole bytes |
    | sign | none |
    | itq | bits a token |
    | nec | quality of `codec`, or where it is None as codec-pyramid |
    | codec-pyramid, codec-hierarchical, codec-factorized | quality of a codec which `fit` fits; see `CodecMethod` |

    Raises `InputError` that quotes the part which is wrong.

    >>> [method.name for method in methods("uqe:2,16; png jpeg2000:24")]
    ['uqe-2', 'uqe-16', 'png', 'jpeg2000-24']
    """
    makers = _makers(codec)
    made: list[Method] = []
    for part in spec.replace(";", " ").split():
        family, colon, settings = part.partition(":")
        if family not in makers:
            raise InputError(f"{family!r} in {part!r} is no known method; known are {', '.join(makers)}")
        if bool(colon) is (family in PLAIN) or (colon and not all(settings.split(","))):
            example = family if family in PLAIN else f"{family}:SETTING,SETTING"
            raise InputError(f"{part!r} is no method with settings: write {example}")
        made += [makers[family](setting) for setting in settings.split(",")]
    names = [method.name for method in made]
    if not made or len(set(names)) < len(names):
        raise InputError(f"{spec!r} names {'a method twice' if made else 'no method'}")
    return made


def fit_methods(wanted: Sequence[Method], sample: Callable[[], NDArray[np.float32]]) -> list[Method]:
    """The methods ready for use, fitted to `sample()` where they need it; codecs once for each variant.

    `sample` gives embeddings (n, y, x, d) and is called once, or never where nothing is to be fitted.
    """
    if not any(method.needs_fit for method in wanted):
        return list(wanted)
    embeddings = sample()
    variants = {method.variant for method in wanted if isinstance(method, CodecMethod) and method.needs_fit}
    codecs = {variant: CodecMethod(variant=variant).fit(embeddings).codec for variant in sorted(variants)}

    def ready(method: Method) -> Method:
        if isinstance(method, CodecMethod) and method.needs_fit:
            return CodecMethod(codecs[method.variant], method.setting)
        return method.fit(embeddings) if method.needs_fit else method

    return list(map(ready, wanted))


def _makers(codec: EmbeddingCodec | None) -> dict[str, _Make]:
    return {
        "rdc": lambda text: _raw(text, {"uint8": "uint8", "uint16": "uint16"}),
        "jpeg2000": lambda text: Jpeg2000(_number(text)),
        "jpeg2000-psnr": lambda text: Jpeg2000(_number(text), constant_quality=True),
        "htj2k": lambda text: Htj2k(_number(text)),
        "jpegxl": lambda text: JpegXl(_number(text)),
        "webp": lambda text: WebP(_number(text)),
        "avif": lambda text: Avif(_number(text)),
        "jpeg": lambda text: Jpeg(_number(text)),
        "png": lambda text: Png(),
        "float": lambda text: _raw(text, {"32": "float32", "16": "float16"}),
        "uqe": lambda text: UQE(_bits(text)),
        "uqe-channel": lambda text: UQE(_bits(text), channelwise=True),
        "pca-int8": lambda text: PcaInt8(_number(text)),
        "pca-entropy": lambda text: PcaEntropy(_number(text)),
        "pq": lambda text: ProductQuantiser(_number(text)),
        "rq": lambda text: ResidualQuantiser(_number(text)),
        "sign": lambda text: SignBits(),
        "itq": lambda text: Itq(_number(text)),
        "nec": lambda text: CodecMethod(codec, _number(text)),
        "codec-pyramid": lambda text: CodecMethod(None, _number(text)),
        "codec-hierarchical": lambda text: CodecMethod(None, _number(text), "hierarchical"),
        "codec-factorized": lambda text: CodecMethod(None, _number(text), "factorized"),
    }


def _raw(text: str, types: dict[str, str]) -> Raw:
    stored, dash, suffix = text.partition("-")
    if stored not in types or (dash and suffix != "zstd"):
        raise InputError(f"{text!r} is no way to store raw values; there are {', '.join(types)}, each with -zstd too")
    return Raw(types[stored], zstd=bool(dash))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{text!r} is no number") from None


def _bits(text: str) -> int:
    number = _number(text)
    if not number.is_integer():
        raise InputError(f"{text!r} is no whole number of bits")
    return int(number)
