"""`nec bench`: rate-accuracy curves of every method, from one recipe."""

from __future__ import annotations

import argparse

HELP = "measure bytes and accuracy of every method over rates and seeds, and write figures and a report"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("datasets", nargs="*", metavar="DATASET", help="KIND:PATH, or NAME=KIND:PATH")
    parser.add_argument("--model", metavar="MODEL", help="the foundation model: a folder or a shipped name")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of models, cache, results and report")
    parser.add_argument("--recipe", metavar="FILE.yaml", help="what to run (docs/bench.md); a small default without it")
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="DATASET/METHOD",
        help="run this only (or a whole DATASET); may be given several times. Results hold all that is finished",
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="heads that train at once (default: one a core)")
    parser.add_argument("--report-only", action="store_true", help="write the report of results.json in DIR anew")
    parser.add_argument("--json", action="store_true", help="print the headline figures as JSON, and no progress")


def run(args: argparse.Namespace) -> int:
    """Run, write what was found, and print it."""
    from nec.bench import bench

    options = {name: getattr(args, name) for name in ("out", "model", "recipe", "only", "jobs", "report_only")}
    report = bench(args.datasets, **options, progress=not args.json)
    print(report.to_json() if args.json else report)
    return 0
