"""Engines: a Dask cluster gives the bytes that threads give, lost workers and killed processes included."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import build_model, fit_to, smooth

pytest.importorskip("torch")
pytest.importorskip("rasterio")

from scene_runs import encode_scene

import nec
from nec.cli import main
from nec.datasets import ArrayDataset
from nec.encoding import Reading, Running, encode
from nec.encoding.engine import read_ahead
from nec.errors import InputError, NecError
from nec.models import save_model
from nec.scenes import open_scene
from nec.store import open_product
from scenes import LAYOUT, faulty, write_scene

HERE = Path(__file__).parent
KILLS = 50 if os.environ.get("NEC_LONG") else 3


@pytest.fixture(scope="module")
def model() -> Any:
    return fit_to(build_model(), smooth(200, 16, 3, seed=9))


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Address of a local Dask cluster of two workers with one thread of the model each."""
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=2, dashboard_address=None, silence_logs=50) as made:
        yield made.scheduler_address


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_reading_begins_before_the_first_item_is_asked_for_and_stays_near() -> None:
    begun, read = threading.Semaphore(0), []

    def note(item: int) -> int:
        read.append(item)
        begun.release()
        return item

    items = read_ahead(note, range(20), 2)
    assert all(begun.acquire(timeout=10) for _ in range(3))
    assert sorted(read) == [0, 1, 2]
    for item in range(20):
        assert next(items) == item
        assert max(read) <= item + 3
    assert next(items, None) is None


# -- Dask


@pytest.mark.slow
def test_a_cluster_gives_the_bytes_of_threads(
    model: Any, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = import_module("nec.encoding.images")
    monkeypatch.setattr(pipeline, "IMAGES_PER_CHUNK", 8)
    monkeypatch.setattr(pipeline, "CHUNKS_PER_SHARD", 2)
    images = ArrayDataset(smooth(150, 16, 3), [f"{i}.png" for i in range(150)])
    options = {"engine": "dask", "scheduler": cluster, "threads": 1}
    encode(images, tmp_path / "a.zarr", model, running=Running(batch_size=6, threads=1))
    there = Running(batch_size=6, threads=1, scheduler=cluster)
    report = encode(images, tmp_path / "b.zarr", model, engine="dask", running=there)
    assert report.encoded_images == 150  # type: ignore[attr-defined]
    assert files(tmp_path / "a.zarr") == files(tmp_path / "b.zarr")
    scene = open_scene(write_scene(tmp_path / "s_20260501.tif"))
    encode_scene(scene, model, tmp_path / "c.zarr", threads=1, **LAYOUT)
    report = encode_scene(scene, model, tmp_path / "d.zarr", **LAYOUT, **options)
    assert (report["complete"], report["tokens"]) == (True, 23 * 30)
    assert files(tmp_path / "c.zarr") == files(tmp_path / "d.zarr")


@pytest.mark.slow
def test_faults_on_a_cluster(model: Any, cluster: str, tmp_path: Path) -> None:
    path = write_scene(tmp_path / "s_20260501.tif")
    options = {**LAYOUT, "engine": "dask", "scheduler": cluster, "threads": 1}
    encode_scene(open_scene(path), model, tmp_path / "whole.zarr", threads=1, **LAYOUT)
    lost = faulty(path, tmp_path / "kill", (40, 60), "kill")
    encode_scene(lost, model, tmp_path / "lost.zarr", **options)
    assert not (tmp_path / "kill").exists()  # a worker did die
    assert files(tmp_path / "lost.zarr") == files(tmp_path / "whole.zarr")
    damaged = faulty(path, tmp_path / "damage", (40, 60), "damage")
    report = encode_scene(damaged, model, tmp_path / "damaged.zarr", **options)
    assert not report["complete"]
    assert report["failed_tiles"]
    (tmp_path / "damage").unlink()
    encode_scene(damaged, model, tmp_path / "damaged.zarr", resume=True, **options)
    assert files(tmp_path / "damaged.zarr") == files(tmp_path / "whole.zarr")
    images = ArrayDataset(smooth(20, 16, 3), [f"{i}.png" for i in range(20)])
    images.images = images.images.astype(np.float32)
    images.images[7, 3, 2, 1] = np.nan
    with pytest.raises(InputError, match=r"7\.png"):
        encode(
            images, tmp_path / "n.zarr", model, engine="dask", reading=Reading(scale=1.0),
            running=Running(scheduler=cluster),
        )  # fmt: skip
    assert not (tmp_path / "n.zarr").exists()


def test_no_cluster_there(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = pytest.importorskip("nec.encoding.cluster")
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    scene = open_scene(write_scene(tmp_path / "s.tif"))
    with pytest.raises(NecError, match="no Dask cluster with workers at tcp://127"):
        encode_scene(
            scene, model, tmp_path / "p.zarr", engine="dask", scheduler="tcp://127.0.0.1:9", time="2026-05-01", **LAYOUT
        )
    assert not (tmp_path / "p.zarr").exists()


def test_workers_killed_while_they_start_are_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = pytest.importorskip("nec.encoding.cluster")
    tries: list[int] = []

    def dying(times: int) -> Any:
        def start(**options: Any) -> str:
            tries.append(1)
            if len(tries) <= times:
                raise RuntimeError("Nanny failed to start.")
            return "cluster"

        return start

    monkeypatch.setattr(cluster.distributed, "LocalCluster", dying(1))
    assert cluster._started(1) == "cluster"
    tries.clear()
    monkeypatch.setattr(cluster.distributed, "LocalCluster", dying(9))
    with pytest.raises(NecError, match=r"died while they started: Nanny failed to start"):
        cluster._started(1)


@pytest.mark.slow
def test_workers_started_here_keep_the_memory_they_freed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")  # as Dask leaves it in a process that had a cluster before
    distributed = pytest.importorskip("distributed")
    from nec.encoding.cluster import local_cluster

    with local_cluster(1) as made, distributed.Client(made) as client:
        told = [client.run(os.getenv, name) for name in ("MALLOC_TRIM_THRESHOLD_", "OMP_NUM_THREADS")]
    assert [list(values.values()) for values in told] == [[None], ["1"]]


# -- processes that are killed


def _command(model: Any, folder: Path, values: np.ndarray | None = None) -> list[str]:
    """Of a process that encodes a scene; what it is called with comes behind."""
    save_model(model, folder / "tiny", half=False)
    return [
        sys.executable,
        str(HERE / "run_encode.py"),
        str(folder / "tiny"),
        str(write_scene(folder / "s.tif", values)),
    ]


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed(model: Any, tmp_path: Path) -> None:
    command = _command(model, tmp_path, np.tile(smooth(1, 118, 3, seed=3)[0], (2, 2, 1)))
    seconds = _run([*command, str(tmp_path / "whole.zarr")])
    out = tmp_path / "cut.zarr"
    whole = files(tmp_path / "whole.zarr")
    _kill_and_resume(lambda: [*command, str(out)], seconds, whole, lambda: files(out), lambda: shutil.rmtree(out))


@pytest.mark.slow
def test_killed_while_it_writes_to_a_bucket(model: Any, tmp_path: Path, bucket: Any) -> None:
    command, name = _command(model, tmp_path), bucket.url
    _run([*command, str(tmp_path / "whole.zarr")])
    whole, seconds = files(tmp_path / "whole.zarr"), _run([*command, f"{name}.first"])

    def next_one() -> None:
        bucket.url += "x"

    _kill_and_resume(lambda: [*command, bucket.url], seconds, whole, bucket.files, next_one, max(1, KILLS // 2))


def _kill_and_resume(
    command: Callable[[], list[str]],
    seconds: float,
    whole: dict[str, bytes],
    written: Callable[[], dict[str, bytes]],
    begin_again: Callable[[], None],
    kills: int = KILLS,
) -> None:
    """Kill runs of `seconds` at random moments and resume them: what they have `written` is in the end the `whole`."""
    rng, killed, half_way, finished = random.Random(0), 0, 0, 0

    def following() -> list[str]:
        return [*command(), *(["--resume"] if "zarr.json" in written() else [])]

    while killed < kills:
        ended = _killed(following(), rng.uniform(0, 0.9 * seconds))
        killed += not ended
        half_way += not ended and any(name.startswith("embeddings/c.") for name in written())
        if ended:
            finished += 1
            assert written() == whole
            begin_again()
    _run(following())
    assert written() == whole
    print(f"{killed} killed, {half_way} of them with shards written; {finished} finished in between")
    assert half_way or kills < 10


def _start(command: list[str]) -> subprocess.Popen[str]:
    source = Path(nec.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(source), str(HERE)]), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.stderr.read() if process.stderr else ""
    return process


def _run(command: list[str]) -> float:
    """Run to the end -> seconds of work, the start of Python not counted."""
    process, begun = _start(command), time.monotonic()
    assert process.wait() == 0, process.stderr.read() if process.stderr else ""
    return time.monotonic() - begun


def _killed(command: list[str], seconds: float) -> bool:
    """Kill a run after so many seconds of work -> whether it had ended before."""
    process = _start(command)
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False
    assert status == 0, process.stderr.read() if process.stderr else ""
    return True


# -- the command


def test_the_command(model: Any, tmp_path: Path, bucket: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from rasterio import Affine

    save_model(model, tmp_path / "tiny", half=False)
    path, out = write_scene(tmp_path / "s.tif"), tmp_path / "p.zarr"
    command = ["encode", str(path), "--model", str(tmp_path / "tiny"), "--out", str(out)]
    assert main([*command, "--time", "2026-05-01", "--quality", "4", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["kind"], report["grid"], report["times"]) == ("product", [23, 30], ["2026-05-01T00:00:00"])
    assert main([*command, "--time", "2026-06-01", "--quality", "4", "--append"]) == 0
    assert "2 date(s), 23 x 30 tokens" in capsys.readouterr().out
    later = ["--time", "2026-07-01", "--time", "2026-08-01", "--append", "--quality", "4"]
    assert main([*command[:2], f"scene:{path}", *command[2:], *later]) == 0
    assert len(open_product(out).times) == 4
    away = ["--out", bucket.url, "--time", "2026-05-01", "--quality", "4"]
    assert main([*command[:4], *away]) == 0
    assert f"{bucket.url}: 1 date(s)" in capsys.readouterr().out
    assert main([*command[:4], *away]) == 2
    assert "is complete: choose another name, or give --overwrite" in capsys.readouterr().err
    write_scene(tmp_path / "moved.tif", transform=Affine(10, 0, 500003, 0, -10, 4600000))
    before = files(out)
    moved = ["--time", "2026-09-01", "--time", "2026-10-01", "--append", "--quality", "4"]
    assert main([*command[:2], str(tmp_path / "moved.tif"), *command[2:], *moved]) == 2
    assert "not on the pixel grid" in capsys.readouterr().err
    assert files(out) == before
    assert main(["info", str(out)]) == 0
    assert main(["verify", str(out)]) == 0


def test_the_command_lists_what_it_could_not_read(
    model: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_model(model, tmp_path / "tiny", half=False)
    path, out = write_scene(tmp_path / "s.tif"), tmp_path / "p.zarr"
    intact = path.read_bytes()
    spoilt = bytearray(intact)
    spoilt[len(intact) // 2 : len(intact) // 2 + 60] = bytes(60)  # within the compressed blocks
    path.write_bytes(spoilt)
    command = ["encode", str(path), "--time", "2026-05-01", "--model", str(tmp_path / "tiny"), "--out", str(out)]
    assert main([*command, "--json"]) == 1
    told = capsys.readouterr()
    report = json.loads(told.out)
    assert (report["complete"], report["shards_left_out"]) == (False, 1)
    assert told.err.count("unreadable tile at row") == len(report["failed_tiles"]) > 0
    assert main([*command, "--resume", "--skip-failed"]) == 0
    valid = np.asarray(open_product(out).valid[0])
    path.write_bytes(intact)
    assert main([*command, "--overwrite"]) == 0
    assert valid.sum() < np.asarray(open_product(out).valid[0]).sum()
