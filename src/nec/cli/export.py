"""`nec export`: a product's catalogue entries, chip vectors and picture."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from nec.errors import InputError

if TYPE_CHECKING:
    from nec.store import Product

HELP = "write a product's STAC catalogue, GeoParquet of chip vectors, or quick-look picture"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `nec export`."""
    parser.add_argument("product", metavar="PRODUCT", help="product, or its URL")
    parser.add_argument("--stac", metavar="DIR", help="new folder for a STAC Collection and an Item a date")
    parser.add_argument("--geoparquet", metavar="FILE", help="chip vectors: means of squares of tokens")
    parser.add_argument("--quicklook", metavar="FILE", help=".png or .tif: three principal components as colours")
    parser.add_argument("--time", metavar="T", help="date (ISO) of the quick-look or the chips; default: last, or all")
    parser.add_argument("--chip", type=int, default=8, metavar="N", help="tokens along a chip's side (8)")
    parser.add_argument("--href", metavar="URL", help="where the product is published; default: its relative path")
    parser.add_argument("--model-url", metavar="URL", help="link to the model, where the product names none")
    parser.add_argument("--source-url", action="append", default=[], metavar="URL", help="link to the source imagery")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")


def run(args: argparse.Namespace) -> int:
    """Write what is asked for and name it."""
    from nec.store import open_product

    if not (args.stac or args.geoparquet or args.quicklook):
        raise InputError("nothing to export: give --stac DIR, --geoparquet FILE or --quicklook FILE")
    product = open_product(args.product)
    for path in [*_stac(product, args), *_geoparquet(product, args), *_quicklook(product, args)]:
        print(path)
    return 0


def _stac(product: Product, args: argparse.Namespace) -> list[Path]:
    from nec.export.stac import write_stac

    if not args.stac:
        return []
    return write_stac(product, args.stac, href=args.href, model_url=args.model_url, source_urls=args.source_url)


def _geoparquet(product: Product, args: argparse.Namespace) -> list[Path]:
    from nec.export.geoparquet import write_geoparquet

    if not args.geoparquet:
        return []
    write_geoparquet(product, args.geoparquet, chip=args.chip, time=args.time, overwrite=args.overwrite)
    return [Path(args.geoparquet)]


def _quicklook(product: Product, args: argparse.Namespace) -> list[Path]:
    from nec.export.quicklook import write_quicklook

    if not args.quicklook:
        return []
    time = -1 if args.time is None else args.time
    write_quicklook(product, args.quicklook, time, overwrite=args.overwrite)
    return [Path(args.quicklook)]
