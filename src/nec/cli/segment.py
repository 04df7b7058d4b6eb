"""`nec segment`: train a segmentation head on a store with masks and report its figures on held-out images."""

from __future__ import annotations

import argparse

from nec.cli._heads import add_head_arguments, train

HELP = "train a segmentation head on a store with masks and report IoU on held-out images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `nec segment`."""
    add_head_arguments(parser)
    parser.add_argument("--width", type=int, metavar="N", help="channels of the head (default 32)")
    parser.add_argument("--blocks", type=int, metavar="N", help="residual blocks (default 2; the paper's 6)")
    parser.add_argument("--upscale", type=int, metavar="N", help="logits a token side (default 2; the paper's 4)")


def run(args: argparse.Namespace) -> int:
    """Train, and print the figures."""
    return train(args, "segmentation")
