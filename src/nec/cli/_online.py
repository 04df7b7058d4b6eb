"""`nec classify --online`: its arguments, and the training from a dataset's images."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nec.errors import InputError

if TYPE_CHECKING:
    from nec.heads import ClassificationResult
    from nec.models import NecModel

_SETTINGS = ("epochs", "image_size", "eval_resize")
# What says something about an online training only; None or False where it was not given.
_ONLINE = ("fine_tune", "augment", "quantize", "quality", "image_size", "eval_resize", "batch_size", "time_limit")


def add_online_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what turns a training from a store into one from images."""
    group = parser.add_argument_group("training from images")
    group.add_argument("--online", action="store_true", help="STORE is a dataset (KIND:PATH), read through --model")
    group.add_argument("--fine-tune", action="store_true", help="train the model's encoder with the head")
    group.add_argument(
        "--augment",
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
    group.add_argument("--batch-size", type=int, metavar="N", help="images a step (default 64)")
    group.add_argument("--time-limit", type=float, metavar="MIN", help="fewer epochs where more would take longer")


def refuse_online_arguments(args: argparse.Namespace) -> None:
    """`InputError` where an option of the training from images was given without `--online`."""
    for name in _ONLINE:
        if getattr(args, name):
            raise InputError(f"--{name.replace('_', '-')} belongs to the training from images: add --online")


def classify_online(args: argparse.Namespace) -> ClassificationResult:
    """Train as the arguments say, from the dataset that they name in the place of a store."""
    from nec.datasets import open_dataset
    from nec.heads.online import train_online
    from nec.models import load_model

    if args.head == "linear":
        raise InputError("--online trains the attention head: leave --head linear out")
    if args.model is None:
        raise InputError("--online needs --model: the images go through it")
    if args.quality is not None and args.quantize != "codec":
        raise InputError("--quality belongs to --quantize codec")
    model = load_model(args.model)
    return train_online(
        model,
        open_dataset([args.store], seed=args.seed),
        fine_tune=args.fine_tune,
        quantize=_quantizer(args, model),
        with_decoder=args.with_decoder,
        settings=_settings(args),
        split=args.split.split("/") if args.split else None,
        test_fraction=args.test_fraction,
        resplit=args.resplit,
        seed=args.seed,
        seeds=args.seeds,
        quiet=args.json,
    )


def _settings(args: argparse.Namespace) -> Any:
    from nec.heads.online import OnlineSettings

    given = {name: getattr(args, name) for name in _SETTINGS} | {"batch": args.batch_size}
    given["time_limit"] = None if args.time_limit is None else 60 * args.time_limit
    given["augmentation"] = args.augment
    return replace(OnlineSettings(), **{name: value for name, value in given.items() if value is not None})


def _quantizer(args: argparse.Namespace, model: NecModel) -> Any:
    from nec.heads.online import bottleneck_quantizer, codec_quantizer

    if args.quantize == "bottleneck":
        return bottleneck_quantizer(model)
    if args.quantize == "codec":
        return codec_quantizer(model.codec, 1.0 if args.quality is None else args.quality)
    return None
