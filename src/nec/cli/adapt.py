"""`nec adapt`: make a foundation model's tokens cheap to code."""

from __future__ import annotations

import argparse

from nec.cli._training import add_run_arguments, common, show
from nec.errors import InputError

HELP = "adapt a model so that its quantised embeddings have low entropy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `nec adapt`."""
    parser.add_argument("model", metavar="MODEL", help="pre-trained model: a folder or a shipped name")
    add_run_arguments(parser)
    parser.add_argument(
        "--prior",
        choices=["factorized", "hyperprior", "hierarchical"],
        help="default factorized; hierarchical: through the product codec, one model for all qualities",
    )
    parser.add_argument(
        "--distortion", choices=["pixels", "features", "mix"], help="of the hierarchical prior (default features)"
    )
    parser.add_argument(
        "--symmetries",
        type=int,
        metavar="N",
        help="aim the distortion of features at means over N turns and flips of the image: 8 (default), 4, 2, or 1",
    )
    parser.add_argument(
        "--quality-range", type=float, nargs=2, metavar=("LOW", "HIGH"), help="it trains for (default 0.03 2)"
    )
    parser.add_argument("--hyper-channels", type=int, metavar="C", help="of the hyperprior (default 96)")
    parser.add_argument("--hyper-heads", type=int, metavar="H", help="attention heads of the hyperprior (default 4)")
    parser.add_argument(
        "--lmbda",
        type=float,
        metavar="L",
        help="weight of the distortion against the bits of an image (default 3e4, hierarchical 2.3e6)",
    )
    parser.add_argument(
        "--trainable-blocks",
        metavar="K",
        help="last encoder blocks to train, or all: the whole model (default 1, the paper's adapter)",
    )
    parser.add_argument("--latent-scale", type=float, metavar="S", help="scale the tokens by S first (default 1)")
    parser.add_argument("--quantiles-lr", type=float, metavar="R", help="rate of the prior's quantiles (default 1e-3)")
    parser.add_argument(
        "--principal-axes", action="store_true", default=None, help="start in the principal axes of the tokens"
    )
    parser.add_argument("--prior-lr", type=float, metavar="R", help="rate of the prior's densities (default: the main)")
    parser.add_argument("--prior-scale", type=float, metavar="S", help="width the densities start with (default 10)")
    parser.add_argument(
        "--quantization",
        choices=["noise", "mixed", "straight-through"],
        help="stand-in for rounding (default noise, hierarchical straight-through)",
    )


def run(args: argparse.Namespace) -> int:
    """Adapt, write the model folder, and print what was made."""
    from nec.training import AdaptOptions, adapt

    blocks = args.trainable_blocks
    if blocks is not None and blocks != "all":
        if not blocks.isdigit():
            raise InputError(f"--trainable-blocks {blocks}: give a number or all")
        args.trainable_blocks = int(blocks)
    return show(args, adapt(args.model, args.dataset, args.out, **common(args, AdaptOptions)))
