"""Arguments that `nec classify` and `nec segment` share: which images train and test a head, and how often."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nec.errors import InputError


def add_head_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the decoder stage, the split and the seeds."""
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


def check_free(args: argparse.Namespace) -> None:
    """`InputError` where --save names what exists: before the training, not after it."""
    if args.save is not None and Path(args.save).exists():
        raise InputError(f"--save {args.save} exists: choose another name, or remove it")


def head_options(args: argparse.Namespace) -> dict[str, Any]:
    """Keywords of `nec.heads.classify` and `segment` that `add_head_arguments` declares."""
    names = ("with_decoder", "test_fraction", "resplit", "seed", "seeds", "epochs", "model")
    options = {name: getattr(args, name) for name in names}
    return options | {"split": args.split.split("/") if args.split else None, "quiet": args.json}
