"""`nec info`: what a store, a codec or a model is."""

from __future__ import annotations

import argparse

HELP = "say what a store, a product, a codec file or a model folder holds"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `nec info`."""
    parser.add_argument(
        "path", metavar="PATH", help="store, product, codec file, model folder, URL of a store, or a shipped name"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print what `args.path` is."""
    from nec.store import info

    report = info(args.path)
    print(report.to_json() if args.json else report)
    return 0
