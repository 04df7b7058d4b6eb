"""The demonstration from end to end: consume a store without torch, train heads, produce a store, report."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nec import __version__
from nec.datasets import Dataset, open_dataset
from nec.demo import consume
from nec.errors import InputError, missing_extra
from nec.heads import HeadResult, HeadSettings, train_head
from nec.store import open_store

if TYPE_CHECKING:
    from nec.demo.produce import Encoded
    from nec.store import ImageStore

ZIP_NAME = "EuroSAT_RGB.zip"
NEEDS = {"torch": "torch", "rasterio": "geo", "matplotlib": "bench"}


@dataclass(frozen=True)
class Options:
    """What `nec demo` was asked for. `store` and `model` are names or paths; `scene_size` in pixels of 10 m."""

    out: Path = Path("demo-out")
    store: str = "eurosat"
    model: str = "eurosat-symmetric"
    data: str | None = None
    images: str | None = None
    scene_size: int = 512
    epochs: int | None = None
    seed: int = 0
    quiet: bool = True


def run_demo(options: Options) -> dict[str, Any]:
    """Run every step, write `report.html`, plots and `figures.json` into `options.out`, and return the figures.

    Raises:
        MissingExtraError: torch, rasterio or matplotlib is missing.
        InputError: the store has no labels or split, or a path is wrong.
    """
    began = time.perf_counter()
    for package, extra in NEEDS.items():
        if find_spec(package) is None:
            missing_extra(package, extra)
    if options.out.exists() and not options.out.is_dir():
        raise InputError(f"--out {options.out} is a file: name a folder")
    store, opened = _open(options)
    dataset, own = _find_data(options.data), _find_images(options.images)
    options.out.mkdir(parents=True, exist_ok=True)
    figures: dict[str, Any] = {"store": consume.sizes(store) | opened}
    _say(options, f"opened {options.store}: {len(store):,} images, {store.bytes_per_image:.0f} bytes each")
    linear = train_head(store, head="linear", seed=options.seed, progress=not options.quiet)
    figures["store"]["torch_imported"] = "torch" in sys.modules
    accuracy, tested = linear.report.figures["accuracy"], linear.report.test_images
    _say(options, f"linear probe, no torch: {accuracy:.2%} of {tested:,} test images")
    survey = consume.survey(store, store.images_per_chunk, linear.head.module.l2, options.quiet)
    settings = HeadSettings(epochs=options.epochs)
    attention = train_head(store, head="attention", seed=options.seed, settings=settings, progress=not options.quiet)
    _say(options, f"attention head: {attention.report.figures['accuracy']:.2%}")
    figures["heads"] = {result.report.head: result.report.to_dict() for result in (linear, attention)}
    figures["rate_accuracy"] = {"images": survey.images, "points": survey.points}
    colours = consume.TokenColours.fit(survey.tokens)
    made = _produce(options, store, attention.head, dataset, own, figures)
    figures["software"] = _software()
    figures["seconds"] = time.perf_counter() - began
    _write_report(options, store, (linear, attention), colours, made, figures)
    return figures


def _open(options: Options) -> tuple[ImageStore, dict[str, Any]]:
    start = time.perf_counter()
    store = open_store(options.store)
    opened = time.perf_counter() - start
    if store.labels is None or store.split is None:
        raise InputError(f"{options.store} has no labels or no split: the demo needs both")
    store.embeddings[: min(64, len(store))]
    return store, {
        "name": options.store,
        "open_seconds": opened,
        "first_read_seconds": time.perf_counter() - start - opened,
    }


def _find_data(given: str | None) -> Dataset | None:
    """EuroSAT at `given` (zip, folder, KIND:PATH, or a folder that holds the zip), else in $NEC_DATA or ../shared/data.

    None where nothing was given and nothing is found.
    """
    if given is None:
        path = Path(os.environ.get("NEC_DATA", Path("..") / "shared" / "data")) / ZIP_NAME
        return open_dataset(f"eurosat:{path}") if path.is_file() else None
    inside = Path(given) / ZIP_NAME
    return open_dataset(f"eurosat:{inside}" if inside.is_file() else given)


def _find_images(given: str | None) -> Dataset | None:
    """The user's own images: a folder, or anything that `nec encode` takes."""
    if given is None:
        return None
    return open_dataset(f"folder:{given}" if Path(given).is_dir() else given)


@dataclass(frozen=True)
class Made:
    """What the producer's half of the demo hands to the report."""

    scene: Encoded
    classes: NDArray[np.int64]
    user: Encoded | None
    originals: dict[int, NDArray[np.uint8]]
    patch_bytes: int


def _produce(
    options: Options,
    store: ImageStore,
    head: Any,
    dataset: Dataset | None,
    own: Dataset | None,
    figures: dict[str, Any],
) -> Made:
    from nec.demo import produce

    model = produce.open_model(options.model)
    quality = store.quality
    scene = produce.encode_scene(model, options.out, quality, options.scene_size, options.seed)
    symbols = scene.figures["symbols_checked"]
    _say(options, f"sample scene: {scene.figures['stored_bytes']:,} bytes, all {symbols:,} symbols came back")
    classes = produce.class_map(head, scene.store.embeddings[0], store.grid[0])
    figures["scene"] = scene.figures
    originals = {}
    figures["real_images"] = None
    if dataset is not None:
        figures["real_images"] = produce.reencode(model, dataset, store, head, count=500, seed=options.seed)
        position = {name: i for i, name in enumerate(dataset.names)}
        shown = [i for i in consume.examples(store, 4) if store.names[i] in position]
        originals = {int(i): dataset.read(position[store.names[i]]) for i in shown}
        _say(options, f"real images: {figures['real_images'] or 'none of the store among them'}")
    user = None
    if own is not None:
        user = produce.encode_images(model, own, options.out / "images.zarr", quality, limit=64)
        figures["user_images"] = user.figures
    patch_bytes = model.config.patch_size**2 * model.config.in_channels
    return Made(scene, classes, user, originals, patch_bytes)


def _software() -> dict[str, str]:
    from importlib.metadata import version

    packages = {name: version(name) for name in ("numpy", "zarr", "constriction", "torch")}
    return {"nec": __version__, "python": platform.python_version(), "cores": str(os.cpu_count()), **packages}


def _write_report(
    options: Options,
    store: ImageStore,
    results: tuple[HeadResult, HeadResult],
    colours: consume.TokenColours,
    made: Made,
    figures: dict[str, Any],
) -> None:
    from nec.demo.chapters import build

    page = build(options, store, results, colours, made, figures)
    for name, text in (("figures.json", json.dumps(figures, indent=2)), ("report.html", page)):
        partial = options.out / f".{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(options.out / name)


def _say(options: Options, line: str) -> None:
    if not options.quiet:
        print(f"nec demo: {line}", file=sys.stderr)
