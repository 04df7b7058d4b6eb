"""Our codec as a method, and all methods by name: "uqe:2,4 jpeg2000:16,48 png"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nec.bench.methods.fitted import PcaEntropy, PcaInt8
from nec.bench.methods.images import Avif, Htj2k, Jpeg, Jpeg2000, JpegXl, Png, WebP
from nec.bench.methods.method import Method, check_embeddings
from nec.bench.methods.raw import UQE, Raw
from nec.bench.methods.vectors import Itq, ProductQuantiser, ResidualQuantiser, SignBits
from nec.codec import EmbeddingCodec
from nec.errors import InputError

Variant = Literal["factorized", "hierarchical", "pyramid"]
_OPTIONS: dict[Variant, dict[str, Any]] = {
    "factorized": {"prior": "factorized"},
    "hierarchical": {"prior": "hierarchical"},
    "pyramid": {"prior": "hierarchical", "spatial": "haar"},
}


class CodecMethod(Method):
    """`EmbeddingCodec` at one quality; without a codec, `fit` fits one of a `variant` to the sample.

    Variants: "factorized", "hierarchical" (the prior, on the tokens themselves), "pyramid" (it on a Haar pyramid).
    """

    domain = "embeddings"

    def __init__(self, codec: EmbeddingCodec | None = None, quality: float = 1.0, variant: Variant = "pyramid") -> None:
        if not quality > 0:
            raise InputError(f"the codec's quality is a positive number, not {quality:g}")
        self.codec = codec
        self.variant: Variant = variant if codec is None else "pyramid" if codec.spatial else codec.prior
        self.family, self.setting, self.label = f"codec-{self.variant}", float(quality), f"quality {quality:g}"

    @property
    def nbytes(self) -> int:
        return self._fitted().nbytes

    @property
    def needs_fit(self) -> bool:
        return self.codec is None

    def fit(self, sample: NDArray[Any]) -> CodecMethod:
        """Itself where it has a codec, else the method with one fitted to embeddings (n, y, x, d)."""
        if self.codec is not None:
            return self
        options = _OPTIONS[self.variant]
        return CodecMethod(EmbeddingCodec.fit(sample, positions=None, **options), self.setting)

    def encode(self, batch: NDArray[Any]) -> bytes:
        return self._fitted().encode(check_embeddings(batch), self.setting)

    def decode(self, blob: bytes) -> NDArray[np.float32]:
        return self._fitted().decode(blob)

    def _fitted(self) -> EmbeddingCodec:
        if self.codec is None:
            raise InputError(f"{self.name} has no codec yet: call fit(sample of embeddings) first")
        return self.codec


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
    """By family what makes a method of a setting."""
    numbers: dict[str, Callable[[float], Method]] = {
        "jpeg2000": Jpeg2000,
        "jpeg2000-psnr": lambda psnr: Jpeg2000(psnr, constant_quality=True),
        "htj2k": Htj2k,
        "jpegxl": JpegXl,
        "webp": WebP,
        "avif": Avif,
        "jpeg": Jpeg,
        "uqe": UQE,
        "uqe-channel": lambda bits: UQE(bits, channelwise=True),
        "pca-int8": PcaInt8,
        "pca-entropy": PcaEntropy,
        "pq": ProductQuantiser,
        "rq": ResidualQuantiser,
        "itq": Itq,
        "nec": lambda quality: CodecMethod(codec, quality),
        **{f"codec-{variant}": partial(CodecMethod, None, variant=variant) for variant in _OPTIONS},
    }

    def of_number(family: str, text: str) -> Method:
        try:
            number = float(text)
        except ValueError:
            raise InputError(f"{text!r} is no number") from None
        return numbers[family](number)

    return {
        "rdc": lambda text: _raw(text, {"uint8": "uint8", "uint16": "uint16"}),
        "png": lambda text: Png(),
        "float": lambda text: _raw(text, {"32": "float32", "16": "float16"}),
        "sign": lambda text: SignBits(),
        **{family: partial(of_number, family) for family in numbers},
    }


def _raw(text: str, types: dict[str, str]) -> Raw:
    stored, dash, suffix = text.partition("-")
    if stored not in types or (dash and suffix != "zstd"):
        raise InputError(f"{text!r} is no way to store raw values; there are {', '.join(types)}, each with -zstd too")
    return Raw(types[stored], zstd=bool(dash))
