"""`nec predict`: apply a trained head to a store or to images."""

from __future__ import annotations

import argparse

HELP = "apply a head that classify, segment, regress or multilabel saved to a store or to images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `nec predict`."""
    parser.add_argument("head", metavar="HEAD", help="folder that a command wrote with --save")
    parser.add_argument(
        "input", nargs="+", metavar="INPUT", help="a store; or with --model: KIND:PATH, GeoTIFFs, image files"
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="PATH",
        help="folder to write: a PNG an image, a GeoTIFF where there is a georeference; predictions.csv of what is said"
        " of whole images. Of a raster store: FILE.tif",
    )
    parser.add_argument("--model", metavar="MODEL", help="model that turns images into embeddings: folder or name")
    parser.add_argument("--quality", type=float, metavar="Q", help="code the embeddings first (default: floats)")
    parser.add_argument("--scale", type=float, metavar="S", help="pixel * S + O lies in 0..1 (default: as the store's)")
    parser.add_argument("--offset", type=float, metavar="O", help="see --scale")
    parser.add_argument("--overlap", type=float, default=0.5, metavar="F", help="of windows in large images (0.5)")
    parser.add_argument("--time", metavar="DATE", help="date of a raster store that has several")
    parser.add_argument("--probabilities", action="store_true", help="of a raster store: a band a class, not the class")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON, and no progress")


def run(args: argparse.Namespace) -> int:
    """Predict, and print what was written."""
    from nec.heads import predict

    options = {name: value for name, value in vars(args).items() if name not in ("head", "input", "out", "json")}
    report = predict(args.head, args.input, args.out, progress=not args.json, **options)
    print(report.to_json() if args.json else report)
    return 0
