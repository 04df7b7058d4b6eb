"""`nec regress`: train a head that predicts numbers on a store and report its errors on held-out images."""

from __future__ import annotations

import argparse

from nec.cli._heads import add_head_arguments, add_raster_arguments, add_target_arguments, train

HELP = "train a regression head on a store and report MAE, RMSE and R² on held-out images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `nec regress`."""
    add_head_arguments(parser, "a ridge probe")
    add_target_arguments(parser, "the share of each class of the store's masks", required=False)
    add_raster_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Train, and print the figures."""
    return train(args, "regression")
