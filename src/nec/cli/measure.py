"""`nec measure`: how many bytes every method takes for the same images, without training anything."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from nec.cli._images import INPUT_HELP, add_image_arguments, image_options, open_images, parts
from nec.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from nec.bench.methods import Method
    from nec.datasets import Dataset
    from nec.models.mae import NecModel

HELP = "stored bytes of every method on the same images, exact recovery checked"
FIT_IMAGES = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `nec measure`."""
    parser.add_argument("input", nargs="+", metavar="DATASET", help=INPUT_HELP)
    parser.add_argument("--model", required=True, metavar="MODEL", help="model folder or shipped name")
    parser.add_argument("--limit", type=int, metavar="N", help="measure a seeded sample of N images (default: all)")
    parser.add_argument("--split", metavar="PARTS", help="measure these parts of the split only, e.g. val,test")
    parser.add_argument(
        "--methods",
        metavar="SPEC",
        help="e.g. 'uqe:2,4,8 jpeg2000:16,48 png nec:0.3,1'; jpeg2000 takes compression ratios (default: all methods)",
    )
    add_image_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, and no progress")


def run(args: argparse.Namespace) -> int:
    """Measure and print. Status 1 if any method breaks what it promises."""
    from nec.bench.methods import methods
    from nec.bench.methods.spec import DEFAULT

    spec = args.methods or DEFAULT
    methods(spec)  # a misspelt name is told before anything is loaded
    if args.limit is not None and args.limit < 1:
        raise InputError(f"--limit must be at least 1, not {args.limit}")
    dataset = open_images(args, args.input)

    from nec.models import load_model

    model = load_model(args.model)
    report = _measure(args, dataset, model, methods(spec, codec=model.codec))
    print(json.dumps(report, indent=2) if args.json else "\n".join(_table(report)))
    return 0 if all(row.get("exact", True) for row in report["methods"]) else 1


def _measure(args: argparse.Namespace, dataset: Dataset, model: NecModel, wanted: list[Method]) -> dict[str, Any]:
    from nec.bench.methods import fit_methods, measure
    from nec.bench.methods.measure import spread
    from nec.encode.embed import Stream, plan_inputs, sample_positions
    from nec.progress import Progress

    order = _order(args, dataset)
    order = order[sample_positions(len(order), args.limit or len(order), args.seed)]
    inputs = plan_inputs(model, dataset, order, image_size=args.image_size, scale=args.scale, offset=args.offset)
    stream = Stream(model, dataset, order, inputs, args.batch_size, args.workers)
    wanted = fit_methods(wanted, lambda: _sample(args, dataset, model))
    with Progress(len(order), "measuring", "images", quiet=args.json) as bar:
        rows = measure(wanted, stream.pairs(stream.batches(0, len(order))), bar.update)
    sizes = [dataset.file_sizes[index] for index in order]
    height, width, bands = inputs.shape
    return {
        "images": len(order),
        "image_shape": [height, width, bands],
        "grid": list(inputs.grid),
        "dimensions": model.config.embed_dim,
        "model": model.identity,
        "batch_size": args.batch_size,
        "files": {"stored_bytes": sum(sizes), **spread(sum(sizes) / len(sizes), sizes)},
        "pixel_bytes_per_image": next((row.pixel_bytes / row.images for row in rows if row.images), None),
        "methods": [row.to_dict(sum(sizes)) for row in rows],
    }


def _order(args: argparse.Namespace, dataset: Dataset) -> NDArray[np.int64]:
    import numpy as np

    chosen = parts(args.split)
    return np.arange(len(dataset)) if chosen is None else dataset.indices(chosen)


def _sample(args: argparse.Namespace, dataset: Dataset, model: NecModel) -> NDArray[np.float32]:
    """Embeddings that codecs are fitted to: of training images, where the dataset has a split."""
    from nec.encode import sample_embeddings

    return sample_embeddings(model, dataset, limit=FIT_IMAGES, progress=not args.json, **image_options(args))


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
