"""What methods, metrics and references are called in figures, tables and the report, and how they are drawn."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace

from nec.bench.results import VARIANT

INK = "#1d2430"  # the text's own colour; pages have it as var(--ink)


@dataclass(frozen=True)
class Style:
    """A family of methods: its name, colours on light and dark pages, a Vega symbol, a sentence on it.

    A `reference` is drawn as a horizontal line instead of a curve.
    """

    name: str
    light: str
    dark: str
    shape: str
    about: str
    reference: bool = False


def _polygon(corners: int, inner: float = 1.0, turn: float = 0.0) -> str:
    """SVG path of a polygon of radius 1, or of a star whose inner corners have a smaller one."""
    count = corners if inner == 1 else 2 * corners
    radii = [1.0 if inner == 1 or i % 2 == 0 else inner for i in range(count)]
    angles = [turn + 2 * math.pi * i / count for i in range(count)]
    points = [f"{r * math.sin(a):.3f},{-r * math.cos(a):.3f}" for r, a in zip(radii, angles, strict=True)]
    return f"M{'L'.join(points)}Z"


PENTAGON, HEXAGON, OCTAGON, STAR = _polygon(5), _polygon(6), _polygon(8), _polygon(5, 0.42)
SALTIRE = _polygon(4, 0.45, math.pi / 4)

# Okabe & Ito's palette, lightened for dark pages; the symbols differ too, as far as there are that many.
STYLES = {
    "nec-factorized": Style("NEC, factorised prior", "#0072B2", "#56B4E9", "circle",
        "neural embedding compression: the foundation model is adapted to the rate; its quantised tokens are "
        "coded with one learned table a channel"),
    "nec-hyperprior": Style("NEC, scale hyperprior", "#D55E00", "#FF8A47", "square",
        "as NEC, but a second, coded latent tells the coder how much each value varies"),
    "nec-hierarchical": Style("NEC, hierarchical", "#B22222", "#FF7F7F", PENTAGON,
        "neural embedding compression through this package's pyramid codec: one model adapted for all rates"),
    "codec-pyramid": Style("codec, pyramid", "#004D9E", "#7FB2FF", STAR,
        "this package's codec fitted to the tokens of the unadapted model: a Haar pyramid over the grid, its "
        "contexts from coarser coefficients"),
    "codec-symmetric": Style("codec, pyramid, symmetric", "#5B2A86", "#C9A0F0", "diamond",
        "the same codec on means over the turns and flips of the image (so many passes of the unadapted model)"),
    "codec-hierarchical": Style("codec, tokens", "#007A5A", "#2FC79B", "triangle-up",
        "the codec's first version: coarse-to-fine contexts over the tokens themselves"),
    "codec-factorized": Style("codec, factorised", "#6A4C93", "#B79CE0", "triangle-down",
        "this package's codec fitted to the tokens of the unadapted model; one table a channel"),
    "uqe": Style("UQE", "#B8487F", "#E39AC6", "diamond",
        "uniformly quantised embeddings: one minimum and maximum for a whole batch, then Blosc zstd with bit "
        "shuffle"),
    "uqe-channel": Style("UQE by channel", "#C98A00", "#F0B43C", "cross",
        "as UQE, with a minimum and maximum for each channel"),
    "jpeg2000": Style("JPEG 2000", INK, INK, SALTIRE,
        "images coded by JPEG 2000, then decoded and put through the unadapted model"),
    "jpeg": Style("JPEG", "#777777", "#A0A0A0", STAR,
        "images coded by JPEG, then decoded and put through the unadapted model"),
    "jpeg2000-psnr": Style("JPEG 2000, equal PSNR", "#4D4D4D", "#CFCFCF", PENTAGON,
        "as JPEG 2000, but every image is coded to one quality instead of one size"),
    "htj2k": Style("HTJ2K", "#9A6324", "#D9A066", "triangle-left",
        "images coded by high-throughput JPEG 2000, then decoded and put through the unadapted model"),
    "webp": Style("WebP", "#B00020", "#FF8A93", "triangle-right",
        "images coded by WebP, then decoded and put through the unadapted model"),
    "avif": Style("AVIF", "#AA3377", "#EE8ABF", OCTAGON,
        "images coded by AVIF (AV1), then decoded and put through the unadapted model"),
    "jpegxl": Style("JPEG XL", "#445A00", "#B5CC5A", HEXAGON,
        "images coded by JPEG XL, then decoded and put through the unadapted model"),
    "pca-int8": Style("PCA, int8", "#225588", "#8AB6E0", "triangle-down",
        "the leading principal components of the tokens as 8-bit integers"),
    "pca-entropy": Style("PCA, water-filling", "#AA4499", "#DD9BD2", "diamond",
        "principal components of the tokens under reverse water-filling, entropy-coded with one static table "
        "each"),
    "pq": Style("product quantisation", "#117733", "#7CCB95", HEXAGON,
        "parts of a token by the nearest of 256 codewords each (faiss)"),
    "rq": Style("residual quantisation", "#882255", "#D58AAE", STAR,
        "a token as a sum of codewords, one of each codebook (faiss)"),
    "sign": Style("sign bits", "#666633", "#C9C98A", "cross", "one bit a channel: above its mean or not"),
    "itq": Style("ITQ", "#335566", "#9CC0CF", SALTIRE,
        "signs of rotated principal components: iterative quantisation"),
    "rdc": Style("RDC", "#7A7A00", "#C4C45A", HEXAGON,
        "raw data: the pixels themselves, without loss, plain or with bit shuffle and zstd"),
    "original": Style("original files", "#8C564B", "#D9A79C", "stroke",
        "the image files as published, through the unadapted model", reference=True),
    "float": Style("float embeddings", "#555555", "#B5BDC8", "stroke",
        "the unadapted model's tokens, neither quantised nor coded", reference=True),
    "fine-tune": Style("full fine-tuning", "#17808A", "#5CC8D2", "stroke",
        "the whole foundation model trained with the head on the images", reference=True),
}  # fmt: skip
METRICS = {
    "accuracy": ("accuracy", "share of the test images whose most likely class is the true one"),
    "top5": ("top-5 accuracy", "share of the test images whose true class is among the five most likely"),
    "overall_accuracy": ("overall accuracy", "share of the labelled test pixels that are classified correctly"),
    "mean_iou": (
        "mean IoU",
        "intersection over union: pixels that prediction and truth agree on, divided by those that either gives the "
        "class; the mean over the classes",
    ),
    "mean_f1": ("mean F1", "harmonic mean of precision and recall of each class; the mean over the classes"),
}
FIDELITY = {
    "relative_error": (
        "relative error",
        "squared error of the decoded embeddings as a share of the float ones' variance; lower is better",
    ),
    "neighbour_recall": (
        "neighbour recall",
        "share of an image's ten nearest neighbours by float embeddings that are so by the decoded ones too",
    ),
}  # fmt: skip
WORDS = {
    "decoder": "the first stage of the masked autoencoder's decoder, put before the head on the consumer's side and "
    "trained with it",
    "λ": "weight of the reconstruction against the bits while NEC adapts the model: larger is finer and bigger",
    "bpp": "bits a pixel",
    "KiB": "1,024 bytes",
    "raw : size": "how many times smaller than the uncompressed pixels",
    "beside, once": "bytes that a consumer fetches once for all images: tables, ranges, codebooks",
    "BD-rate": "Bjøntegaard's delta rate: the bytes that a method needs more than another at equal accuracy, averaged "
    "over the accuracies that both reach",
    "verified": "lossless methods gave the input back, lossy ones decode to the same values each time",
    "seeds": "how many heads were trained from different random numbers; means and deviations are over them",
}  # fmt: skip
_SPARE = ("triangle-left", "triangle-right", PENTAGON, HEXAGON, OCTAGON)
_SPARE_COLOURS = (  # light, dark
    ("#777777", "#A0A0A0"), ("#0072B2", "#56B4E9"), ("#007A5A", "#2FC79B"), ("#6A4C93", "#B79CE0"),
    ("#B8487F", "#E39AC6"), ("#9A6324", "#D9A066"), ("#17808A", "#5CC8D2"), ("#445A00", "#B5CC5A"),
)  # fmt: skip


def style_of(method: str) -> Style:
    """How to draw and name a family, or a variant of one ("family--variant").

    A family that is not listed gets its key as name, grey, and a symbol by its name; a variant the family's name and
    what it is called, with colour and symbol by that.
    """
    if method in STYLES:
        return STYLES[method]
    family, _, variant = method.partition(VARIANT)
    if not variant or family not in STYLES:
        return Style(method, *_SPARE_COLOURS[0], _SPARE[sum(method.encode()) % len(_SPARE)], "")
    other, colour = divmod(zlib.crc32(variant.encode()), len(_SPARE_COLOURS))
    light, dark = _SPARE_COLOURS[colour]
    found, shape = STYLES[family], _SPARE[other % len(_SPARE)]
    return replace(found, name=f"{found.name}: {variant.replace('-', ' ')}", light=light, dark=dark, shape=shape)


def metric_name(metric: str) -> str:
    """Name of a key of `Row.metrics` for people."""
    return METRICS.get(metric, (metric.replace("_", " "), ""))[0]


def size_text(count: float) -> str:
    """Bytes of one image: whole bytes below 1 KiB, above it KiB (1,024 bytes) with three figures."""
    if count < 1023.5:
        return f"{count:.0f} B"
    kib = count / 1024
    return f"{kib:.2f} KiB" if kib < 9.995 else f"{kib:.1f} KiB" if kib < 99.95 else f"{kib:,.0f} KiB"


def title(text: str) -> str:
    """The first letter a capital, the others as they are."""
    return text[:1].upper() + text[1:]
