"""`nec demo`: the shipped store and model seen through, with a report."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "run the shipped store and model end to end and write a report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `nec demo`."""
    parser.add_argument(
        "--out", type=Path, default=Path("demo-out"), metavar="DIR", help="folder of the report (default: demo-out)"
    )
    parser.add_argument(
        "--data", metavar="DATA", help="EuroSAT_RGB.zip or its folder (default: $NEC_DATA or ../shared/data, if there)"
    )
    parser.add_argument("--images", metavar="DIR", help="folder of your own images to encode as well")
    parser.add_argument("--store", default="eurosat", help="labelled store to use (default: eurosat)")
    parser.add_argument("--model", default="eurosat-symmetric", help="model of that store (default: eurosat-symmetric)")
    parser.add_argument("--epochs", type=int, help="epochs of the attention head at most")
    parser.add_argument("--seed", type=int, default=0, help="seed of heads and scene (default: 0)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, and no progress")


def run(args: argparse.Namespace) -> int:
    """Run the demo and say where the report lies."""
    from nec.demo import demo

    options = {name: getattr(args, name) for name in ("out", "data", "images", "store", "model", "epochs", "seed")}
    report = demo(**options, progress=not args.json)
    print(report.to_json() if args.json else report)
    return 0
