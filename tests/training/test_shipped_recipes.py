"""Every recipe that ships is one that the commands can run, and is explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from nec.models import NecModel
from nec.settings import read_yaml
from nec.training import AdaptOptions, TrainingOptions
from nec.training.recipes import read_section, section_model

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_makes_settings_and_a_model(path: Path) -> None:
    recipe = read_yaml(path)
    assert set(recipe) - {"name", "about"}
    for name, kind in {"pretrain": TrainingOptions, "adapt": AdaptOptions}.items():
        if name in recipe:
            section = read_section(path, name)
            kind.read(section.values, section.where)
            assert section.model is None or section_model(section)


@pytest.mark.parametrize(
    "path", [path for path in RECIPES if "methods:" in path.read_text()], ids=lambda path: path.stem
)
def test_a_benchmark_expands(path: Path) -> None:
    bench = pytest.importorskip("nec.bench.recipe", reason="nec bench is not here")
    datasets = [f"{name}={name}:somewhere" for name in read_yaml(path)["datasets"]]
    assert all(plan.points for plan in bench.load_recipe(path, datasets).datasets)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_readme_explains_it(path: Path) -> None:
    assert path.name in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_papers_numbers() -> None:
    """Facts of the published commands, in their own terms."""
    section = read_section(FOLDER / "paper-millionaid-pretrain.yaml", "pretrain")
    pretrain = TrainingOptions.read(section.values, section.where).settings()
    assert (pretrain.epochs, pretrain.batch_size, pretrain.learning_rate) == (1600, 2048, pytest.approx(1.2e-3))
    import torch

    with torch.device("meta"):  # shapes alone
        model = NecModel(section_model(section))
    encoder = [p.numel() for name, p in model.named_parameters() if not name.startswith(("decoder", "mask_token"))]
    assert sum(encoder) == 85_798_656  # ViT-B/16 at 224 px without a head, positions included
    section = read_section(FOLDER / "paper-millionaid-adapt.yaml", "adapt")
    adapt = AdaptOptions.read(section.values, section.where).settings()
    assert (adapt.epochs, adapt.batch_size, adapt.weight_decay) == (20, 4 * 256, 0.01)
    assert adapt.learning_rate == pytest.approx(1.5e-4 * 1024 / 256)
    assert adapt.lmbda == pytest.approx(1e10 * 4 / 256)


def test_benchmarks_of_the_paper_look_for_the_adapted_models() -> None:
    adapt = read_yaml(FOLDER / "paper-millionaid-adapt.yaml")["adapt"]
    for name in ("paper-ucmerced", "paper-potsdam"):
        own = read_yaml(FOLDER / f"{name}.yaml")["adapt"]
        assert own == {key: value for key, value in adapt.items() if key != "lmbda"}
