"""`nec fit`: a codec for the embeddings of any model, no training needed."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from nec.cli._images import INPUT_HELP, add_image_arguments, image_options, open_images, parts
from nec.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CODEC_FILE, CONFIG_FILE, CARD_FILE = "codec.json", "config.json", "README.md"
SYMMETRIES = (1, 2, 4, 8)  # as in nec.models.config, which needs torch
HELP = "fit a codec to a model's embeddings, or to embeddings in a file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `nec fit`."""
    parser.add_argument(
        "source",
        nargs="+",
        metavar="SOURCE",
        help=f"MODEL and then a dataset: {INPUT_HELP}; or one .npy, .npz or .zarr of embeddings (n, y, x, d)",
    )
    parser.add_argument(
        "--out", required=True, metavar="PATH", help="NAME.json: the codec; else a folder: the model with the codec"
    )
    parser.add_argument(
        "--prior", choices=["hierarchical", "factorized"], default="hierarchical", help="default hierarchical"
    )
    parser.add_argument(
        "--spatial",
        choices=["haar", "none"],
        default="haar",
        help="with the hierarchical prior, code a Haar pyramid over the grid (default), or the tokens themselves: none",
    )
    parser.add_argument("--rank", type=int, metavar="K", help="keep K components of the basis (default: all)")
    parser.add_argument(
        "--symmetries",
        type=int,
        choices=SYMMETRIES,
        metavar="N",
        help="the model that is written gives means over N (1, 2, 4, 8) turns and flips of an image as its embedding:"
        " N times a producer's work, better for tasks that know no upright side, and fewer bytes",
    )
    parser.add_argument("--limit", type=int, metavar="N", help="images to fit on (default 4000, less for large grids)")
    parser.add_argument(
        "--split",
        default="train",
        metavar="PARTS",
        help="parts of the dataset's split to fit on, or all (default train)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a codec that exists")
    add_image_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print what was made as JSON, and no progress")


def run(args: argparse.Namespace) -> int:
    """Fit, save, and print what was made."""
    out = Path(args.out)
    with _destination(args, out) as file:
        embeddings = _from_file(args, out) if len(args.source) == 1 else _from_model(args)

        from nec.encode import fit_codec

        spatial = None if args.spatial == "none" else args.spatial
        codec = fit_codec(embeddings, prior=args.prior, spatial=spatial, rank=args.rank, seed=args.seed)
        codec.save(file)
    report = {
        "path": str(out),
        "images": len(embeddings),
        "dimensions": codec.dimensions,
        "codec": {
            "prior": codec.prior,
            "spatial": codec.spatial,
            "id": codec.id,
            "rank": codec.rank,
            "bytes": codec.nbytes,
        },
    }
    print(json.dumps(report, indent=2) if args.json else _line(report))
    return 0


def _line(report: dict) -> str:
    codec = report["codec"]
    pyramid = " of a Haar pyramid" if codec["spatial"] else ""
    return (
        f"{report['path']}: {codec['prior']} codec{pyramid} for {report['dimensions']} dimensions "
        f"(rank {codec['rank']}), {codec['bytes']:,} bytes, fitted on {report['images']} images"
    )


def _from_file(args: argparse.Namespace, out: Path) -> NDArray[np.float32]:
    from nec.encode import sample_array

    source = args.source[0]
    if not source.endswith((".npy", ".npz", ".zarr")):
        raise InputError(f"{source}: give a model and a dataset, or one .npy, .npz or .zarr of embeddings")
    if out.suffix != ".json":
        raise InputError(f"--out {out}: embeddings come without a model, so the codec goes to a file NAME.json")
    return sample_array(source, limit=args.limit, seed=args.seed)


def _from_model(args: argparse.Namespace) -> NDArray[np.float32]:
    dataset = open_images(args, args.source[1:])

    from nec.encode import sample_embeddings
    from nec.models import load_model

    model = load_model(args.source[0])
    if args.symmetries is not None:
        model.config = replace(model.config, symmetries=args.symmetries)
    return sample_embeddings(
        model,
        dataset,
        limit=args.limit,
        split=parts(args.split),
        progress=not args.json,
        **image_options(args),
    )


@contextmanager
def _destination(args: argparse.Namespace, out: Path) -> Iterator[Path]:
    """Where the codec is saved to: a file, the model's own folder, or a copy of it that appears when all went well."""
    from nec.files import atomic_path
    from nec.store.assets import resolve

    if out.suffix == ".json" or len(args.source) == 1:
        if args.symmetries is not None:
            raise InputError("--symmetries is of a model and its images: write a model folder, not a codec alone")
        with atomic_path(out, overwrite=args.overwrite) as temporary:
            yield temporary
        return
    folder = resolve(args.source[0], "models")
    if not folder.is_dir():
        raise InputError(f"{folder} is no model folder to copy: write the codec alone, --out NAME.json")
    if out.exists() and out.samefile(folder):
        if args.symmetries is not None:
            raise InputError(f"--symmetries makes another model: write it beside {folder}, not into it")
        with atomic_path(out / CODEC_FILE, overwrite=args.overwrite) as temporary:
            yield temporary
        return
    with atomic_path(out) as temporary:
        shutil.copytree(folder, temporary)
        if args.symmetries is not None:
            _set_symmetries(temporary, args.symmetries)
        yield temporary / CODEC_FILE


def _set_symmetries(folder: Path, symmetries: int) -> None:
    """Write into a model folder, and on its card, that embeddings are means over so many symmetries."""
    config, card = folder / CONFIG_FILE, folder / CARD_FILE
    document = json.loads(config.read_text(encoding="utf-8"))
    document["model"]["symmetries"] = symmetries
    config.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if card.is_file():
        words = f"- embeddings: means over {symmetries} turns and flips of an image, see `nec.models.symmetry`\n"
        card.write_text(card.read_text(encoding="utf-8") + words, encoding="utf-8")
