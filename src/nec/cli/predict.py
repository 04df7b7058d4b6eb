"""`nec predict`: apply a trained head to a store or to images."""

from __future__ import annotations

import argparse
import csv
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from nec.errors import InputError
from nec.progress import Progress

if TYPE_CHECKING:
    from nec.datasets import Dataset
    from nec.heads.saved import SavedHead
    from nec.store import Store

HELP = "apply a head that classify or segment saved to a store or to images"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `nec predict`."""
    parser.add_argument("head", metavar="HEAD", help="folder that `nec segment` or `nec classify` wrote with --save")
    parser.add_argument(
        "input", nargs="+", metavar="INPUT", help="a store; or with --model: KIND:PATH, GeoTIFFs, image files"
    )
    parser.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="folder to write: a PNG an image, a GeoTIFF where there is a georeference; of classifiers predictions.csv",
    )
    parser.add_argument("--model", metavar="MODEL", help="model that turns images into embeddings: folder or name")
    parser.add_argument("--quality", type=float, metavar="Q", help="code the embeddings first (default: floats)")
    parser.add_argument("--scale", type=float, metavar="S", help="pixel * S + O lies in 0..1 (default: as the store's)")
    parser.add_argument("--offset", type=float, metavar="O", help="see --scale")
    parser.add_argument("--overlap", type=float, default=0.5, metavar="F", help="of windows in large images (0.5)")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON, and no progress")


@dataclass(frozen=True)
class _Prediction:
    """`found`: class of each pixel (height, width), or probabilities (classes,)."""

    name: str
    found: np.ndarray
    reference: dict[str, Any] | None


def run(args: argparse.Namespace) -> int:
    """Predict image by image into a temporary folder that becomes `args.out` when it is whole."""
    from nec.files import atomic_path
    from nec.heads.saved import load_head

    if not 0 <= args.overlap < 1:
        raise InputError(f"--overlap {args.overlap}: it must lie in 0..1 (1 excluded)")
    head = load_head(args.head)
    total, predictions = _from_store(args, head) if _is_store(args.input) else _from_images(args, head)
    with atomic_path(args.out) as folder, Progress(total, "predicting", "images", quiet=args.json) as progress:
        folder.mkdir()
        write = _write_maps if head.segments else _write_table
        report = write(folder, head, _counted(predictions, progress))
    report = {"head": args.head, "kind": head.kind, "images": total, "out": args.out, **report}
    print(json.dumps(report, indent=2) if args.json else f"{args.out}: {total} images, {head.kind} head")
    return 0


def _counted(predictions: Iterator[_Prediction], progress: Progress) -> Iterator[_Prediction]:
    for prediction in predictions:
        yield prediction
        progress.update()


def _is_store(inputs: list[str]) -> bool:
    from nec.store import assets

    path = Path(inputs[0])
    if len(inputs) > 1:
        return False
    return (path / "zarr.json").is_file() or (not path.exists() and inputs[0] in assets.shipped("stores"))


def _from_store(args: argparse.Namespace, head: SavedHead) -> tuple[int, Iterator[_Prediction]]:
    from nec.heads.prediction import check_model
    from nec.store import open_store

    given = [name for name in ("model", "quality", "scale", "offset") if getattr(args, name) is not None]
    if given:
        raise InputError(f"--{given[0]} belongs to images, and {args.input[0]} is a store: leave it out")
    store = open_store(args.input[0])
    check_model(head, store.attrs.get("model"))
    return len(store), _store_predictions(store, head, args.overlap)


def _store_predictions(store: Store, head: SavedHead, overlap: float) -> Iterator[_Prediction]:
    from nec.heads.prediction import predict_grid

    references = (store.attrs.get("provenance") or {}).get("georeference")
    for indices, block in store.batches(store.tiling.per_chunk):
        for index, tokens in zip(indices, block, strict=True):
            found = predict_grid(head, tokens, overlap)
            if references is None or not head.segments:
                yield _Prediction(store.names[index], found, None)
                continue
            reference = references[index]  # of tokens
            rows, columns = reference["valid_pixels"]
            a, b, c, d, e, f = reference["transform"]
            y, x = head.module.pixels
            pixels = {"crs": reference["crs"], "transform": [a / x, b / y, c, d / x, e / y, f]}
            yield _Prediction(store.names[index], found[:rows, :columns], pixels)


def _from_images(args: argparse.Namespace, head: SavedHead) -> tuple[int, Iterator[_Prediction]]:
    if args.model is None:
        raise InputError(f"{args.input[0]} is no store: give the --model that turns images into embeddings")
    dataset = _open(args.input)

    from nec.heads.prediction import Embedder, check_model, predict_image
    from nec.models import load_model

    model = load_model(args.model)
    check_model(head, model.identity)
    if model.config.embed_dim != head.dimensions:
        raise InputError(f"the model gives {model.config.embed_dim} values a token, the head takes {head.dimensions}")
    recorded = head.model.get("input") or {}
    scale = recorded.get("scale") if args.scale is None else args.scale
    offset = recorded.get("offset") if args.offset is None else args.offset
    embedder = Embedder(model, args.quality, scale, offset or 0.0)

    def predictions() -> Iterator[_Prediction]:
        for index, name in enumerate(dataset.names):
            image = dataset.read(index)
            if image.shape[2] != model.config.in_channels:
                raise InputError(
                    f"{name} has {image.shape[2]} band(s), and the model {model.name} takes {model.config.in_channels}"
                )
            yield _Prediction(name, predict_image(head, embedder, image, args.overlap), dataset.georeference(index))

    return len(dataset), predictions()


def _open(inputs: list[str]) -> Dataset:
    from nec.datasets import ImageFiles, open_dataset
    from nec.datasets.images import IMAGE_SUFFIXES

    warnings.filterwarnings("ignore", module=r"PIL\.|rasterio")
    paths = [Path(item) for item in inputs]
    plain = [suffix for suffix in IMAGE_SUFFIXES if not suffix.startswith(".tif")]
    if all(path.is_file() and path.suffix.lower() in plain for path in paths):
        return ImageFiles(paths)
    return open_dataset(inputs)


def _write_maps(folder: Path, head: SavedHead, predictions: Iterator[_Prediction]) -> dict[str, Any]:
    from nec.heads.maps import colors_of, write_geotiff, write_png

    colors = colors_of(len(head.class_names), head.class_colors)
    files: list[str] = []
    for prediction in predictions:
        file = _free_name(prediction.name, ".tif" if prediction.reference else ".png", set(files))
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        if prediction.reference:
            write_geotiff(folder / file, prediction.found, colors, head.class_names, prediction.reference)
        else:
            write_png(folder / file, prediction.found, colors)
        files.append(file)
    legend = [
        {"index": i, "name": name, "color": list(color)}
        for i, (name, color) in enumerate(zip(head.class_names, colors, strict=True))
    ]
    (folder / "classes.json").write_text(json.dumps(legend, indent=1) + "\n", encoding="utf-8")
    return {"files": files, "classes": legend}


def _free_name(name: str, suffix: str, taken: set[str]) -> str:
    """A path inside the output folder, whatever the image is called."""
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", "..", ".")] or ["image"]
    whole = "/".join(parts)
    short = str(PurePosixPath(whole).with_suffix(suffix))
    return short if short not in taken else whole + suffix


def _write_table(folder: Path, head: SavedHead, predictions: Iterator[_Prediction]) -> dict[str, Any]:
    rows = []
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["name", "class", "probability"])
        for prediction in predictions:
            best = int(prediction.found.argmax())
            probability = float(prediction.found[best])
            table.writerow([prediction.name, head.class_names[best], f"{probability:.6f}"])
            rows.append({"name": prediction.name, "class": head.class_names[best], "probability": probability})
    return {"predictions": rows}
