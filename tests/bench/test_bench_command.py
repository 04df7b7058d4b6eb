"""`nec bench` as a command: classification and segmentation together, its report, models that are put in, bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("altair")

from PIL import Image

from nec.bench import Results
from nec.bench.models import find_trained, trained
from nec.cli import main
from nec.errors import InputError
from nec.models import load_model
from nec.training import FactorizedSettings, TrainingSettings

RECIPE = """
methods: [float, "jpeg2000:6", "uqe:4", {METHOD: {lmbda: [300]}}]
adapt: {epochs: 1, batch_size: 16, blr: 1.0e-2, warmup_epochs: 0.1, latent_scale: 4}
seeds: [0]
heads:
  classification: {epochs: 1, batch: 16}
  segmentation: {epochs: 1, width: 8}
datasets:
  eurosat: {limits: {train: 30, val: 10, test: 10}}
  images+masks: {tile: 32, train_tile: 16, base: {epochs: 1, batch_size: 16, warmup_epochs: 0}}
"""


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> str:
    """images+masks:PATH of six groups of one image of 64 px, bright above and dark below a line."""
    root = tmp_path_factory.mktemp("masked")
    rng = np.random.default_rng(0)
    for group in range(6):
        mask = (np.arange(64)[:, None] > rng.integers(10, 54)) * np.ones((64, 64), np.uint8)
        pixels = (60 + 120 * mask[..., None] + rng.integers(0, 40, (64, 64, 3))).astype(np.uint8)
        for name, array in (("images", pixels), ("masks", mask.astype(np.uint8))):
            folder = root / f"g{group}" / name
            folder.mkdir(parents=True)
            Image.fromarray(array).save(folder / "a.png")
    (root / "classes.json").write_text(json.dumps([{"name": "dark"}, {"name": "bright"}]))
    return f"images+masks:{root}"


def run(tmp_path: Path, dataset: str, model: str, recipe: str, *more: str) -> int:
    (tmp_path / "r.yaml").write_text(recipe)
    options = ["--model", model, "--recipe", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "out"), "--jobs", "1"]
    return main(["bench", dataset, *options, "--json", *more])


@pytest.mark.slow
def test_segmentation_from_images_to_report(
    tmp_path: Path, masked: str, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, masked, model, RECIPE.replace("METHOD", "nec-factorized")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["rows"] == 8
    results = Results.read(tmp_path / "out")
    facts = results.datasets["images+masks"]
    assert (facts["task"], facts["class_names"]) == ("segmentation", ["dark", "bright"])
    assert sum(facts[part] for part in ("train", "val", "test")) == 24  # six images of four windows
    pixels = facts["test"] * 32 * 32
    for row in results.rows:
        assert set(row.metrics) == {"overall_accuracy", "mean_iou", "mean_f1"}
        assert np.sum(row.confusion) == pixels
        assert row.metrics["overall_accuracy"] == pytest.approx(np.trace(row.confusion) / pixels)
    panel = np.load(tmp_path / "out/panels/images+masks/uqe-4-bit-decoder.npz")
    assert panel["images"].shape == (*panel["truth"].shape, 3)
    assert panel["predicted"].shape == panel["truth"].shape
    assert (tmp_path / "out/report.html").stat().st_size > 10_000
    (tmp_path / "out/report.html").unlink()
    assert main(["bench", "--out", str(tmp_path / "out"), "--report-only", "--json"]) == 0
    assert (tmp_path / "out/report.html").is_file()


@pytest.mark.slow
def test_models_that_fit_the_recipe_are_reused(tmp_path: Path, dataset: str, model: str) -> None:
    from nec.datasets import open_dataset

    settings = FactorizedSettings(epochs=0.2, batch_size=16, lmbda=30, warmup_epochs=0)
    origin = load_model(model)
    made = trained(tmp_path, "first", settings, origin, lambda: open_dataset(dataset), progress=False)
    assert made == tmp_path / "first"
    made.rename(tmp_path / "by-hand")
    assert find_trained(tmp_path, settings, origin) == tmp_path / "by-hand"
    config = tmp_path / "by-hand" / "config.json"
    recorded = json.loads(config.read_text())
    assert (
        find_trained(tmp_path, FactorizedSettings(epochs=0.2, batch_size=16, lmbda=31, warmup_epochs=0), origin) is None
    )
    assert find_trained(tmp_path, TrainingSettings(epochs=0.2, batch_size=16, warmup_epochs=0), origin) is None
    for name in ("seed", "symmetries"):  # written by a version that had no such settings
        del recorded["recipe"]["settings"][name]
    config.write_text(json.dumps(recorded))
    assert find_trained(tmp_path, settings, origin) == tmp_path / "by-hand"
    recorded["recipe"]["from"]["sha256"] = "0" * 64
    config.write_text(json.dumps(recorded))
    assert find_trained(tmp_path, settings, origin) is None
    shutil.copytree(tmp_path / "by-hand", tmp_path / "first")  # a model of another origin keeps its name
    again = trained(tmp_path, "first", settings, origin, lambda: open_dataset(dataset), progress=False)
    assert again == tmp_path / "first-2"
    assert load_model(again).sha256 == load_model(tmp_path / "by-hand").sha256


@pytest.mark.slow
def test_hyperprior_and_fine_tuning(tmp_path: Path, dataset: str, model: str) -> None:
    pytest.importorskip("nec.models.hyperprior_stream")
    text = RECIPE.replace("METHOD", "nec-hyperprior").replace("float,", "fine-tune,")
    text = text.replace("heads:\n", "heads:\n  fine_tune: {epochs: 1, batch: 16}\n")
    text = text.replace("latent_scale: 4", "latent_scale: 4, hyper_channels: 8, hyper_heads: 2")
    only = ["--only", "eurosat/fine-tune", "--only", "eurosat/nec-hyperprior"]
    assert run(tmp_path, dataset, model, text, *only) == 0
    rows = Results.read(tmp_path / "out").rows
    assert [(row.method, row.decoder) for row in rows] == [
        ("fine-tune", False),
        ("nec-hyperprior", False),
        ("nec-hyperprior", True),
    ]
    assert rows[1].side_information > 0
    assert rows[1].fidelity is not None
    assert rows[1].fidelity["relative_error"] < 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model", "eurosat-tiny"], "at least one DATASET"),
        (["eurosat:missing"], "--model"),
        (["eurosat:missing", "--model", "eurosat-tiny"], "missing"),
        (["eurosat:missing", "--model", "eurosat-tiny", "--recipe", "none.yaml"], "none.yaml"),
        (["eurosat:missing", "--model", "eurosat-tiny", "--jobs", "0"], "--jobs"),
        (["--report-only"], "run nec bench first"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["bench", "--out", "out", *arguments]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "results.json").exists()


def test_a_dataset_without_a_split_is_refused(tmp_path: Path, model: str) -> None:
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "images" / name / f"{name}.png")
    from nec.bench.recipe import load_recipe
    from nec.bench.run import run_bench

    with pytest.raises(InputError, match="split into"):
        run_bench(load_recipe(None, [f"folder:{tmp_path / 'images'}"]), model, tmp_path / "out", jobs=1, quiet=True)
