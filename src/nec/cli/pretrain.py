"""`nec pretrain`: a masked autoencoder from scratch."""

from __future__ import annotations

import argparse

from nec.cli._training import add_run_arguments, common, show
from nec.errors import InputError

HELP = "train a foundation model from scratch, as a masked autoencoder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `nec pretrain`."""
    add_run_arguments(parser)
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="FILE|KEY=VALUE",
        help="JSON file of the model's sizes, preset (vit-t, vit-s, vit-b, vit-l, vit-h), or one key; may be repeated",
    )

    parser.add_argument(
        "--cut",
        nargs=2,
        metavar=("MODEL", "K"),
        help="instead of starting from scratch: keep the first K encoder blocks of MODEL, frozen, and train a decoder",
    )


def run(args: argparse.Namespace) -> int:
    """Train, write the model folder, and print what was made."""
    from nec.training import TrainingOptions, pretrain

    cut = args.cut
    if cut is not None and not cut[1].isdigit():
        raise InputError(f"--cut takes a model and a number of blocks, not {' '.join(cut)}")
    cut = None if cut is None else (cut[0], int(cut[1]))
    keywords = common(args, TrainingOptions)
    return show(args, pretrain(args.dataset, args.out, config=args.config, cut=cut, **keywords))
