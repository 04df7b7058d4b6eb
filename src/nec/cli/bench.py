"""`nec bench`: rate-accuracy curves of every method, from one recipe."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from nec.bench import Results

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
    from pathlib import Path

    from nec.bench import Results
    from nec.errors import InputError

    out = Path(args.out)
    if args.report_only:
        results = Results.read(out)
    elif not args.datasets or args.model is None:
        raise InputError("give at least one DATASET (KIND:PATH) and --model MODEL, or --report-only")
    elif args.jobs is not None and args.jobs < 1:
        raise InputError(f"--jobs must be at least 1, not {args.jobs}")
    else:
        from nec.bench.recipe import load_recipe
        from nec.bench.run import run_bench

        recipe = load_recipe(args.recipe, args.datasets)
        results = run_bench(recipe, args.model, out, only=args.only, jobs=args.jobs, quiet=args.json)
    files = _report(results, out)
    print(_json(results, files) if args.json else _table(results, files))
    return 0


def _report(results: Results, out: Path) -> list[str]:
    from nec.bench.report import write_report

    return [str(path) for path in write_report(results, out)]


def _json(results: Results, files: list[str]) -> str:
    from nec.bench import headline

    found = {"headline": headline(results), "bd_rate": results.bd_rate}
    return json.dumps({**found, "rows": len(results.rows), "files": files})


def _table(results: Results, files: list[str]) -> str:
    """Every curve, a line a point."""
    from nec.bench import curve, primary_metric

    lines = []
    for dataset in results.datasets:
        metric = primary_metric(results.task(dataset))
        lines += ["", f"{dataset}: {metric} of the test images, by stored bytes an image"]
        for method in results.methods(dataset):
            for decoder in (False, True):
                for point in curve(results, dataset, method, decoder):
                    name = f"{method} {point.label}{' +decoder' if decoder else ''}"
                    spread = f" ± {point.std:.4f}" if point.count > 1 else ""
                    lines.append(f"  {name:<40} {point.bytes_per_image:>10.1f}  {point.mean:.4f}{spread}")
    return "\n".join([*lines, "", *files]).lstrip("\n")
