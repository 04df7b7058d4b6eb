"""`nec multilabel`: train a head for several yes/no labels an image on a store and report it on held-out images."""

from __future__ import annotations

import argparse

from nec.cli._heads import add_head_arguments, add_target_arguments, train

HELP = "train a multi-label head on a store and report mean average precision and F1 on held-out images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `nec multilabel`."""
    add_head_arguments(parser, "a ridge probe")
    add_target_arguments(parser, "which classes cover at least --least-share of the store's masks", required=True)
    parser.add_argument(
        "--least-share", type=float, default=0.01, metavar="S", help="for fractions: from which share on (default 0.01)"
    )


def run(args: argparse.Namespace) -> int:
    """Train, and print the figures."""
    return train(args, "multilabel")
