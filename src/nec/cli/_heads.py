"""Arguments that the commands share which train heads, and what they run."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from typing import Any

_SAME = (
    "head", "targets", "least_share", "labels", "label_column", "time", "block", "with_decoder", "model", "online",
    "fine_tune", "quantize", "quality", "test_fraction", "resplit", "seed", "seeds", "save",
)  # fmt: skip


def add_head_arguments(parser: argparse.ArgumentParser, linear: str | None = None) -> None:
    """Declare the head, the decoder stage, the split and the seeds. `linear` is what `--head linear` trains."""
    parser.add_argument("store", metavar="STORE", help="a folder, a URL or a shipped name; --online: KIND:PATH")
    if linear is not None:
        parser.add_argument(
            "--head", choices=("attention", "linear"), help=f"attention pooling (needs torch; default) or {linear}"
        )
    parser.add_argument(
        "--with-decoder", action="store_true", help="train the model's first decoder stage with the head"
    )
    parser.add_argument("--model", help="model of --with-decoder: folder or name (default: the one the store names)")
    parser.add_argument(
        "--split", metavar="NAMES", help="train/test or train/val/test part names (default: train/val/test)"
    )
    parser.add_argument(
        "--test-fraction", type=float, metavar="F", help="draw a new random split with this share for testing"
    )
    parser.add_argument("--resplit", action="store_true", help="allow --test-fraction on a store that records a split")
    parser.add_argument("--seed", type=int, default=0, help="seed of the head and of a random split (default: 0)")
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N", help="train N heads and report mean and spread (default: 1)"
    )
    parser.add_argument("--epochs", type=int, help="epochs at most; the best on the validation part is kept")
    parser.add_argument("--save", metavar="HEAD", help="write the first seed's head to this folder, for nec predict")
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_raster_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what learns from labelled places of a raster store."""
    group = parser.add_argument_group("training from a raster store")
    group.add_argument("--labels", metavar="FILE", help="points or polygons: GeoJSON, or what geopandas reads")
    group.add_argument("--label-column", metavar="NAME", help="their property that is learnt")
    group.add_argument("--time", metavar="DATE", help="date of a store that has several")
    group.add_argument(
        "--block", type=int, default=16, metavar="N", help="the split draws blocks of N x N tokens (default 16)"
    )


def add_target_arguments(parser: argparse.ArgumentParser, fractions: str, required: bool) -> None:
    """Declare the targets. `fractions` says what "fractions" gives."""
    parser.add_argument(
        "--targets",
        required=required,
        metavar="T",
        help=f"FILE.npy (in the store's order), FILE.csv (header; first column `name` or in order), or fractions: "
        f"{fractions}",
    )


def add_online_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what turns a training from a store into one from images."""
    group = parser.add_argument_group("training from images")
    group.add_argument("--online", action="store_true", help="STORE is a dataset (KIND:PATH), read through --model")
    group.add_argument("--fine-tune", action="store_true", help="train the model's encoder with the head")
    group.add_argument(
        "--augment",
        dest="augmentation",
        choices=("paper", "light", "none"),
        help="paper: RandAugment, mixup, CutMix, erasing, crops; light: crops, flips and turns (default)",
    )
    group.add_argument(
        "--quantize", choices=("bottleneck", "codec"), help="what the tokens go through before the head (default: none)"
    )
    group.add_argument("--quality", type=float, metavar="Q", help="of --quantize codec (default 1)")
    group.add_argument("--image-size", type=int, metavar="N", help="resize images to N x N pixels")
    group.add_argument(
        "--eval-resize", type=int, metavar="N", help="enlarge val and test images to N, then cut their centre out"
    )
    group.add_argument("--batch-size", dest="batch", type=int, metavar="N", help="images a step (default 64)")
    group.add_argument("--time-limit", type=_minutes, metavar="MIN", help="fewer epochs where more would take longer")


def _minutes(text: str) -> float:
    return 60 * float(text)


def train(args: argparse.Namespace, task: Any) -> int:
    """Train a head as the arguments say, and print its report."""
    from nec.heads import HeadSettings, train_head

    own = vars(args)
    settings = HeadSettings(**{field.name: own.get(field.name) for field in fields(HeadSettings)})
    options = {name: own[name] for name in _SAME if name in own}
    split = args.split.split("/") if args.split else None
    report = train_head(args.store, task, split=split, settings=settings, progress=not args.json, **options).report
    if report.warning:
        print(f"nec: warning: {report.warning}", file=sys.stderr)
    print(report.to_json() if args.json else report)
    return 0
