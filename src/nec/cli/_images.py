"""Arguments that commands on images share: which images, and how a model sees them."""

from __future__ import annotations

import argparse
import warnings
from typing import TYPE_CHECKING, Any

from nec.errors import InputError

if TYPE_CHECKING:
    from nec.datasets import Dataset
    from nec.encoding import Reading, Running

DATASET_HELP = (
    "KIND:PATH, a folder or the published zip; KIND is folder, eurosat, ucmerced, millionaid, aid, resisc45, potsdam, "
    "dubai or images+masks"
)
INPUT_HELP = f"{DATASET_HELP}; or GeoTIFFs"
_READING = (
    "scale", "offset", "image_size", "tile", "downscale", "split", "split_list", "bands", "mask", "nodata",
    "resolution", "crs", "sensor",
)  # fmt: skip
_RUNNING = ("workers", "threads", "scheduler", "batch_size", "seed", "device", "precision")


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what decides the images and their way into the model."""
    parser.add_argument("--image-size", type=int, metavar="N", help="resize images to N x N pixels")
    parser.add_argument("--scale", type=float, metavar="S", help="pixel * S + O lies in 0..1 (types other than bytes)")
    parser.add_argument("--offset", type=float, default=0.0, metavar="O", help="see --scale (default 0)")
    parser.add_argument("--batch-size", type=int, default=256, metavar="N", help="images a batch (default 256)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="threads that read images (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the dataset's split and of samples (default 0)")
    parser.add_argument(
        "--split-list",
        action="append",
        default=[],
        metavar="PART=FILE",
        help="file that lists the images of a part (train, val, test), one a line; once for each part",
    )
    add_window_arguments(parser)
    parser.add_argument("--device", default="auto", metavar="D", help="auto (default), cpu, cuda or mps")
    parser.add_argument(
        "--precision",
        choices=["fp32", "bf16", "fp16"],
        default="fp32",
        help="in which the model computes; others than fp32 (default) are faster and change some symbols",
    )
    parser.add_argument(
        "--model-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of a model from another library, for example layer=8",
    )


def add_window_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how images with masks are cut."""
    parser.add_argument("--tile", type=int, metavar="N", help="cut images with masks into windows of N x N pixels")
    parser.add_argument(
        "--downscale", type=int, default=1, metavar="K", help="average images with masks over K x K pixels first"
    )


def open_images(args: argparse.Namespace, inputs: list[str]) -> Dataset:
    """The dataset that the arguments name."""
    from nec.encoding.sources import open_images

    # Remarks of the readers on odd tags and missing geotransforms; what makes a file unusable is raised.
    warnings.filterwarnings("ignore", module=r"PIL\.|rasterio")
    return open_images(inputs, reading(args), args.seed)


def reading(args: argparse.Namespace) -> Reading:
    """How the source is read, as far as the command declares it."""
    from nec.encoding import Reading

    given = {name: getattr(args, name) for name in _READING if getattr(args, name, None) is not None}
    lists: dict[str, Any] = {name: given[name].split(",") for name in ("split", "bands") if name in given}
    return Reading(**{**given, **lists})


def running(args: argparse.Namespace) -> Running:
    """How the run is done, as far as the command declares it."""
    from nec.encoding import Running

    return Running(**{name: getattr(args, name) for name in _RUNNING if getattr(args, name, None) is not None})


def model_of(args: argparse.Namespace) -> Any:
    """The model that the arguments name, with its options."""
    from nec.models import load_model

    options: dict[str, Any] = {}
    for text in args.model_option:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--model-option {text}: give KEY=VALUE, for example layer=8")
        options[key] = value
    return load_model(args.model, args.device, precision=args.precision, **options)
