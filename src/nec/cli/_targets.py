"""What `nec regress` and `nec multilabel` share: their arguments, the run and the table."""

from __future__ import annotations

import argparse
import json
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from nec.cli._heads import add_head_arguments, head_options

if TYPE_CHECKING:
    from nec.heads.regression import TargetResult


def add_target_arguments(parser: argparse.ArgumentParser, fractions: str) -> None:
    """Declare the store, the targets and the head. `fractions` says what "fractions" gives."""
    parser.add_argument("store", metavar="STORE", help="a folder, a URL or a shipped name")
    parser.add_argument(
        "--targets",
        required=True,
        metavar="T",
        help=f"FILE.npy (in the store's order), FILE.csv (header; first column `name` or in order), or fractions: "
        f"{fractions}",
    )
    parser.add_argument(
        "--head", choices=("attention", "linear"), help="attention pooling (needs torch; default) or a ridge probe"
    )
    add_head_arguments(parser)


def run_targets(args: argparse.Namespace, task: str, **options: Any) -> int:
    """Train, and print the figures."""
    from nec.heads.regression import fit_targets

    head = args.head or ("attention" if args.with_decoder or find_spec("torch") else "linear")
    if args.head is None and head == "linear":
        print("nec: torch is not installed: using the ridge probe", file=sys.stderr)
    result = fit_targets(args.store, args.targets, task=task, head=head, **head_options(args), **options)
    if result.warning:
        print(f"nec: warning: {result.warning}", file=sys.stderr)
    print(json.dumps({"store": args.store, **result.to_dict()}) if args.json else _table(args.store, result))
    return 0


def _table(name: str, result: TargetResult) -> str:
    head = {"attention": "attention pooling", "linear": "ridge probe"}[result.head]
    head += " after the decoder stage" if result.with_decoder else ""
    spread = result.figures_std or {}
    keys = list(next(iter(result.per_target.values())))
    width = max(len("target"), *map(len, result.target_names))
    lines = [
        f"{name}: {result.bytes_per_image:.1f} stored bytes an image (side information apart)",
        f"split: {result.split}",
        f"images: {result.train_images} train, {result.val_images} val, {result.test_images} test",
        f"head: {head}, {result.head_parameters:,} parameters, {result.seconds:.0f} s",
        "",
        *(
            f"{_words(key)} {_number(value)}" + (f" ± {_number(spread[key])}" if key in spread else "")
            for key, value in result.figures.items()
        ),
        "",
        f"  {'target':<{width}}" + "".join(f"{_words(key):>20}" for key in keys),
    ]
    for target, figures in result.per_target.items():
        lines.append(f"  {target:<{width}}" + "".join(f"{_number(figures[key]):>20}" for key in keys))
    return "\n".join(lines)


def _words(key: str) -> str:
    return {"mae": "MAE", "rmse": "RMSE", "r2": "R²", "f1": "F1"}.get(key, key.replace("_", " ").replace("f1", "F1"))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
