"""`nec decode`: write a store's embeddings as plain float32."""

from __future__ import annotations

import argparse

HELP = "decode the embeddings of a store or a product to .npy, .npz or plain .zarr"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `nec decode`."""
    parser.add_argument("store", metavar="STORE", help="store or product, its URL, or a shipped name")
    parser.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help=".npy: embeddings (n, y, x, d) float32; .npz and .zarr: these, names, labels, split, groups and masks;"
        " of a product (time, y, x, d), NaN where not valid, and in .zarr (time, d, y, x) with coordinates",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    parser.add_argument("--quiet", action="store_true", help="show no progress")


def run(args: argparse.Namespace) -> int:
    """Decode shard by shard into a temporary that becomes `args.out` when it is whole."""
    from nec.store import decode

    decode(args.store, args.out, overwrite=args.overwrite, quiet=args.quiet)
    return 0
