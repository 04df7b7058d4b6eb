"""`nec encode`: images into a compressed store, or scenes into a product, through a model and its codec."""

from __future__ import annotations

import argparse
import json
from typing import Any

from nec.cli._images import DATASET_HELP, add_image_arguments, image_options, open_images, parts
from nec.cli._scenes import (
    INCOMPLETE,
    SCENE_HELP,
    add_scene_arguments,
    check_image_arguments,
    encode_scenes,
    scene_line,
    scene_paths,
    tell_failed,
)

HELP = "encode images into a compressed store, or scenes into a product"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `nec encode`."""
    parser.add_argument(
        "input", nargs="+", metavar="INPUT", help=f"{DATASET_HELP}, or a folder of GeoTIFFs; or {SCENE_HELP}"
    )
    parser.add_argument("--model", required=True, metavar="MODEL", help="model folder or shipped name")
    parser.add_argument(
        "--out",
        required=True,
        metavar="STORE",
        help="folder of the store or product, usually NAME.zarr; a product also as s3://BUCKET/NAME.zarr",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quality", type=float, default=1.0, metavar="Q", help="larger = finer (default 1)")
    size.add_argument(
        "--target-bytes", type=float, metavar="N", help="choose the quality that takes N bytes an image, or input"
    )
    parser.add_argument("--split", metavar="PARTS", help="encode these parts of the split only, e.g. train,val")
    parser.add_argument(
        "--engine",
        choices=["threads", "dask"],
        default="threads",
        help="this process, or the workers of a Dask cluster",
    )
    parser.add_argument(
        "--scheduler", metavar="ADDRESS", help="of a Dask cluster; else dask starts --workers processes"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="threads on which each model computes")
    parser.add_argument("--resume", action="store_true", help="complete an interrupted store")
    parser.add_argument("--overwrite", action="store_true", help="replace a store that exists")
    add_image_arguments(parser)
    parser.set_defaults(batch_size=None)  # 256 images or 32 tiles
    add_scene_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print what was made as JSON, and no progress")


def run(args: argparse.Namespace) -> int:
    """Encode, and print what was made; 1 where tiles could not be read and were not to be skipped."""
    running = {name: getattr(args, name) for name in ("quality", "target_bytes", "engine", "scheduler", "threads")}
    options = {**running, "workers": args.workers, "progress": not args.json}
    paths = scene_paths(args.input)
    report = _encode_images(args, options) if paths is None else encode_scenes(args, paths, options)
    if paths is not None:
        tell_failed(report)
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print(_line(args.out, report) if paths is None else scene_line(args.out, report))
    return 0 if paths is None or report["complete"] else INCOMPLETE


def _encode_images(args: argparse.Namespace, options: dict[str, Any]) -> dict[str, Any]:
    check_image_arguments(args)
    dataset = open_images(args, args.input)

    from nec.encode import encode
    from nec.models import load_model

    given = {name: value for name, value in image_options(args).items() if value is not None}
    modes = {"split": parts(args.split), "resume": args.resume, "overwrite": args.overwrite}
    return encode(load_model(args.model), dataset, args.out, **{**given, **modes, **options})


def _line(out: str, report: dict[str, Any]) -> str:
    stored, side = report["stored_bytes"], sum(report["side_information"].values())
    return (
        f"{out}: {report['images']} images, {stored:,} bytes ({report['bytes_per_image']:.0f} an image, "
        f"{stored / report['raw_bytes']:.1%} of the image files) and {side:,} of side information, "
        f"quality {report['quality']:.3g}, {report['images_per_second']:.0f} images/s"
    )
