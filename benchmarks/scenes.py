"""Scenes into products: is the model ever idle, do two workers do twice the work, does memory stay flat?

    python benchmarks/scenes.py idle      tiles/s beside the bare model's, ViT-S/16 at 224 px with random weights
    python benchmarks/scenes.py scaling   two Dask workers against one, each on one thread
    python benchmarks/scenes.py memory    peak memory on generated scenes of 2,000 and 20,000 px width

Run it on a quiet machine. `--threads` sets the model's threads for `idle`; rates are of one run, scenes are generated.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from nec import EmbeddingCodec
from nec.data import open_scene
from nec.models import ModelConfig, NecModel
from nec.pipeline import encode_scene
from nec.pipeline.engine import set_model_threads
from nec.pipeline.scene_work import embed_pixels

VIT_S = {"image_size": 224, "patch_size": 16, "embed_dim": 384, "num_heads": 6, "decoder_depth": 0}
BATCH = 32


def make_scene(path: Path, rows: int, columns: int) -> Path:
    """Noise over smooth patches, 3 bands of bytes at 10 m, compressed blocks of 256 px; written strip by strip."""
    rng = np.random.default_rng(0)
    profile = {
        "driver": "GTiff", "height": rows, "width": columns, "count": 3, "dtype": "uint8", "crs": "EPSG:32633",
        "transform": rasterio.Affine(10, 0, 500000, 0, -10, 4600000), "tiled": True, "compress": "deflate",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        for top in range(0, rows, 256):
            height = min(256, rows - top)
            coarse = rng.integers(20, 200, (3, -(-height // 64), -(-columns // 64)), dtype=np.uint8)
            smooth = coarse.repeat(64, axis=1).repeat(64, axis=2)[:, :height, :columns]
            noisy = smooth + rng.integers(0, 40, smooth.shape, dtype=np.uint8)
            file.write(noisy, window=rasterio.windows.Window(0, top, columns, height))
    return path


def make_model(depth: int) -> NecModel:
    """ViT-S/16 with random weights, `depth` blocks, and a codec fitted to what it makes of noise."""
    import torch

    torch.manual_seed(0)
    model = NecModel(ModelConfig.from_dict({**VIT_S, "depth": depth})).eval()
    model.name, model.sha256 = f"vit-s-{depth}", "0" * 64
    pixels = np.random.default_rng(1).normal(size=(16, 3, 224, 224)).astype(np.float32)
    model.codec = EmbeddingCodec.fit(embed_pixels(model, pixels))
    return model


def bare(model: NecModel, batches: int) -> tuple[float, float]:
    """Images a second of the model alone, and a second of processor time."""
    pixels = np.random.default_rng(2).normal(size=(BATCH, 3, 224, 224)).astype(np.float32)
    embed_pixels(model, pixels[:2])
    began, worked = time.perf_counter(), time.process_time()
    for _ in range(batches):
        embed_pixels(model, pixels)
    images = batches * BATCH
    return images / (time.perf_counter() - began), images / (time.process_time() - worked)


def idle(folder: Path, size: int, threads: int, batches: int) -> dict[str, Any]:
    """The engine beside the bare model, measured before and after it.

    `share` is of the clock. `cpu_share`, of the processor's time, is what one core can reach with reading, coding and
    the model all on it, and hardly depends on what else the machine does.
    """
    set_model_threads(threads)
    model, path = make_model(12), make_scene(folder / "s.tif", size, size)
    before = bare(model, batches)
    worked = time.process_time()
    report = encode_scene(open_scene(path), model, folder / "p.zarr", threads=threads, batch_size=BATCH)
    engine = report["tiles_per_second"], report["tiles"] / (time.process_time() - worked)
    after = bare(model, batches)
    share, cpu_share = (2 * e / (x + y) for e, x, y in zip(engine, before, after, strict=True))
    tiles = report["tiles"]
    return {"bare": [before, after], "engine": engine, "share": share, "cpu_share": cpu_share, "tiles": tiles}


def scaling(folder: Path, size: int) -> dict[str, Any]:
    """Tiles a second of one and of two workers, start of the cluster not counted."""
    import distributed

    model, path = make_model(12), make_scene(folder / "s.tif", size, size)
    rates = []
    for workers in (1, 2):
        with distributed.LocalCluster(n_workers=workers, threads_per_worker=2, dashboard_address=None) as cluster:
            report = encode_scene(
                open_scene(path), model, folder / f"{workers}.zarr", shard=(1, 1), batch_size=BATCH,
                engine="dask", scheduler=cluster.scheduler_address, threads=1,
            )  # fmt: skip
            rates.append(report["tiles_per_second"])
    return {"one": rates[0], "two": rates[1], "ratio": rates[1] / rates[0]}


def memory(folder: Path, widths: list[int], rows: int) -> dict[str, Any]:
    """Peak resident MiB of a process that encodes a scene of each width; a model of one block, for time."""
    peaks = {}
    for width in widths:
        path = make_scene(folder / f"{width}.tif", rows, width)
        command = [sys.executable, __file__, "encode", "--scene", str(path), "--out", str(folder / f"{width}.zarr")]
        peaks[width] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {"rows": rows, "widths": peaks}


def encode_one(scene: str, out: str) -> dict[str, Any]:
    """One scene in a process of its own, for `memory`."""
    report = encode_scene(open_scene(scene), make_model(1), out, batch_size=BATCH, threads=1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = ("tiles", "seconds", "tiles_per_second", "square_km", "stored_bytes", "bytes_per_km2")
    return {"peak_mib": round(peak), **{name: report[name] for name in figures}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["idle", "scaling", "memory", "encode"])
    parser.add_argument("--size", type=int, default=2000, help="side of the scene of idle and scaling; rows for memory")
    parser.add_argument("--widths", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, default=4, help="of 32 images, through the bare model, before and after")
    parser.add_argument("--scene")
    parser.add_argument("--out")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report = {
            "idle": lambda: idle(folder, args.size, args.threads, args.batches),
            "scaling": lambda: scaling(folder, args.size),
            "memory": lambda: memory(folder, args.widths, args.size),
            "encode": lambda: encode_one(args.scene, args.out),
        }[args.what]()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
