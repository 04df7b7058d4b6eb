"""Training on two processes (gloo), by `--devices` and by torchrun: the losses of one process, written once."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from two_processes import SIZES

import nec
from nec.cli import main
from nec.models import ModelConfig, NecModel, save_model

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
RUN = ["--epochs", "3", "--batch-size", "8", "--accelerator", "cpu", "--json"]  # 24 images: 9 steps
PRETRAIN = ["pretrain", "folder:images", "--config", "sizes.json", "--blr", "0.02", *RUN]
ADAPT = ["adapt", "base", "folder:images", "--lmbda", "50", "--latent-scale", "3", "--blr", "0.02", *RUN]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rng = np.random.default_rng(0)
    for i in range(24):
        file = tmp_path / "images" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file)
    (tmp_path / "sizes.json").write_text(json.dumps(SIZES))
    torch.manual_seed(0)
    save_model(NecModel(ModelConfig.from_dict(SIZES)), tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(folder: Path, *arguments: str) -> str:
    """Standard output of a Python process with these arguments, which must succeed."""
    paths = [str(Path(nec.__file__).parents[1]), str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr
    return result.stdout


def losses(run: Path) -> dict[str, np.ndarray]:
    """Columns of the only metrics.csv of a run, one value a step."""
    (file,) = run.glob("csv/*/metrics.csv")
    with file.open() as text:
        rows = [row for row in csv.DictReader(text) if row["train/loss"]]
    assert [int(row["step"]) for row in rows] == list(range(len(rows)))  # every step once
    return {key: np.array([float(row[key]) for row in rows]) for key in rows[0] if key.startswith("train/")}


def check_same_run(one: Path, two: Path, steps: int) -> None:
    """Equal losses at every step; the run of two processes wrote what that of one did."""
    alone, shared = (losses(path.with_name(path.name + ".run")) for path in (one, two))
    assert list(alone) == list(shared)
    for key, values in alone.items():
        assert len(values) == steps
        np.testing.assert_allclose(shared[key], values, rtol=1e-4, atol=1e-4, err_msg=key)
    assert np.ptp(alone["train/recon_loss"]) > 0.01  # it does train
    written = [
        sorted(p.name.split(".out.")[0][:12] for p in f.with_name(f.name + ".run").rglob("*")) for f in (one, two)
    ]
    assert written[0] == written[1]
    assert {p.name for p in one.iterdir()} == {p.name for p in two.iterdir()}
    weights = [load_file(path / "model.safetensors") for path in (one, two)]
    assert all(value.isfinite().all() for value in weights[1].values())


@pytest.mark.slow
def test_pretraining_on_two_devices(work: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([*PRETRAIN, "--out", "one", "--devices", "1"]) == 0
    capsys.readouterr()
    printed = start(work, "-m", "nec", *PRETRAIN, "--out", "two", "--devices", "2")
    assert json.loads(printed)["steps"] == 9  # printed once
    check_same_run(work / "one", work / "two", 9)
    one, two = (torch.cat([p.flatten() for p in nec.load_model(n).state_dict().values()]) for n in ("one", "two"))
    torch.testing.assert_close(one, two, atol=1e-3, rtol=1e-3)  # half precision; gradients are summed in another order


@pytest.mark.slow
def test_adaptation_by_torchrun_with_accumulated_parts(work: Path, capsys: pytest.CaptureFixture) -> None:
    assert main([*ADAPT, "--out", "one", "--devices", "1"]) == 0
    capsys.readouterr()
    printed = start(work, *TORCHRUN, "-m", "nec", *ADAPT, "--out", "two", "--accumulate", "2")
    assert json.loads(printed)["kind"] == "factorized"
    check_same_run(work / "one", work / "two", 9)


@pytest.mark.slow
@pytest.mark.parametrize("distortion", ["features", "mix"])
def test_adaptation_through_the_codec_on_two_devices(
    distortion: str, work: Path, capsys: pytest.CaptureFixture
) -> None:
    """Both processes fit one codec, and each image has its level and noise by seed, step and place."""
    options = ["--prior", "hierarchical", "--distortion", distortion, "--quantization", "mixed"]
    assert main([*ADAPT, *options, "--out", "one", "--devices", "1"]) == 0
    capsys.readouterr()
    printed = start(work, "-m", "nec", *ADAPT, *options, "--out", "two", "--devices", "2")
    assert json.loads(printed)["kind"] == "hierarchical"
    alone, shared = (losses(work / f"{name}.run") for name in ("one", "two"))
    assert list(alone) == list(shared)
    for key, values in alone.items():
        np.testing.assert_allclose(shared[key], values, rtol=1e-3, err_msg=key)


@pytest.mark.slow
def test_two_processes_resumed_in_the_middle_of_an_epoch(work: Path) -> None:
    script = str(Path(__file__).with_name("two_processes.py"))
    start(work, *TORCHRUN, script, "folder:images", str(work / "out"))
    between = json.loads((work / "out" / "interrupted.json").read_text())
    assert "cut.run/last.safetensors" in between
    assert not [name for name in between if name == "cut" or Path(name).name.startswith((".", "tmp"))]
    assert not list((work / "out").rglob("last.*"))  # done: nothing is left to resume
    whole, cut = (load_file(work / "out" / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_other_devices_than_torchruns_are_refused(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "1", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    before = sorted(work.rglob("*"))
    assert main([*PRETRAIN, "--out", "x", "--devices", "3"]) == 2
    assert "leave --devices out" in capsys.readouterr().err
    assert sorted(work.rglob("*")) == before
