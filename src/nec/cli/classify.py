"""`nec classify`: train a head on a store and report its accuracy on held-out images."""

from __future__ import annotations

import argparse
import json
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nec.tasks import ClassificationResult

HELP = "train a classification head on a store and report accuracy on held-out images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", help="store with labels: a folder, a URL or a shipped name (eurosat)")
    parser.add_argument(
        "--head", choices=("attention", "linear"), help="attention pooling (needs torch; default) or a linear probe"
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
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    from nec.tasks import classify

    result = classify(
        args.store,
        with_decoder=args.with_decoder,
        head=args.head or _available_head(args.with_decoder),
        split=args.split.split("/") if args.split else None,
        test_fraction=args.test_fraction,
        resplit=args.resplit,
        seed=args.seed,
        seeds=args.seeds,
        epochs=args.epochs,
        model=args.model,
        quiet=args.json,
    )
    if result.warning:
        print(f"nec: warning: {result.warning}", file=sys.stderr)
    print(json.dumps({"store": args.store, **result.to_dict()}) if args.json else _table(args.store, result))
    return 0


def _available_head(with_decoder: bool) -> str:
    if with_decoder or find_spec("torch"):
        return "attention"
    print(
        "nec: torch is not installed: using the linear probe (the attention head needs the extra [torch])",
        file=sys.stderr,
    )
    return "linear"


def _table(name: str, result: ClassificationResult) -> str:
    spread = f" ± {result.accuracy_std:.2%} over {len(result.seeds)} seeds" if result.accuracy_std is not None else ""
    head = {"attention": "attention pooling", "linear": "linear probe"}[result.head]
    head += " after the decoder stage" if result.with_decoder else ""
    width = max(map(len, result.class_names))
    images = result.confusion.sum(axis=1) // len(result.seeds)
    rows = zip(result.per_class.items(), images, strict=True)
    lines = [
        f"{name}: {result.bytes_per_image:.1f} stored bytes an image (side information apart)",
        f"split: {result.split}",
        f"images: {result.train_images} train, {result.val_images} val, {result.test_images} test",
        f"head: {head}, {result.head_parameters:,} parameters, {result.seconds:.0f} s",
        "",
        f"accuracy {result.accuracy:.2%}{spread}; among the five likeliest {result.top5:.2%}",
        *(f"  {label:<{width}}  {share:7.2%}  of {count}" for (label, share), count in rows),
    ]
    return "\n".join(lines)
