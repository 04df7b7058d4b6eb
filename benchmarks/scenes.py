"""Scenes into products: is the model ever idle, do two workers do twice the work, does memory stay flat?

    python benchmarks/scenes.py             all of the below, as one table
    python benchmarks/scenes.py idle        tiles/s beside the bare model's, ViT-S/16 at 224 px with random weights
    python benchmarks/scenes.py scaling     two Dask workers against one (--pinned: each on one processor)
    python benchmarks/scenes.py memory      peak memory and km2/s on generated scenes of 2,000 and 20,000 px width
    python benchmarks/scenes.py real FILE[:SENSOR[:METRES]] ...     km2/s and bytes a km2 with the shipped model

Scenes are generated (but for `real`), 10 m pixels. What else the machine does is in every figure by the clock: the
table begins with its load. `--threads` sets the model's threads for `idle`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

from nec import EmbeddingCodec
from nec.encoding import Running, SceneOptions, encode
from nec.encoding.engine import model_threads
from nec.models import ModelConfig, NecModel, load_model
from nec.scenes import open_scene

VIT_S = {"image_size": 224, "patch_size": 16, "embed_dim": 384, "num_heads": 6, "decoder_depth": 0}
BATCH = 32
Rows = list[tuple[str, str]]  # what, and its figure


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
    model.codec = EmbeddingCodec.fit(model.embed(pixels))
    return model


class ModelClock:
    """Adds up what `NecModel.embed` takes while the engine runs: seconds of the clock."""

    def __enter__(self) -> ModelClock:
        self.seconds, self._real = 0.0, NecModel.embed

        def timed(*inputs: Any) -> Any:
            began = time.perf_counter()
            try:
                return self._real(*inputs)
            finally:
                self.seconds += time.perf_counter() - began

        NecModel.embed = timed  # type: ignore[method-assign]
        return self

    def __exit__(self, *error: object) -> None:
        NecModel.embed = self._real  # type: ignore[method-assign]


def bare(model: NecModel, batches: int) -> tuple[float, float]:
    """Images a second of the model alone, and a second of processor time."""
    pixels = np.random.default_rng(2).normal(size=(BATCH, 3, 224, 224)).astype(np.float32)
    model.embed(pixels[:2])
    began, worked = time.perf_counter(), time.process_time()
    for _ in range(batches):
        model.embed(pixels)
    images = batches * BATCH
    return images / (time.perf_counter() - began), images / (time.process_time() - worked)


def engine(model: NecModel, path: Path, out: Path, threads: int) -> tuple[float, float, float]:
    """Tiles a second, and a second of processor time, of the engine; share of the clock in which the model ran."""
    worked = time.process_time()
    with ModelClock() as clock:
        report = encode(
            open_scene(path), out, model, mode="overwrite" if out.exists() else "create",
            scenes=SceneOptions(shard=(1, 1)), running=Running(threads=threads, batch_size=BATCH),
        ).to_dict()  # fmt: skip
    worked = time.process_time() - worked
    return report["tiles_per_second"], report["tiles"] / worked, clock.seconds / report["seconds"]


def idle(folder: Path, size: int, threads: int, batches: int, rounds: int) -> Rows:
    """The engine between two measurements of the bare model, in turns, so that other work meets both."""
    model, path = make_model(12), make_scene(folder / "s.tif", size, size)
    with model_threads(threads):
        bares, engines = [bare(model, batches)], []
        for _ in range(rounds):
            engines.append(engine(model, path, folder / "p.zarr", threads))
            bares.append(bare(model, batches))
    (clock, cpu), (made, worked, busy) = np.mean(bares, axis=0), np.mean(engines, axis=0)
    name = f"ViT-S/16 at 224 px, {threads} thread(s), {rounds} rounds: "
    return [
        (name + "bare model, engine, tiles/s of the clock", f"{clock:.2f}, {made:.2f}: {made / clock:.0%}"),
        (name + "the same of processor time", f"{cpu:.2f}, {worked:.2f}: {worked / cpu:.0%}"),
        (name + "share of the engine's clock in which the model runs", f"{busy:.1%}"),
        (
            name + "of each round",
            "; ".join(f"{e[0] / np.mean([x[0], y[0]]):.0%}" for e, x, y in _turns(engines, bares)),
        ),
    ]


def _turns(engines: list[Any], bares: list[Any]) -> Any:
    return zip(engines, bares[:-1], bares[1:], strict=True)


def scaling(folder: Path, size: int, rounds: int, pinned: bool) -> Rows:
    """Tiles a second of one and of two workers, and their processor time a tile.

    The clock runs from the call to the sealed product: workers that are there import PyTorch, get the model, compile
    the coder. `pinned`: each worker may use one processor only, of its own.
    """
    model, path = make_model(12), make_scene(folder / "s.tif", size, size)
    rates, costs = np.empty((rounds, 2)), np.empty((rounds, 2))
    for turn in range(rounds):
        for i in (0, 1):
            rates[turn, i], costs[turn, i] = on_workers(i + 1, model, path, folder / f"{turn}-{i}.zarr", pinned)
    one, two = rates.mean(axis=0)
    alone, shared = costs.mean(axis=0)
    each = "; ".join(f"{y / x:.2f}" for x, y in rates)
    name = f"ViT-S/16, {size:,} px, Dask, 1 and 2 workers of 1 thread, {'a' if pinned else 'any'} processor each: "
    return [
        (name + "tiles/s of the clock", f"{one:.2f}, {two:.2f}: {two / one:.2f} times ({each})"),
        (name + "processor time of the workers a tile", f"{alone:.3f} s, {shared:.3f} s: {shared / alone:.2f} times"),
    ]


def on_workers(workers: int, model: NecModel, path: Path, out: Path, pinned: bool) -> tuple[float, float]:
    """Tiles a second, and seconds of processor time a tile, of a cluster of so many workers."""
    import distributed

    from nec.encoding.cluster import local_cluster

    with local_cluster(workers) as cluster, distributed.Client(cluster) as client:
        client.wait_for_workers(workers)
        for number, address in enumerate(client.scheduler_info(n_workers=-1)["workers"] if pinned else ()):
            client.run(pin, number, workers=[address])
        before = sum(client.run(time.process_time).values())
        running = Running(batch_size=BATCH, scheduler=cluster.scheduler_address, threads=1)
        report = encode(open_scene(path), out, model, engine="dask", running=running).to_dict()
        worked = sum(client.run(time.process_time).values()) - before
    return report["tiles_per_second"], worked / report["tiles"]


def pin(number: int) -> None:
    """Hold every thread of this process, and those to come, on one of its processors. Linux."""
    processors = sorted(os.sched_getaffinity(0))
    for thread in os.listdir("/proc/self/task"):
        os.sched_setaffinity(int(thread), {processors[number % len(processors)]})


def memory(folder: Path, widths: list[int], rows: int) -> Rows:
    """Peak resident MiB of a process that encodes a scene of each width; a model of one block, for time."""
    table = []
    for width in widths:
        path = make_scene(folder / f"{width}.tif", rows, width)
        command = [sys.executable, __file__, "encode", "--scene", str(path), "--out", str(folder / f"{width}.zarr")]
        done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        table.append((f"ViT-S/16 of one block, scene of {rows:,} x {width:,} px", describe(done)))
    return table


def describe(done: dict[str, Any]) -> str:
    """What `encode_one` returned, in words."""
    area = ""
    if done["square_km"] is not None:
        density = done["stored_bytes"] / done["square_km"] / 1000
        area = f", {done['square_km'] / done['seconds']:.2f} km2/s, {density:.1f} kB/km2"
    pace = f"{done['tiles']:,} tiles in {done['seconds']:.1f} s"
    return f"peak {done['peak_mib']:,} MiB, {pace}{area}, {done['bytes_per_token']:.1f} bytes a token"


def encode_one(scene: Any, model: NecModel, out: str | Path, **options: Any) -> dict[str, Any]:
    """A scene, and the peak of this process."""
    report = encode(scene, out, model, running=Running(batch_size=BATCH, threads=1), **options).to_dict()
    figures = ("tiles", "seconds", "square_km", "stored_bytes", "bytes_per_token")
    return {"peak_mib": peak_mib(), **{name: report[name] for name in figures}}


def peak_mib() -> int:
    """Peak resident MiB of this process, on Linux; `getrusage` would count what its parent held when it began."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) // 1024


def real(folder: Path, files: list[str]) -> Rows:
    """Rasters with the shipped model: FILE:SENSOR, or FILE, of which the first three bands are taken.

    FILE:SENSOR:METRES gives the side of a pixel where the file's geotransform is none.
    """
    model, table = load_model("eurosat-tiny"), []
    for i, file in enumerate(files):
        path, sensor, metres = [*file.split(":"), "", ""][:3]
        scene = open_scene(path, **({"sensor": sensor} if sensor else {}))
        done = encode_one(scene, model, folder / f"real-{i}.zarr", **({} if sensor else {"bands": [1, 2, 3]}))
        if metres:
            done["square_km"] = math.prod(scene.shape) * float(metres) ** 2 / 1e6
        table.append((f"eurosat-tiny, {Path(path).name}, {scene.shape[0]} x {scene.shape[1]} px", describe(done)))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "what", choices=["all", "idle", "scaling", "memory", "real", "encode"], nargs="?", default="all"
    )
    parser.add_argument("files", nargs="*", help="for real: FILE, FILE:SENSOR or FILE:SENSOR:METRES of a pixel")
    parser.add_argument("--size", type=int, default=2000, help="side of the scene of idle and scaling")
    parser.add_argument("--rows", type=int, default=4000, help="of the scenes of memory")
    parser.add_argument("--widths", type=int, nargs="+", default=[2000, 20000])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", type=int, default=4, help="of 32 images, through the bare model, before and after")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--pinned", action="store_true", help="scaling: each worker on one processor of its own")
    parser.add_argument("--scene")
    parser.add_argument("--out")
    args = parser.parse_args()
    if args.what == "encode":
        print(json.dumps(encode_one(open_scene(args.scene), make_model(1), args.out)))
        return
    print(f"| load of the last minute on {os.cpu_count()} cores | {os.getloadavg()[0]:.1f} |\n|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = {
            "idle": lambda: idle(folder, args.size, args.threads, args.batches, args.rounds),
            "scaling": lambda: scaling(folder, args.size, args.rounds, args.pinned),
            "memory": lambda: memory(folder, args.widths, args.rows),
            "real": lambda: real(folder, args.files),
        }
        for part in parts if args.what == "all" else [args.what]:
            for what, figure in parts[part]():
                print(f"| {what} | {figure} |", flush=True)


if __name__ == "__main__":
    main()
