"""Arguments that commands on images share: which images, and how a model sees them."""

from __future__ import annotations

import argparse
import warnings
from typing import TYPE_CHECKING, Any

from nec.errors import InputError

if TYPE_CHECKING:
    from nec.datasets import Dataset

DATASET_HELP = (
    "KIND:PATH, a folder or the published zip; KIND is folder, eurosat, ucmerced, millionaid, aid, resisc45, potsdam, "
    "dubai or images+masks"
)
INPUT_HELP = f"{DATASET_HELP}; or GeoTIFFs"


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


def add_window_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how images with masks are cut."""
    parser.add_argument("--tile", type=int, metavar="N", help="cut images with masks into windows of N x N pixels")
    parser.add_argument(
        "--downscale", type=int, default=1, metavar="K", help="average images with masks over K x K pixels first"
    )


def open_images(args: argparse.Namespace, inputs: list[str]) -> Dataset:
    """The dataset that the arguments name."""
    from nec.datasets import open_dataset

    # Remarks of the readers on odd tags and missing geotransforms; what makes a file unusable is raised.
    warnings.filterwarnings("ignore", module=r"PIL\.|rasterio")

    lists = dict(map(_part_and_file, args.split_list))
    return open_dataset(inputs, seed=args.seed, split_lists=lists, tile=args.tile, downscale=args.downscale)


def image_options(args: argparse.Namespace) -> dict[str, Any]:
    """Keywords of `nec.encode.encode` and `sample_embeddings` that `add_image_arguments` declares."""
    return {name: getattr(args, name) for name in ("image_size", "scale", "offset", "batch_size", "workers", "seed")}


def parts(text: str | None) -> list[str] | None:
    """ "train,val" -> its parts; None and "all" mean every image."""
    return None if text in (None, "all") else text.split(",")


def _part_and_file(text: str) -> tuple[str, str]:
    part, equals, file = text.partition("=")
    if not equals or not file:
        raise InputError(f"--split-list {text}: give PART=FILE, for example train=uc_merced-train.txt")
    return part, file
