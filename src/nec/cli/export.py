"""`nec export`: a product's catalogue entries, chip vectors and picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nec.errors import InputError

HELP = "write a product's STAC catalogue, GeoParquet of chip vectors, or quick-look picture"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `nec export`."""
    parser.add_argument("store", metavar="PRODUCT", help="product, or its URL")
    parser.add_argument("--format", metavar="NAME", help="stac, geoparquet, quicklook; default: by the suffix of --out")
    parser.add_argument("--out", metavar="PATH", help="what to write; or one or more of the three below")
    parser.add_argument("--stac", metavar="DIR", help="new folder for a STAC Collection and an Item a date")
    parser.add_argument("--geoparquet", metavar="FILE", help="chip vectors: means of squares of tokens")
    parser.add_argument("--quicklook", metavar="FILE", help=".png or .tif: three principal components as colours")
    parser.add_argument("--time", metavar="T", help="date (ISO) of the quick-look or the chips; default: last, or all")
    parser.add_argument("--chip", type=int, metavar="N", help="tokens along a chip's side (8)")
    parser.add_argument("--href", metavar="URL", help="where the product is published; default: its relative path")
    parser.add_argument("--model-url", metavar="URL", help="link to the model, where the product names none")
    parser.add_argument("--source-url", action="append", metavar="URL", help="link to the source imagery")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")


def run(args: argparse.Namespace) -> int:
    """Write what is asked for and name it."""
    from nec.exporting import export
    from nec.store import open

    outputs = {"stac": args.stac, "geoparquet": args.geoparquet, "quicklook": args.quicklook, args.format: args.out}
    if not any(outputs.values()):
        raise InputError("nothing to export: give --out PATH, --stac DIR, --geoparquet FILE or --quicklook FILE")
    store = open(args.store)
    own: dict[Any, tuple[str, ...]] = {
        "stac": ("href", "model_url", "source_url"), "geoparquet": ("chip", "time"), "quicklook": ("time",),
        args.format: ("href", "model_url", "source_url", "chip", "time") if args.out else (),
    }  # fmt: skip
    for format, out in outputs.items():
        if out:
            options = {key: getattr(args, key) for key in own[format]}
            path = export(store, out, format=format, overwrite=args.overwrite, **options)
            print(*(sorted(path.iterdir()) if Path(path).is_dir() else [path]), sep="\n")
    return 0
