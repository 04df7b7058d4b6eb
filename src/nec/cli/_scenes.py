"""Arguments and steps of `nec encode` on scenes, which become the dates of a product."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nec.errors import InputError

if TYPE_CHECKING:
    from nec.scenes import Scene

SCENE_HELP = "scene:PATH or a path or URL ending in .tif, .jp2, .vrt, .SAFE or .json (a STAC Item): a raster"
_SUFFIXES = (".tif", ".tiff", ".jp2", ".vrt", ".safe", ".json")
_PREFIX = "scene:"
_OPENING = ("mask", "nodata", "resolution", "crs", "sensor", "scale")
_OF_SCENES = ("time", "bands", "append", "skip_failed", "halo", *_OPENING[:-1])
_OF_IMAGES = ("image_size", "split", "split_list", "tile")
INCOMPLETE = 1


def add_scene_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what only scenes take."""
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


def scene_paths(inputs: list[str]) -> list[str] | None:
    """The inputs' paths if they are scenes, None if they are images; `InputError` for a mixture."""
    scenes = [text for text in inputs if _is_scene(text)]
    if scenes and len(scenes) != len(inputs):
        other = next(text for text in inputs if text not in scenes)
        raise InputError(f"{scenes[0]} is a scene and {other} is not: encode them one by one")
    return [text.removeprefix(_PREFIX) for text in scenes] or None


def check_image_arguments(args: argparse.Namespace) -> None:
    """`InputError` for arguments that only scenes take."""
    _refuse(args, _OF_SCENES, "belongs to scenes (scene:PATH), and the input is a dataset of images")


def encode_scenes(args: argparse.Namespace, paths: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """Encode each scene as a date of one product -> the report of all; ends with the first that is incomplete."""
    _refuse(args, _OF_IMAGES, "belongs to images, and a scene is cut into tiles: leave it out")
    times = args.time or [None] * len(paths)
    if len(times) != len(paths):
        raise InputError(f"{len(times)} --time for {len(paths)} scene(s): give one for each, in the same order")
    # Remarks on odd tags and missing geotransforms; what makes a file unusable is raised.
    warnings.filterwarnings("ignore", module=r"rasterio")
    scenes = [_open(path, args) for path in paths]
    for path, scene in zip(paths[1:], scenes[1:], strict=True):
        _check_alike(paths[0], scenes[0], path, scene)

    from nec.encode import encode_scene
    from nec.models import load_model

    model = load_model(args.model)
    sampling = {"seed": args.seed, **({"batch_size": args.batch_size} if args.batch_size else {})}
    modes = {"resume": args.resume, "append": args.append, "overwrite": args.overwrite}
    reports: list[dict[str, Any]] = []
    for scene, time in zip(scenes, times, strict=True):
        reports.append(
            encode_scene(
                scene,
                model,
                args.out,
                time=time,
                bands=_bands(args.bands),
                halo=args.halo,
                skip_failed=args.skip_failed,
                **modes,
                **sampling,
                **options,
            )
        )
        if not reports[-1]["complete"]:
            break
        modes = {**modes, "append": True, "overwrite": False}
    return _joined(reports)


def scene_line(out: str, report: dict[str, Any]) -> str:
    """What was made, for people."""
    if not report["complete"]:
        return (
            f"{out}: incomplete, {report['shards_left_out']} shard(s) with {len(report['failed_tiles'])} unreadable "
            "tile(s) were left out: mend the source and go on with --resume, or give --skip-failed with it"
        )
    area = report["square_km_per_second"]
    pace = f"{report['tiles_per_second']:.1f} tiles/s" + ("" if area is None else f", {area:.3g} km2/s")
    return (
        f"{out}: {len(report['times'])} date(s), {report['grid'][0]} x {report['grid'][1]} tokens of "
        f"{report['dimensions']}, {report['stored_bytes']:,} bytes, quality {report['quality']:.3g}, {pace}"
    )


def tell_failed(report: dict[str, Any]) -> None:
    """List on stderr what could not be read, and what was assumed."""
    for tile in report["failed_tiles"]:
        print(
            f"nec: unreadable tile at row {tile['row']}, column {tile['column']} ({tile['side']} px): {tile['error']}",
            file=sys.stderr,
        )


def _is_scene(text: str) -> bool:
    path = text.partition("?")[0].partition("#")[0]
    return text.startswith(_PREFIX) or "://" in text or path.lower().endswith(_SUFFIXES)


def _open(path: str, args: argparse.Namespace) -> Scene:
    from nec.scenes import open_scene

    if not path:
        raise InputError("scene: lacks a path: scene:PATH")
    given = {name: getattr(args, name) for name in _OPENING if getattr(args, name) is not None}
    if args.offset:
        given["offset"] = args.offset
    parts = path.split(",")
    source = parts if len(parts) > 1 and not Path(path).exists() else path  # single-band files of one scene
    return open_scene(source, **given)


def _check_alike(first: str, reference: Scene, path: str, scene: Scene) -> None:
    """The dates of a product lie on one pixel grid; refused before any of them is encoded."""
    for what in ("crs", "shape", "transform"):
        if getattr(scene, what) != getattr(reference, what):
            raise InputError(
                f"{path} is not on the pixel grid of {first}: {what} {getattr(scene, what)} and "
                f"{getattr(reference, what)}; write a product for each, or resample one to the other first"
            )


def _bands(text: str | None) -> list[str | int] | None:
    return None if text is None else [int(name) if name.isdigit() else name for name in text.split(",")]


def _refuse(args: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if getattr(args, name):
            raise InputError(f"--{name.replace('_', '-')} {why}")


def _joined(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """One report of several dates: sums over the run, and of the product what the last says."""
    last = reports[-1]
    summed = {name: sum(report[name] for report in reports) for name in ("tiles", "tokens", "seconds")}
    areas = [report["square_km"] for report in reports]
    area = None if None in areas else sum(areas)
    return {
        **last,
        **summed,
        "failed_tiles": [tile for report in reports for tile in report["failed_tiles"]],
        "square_km": area,
        "tiles_per_second": summed["tiles"] / summed["seconds"],
        "square_km_per_second": None if area is None else area / summed["seconds"],
    }
