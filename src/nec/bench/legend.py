"""What methods, metrics and references are called in figures, tables and the report, and how they are drawn."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

VARIANT = "--"  # between the key of a family and what a recipe calls a variant of it
INK = "ink"  # the text's own colour, black on white and light on dark


@dataclass(frozen=True)
class Style:
    """A family of methods: its name, a sentence on it, colours on light and dark pages, a matplotlib marker.

    A `reference` is drawn as a horizontal line instead of a curve.
    """

    name: str
    about: str
    light: str
    dark: str
    marker: str
    reference: bool = False


# Okabe & Ito's palette, lightened for dark pages; the markers differ too, as far as there are
# filled ones: of fourteen, six stand for two families each, one of which is seldom drawn.
STYLES = {
    "nec-factorized": Style(
        "NEC, factorised prior",
        "neural embedding compression: the foundation model is adapted to the rate; its quantised tokens are coded "
        "with one learned table a channel",
        "#0072B2", "#56B4E9", "o",
    ),
    "nec-hyperprior": Style(
        "NEC, scale hyperprior",
        "as NEC, but a second, coded latent tells the coder how much each value varies",
        "#D55E00", "#FF8A47", "s",
    ),
    "nec-hierarchical": Style(
        "NEC, hierarchical",
        "neural embedding compression through this package's pyramid codec: one model adapted for all rates",
        "#B22222", "#FF7F7F", "p",
    ),
    "codec-pyramid": Style(
        "codec, pyramid",
        "this package's codec fitted to the tokens of the unadapted model: a Haar pyramid over the grid, its contexts "
        "from coarser coefficients",
        "#004D9E", "#7FB2FF", "*",
    ),
    "codec-symmetric": Style(
        "codec, pyramid, symmetric",
        "the same codec on means over the turns and flips of the image (so many passes of the unadapted model)",
        "#5B2A86", "#C9A0F0", "D",
    ),
    "codec-hierarchical": Style(
        "codec, tokens",
        "the codec's first version: coarse-to-fine contexts over the tokens themselves",
        "#007A5A", "#2FC79B", "^",
    ),
    "codec-factorized": Style(
        "codec, factorised",
        "this package's codec fitted to the tokens of the unadapted model; one table a channel",
        "#6A4C93", "#B79CE0", "v",
    ),
    "uqe": Style(
        "UQE",
        "uniformly quantised embeddings: one minimum and maximum for a whole batch, then Blosc zstd with bit shuffle",
        "#B8487F", "#E39AC6", "D",
    ),
    "uqe-channel": Style(
        "UQE by channel",
        "as UQE, with a minimum and maximum for each channel",
        "#C98A00", "#F0B43C", "P",
    ),
    "jpeg2000": Style(
        "JPEG 2000",
        "images coded by JPEG 2000, then decoded and put through the unadapted model",
        INK, INK, "X",
    ),
    "jpeg": Style(
        "JPEG",
        "images coded by JPEG, then decoded and put through the unadapted model",
        "#777777", "#A0A0A0", "*",
    ),
    "jpeg2000-psnr": Style(
        "JPEG 2000, equal PSNR",
        "as JPEG 2000, but every image is coded to one quality instead of one size",
        "#4D4D4D", "#CFCFCF", "p",
    ),
    "htj2k": Style(
        "HTJ2K",
        "images coded by high-throughput JPEG 2000, then decoded and put through the unadapted model",
        "#9A6324", "#D9A066", "<",
    ),
    "webp": Style(
        "WebP",
        "images coded by WebP, then decoded and put through the unadapted model",
        "#B00020", "#FF8A93", ">",
    ),
    "avif": Style(
        "AVIF",
        "images coded by AVIF (AV1), then decoded and put through the unadapted model",
        "#AA3377", "#EE8ABF", "8",
    ),
    "jpegxl": Style(
        "JPEG XL",
        "images coded by JPEG XL, then decoded and put through the unadapted model",
        "#445A00", "#B5CC5A", "H",
    ),
    "pca-int8": Style(
        "PCA, int8",
        "the leading principal components of the tokens as 8-bit integers",
        "#225588", "#8AB6E0", "v",
    ),
    "pca-entropy": Style(
        "PCA, water-filling",
        "principal components of the tokens under reverse water-filling, entropy-coded with one static table each",
        "#AA4499", "#DD9BD2", "d",
    ),
    "pq": Style(
        "product quantisation",
        "parts of a token by the nearest of 256 codewords each (faiss)",
        "#117733", "#7CCB95", "h",
    ),
    "rq": Style(
        "residual quantisation",
        "a token as a sum of codewords, one of each codebook (faiss)",
        "#882255", "#D58AAE", "*",
    ),
    "sign": Style(
        "sign bits",
        "one bit a channel: above its mean or not",
        "#666633", "#C9C98A", "P",
    ),
    "itq": Style(
        "ITQ",
        "signs of rotated principal components: iterative quantisation",
        "#335566", "#9CC0CF", "X",
    ),
    "rdc": Style(
        "RDC",
        "raw data: the pixels themselves, without loss, plain or with bit shuffle and zstd",
        "#7A7A00", "#C4C45A", "h",
    ),
    "original": Style(
        "original files",
        "the image files as published, through the unadapted model",
        "#8C564B", "#D9A79C", "d", reference=True,
    ),
    "float": Style(
        "float embeddings",
        "the unadapted model's tokens, neither quantised nor coded",
        "#555555", "#B5BDC8", "d", reference=True,
    ),
    "fine-tune": Style(
        "full fine-tuning",
        "the whole foundation model trained with the head on the images",
        "#17808A", "#5CC8D2", "d", reference=True,
    ),
}  # fmt: skip
REFERENCES = tuple(key for key, style in STYLES.items() if style.reference)
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
_SPARE = "<>pH8"
_SPARE_COLOURS = (  # light, dark
    ("#777777", "#A0A0A0"), ("#0072B2", "#56B4E9"), ("#007A5A", "#2FC79B"), ("#6A4C93", "#B79CE0"),
    ("#B8487F", "#E39AC6"), ("#9A6324", "#D9A066"), ("#17808A", "#5CC8D2"), ("#445A00", "#B5CC5A"),
)  # fmt: skip


def style_of(method: str) -> Style:
    """How to draw and name a family, or a variant of one ("family--variant").

    A family that is not listed gets its key as name, grey, and a marker by its name; a variant the family's name and
    what it is called, with colour and marker by that.
    """
    if method in STYLES:
        return STYLES[method]
    family, _, variant = method.partition(VARIANT)
    if not variant or family not in STYLES:
        return Style(method, "", *_SPARE_COLOURS[0], _SPARE[sum(method.encode()) % len(_SPARE)])
    other, colour = divmod(zlib.crc32(variant.encode()), len(_SPARE_COLOURS))
    light, dark = _SPARE_COLOURS[colour]
    found, marker = STYLES[family], _SPARE[other % len(_SPARE)]
    return replace(found, name=f"{found.name}: {variant.replace('-', ' ')}", light=light, dark=dark, marker=marker)


def metric_name(metric: str) -> str:
    """Name of a key of `Row.metrics` for people."""
    return METRICS.get(metric, (metric.replace("_", " "), ""))[0]
