"""Arguments that `nec pretrain` and `nec adapt` share, from the fields of their settings."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from nec.cli._images import DATASET_HELP, add_window_arguments

if TYPE_CHECKING:
    from nec.training import TrainReport


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what both commands take. Settings default to None here: their class holds the defaults."""
    parser.add_argument("dataset", metavar="DATASET", help=DATASET_HELP)
    add_window_arguments(parser)
    parser.add_argument("--out", required=True, metavar="MODEL", help="model folder to write; logs go to MODEL.run")
    parser.add_argument("--recipe", metavar="FILE.yaml", help="settings from a recipe; what else is given here wins")
    parser.add_argument("--epochs", type=float, metavar="E", help="passes over the training images (default 20)")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images a step, over all devices (default 256)")
    parser.add_argument("--blr", type=float, metavar="R", help="learning rate of a batch of 256 (default 1.5e-4)")
    parser.add_argument("--warmup-epochs", type=float, metavar="E", help="linear warm-up (default 1)")
    parser.add_argument("--weight-decay", type=float, metavar="W", help="default 0.05; nec adapt 0.01")
    parser.add_argument("--optimizer", choices=["adamw", "muon"], help="default adamw")
    parser.add_argument("--crop-scale", type=float, nargs=2, metavar=("LOW", "HIGH"), help="default 0.2 1")
    parser.add_argument("--turns", action="store_true", default=None, help="augment by all flips and quarter turns")
    parser.add_argument("--decoded-share", type=float, metavar="S", help="of the masked patches (default 1)")
    parser.add_argument("--precision", metavar="P", help="32-true (default), bf16-mixed, 16-mixed")
    parser.add_argument("--seed", type=int, metavar="S", help="default 0; of the dataset's split as well")
    parser.add_argument("--limit", type=int, metavar="N", help="train on the first N images only")
    parser.add_argument(
        "--devices", default="auto", metavar="N", help="how many (default: all, or torchrun's processes)"
    )
    parser.add_argument("--accumulate", type=int, default=1, metavar="N", help="parts of a batch, for little memory")
    parser.add_argument("--accelerator", default="auto", metavar="A", help="cpu, gpu, ... (default auto)")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    parser.add_argument("--overwrite", action="store_true", help="replace MODEL, forget an interrupted run")
    parser.add_argument("--json", action="store_true", help="print what was made as JSON, and no progress")


def common(args: argparse.Namespace, options: type[Any]) -> dict[str, Any]:
    """Keywords of `nec.training.pretrain` and `adapt` alike; `options` is the class of their settings."""
    from nec.training import Run

    values = {f.name: getattr(args, f.name, None) for f in fields(options)}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    run = Run(args.resume, args.overwrite, args.limit, args.devices, args.accelerator, args.accumulate)
    keywords = {"recipe": args.recipe, "tile": args.tile, "downscale": args.downscale}
    return {**keywords, "settings": options(**given), "run": run, "progress": not args.json}


def show(args: argparse.Namespace, report: TrainReport | None) -> int:
    """Print what was made, once: with several devices each one's process comes here."""
    if report is not None:
        print(report.to_json() if args.json else report)
    return 0
