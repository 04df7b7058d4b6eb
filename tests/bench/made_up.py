"""Invented results that look like a benchmark's: two datasets, all families of methods, three seeds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from nec.bench.results import Results, Row

LAND_USE = ["AnnualCrop", "Forest", "Highway", "Industrial", "River"]
COVER = ["Building", "Land", "Road", "Vegetation", "Water"]
COLOURS = [(60, 16, 152), (132, 41, 246), (110, 193, 228), (254, 221, 58), (226, 169, 41)]
# family: (settings, labels, bytes, middle of its curve in bytes, best accuracy)
FAMILIES: dict[str, tuple[list[float], list[str], list[float], float, float]] = {
    "nec-factorized": ([1, 10, 100, 1000], ["λ=1", "λ=10", "λ=100", "λ=1000"], [52, 131, 402, 1210], 30, 0.955),
    "nec-hyperprior": ([1, 10, 100], ["λ=1", "λ=10", "λ=100"], [61, 149, 433], 34, 0.951),
    "codec-hierarchical": ([0.1, 0.3, 1], ["q=0.1", "q=0.3", "q=1"], [48, 118, 377], 45, 0.945),
    "uqe": ([2, 4, 8], ["2 bit", "4 bit", "8 bit"], [460, 1850, 4980], 400, 0.95),
    "uqe-channel": ([2, 4, 8], ["2 bit", "4 bit", "8 bit"], [890, 3020, 6900], 350, 0.95),
    "jpeg2000": ([0.25, 0.5, 1, 2], ["0.25 bpp", "0.5 bpp", "1 bpp", "2 bpp"], [151, 270, 530, 1040], 190, 0.96),
    "rdc": ([8], ["8 bit, zstd"], [9800], 100, 0.962),
    "float": ([32], ["32 bit"], [49152], 1, 0.956),
    "original": ([0], ["JPEG files"], [3390], 1, 0.963),
    "fine-tune": ([0], ["all parameters"], [3390], 1, 0.975),
}  # fmt: skip


def made_up(
    *, seeds: int = 3, decoders: tuple[bool, ...] = (False, True), names: tuple[str, ...] = ("eurosat", "dubai")
) -> Results:
    """Results of datasets "eurosat" (classification) and "dubai" (segmentation)."""
    rng = np.random.default_rng(0)
    rows = [
        _row(rng, name, method, i, decoder, seed)
        for name in names
        for method, family in FAMILIES.items()
        for i in range(len(family[0]))
        for decoder in decoders
        for seed in range(seeds)
    ]
    recipe = {"name": "made-up </script> & <b>", "epochs": 12, "methods": ["nec-factorized:1,10,100,1000", "uqe:2,4,8"]}
    environment = {"nec": "0.1.0", "torch": "2.13.0", "cpu": "x86_64", "threads": 2, "date": "2026-11-23"}
    return Results(recipe, environment, {name: _facts(name) for name in names}, rows)


def _facts(name: str) -> dict[str, Any]:
    segmentation = name == "dubai"
    return {
        "task": "segmentation" if segmentation else "classification", "kind": name, "images": 1000,
        "train": 700, "val": 100, "test": 200, "raw_file_bytes_per_image": 3390.5,
        "raw_pixel_bytes_per_image": 196608 if segmentation else 12288,
        "class_names": COVER if segmentation else LAND_USE,
        "class_colors": [list(c) for c in COLOURS] if segmentation else None, "split": "seed 0",
    }  # fmt: skip


def _row(rng: np.random.Generator, name: str, method: str, i: int, decoder: bool, seed: int) -> Row:
    settings, labels, sizes, middle, best = FAMILIES[method]
    segmentation = name == "dubai"
    scale = 6.0 if segmentation else 1.0
    reached = best / (1 + (middle / sizes[i]) ** 0.9) - (0 if decoder else 0.06 / math.log2(sizes[i]))
    confusion = _confusion(rng, reached - (0.1 if segmentation else 0), 4000 if segmentation else 40)
    accuracy = float(np.trace(confusion) / confusion.sum())
    if segmentation:
        truth, predicted, hits = confusion.sum(1), confusion.sum(0), np.diag(confusion)
        iou, f1 = (hits / (truth + predicted - hits)).mean(), (2 * hits / (truth + predicted)).mean()
        metrics = {"overall_accuracy": accuracy, "mean_iou": float(iou), "mean_f1": float(f1)}
    else:
        metrics = {"accuracy": accuracy, "top5": 1.0 - (1 - accuracy) / 8}
    fidelity = None
    if method not in ("original", "fine-tune"):
        error = 0.0 if method in ("float", "rdc") else (middle / sizes[i]) ** 0.5
        fidelity = {"relative_error": error, "neighbour_recall": 1 / (1 + error)}
    return Row(
        dataset=name, method=method, label=labels[i], setting=settings[i], decoder=decoder, seed=seed,
        bytes_per_image=sizes[i] * scale, metrics=metrics, adapt_seed=0 if method.startswith("nec") else None,
        side_information=4096, confusion=confusion.tolist(), fidelity=fidelity, exact=True,
        seconds={"encode": 1.5, "decode": 0.5, "head": 12.0},
    )  # fmt: skip


def _confusion(rng: np.random.Generator, share: float, count: int) -> np.ndarray:
    """Counts of five classes with about `share` on the diagonal."""
    table = np.full((5, 5), (1 - share) / 4)
    np.fill_diagonal(table, share)
    return np.stack([rng.multinomial(count + 7 * i, row) for i, row in enumerate(table)])


def write_panels(results: Results, out: Path, *, size: int = 48, images: int = 2) -> list[Path]:
    """Class maps of every point of the segmentation datasets, wrong where the accuracy says so."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:size, :size]
    truth = np.stack([((y // 12 + x // (9 + i)) % 5).astype(np.uint8) for i in range(images)])
    pictures = (np.asarray(COLOURS)[truth] * 0.5 + rng.normal(70, 18, (*truth.shape, 3))).clip(0, 255).astype(np.uint8)
    masked = truth.copy()
    masked[:, :10, :14] = 255
    paths = []
    for row in results.rows:
        if results.task(row.dataset) == "segmentation" and row.seed == 0:
            wrong = rng.random(truth.shape) > row.metrics["overall_accuracy"]
            predicted = np.where(wrong, rng.integers(0, 5, truth.shape), truth).astype(np.uint8)
            path = out / "panels" / row.dataset / f"{len(paths)}.npz"
            path.parent.mkdir(parents=True, exist_ok=True)
            facts: dict[str, Any] = {"method": row.method, "label": row.label, "decoder": row.decoder}
            np.savez_compressed(path, images=pictures, truth=masked, predicted=predicted, **facts)
            paths.append(path)
    return paths
