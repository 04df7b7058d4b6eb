"""`nec.measure`: how many bytes every method takes for the same images, without training anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.bench.methods import Method, fit_methods, methods
from nec.bench.methods.method import round_trip
from nec.bench.methods.spec import DEFAULT
from nec.encoding import Reading, Running
from nec.encoding.api import BATCH_IMAGES, open_backbone, open_images
from nec.encoding.codecs import sample_positions
from nec.encoding.images import Stream, plan_inputs, positions_of, sample_embeddings
from nec.encoding.options import Source
from nec.errors import InputError
from nec.models import Backbone
from nec.progress import Progress
from nec.report import Report

FIT_IMAGES = 1000


@dataclass(frozen=True)
class MeasureReport(Report):
    """Stored bytes of every method on the same images.

    Attributes:
        images: how many.
        image_shape: [height, width, bands].
        grid: [y, x] tokens an image.
        dimensions: channels of a token.
        model: identity of the backbone.
        batch_size: images that are coded together.
        files: bytes of the image files: `stored_bytes`, `bytes_per_image`, `min_bytes`, `max_bytes`.
        pixel_bytes_per_image: uncompressed; None where no method stored any image.
        methods: what each method made, or `refused` with the reason.
    """

    images: int
    image_shape: list[int]
    grid: list[int]
    dimensions: int
    model: dict[str, Any]
    batch_size: int
    files: dict[str, Any]
    pixel_bytes_per_image: float | None
    methods: list[dict[str, Any]]

    @property
    def failed(self) -> bool:
        """Whether a method breaks what it promises."""
        return not all(row.get("exact", True) for row in self.methods)

    def __str__(self) -> str:
        return "\n".join(_table(self.to_dict()))


def measure(
    source: Source,
    backbone: Backbone | str | Path,
    methods_spec: str | None = None,
    limit: int | None = None,
    *,
    reading: Reading | None = None,
    running: Running | None = None,
    progress: bool = False,
) -> MeasureReport:
    """Count the bytes that every method takes for the same images; what they promise is checked.

    Args:
        source: a dataset, as `nec.encode` takes it.
        backbone: a `Backbone`, or a name that `nec.load_model` takes.
        methods_spec: for example "uqe:2,4,8 jpeg2000:16,48 png nec:0.3,1"; all methods if None.
        limit: measure a seeded sample of so many images.
        reading: how images become the backbone's input, and which parts of the split are measured.
        running: how the run is done.
        progress: report on stderr.

    Raises:
        InputError: an unknown method; images that do not fit the backbone.
    """
    reading, running, spec = reading or Reading(), running or Running(), methods_spec or DEFAULT
    methods(spec)  # a misspelt name is told before anything is loaded
    if limit is not None and limit < 1:
        raise InputError(f"--limit must be at least 1, not {limit}")
    dataset = open_images(source, reading, running)
    found, job = open_backbone(backbone, running), running.job("threads", BATCH_IMAGES, progress)
    order = positions_of(dataset, reading.parts)
    order = order[sample_positions(len(order), limit or len(order), running.seed)]
    inputs = plan_inputs(found, dataset, order, reading)
    stream = Stream(found, dataset, order, inputs, job.batch_size, running.workers)

    def sample() -> NDArray[np.float32]:
        """Embeddings that codecs are fitted to: of training images, where the dataset has a split."""
        return sample_embeddings(found, dataset, replace(reading, split=["train"]), job, FIT_IMAGES)

    wanted = fit_methods(methods(spec, codec=found.codec), sample)
    with Progress(len(order), "measuring", "images", quiet=not progress) as bar:
        rows = measure_methods(wanted, stream.pairs(stream.batches(0, len(order))), bar.update)
    sizes = [dataset.file_sizes[index] for index in order]
    return MeasureReport(
        images=len(order),
        image_shape=list(inputs.shape),
        grid=list(inputs.grid),
        dimensions=found.dimensions,
        model=found.identity,
        batch_size=job.batch_size,
        files={"stored_bytes": sum(sizes), **spread(sum(sizes) / len(sizes), sizes)},
        pixel_bytes_per_image=next((row.pixel_bytes / row.images for row in rows if row.images), None),
        methods=[row.to_dict(sum(sizes)) for row in rows],
    )


COLUMNS = (
    "method", "bytes/image", "min", "max", "as files", "of pixels", "of files", "side info", "check", "enc s", "dec s"
)  # fmt: skip


def _table(report: dict[str, Any]) -> list[str]:
    """Aligned lines: the original files, then each method, then those that refused with the reason."""
    files, pixels = report["files"], report["pixel_bytes_per_image"]
    share = f"{files['bytes_per_image'] / pixels:.1%}" if pixels else "-"
    rows = [list(COLUMNS), ["original files", *_sizes(files), "-", share, "100.0%", "0", "-", "-", "-"]]
    refused = []
    for row in report["methods"]:
        if "refused" in row:
            refused.append(f"{row['method']} left out: {row['refused']}")
            continue
        own, took = row["file_bytes_per_image"], row["seconds"]
        rows.append([
            row["method"], *_sizes(row), "-" if own is None else f"{own:,.1f}", f"{row['share_of_pixels']:.2%}",
            f"{row['share_of_files']:.1%}", f"{row['side_information']:,}",
            row["promise"] if row["exact"] else f"FAILED: {row['promise']}",
            f"{took['encode']:.2f}", f"{took['decode']:.2f}",
        ])  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    sides = ["<" if name in ("method", "check") else ">" for name in COLUMNS]
    lines = [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    ]
    shape, grid = ("x".join(map(str, report[name])) for name in ("image_shape", "grid"))
    head = f"{report['images']} images of {shape}, {grid} tokens of {report['dimensions']} values, "
    return [head + f"batches of {report['batch_size']}, model {report['model']['name']}", "", *lines, *refused]


def _sizes(row: dict[str, Any]) -> list[str]:
    least, most = row["min_bytes"], row["max_bytes"]
    return [f"{row['bytes_per_image']:,.1f}", *("-" if size is None else f"{size:,}" for size in (least, most))]


# -- methods on batches -----------------------------------------------------------------------------------------------

Batch = tuple[NDArray[Any], NDArray[np.float32]]
EXACT = "bit-exact"
STABLE = "same bytes again"
ALIKE = "decodes alike"


@dataclass
class Measured:
    """What one method made of the images.

    Attributes:
        stored_bytes: bytes of all frames, headers included; `side_information` is beside them, once.
        per_image: each image's share of the frames where images are coded one by one, without what they share.
        file_bytes: the images as files of their own, nothing shared, or None.
        promise: what was checked of every batch: "bit-exact" (decoding gives the batch), "same bytes again" (encoding
            what was decoded gives the frame, hence the same symbols), "decodes alike" (decoding twice gives the same
            array of the batch's shape and type).
        exact: whether that held for every batch.
        refused: why the method does not store these images, or None.
    """

    method: Method
    promise: str
    images: int = 0
    stored_bytes: int = 0
    pixel_bytes: int = 0
    per_image: list[int] = field(default_factory=list)
    file_bytes: int | None = None
    exact: bool = True
    seconds: dict[str, float] = field(default_factory=lambda: {"encode": 0.0, "decode": 0.0})
    refused: str | None = None

    @property
    def side_information(self) -> int:
        """Bytes that a decoder needs once."""
        return 0 if self.refused else self.method.nbytes

    def add(self, images: NDArray[Any], embeddings: NDArray[np.float32]) -> None:
        """Encode, decode and check one more batch."""
        batch = images if self.method.domain == "images" else embeddings
        blob, decoded = round_trip(self.method, batch, self.seconds)
        self.images += len(batch)
        self.stored_bytes += len(blob)
        self.pixel_bytes += images.nbytes
        self.per_image += self.method.image_bytes(blob) or []
        files = self.method.files(blob)
        if files is not None:
            self.file_bytes = (self.file_bytes or 0) + sum(map(len, files))
        self.exact &= self._holds(batch, blob, decoded)

    def _holds(self, batch: NDArray[Any], blob: bytes, decoded: NDArray[Any]) -> bool:
        if decoded.shape != batch.shape or decoded.dtype != batch.dtype:
            return False
        if self.promise == EXACT:
            return bool(np.array_equal(decoded, batch))
        if self.promise == STABLE:
            return self.method.encode(decoded) == blob
        return bool(np.array_equal(self.method.decode(blob), decoded))

    def to_dict(self, raw_file_bytes: int) -> dict[str, Any]:
        """JSON-able row; `raw_file_bytes` are those of the images' own files."""
        method = self.method
        row = {"method": method.name, "family": method.family, "setting": method.setting, "domain": method.domain}
        row["lossless"] = method.lossless
        if self.refused:
            return {**row, "refused": self.refused}
        return {
            **row,
            "stored_bytes": self.stored_bytes,
            "side_information": self.side_information,
            **spread(self.stored_bytes / self.images, self.per_image),
            "file_bytes_per_image": None if self.file_bytes is None else self.file_bytes / self.images,
            "share_of_pixels": self.stored_bytes / self.pixel_bytes,
            "share_of_files": self.stored_bytes / raw_file_bytes,
            "promise": self.promise,
            "exact": self.exact,
            "seconds": self.seconds,
        }


def spread(mean: float, per_image: Sequence[int]) -> dict[str, Any]:
    """`bytes_per_image`, with the least and the most of an image where they are known."""
    least, most = (min(per_image), max(per_image)) if per_image else (None, None)
    return {"bytes_per_image": mean, "min_bytes": least, "max_bytes": most}


def measure_methods(
    wanted: Sequence[Method], batches: Iterable[Batch], done: Callable[[int], None] = lambda images: None
) -> list[Measured]:
    """Run fitted methods over batches of (images (n, h, w, c), their embeddings (n, y, x, d)).

    A method that cannot store the first batch (bands, type) is listed with the reason. `done` is called with the
    number of images of each finished batch. Raises `InputError` where a later batch is refused, or none comes.
    """
    measured = [Measured(method, _promise(method)) for method in wanted]
    began = False
    for images, embeddings in batches:
        for row in measured:
            if row.refused:
                continue
            try:
                row.add(images, embeddings)
            except InputError as error:
                if began:
                    raise
                row.refused = str(error)
        began = True
        done(len(images))
    if not began:
        raise InputError("there are no images to measure")
    return measured


def _promise(method: Method) -> str:
    if method.lossless:
        return EXACT
    return STABLE if method.domain == "embeddings" and method.repeats else ALIKE
