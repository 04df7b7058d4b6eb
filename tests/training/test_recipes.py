"""Recipes: what stands in the YAML file is what the settings say, and what does not fit is refused by name."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path

import pytest

import nec
from nec.models import PRESETS
from nec.training import (
    AdaptOptions,
    FactorizedSettings,
    HierarchicalSettings,
    HyperpriorSettings,
    TrainingOptions,
    TrainingSettings,
    adapt,
    pretrain,
)
from nec.training.recipes import read_section, section_model

PRIORS = (FactorizedSettings, HyperpriorSettings, HierarchicalSettings)


def write(folder: Path, text: str) -> Path:
    (folder / "r.yaml").write_text(text)
    return folder / "r.yaml"


def adaptation(path: Path, **given):
    section = read_section(path, "adapt")
    return AdaptOptions.read(section.values, section.where, **given).settings()


def test_values_types_defaults_and_overrides(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "name: x\nseeds: [0, 1]\nadapt:\n  epochs: 2\n  blr: 1e-3\n  lmbda: 5e4\n  crop_scale: [0.5, 1]\n"
        "  trainable_blocks: null\n  optimizer: muon\n  turns: true\n",
    )
    settings = adaptation(path, lmbda=7.0, seed=3)
    wanted = FactorizedSettings(
        epochs=2.0,
        blr=0.001,
        lmbda=7.0,
        crop_scale=(0.5, 1.0),
        trainable_blocks=None,
        optimizer="muon",
        turns=True,
        seed=3,
    )
    assert settings == wanted
    assert [type(v) for v in asdict(settings).values()] == [type(v) for v in asdict(wanted).values()]
    assert adaptation(path).lmbda == 50000.0
    assert adaptation(path, trainable_blocks=2).trainable_blocks == 2


@pytest.mark.parametrize(
    ("kind", "options"),
    [(TrainingSettings, TrainingOptions), *((kind, AdaptOptions) for kind in PRIORS)],
)
def test_every_field_of_the_settings_can_stand_in_a_recipe(kind: type, options: type, tmp_path: Path) -> None:
    """Written out as YAML by its own library and read back, settings are the settings; flags have all their names."""
    import yaml

    settings = replace(kind(), epochs=3.5, seed=9)
    section = read_section(write(tmp_path, yaml.safe_dump({"adapt": settings.to_dict()})), "adapt")
    assert options.read(section.values, section.where).settings() == settings
    assert set(settings.to_dict()) == {field.name for field in fields(options)}


def test_models(tmp_path: Path) -> None:
    config = section_model(read_section(write(tmp_path, "pretrain:\n  model: vit-l\n"), "pretrain"))
    assert (config.embed_dim, config.depth) == (PRESETS["vit-l"]["embed_dim"], PRESETS["vit-l"]["depth"])
    text = "pretrain:\n  model: {preset: vit-t, image_size: 64, patch_size: 8, norm_pix_loss: true}\n  epochs: 1\n"
    section = read_section(write(tmp_path, text), "pretrain")
    config = section_model(section, image_size=128)
    assert (config.embed_dim, config.image_size, config.patch_size, config.norm_pix_loss) == (192, 128, 8, True)
    assert TrainingOptions.read(section.values, section.where).epochs == 1.0


REFUSED = {
    "top": ("pretrian: {}\n", "pretrian"),
    "section": ("adapt: {epoch: 3}\n", "'epoch'"),
    "model in adapt": ("adapt: {model: vit-b}\n", "'model'"),
    "preset": ("adapt: {}\npretrain: {model: vit-x}\n", "vit-x"),
    "size": ("adapt: {}\npretrain: {model: {depht: 3}}\n", "depht"),
    "size's type": ("adapt: {}\npretrain: {model: {depth: three}}\n", "three"),
    "twice": ("adapt:\n  epochs: 3\n  epochs: 4\n", "'epochs' stands twice"),
    "text for a number": ("adapt: {epochs: many}\n", "epochs is 'many'"),
    "truth for a number": ("adapt: {epochs: true}\n", "epochs is True"),
    "float for an integer": ("adapt: {batch_size: 8.5}\n", "batch_size is 8.5"),
    "three of two": ("adapt: {crop_scale: [0.1, 0.2, 0.3]}\n", "crop_scale is"),
    "no such optimiser": ("adapt: {optimizer: sgd}\n", "optimizer is 'sgd': not one of adamw, muon"),
    "range": ("adapt: {lmbda: -1}\n", "lmbda must be positive"),
    "no section": ("name: x\n", "no section 'adapt'"),
    "no mapping": ("adapt: 3\n", "must hold keys"),
    "a list": ("- adapt\n", "must hold keys"),
    "no YAML": ("adapt: [\n", "not YAML"),
    "a tag": ("adapt: !!python/object/apply:os.getcwd []\n", "not YAML"),
    "unhashable": ("? [a, b]\n: 3\n", "not YAML"),
    "empty": ("", "must hold keys"),
}


def read_both(path: Path) -> None:
    adaptation(path)
    section_model(read_section(path, "pretrain"))


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_file_and_key(case: str, tmp_path: Path) -> None:
    text, word = REFUSED[case]
    path = write(tmp_path, text)
    with pytest.raises(nec.InputError, match=word) as error:
        read_both(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(nec.InputError, match=r"none\.yaml"):
        read_section(tmp_path / "none.yaml", "adapt")


def test_a_recipe_and_whole_settings_exclude_each_other(tmp_path: Path) -> None:
    path = write(tmp_path, "pretrain: {epochs: 3}\nadapt: {epochs: 3}\n")
    with pytest.raises(nec.InputError, match="exclude each other"):
        pretrain("folder:none", tmp_path / "m", recipe=path, settings=TrainingSettings())
    with pytest.raises(nec.InputError, match="exclude each other"):
        adapt("none", "folder:none", tmp_path / "m", recipe=path, settings=FactorizedSettings())
