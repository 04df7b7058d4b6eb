"""`nec classify`: train a head on a store and report its accuracy on held-out images."""

from __future__ import annotations

import argparse
import json
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from nec.cli._heads import add_head_arguments, check_free, head_options
from nec.cli._online import add_online_arguments, classify_online, refuse_online_arguments
from nec.errors import InputError

if TYPE_CHECKING:
    from nec.heads import ClassificationResult

HELP = "train a classification head on a store and report accuracy on held-out images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", help="store with labels: a folder, a URL or a shipped name; --online: KIND:PATH")
    parser.add_argument(
        "--head", choices=("attention", "linear"), help="attention pooling (needs torch; default) or a linear probe"
    )
    add_head_arguments(parser)
    add_online_arguments(parser)


def run(args: argparse.Namespace) -> int:
    check_free(args)
    if args.save is not None and args.online:
        raise InputError("--save writes a head for embeddings of a store: leave it out with --online")
    result = classify_online(args) if args.online else _classify_store(args)
    if result.warning:
        print(f"nec: warning: {result.warning}", file=sys.stderr)
    print(json.dumps({"store": args.store, **result.to_dict()}) if args.json else _table(args.store, result))
    return 0


def _classify_store(args: argparse.Namespace) -> ClassificationResult:
    from nec.heads import classify
    from nec.heads.saved import save_head
    from nec.store import open_store

    refuse_online_arguments(args)
    head = args.head or _available_head(args.with_decoder)
    store = open_store(args.store)
    result = classify(store, head=head, **head_options(args))
    if args.save is not None:
        save_head(args.save, store, result)
    return result


def _available_head(with_decoder: bool) -> str:
    if with_decoder or find_spec("torch"):
        return "attention"
    print(
        "nec: torch is not installed: using the linear probe (the attention head needs the extra [torch])",
        file=sys.stderr,
    )
    return "linear"


_BYTES = {
    "store": "stored bytes an image (side information apart)",
    "online": "bytes an image file; the images went through a frozen model",
    "fine-tune": "bytes an image file; the images trained the model",
}


def _table(name: str, result: ClassificationResult) -> str:
    spread = f" ± {result.accuracy_std:.2%} over {len(result.seeds)} seeds" if result.accuracy_std is not None else ""
    head = {"attention": "attention pooling", "linear": "linear probe"}[result.head]
    head += " after the decoder stage" if result.with_decoder else ""
    head += " and the model, fine-tuned" if result.source == "fine-tune" else ""
    width = max(map(len, result.class_names))
    images = result.confusion.sum(axis=1) // len(result.seeds)
    rows = zip(result.per_class.items(), images, strict=True)
    lines = [
        f"{name}: {result.bytes_per_image:.1f} {_BYTES[result.source]}",
        f"split: {result.split}",
        f"images: {result.train_images} train, {result.val_images} val, {result.test_images} test",
        f"head: {head}, {result.head_parameters:,} parameters, {result.seconds:.0f} s",
        "",
        f"accuracy {result.accuracy:.2%}{spread}; among the five likeliest {result.top5:.2%}",
        *(f"  {label:<{width}}  {share:7.2%}  of {count}" for (label, share), count in rows),
    ]
    return "\n".join(lines)
