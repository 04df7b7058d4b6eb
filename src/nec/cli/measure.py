"""`nec measure`: how many bytes every method takes for the same images, without training anything."""

from __future__ import annotations

import argparse

from nec.cli._images import INPUT_HELP, add_image_arguments, model_of, reading, running

HELP = "stored bytes of every method on the same images, exact recovery checked"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `nec measure`."""
    parser.add_argument("input", nargs="+", metavar="DATASET", help=INPUT_HELP)
    parser.add_argument("--model", required=True, metavar="MODEL", help="model folder or shipped name")
    parser.add_argument("--limit", type=int, metavar="N", help="measure a seeded sample of N images (default: all)")
    parser.add_argument("--split", metavar="PARTS", help="measure these parts of the split only, e.g. val,test")
    parser.add_argument(
        "--methods",
        metavar="SPEC",
        help="e.g. 'uqe:2,4,8 jpeg2000:16,48 png nec:0.3,1'; jpeg2000 takes compression ratios (default: all methods)",
    )
    add_image_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, and no progress")


def run(args: argparse.Namespace) -> int:
    """Measure and print. Status 1 if any method breaks what it promises."""
    from nec.bench.methods import methods
    from nec.bench.methods.spec import DEFAULT
    from nec.bench.sizes import measure

    methods(args.methods or DEFAULT)  # a misspelt name is told before a model is loaded
    report = measure(
        args.input,
        model_of(args),
        args.methods,
        args.limit,
        reading=reading(args),
        running=running(args),
        progress=not args.json,
    )
    print(report.to_json() if args.json else report)
    return 1 if report.failed else 0
