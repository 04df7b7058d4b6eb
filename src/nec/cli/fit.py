"""`nec fit`: a codec for the embeddings of any model, no training needed."""

from __future__ import annotations

import argparse
import warnings

from nec.cli._images import INPUT_HELP, add_image_arguments, model_of, reading, running
from nec.errors import InputError

SYMMETRIES = (1, 2, 4, 8)  # as in nec.models.config, which needs torch
HELP = "fit a codec to a model's embeddings, or to embeddings in a file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `nec fit`."""
    parser.add_argument(
        "source",
        nargs="+",
        metavar="SOURCE",
        help=f"MODEL and then a dataset: {INPUT_HELP}; or one .npy, .npz or .zarr of embeddings (n, y, x, d)",
    )
    parser.add_argument(
        "--out", required=True, metavar="PATH", help="NAME.json: the codec; else a folder: the model with the codec"
    )
    parser.add_argument(
        "--prior", choices=["hierarchical", "factorized"], default="hierarchical", help="default hierarchical"
    )
    parser.add_argument(
        "--spatial",
        choices=["haar", "none"],
        default="haar",
        help="with the hierarchical prior, code a Haar pyramid over the grid (default), or the tokens themselves: none",
    )
    parser.add_argument("--rank", type=int, metavar="K", help="keep K components of the basis (default: all)")
    parser.add_argument(
        "--symmetries",
        type=int,
        choices=SYMMETRIES,
        metavar="N",
        help="the model that is written gives means over N (1, 2, 4, 8) turns and flips of an image as its embedding:"
        " N times a producer's work, better for tasks that know no upright side, and fewer bytes",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="images to fit on (default 4000, less for large grids)")
    parser.add_argument(
        "--split",
        default="train",
        metavar="PARTS",
        help="parts of the dataset's split to fit on, or all (default train)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a codec that exists")
    add_image_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print what was made as JSON, and no progress")


def run(args: argparse.Namespace) -> int:
    """Fit, save, and print what was made."""
    from nec.encoding import fit

    model, source = None, args.source[0]
    if len(args.source) > 1:
        # The folder is what is copied, so a model of ours goes by its name; options make another model of it.
        args.model = args.source[0]
        model, source = model_of(args) if args.model_option else args.model, args.source[1:]
    elif not source.endswith((".npy", ".npz", ".zarr")):
        raise InputError(f"{source}: give a model and a dataset, or one .npy, .npz or .zarr of embeddings")
    warnings.filterwarnings("ignore", module=r"PIL\.|rasterio")
    report = fit(
        source,
        args.out,
        model,
        args.symmetries,
        args.limit,
        prior=args.prior,
        spatial=args.spatial,
        rank=args.rank,
        overwrite=args.overwrite,
        reading=reading(args),
        running=running(args),
        progress=not args.json,
    )
    print(report.to_json() if args.json else report)
    return 0
