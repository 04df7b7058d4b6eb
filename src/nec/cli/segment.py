"""`nec segment`: train a segmentation head on a store with masks and report its figures on held-out images."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from nec.cli._heads import add_head_arguments, check_free, head_options

if TYPE_CHECKING:
    from nec.heads import SegmentationResult

HELP = "train a segmentation head on a store with masks and report IoU on held-out images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `nec segment`."""
    parser.add_argument("store", metavar="STORE", help="store with masks: a folder, a URL or a shipped name")
    add_head_arguments(parser)
    parser.add_argument("--width", type=int, metavar="N", help="channels of the head (default 32)")
    parser.add_argument("--blocks", type=int, metavar="N", help="residual blocks (default 2; the paper's 6)")
    parser.add_argument("--upscale", type=int, metavar="N", help="logits a token side (default 2; the paper's 4)")


def run(args: argparse.Namespace) -> int:
    """Train, and print the figures."""
    check_free(args)

    from nec.heads import segment
    from nec.heads.saved import save_head
    from nec.store import open_store

    sizes = {name: getattr(args, name) for name in ("width", "blocks", "upscale")}
    store = open_store(args.store)
    result = segment(store, **head_options(args), **sizes)
    if args.save is not None:
        save_head(args.save, store, result)
    if result.warning:
        print(f"nec: warning: {result.warning}", file=sys.stderr)
    print(json.dumps({"store": args.store, **result.to_dict()}) if args.json else _table(args.store, result))
    return 0


def _table(name: str, result: SegmentationResult) -> str:
    stage = " after the decoder stage" if result.with_decoder else ""
    width = max(map(len, result.class_names))
    lines = [
        f"{name}: {result.bytes_per_image:.1f} stored bytes an image (side information apart)",
        f"split: {result.split}",
        f"images: {result.train_images} train, {result.val_images} val, {result.test_images} test",
        f"head: convolutions{stage}, {result.head_parameters:,} parameters, {result.seconds:.0f} s",
        "",
        *(f"{label:<17}{_figure(result, key)}" for key, label in _FIGURES.items()),
        "",
        f"  {'class':<{width}}     IoU       F1  accuracy",
    ]
    for label, figures in result.per_class.items():
        shown = (f"{'-':>8}" if figures[key] is None else f"{figures[key]:8.2%}" for key in ("iou", "f1", "accuracy"))
        lines.append(f"  {label:<{width}}{' '.join(shown)}")
    return "\n".join(lines)


_FIGURES = {"overall_accuracy": "overall accuracy", "mean_iou": "mean IoU", "mean_f1": "mean F1"}


def _figure(result: SegmentationResult, key: str) -> str:
    spread = result.std(key)
    return f"{result.mean(key):.2%}" + ("" if spread is None else f" ± {spread:.2%} over {len(result.seeds)} seeds")
