"""`nec pretrain` and `nec adapt` as a user runs them, on a folder of images."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nec
from nec.cli import main

SIZES = {
    "image_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2,
    "decoder_embed_dim": 16, "decoder_depth": 2, "decoder_num_heads": 2,
}  # fmt: skip
QUICK = ["--epochs", "1", "--batch-size", "8", "--accelerator", "cpu", "--devices", "1", "--json"]


def write_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(24):
        file = folder / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file)


@pytest.mark.slow
def test_two_devices_train_the_same_model_as_one(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    (tmp_path / "sizes.json").write_text(json.dumps(SIZES))
    environment = {**os.environ, "PYTHONPATH": str(Path(nec.__file__).parents[1])}
    for devices in ("1", "2"):
        command = [sys.executable, "-m", "nec", "pretrain", "folder:images", "--out", f"m{devices}", "--epochs", "4"]
        command += ["--config", "sizes.json", "--batch-size", "8", "--blr", "0.02", "--accelerator", "cpu", "--json"]
        command += ["--devices", devices]
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
        assert "error" not in result.stderr
        assert json.loads(result.stdout)["steps"] == 12
    one, two = (
        torch.cat([p.flatten() for p in nec.load_model(tmp_path / f"m{i}").state_dict().values()]) for i in (1, 2)
    )
    torch.testing.assert_close(one, two, atol=1e-3, rtol=1e-3)  # half precision; gradients are summed in another order


@pytest.mark.slow
def test_pretrain_adapt_fit_encode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images")
    Path("sizes.json").write_text(json.dumps(SIZES))
    assert main(["pretrain", "folder:images", "--out", "base", "--config", "sizes.json", *QUICK]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["kind"] == "mae"
    assert made["steps"] == 3
    adapt = ["adapt", "base", "folder:images", "--out", "adapted", "--lmbda", "50", "--trainable-blocks", "2", *QUICK]
    assert main(adapt) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "factorized"
    recipe = json.loads(Path("adapted/config.json").read_text())["recipe"]
    assert recipe["settings"]["lmbda"] == 50
    assert recipe["settings"]["trainable_blocks"] == 2
    assert recipe["from"]["sha256"] == nec.load_model("base").sha256
    assert recipe["data"]["images"] == 24
    hyper = ["--prior", "hyperprior", "--hyper-channels", "8", "--hyper-heads", "2"]
    assert main(["adapt", "base", "folder:images", "--out", "hyper", *hyper, *QUICK]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "hyperprior"
    assert nec.load_model("hyper").config.hyper_channels == 8
    assert main(["fit", "adapted", "folder:images", "--out", "product"]) == 0
    assert main(["encode", "folder:images", "--model", "product", "--out", "x.zarr", "--quality", "0.7"]) == 0
    store = nec.open_store("x.zarr")
    tokens = store.embeddings[:]
    model = nec.load_model("product")
    names = [name.split("/") for name in store.names]
    images = np.stack([np.asarray(Image.open(tmp_path.joinpath("images", *name))) for name in names])
    wanted = model.embed(model.normalize(images)).detach().numpy()
    error = ((tokens - wanted) ** 2).sum() / ((wanted - wanted.mean((0, 1, 2))) ** 2).sum()
    assert 0 < error < 0.1
    capsys.readouterr()
    assert main(adapt) == 2
    assert "adapted exists" in capsys.readouterr().err
