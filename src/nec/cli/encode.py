"""`nec encode`: images through a model and its codec into a compressed store."""

from __future__ import annotations

import argparse
import json
from typing import Any

from nec.cli._images import INPUT_HELP, add_image_arguments, image_options, open_images, parts

HELP = "encode images into a compressed store"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `nec encode`."""
    parser.add_argument("input", nargs="+", metavar="INPUT", help=INPUT_HELP)
    parser.add_argument("--model", required=True, metavar="MODEL", help="model folder or shipped name")
    parser.add_argument("--out", required=True, metavar="STORE", help="folder of the store, usually NAME.zarr")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quality", type=float, default=1.0, metavar="Q", help="larger = finer (default 1)")
    size.add_argument("--target-bytes", type=float, metavar="N", help="choose the quality that takes N bytes an image")
    parser.add_argument("--split", metavar="PARTS", help="encode these parts of the split only, e.g. train,val")
    parser.add_argument("--engine", choices=["threads"], default="threads", help="what runs the work")
    parser.add_argument("--resume", action="store_true", help="complete an interrupted store")
    parser.add_argument("--overwrite", action="store_true", help="replace a store that exists")
    add_image_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print what was made as JSON, and no progress")


def run(args: argparse.Namespace) -> int:
    """Encode, and print what was made."""
    dataset = open_images(args, args.input)

    from nec.models import load_model
    from nec.pipeline import encode

    report = encode(
        load_model(args.model),
        dataset,
        args.out,
        args.quality,
        target_bytes=args.target_bytes,
        split=parts(args.split),
        resume=args.resume,
        overwrite=args.overwrite,
        progress=not args.json,
        **image_options(args),
    )
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print(_line(args.out, report))
    return 0


def _line(out: str, report: dict[str, Any]) -> str:
    stored, side = report["stored_bytes"], sum(report["side_information"].values())
    return (
        f"{out}: {report['images']} images, {stored:,} bytes ({report['bytes_per_image']:.0f} an image, "
        f"{stored / report['raw_bytes']:.1%} of the image files) and {side:,} of side information, "
        f"quality {report['quality']:.3g}, {report['images_per_second']:.0f} images/s"
    )
