"""`nec pretrain`: a masked autoencoder from scratch."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from nec.cli._training import add_run_arguments, open_training_images, report, run_options, settings_of
from nec.errors import InputError

HELP = "train a foundation model from scratch, as a masked autoencoder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `nec pretrain`."""
    add_run_arguments(parser)
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="FILE|KEY=VALUE",
        help="JSON file of the model's sizes, preset (vit-t, vit-s, vit-b, vit-l, vit-h), or one key; may be repeated",
    )

    parser.add_argument(
        "--cut",
        nargs=2,
        metavar=("MODEL", "K"),
        help="instead of starting from scratch: keep the first K encoder blocks of MODEL, frozen, and train a decoder",
    )


def run(args: argparse.Namespace) -> int:
    """Train, write the model folder, and print what was made."""
    from nec.models import PRESETS, ModelConfig, load_model
    from nec.training import TrainingSettings, pretrain, refit_decoder
    from nec.training.recipes import read_recipe, section_model

    values: dict = {}
    for item in args.config:
        values |= PRESETS[item] if item in PRESETS else _sizes(item)
    settings = settings_of(args, "pretrain", TrainingSettings)
    recipe = read_recipe(args.recipe) if args.recipe else None
    if args.cut:
        if values or (recipe and "model" in recipe["pretrain"]) or not args.cut[1].isdigit():
            raise InputError(
                "--cut takes a model and a number of blocks; sizes come from that model, not from --config or --recipe"
            )
        base, images = load_model(args.cut[0]), open_training_images(args, settings)
        return report(args, refit_decoder(base, int(args.cut[1]), images, args.out, settings, **run_options(args)))
    config = section_model(recipe, **values) if recipe else ModelConfig.from_dict(values)
    images = open_training_images(args, settings)
    return report(args, pretrain(config, images, args.out, settings, **run_options(args)))


def _sizes(item: str) -> dict:
    key, equals, text = item.partition("=")
    try:
        if equals:
            return {key: json.loads(text)}
        document = json.loads(Path(item).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"--config {item}: neither a readable JSON file, a preset, nor KEY=NUMBER ({error})"
        ) from error
    if not isinstance(document, dict):
        raise InputError(f"--config {item} holds no JSON object")
    return document
