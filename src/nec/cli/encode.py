"""`nec encode`: images into a compressed store, or scenes into a product, through a model and its codec."""

from __future__ import annotations

import argparse
import sys
import warnings
from typing import Any

from nec.cli._images import DATASET_HELP, add_image_arguments, model_of, reading, running
from nec.errors import InputError

HELP = "encode images into a compressed store, or scenes into a product"
SCENE_HELP = "scene:PATH or a path or URL ending in .tif, .jp2, .vrt, .SAFE or .json (a STAC Item): a raster"
INCOMPLETE = 1
MODES = {  # --resume, --append, --overwrite
    (False, False, False): "create",
    (True, False, False): "resume",
    (False, True, False): "append",
    (True, True, False): "resume-append",
    (False, False, True): "overwrite",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `nec encode`."""
    parser.add_argument("input", nargs="+", metavar="INPUT", help=f"{DATASET_HELP}; or {SCENE_HELP}")
    parser.add_argument("--model", required=True, metavar="MODEL", help="model folder, shipped name, or timm:NAME ...")
    parser.add_argument(
        "--out",
        required=True,
        metavar="STORE",
        help="folder of the store or product, usually NAME.zarr; a product also as s3://BUCKET/NAME.zarr",
    )
    parser.add_argument("--codec", metavar="FILE", help="a fitted codec, instead of the model's own")
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
    _add_scene_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print what was made as JSON, and no progress")


def _add_scene_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("scenes")
    group.add_argument(
        "--time", action="append", metavar="DATE", help="date in UTC, one for each scene, if it has none"
    )
    group.add_argument("--append", action="store_true", help="add the scenes as further dates of a product that exists")
    group.add_argument(
        "--skip-failed", action="store_true", help="mark tiles that cannot be read as not valid, and list them"
    )
    group.add_argument("--bands", metavar="NAMES", help="in the model's order: names, common names or positions from 1")
    group.add_argument("--mask", metavar="MASK", help="scl (Sentinel-2's clouds), or a raster that is 0 where hidden")
    group.add_argument("--nodata", type=float, metavar="N", help="number of invalid pixels, if the file does not say")
    group.add_argument("--resolution", type=float, metavar="R", help="resample to pixels of R units of the CRS")
    group.add_argument("--crs", metavar="CRS", help="resample to this CRS, for example EPSG:32633")
    group.add_argument("--sensor", metavar="NAME", help="names the bands by their order, for example sentinel-2-l2a")
    group.add_argument("--halo", type=int, metavar="N", help="tokens dropped along each side of a tile (default 1/4)")


def run(args: argparse.Namespace) -> int:
    """Encode, and print what was made; 1 where tiles could not be read and were not to be skipped."""
    from nec.encoding import SceneOptions, encode

    mode: Any = MODES.get((args.resume, args.append, args.overwrite))
    if mode is None:
        raise InputError("--resume and --append go on with a store and --overwrite replaces it: give one of them")
    # Remarks of the readers on odd tags and missing geotransforms; what makes a file unusable is raised.
    warnings.filterwarnings("ignore", module=r"PIL\.|rasterio")
    report = encode(
        args.input,
        args.out,
        model_of(args),
        args.codec,
        args.quality,
        args.target_bytes,
        mode,
        args.engine,
        reading=reading(args),
        scenes=SceneOptions(args.time, args.halo, skip_failed=args.skip_failed),
        running=running(args),
        progress=not args.json,
    )
    for tile in getattr(report, "failed_tiles", ()):
        print(
            f"nec: unreadable tile at row {tile.row}, column {tile.column} ({tile.side} px): {tile.error}",
            file=sys.stderr,
        )
    print(report.to_json() if args.json else report)
    return 0 if report.complete else INCOMPLETE
