"""`nec demo`: the shipped store and model seen through, with a report."""

from __future__ import annotations

import argparse
import json
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
    from nec.demo import Options, run_demo

    options = Options(
        out=args.out,
        store=args.store,
        model=args.model,
        data=args.data,
        images=args.images,
        epochs=args.epochs,
        seed=args.seed,
        quiet=args.json,
    )
    figures = run_demo(options)
    report = args.out / "report.html"
    if args.json:
        print(json.dumps({"report": str(report), **figures}, indent=2))
        return 0
    store, scene, best = figures["store"], figures["scene"], figures["heads"]["attention"]
    print(
        f"{args.store}: {store['images']:,} images in {store['stored_bytes']:,} bytes ({store['bytes_per_image']:.0f} "
        f"each)\n"
        f"accuracy on held-out images: {best['accuracy']:.2%} (linear probe "
        f"{figures['heads']['linear']['accuracy']:.2%})\n"
        f"sample scene: {scene['pixel_bytes']:,} -> {scene['stored_bytes']:,} bytes, "
        f"all {scene['symbols_checked']:,} symbols round-trip\n"
        f"report: {report} ({figures['seconds']:.0f} s)"
    )
    return 0
