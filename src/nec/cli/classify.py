"""`nec classify`: train a head on a store and report its accuracy on held-out images."""

from __future__ import annotations

import argparse

from nec.cli._heads import add_head_arguments, add_online_arguments, add_raster_arguments, train

HELP = "train a classification head on a store and report accuracy on held-out images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `nec classify`."""
    add_head_arguments(parser, "a linear probe")
    add_raster_arguments(parser)
    add_online_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Train, and print the figures."""
    return train(args, "classification")
