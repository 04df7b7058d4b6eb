"""`nec.measure`: how many bytes every method takes for the same images, without training anything."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.bench.methods import fit_methods, methods
from nec.bench.methods.measure import measure as measure_methods
from nec.bench.methods.measure import spread
from nec.bench.methods.spec import DEFAULT
from nec.encoding import Reading, Running
from nec.encoding.api import BATCH_IMAGES, open_backbone
from nec.encoding.codecs import sample_embeddings
from nec.encoding.embed import Stream, plan_inputs, sample_positions
from nec.encoding.sources import Source, open_images
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
    dataset = open_images(source, reading, running.seed)
    found, job = open_backbone(backbone, running), running.job("threads", BATCH_IMAGES, progress)
    order = np.arange(len(dataset)) if reading.parts is None else dataset.indices(reading.parts)
    order = order[sample_positions(len(order), limit or len(order), running.seed)]
    inputs = plan_inputs(found, dataset, order, **reading.pixels())
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
    files = report["files"]
    pixels = report["pixel_bytes_per_image"]
    share = f"{files['bytes_per_image'] / pixels:.1%}" if pixels else "-"
    original = ["original files", *_sizes(files), "-", share, "100.0%", "0", "-", "-", "-"]
    kept = [row for row in report["methods"] if "refused" not in row]
    rows = [list(COLUMNS), original, *map(_cells, kept)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    left = {0, COLUMNS.index("check")}
    lines = [
        "  ".join(row[i].ljust(width) if i in left else row[i].rjust(width) for i, width in enumerate(widths))
        for row in rows
    ]
    height, width, bands = report["image_shape"]
    grid = "x".join(map(str, report["grid"]))
    head = f"{report['images']} images of {height}x{width}x{bands}, {grid} tokens of {report['dimensions']} values, "
    return [
        head + f"batches of {report['batch_size']}, model {report['model']['name']}",
        "",
        *(line.rstrip() for line in lines),
        *(f"{row['method']} left out: {row['refused']}" for row in report["methods"] if "refused" in row),
    ]


def _sizes(row: dict[str, Any]) -> list[str]:
    least, most = row["min_bytes"], row["max_bytes"]
    return [f"{row['bytes_per_image']:,.1f}", *("-" if size is None else f"{size:,}" for size in (least, most))]


def _cells(row: dict[str, Any]) -> list[str]:
    own = row["file_bytes_per_image"]
    return [
        row["method"],
        *_sizes(row),
        "-" if own is None else f"{own:,.1f}",
        f"{row['share_of_pixels']:.2%}",
        f"{row['share_of_files']:.1%}",
        f"{row['side_information']:,}",
        row["promise"] if row["exact"] else f"FAILED: {row['promise']}",
        f"{row['seconds']['encode']:.2f}",
        f"{row['seconds']['decode']:.2f}",
    ]
