"""`nec pretrain` and `nec adapt` as a user runs them, on a folder of images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
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
    wanted = model.embed(model.normalize(images))
    error = ((tokens - wanted) ** 2).sum() / ((wanted - wanted.mean((0, 1, 2))) ** 2).sum()
    assert 0 < error < 0.1
    capsys.readouterr()
    assert main(adapt) == 2
    assert "adapted exists" in capsys.readouterr().err


def test_flags_override_the_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images")
    Path("r.yaml").write_text(
        f"pretrain:\n  model: {json.dumps(SIZES)}\n  batch_size: 4\n  epochs: 0.5\n  seed: 7\n"
        "adapt:\n  epochs: 0.5\n  batch_size: 8\n  lmbda: 5e1\n  trainable_blocks: 2\n  warmup_epochs: 0\n"
    )
    cpu = ["--recipe", "r.yaml", "--accelerator", "cpu", "--devices", "1", "--json"]
    pretrain = ["pretrain", "folder:images", *cpu, "--config", "depth=1"]
    assert main([*pretrain, "--out", "base", "--batch-size", "8"]) == 0
    assert main(["adapt", "base", "folder:images", "--out", "adapted", *cpu, "--trainable-blocks", "1"]) == 0
    made = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("base", "adapted")]
    assert (made[0]["model"]["depth"], made[0]["model"]["embed_dim"]) == (1, 16)
    settings = made[0]["recipe"]["settings"]
    assert (settings["batch_size"], settings["epochs"], settings["seed"]) == (8, 0.5, 7)
    settings = made[1]["recipe"]["settings"]
    assert (settings["lmbda"], settings["trainable_blocks"], settings["batch_size"]) == (50.0, 1, 8)
    Path("r.yaml").write_text("pretrain:\n  epoch: 3\n")
    capsys.readouterr()
    before = sorted(tmp_path.rglob("*"))
    assert main([*pretrain, "--out", "no"]) == 2
    error = capsys.readouterr().err
    assert "r.yaml" in error
    assert "'epoch'" in error
    assert sorted(tmp_path.rglob("*")) == before
