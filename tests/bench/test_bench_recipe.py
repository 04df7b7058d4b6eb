"""Recipes: what they expand to, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from nec.bench.legend import style_of
from nec.bench.recipe import load_recipe
from nec.errors import InputError

RECIPES = Path(__file__).parents[2] / "recipes"


def load(tmp_path: Path, text: str) -> object:
    (tmp_path / "r.yaml").write_text(text)
    return load_recipe(tmp_path / "r.yaml", ["eurosat:somewhere"])


def test_methods_expand_to_points(tmp_path: Path) -> None:
    (plan,) = load(  # type: ignore[attr-defined]
        tmp_path,
        "adapt: {epochs: 3, latent_scale: 2}\n"
        "methods: [float, 'uqe:2,16', 'codec-hierarchical:0.5', {nec-factorized: {lmbda: [10, 300], seeds: [0, 1]}}]\n"
        "datasets: {eurosat: {adapt: {epochs: 4}, limits: {train: 10}, base: {epochs: 1}}}\n",
    ).datasets
    assert [(p.method, p.label, p.setting, p.adapt_seed) for p in plan.points] == [
        ("float", "float", 0, None),
        ("uqe", "2 bit", 2, None),
        ("uqe", "16 bit", 16, None),
        ("codec-hierarchical", "quality 0.5", 0.5, None),
        ("nec-factorized", "λ=10", 10, 0),
        ("nec-factorized", "λ=10", 10, 1),
        ("nec-factorized", "λ=300", 300, 0),
        ("nec-factorized", "λ=300", 300, 1),
    ]
    adapt = plan.points[-1].adapt
    assert (adapt.epochs, adapt.latent_scale, adapt.lmbda, adapt.seed) == (4, 2, 300, 1)
    assert plan.base.epochs == 1
    assert plan.limits.train == 10
    assert plan.limits.test is None
    assert [p.head_seeds for p in plan.points[-2:]] == [(0, 2), (1,)]  # of 0, 1, 2: taken in turn
    assert len({point.name for point in plan.points}) == len(plan.points)


def test_one_adapted_model_is_coded_at_several_qualities(tmp_path: Path) -> None:
    (plan,) = load(  # type: ignore[attr-defined]
        tmp_path,
        "methods: [{nec-hierarchical: {qualities: [0.1, 0.25], distortion: mix, seeds: [0, 1], lmbda: 5e5}}]\n",
    ).datasets
    assert [(p.label, p.setting, p.quality, p.adapt_seed) for p in plan.points] == [
        ("quality 0.1", 0.1, 0.1, 0),
        ("quality 0.1", 0.1, 0.1, 1),
        ("quality 0.25", 0.25, 0.25, 0),
        ("quality 0.25", 0.25, 0.25, 1),
    ]
    assert plan.points[0].adapt == plan.points[2].adapt
    adapt = plan.points[0].adapt
    assert (adapt.prior, adapt.distortion, adapt.lmbda) == ("hierarchical", "mix", 5e5)
    assert plan.points[0].model_name == plan.points[2].model_name != plan.points[1].model_name
    assert len({point.name for point in plan.points}) == 4


def test_variants_of_one_method_are_methods_of_their_own(tmp_path: Path) -> None:
    (plan,) = load(  # type: ignore[attr-defined]
        tmp_path,
        "adapt: {distortion: features, quantization: straight-through}\n"
        "methods:\n"
        "  - nec-hierarchical: {qualities: [0.25]}\n"
        "  - nec-hierarchical: {variant: half-noise, quantization: noise, qualities: [0.25]}\n",
    ).datasets
    plain, noise = plan.points
    assert (plain.family, noise.family) == ("nec-hierarchical", "nec-hierarchical")
    assert (plain.method, noise.method) == ("nec-hierarchical", "nec-hierarchical--half-noise")
    assert (plain.adapt.quantization, noise.adapt.quantization) == ("straight-through", "noise")
    assert plain.identity() != noise.identity()
    names = [style_of(point.method).name for point in plan.points]
    assert names == ["NEC, hierarchical", "NEC, hierarchical: half noise"]
    assert len({style_of(point.method).light for point in plan.points}) == 2


def test_means_over_symmetries_are_a_method_with_qualities(tmp_path: Path) -> None:
    (plan,) = load(  # type: ignore[attr-defined]
        tmp_path, "methods: ['codec-pyramid:0.5', {codec-symmetric: {symmetries: 4, qualities: [0.5, 1]}}]\n"
    ).datasets
    assert [(p.method, p.label, p.setting, p.symmetries) for p in plan.points] == [
        ("codec-pyramid", "quality 0.5", 0.5, None),
        ("codec-symmetric", "quality 0.5", 0.5, 4),
        ("codec-symmetric", "quality 1", 1.0, 4),
    ]
    assert plan.points[0].spec == plan.points[1].spec
    assert plan.points[0].identity() != plan.points[1].identity() | {"method": "codec-pyramid"}
    assert len({point.name for point in plan.points}) == 3


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("methods: [codec-symmetric]", "qualities"),
        ("methods: [{codec-symmetric: {symmetries: 8}}]", "qualities"),
        ("methods: [{codec-symmetric: {symmetries: 3, qualities: [1]}}]", "2, 4 or 8"),
        ("methods: [{codec-symmetric: {quality: 1}}]", "'quality'"),
        ("methods: [{nec-hierarchical: {lmbda: 3}}]", "qualities"),
        ("methods: [{nec-hierarchical: {qualities: [1], variant: Two Words}}]", "variant"),
        ("methods: [{nec-hierarchical: {qualities: [1], variant: 3}}]", "variant"),
        ("methods: [{nec-hierarchical: {qualities: [1]}}, {nec-hierarchical: {qualities: [1], seeds: 0}}]", "twice"),
        ("methods: [{nec-factorized: {lmbda: 3, distortion: features}}]", "distortion"),
        ("colour: blue", "'colour'"),
        ("datasets: {eurosat: {tiles: 3}}", "'tiles'"),
        ("datasets: {dubai: {limits: {training: 3}}}", "'training'"),
        ("datasets: {eurosat: {base: {epoch: 3}}}", "'epoch'"),
        ("datasets: {eurosat: {adapt: {lambda: 3}}}", "'lambda'"),
        ("heads: {classification: {epoch: 3}}", "'epoch'"),
        ("heads: {regression: {}}", "'regression'"),
        ("heads: {classification: {epochs: many}}", "'many'"),
        ("methods: [jpeg3000:4]", "jpeg3000"),
        ("methods: ['uqe:three']", "three"),
        ("methods: [nec-factorized]", "lmbda"),
        ("methods: [{uqe: {bits: 3}}]", "'uqe'"),
        ("methods: [{nec-factorized: {lmbda: []}}]", "lmbda is empty"),
        (
            "methods: [{nec-factorized: {lmbda: [1], seeds: [0, 1]}}]\nseeds: [0]",
            "2 seeds of adaptation for 1",
        ),
        ("methods: ['uqe:4', 'uqe:4']", "twice"),
        ("methods: []", "methods"),
        ("seeds: [a]", "seeds"),
        ("decoder: [1]", "decoder"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(InputError, match=named):
        load(tmp_path, text)


def test_datasets_have_names_of_their_own() -> None:
    plans = load_recipe(None, ["eurosat:a", "mine=eurosat:b"]).datasets
    assert [(plan.name, plan.spec) for plan in plans] == [("eurosat", "eurosat:a"), ("mine", "eurosat:b")]
    with pytest.raises(InputError, match="NAME=KIND:PATH"):
        load_recipe(None, ["eurosat:a", "eurosat:b"])
    with pytest.raises(InputError, match="names no kind"):
        load_recipe(None, ["somewhere"])


def test_heads_with_the_decoder_may_differ(tmp_path: Path) -> None:
    recipe = load(tmp_path, "heads: {classification: {epochs: 9, batch: 64}, classification_decoder: {epochs: 5}}")
    assert recipe.head_options("classification", False) == {"epochs": 9, "batch": 64}  # type: ignore[attr-defined]
    assert recipe.head_options("classification", True) == {"epochs": 5, "batch": 64}  # type: ignore[attr-defined]
    assert recipe.head_options("segmentation", True) == {}  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_read(path: Path) -> None:
    if "datasets" in path.read_text():
        load_recipe(path, ["eurosat:x", "dubai:x", "ucmerced:x", "potsdam:x"])
