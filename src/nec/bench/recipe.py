"""What a benchmark runs: the YAML recipe, expanded to datasets and method points; see `docs/bench.md`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from nec.bench.legend import VARIANT
from nec.errors import InputError
from nec.heads import HeadSettings
from nec.training import AdaptSettings, TrainingSettings
from nec.training.recipes import Recipe, read_recipe, section_settings

ADAPTED = ("nec-factorized", "nec-hyperprior", "nec-hierarchical")
SYMMETRIC = "codec-symmetric"
REFERENCES = ("float", "original", "fine-tune")
HEADS = ("classification", "classification_decoder", "segmentation", "segmentation_decoder", "fine_tune")

DEFAULT: dict[str, Any] = {
    "adapt": {
        "epochs": 4, "batch_size": 96, "blr": 2.66667e-3, "warmup_epochs": 0.1, "optimizer": "muon", "turns": True,
        "crop_scale": [0.6, 1.0], "latent_scale": 0.5, "quantization": "mixed", "prior_scale": 0.3, "prior_lr": 1e-2,
        "quantiles_lr": 1e-2,
    },
    "methods": [
        "original", "float", "rdc:uint8", "jpeg2000:8,16,32,64", "uqe:2,4,8", "codec-hierarchical:0.1,0.2,0.4",
        {"nec-factorized": {"lmbda": [1e4, 3e4, 1e5, 3e5]}},
    ],
}  # fmt: skip


@dataclass(frozen=True)
class MethodPoint:
    """One setting of one method: a point of a curve.

    Attributes:
        method, label, setting: as in `nec.bench.Row`; a method of several variants is "family--variant".
        spec: what `nec.bench.methods.methods` makes a baseline of ("uqe:4"); "" for what is none.
        quality: of the product codec that codes an adapted model's tokens; 1 is the rounding it was adapted for.
        adapt: how the model was adapted; None for the base model.
        head_seeds: seeds of the heads that are trained on this adaptation's tokens; empty for all of the recipe's.
        symmetries: the base model's embeddings are means over so many; None: as the base model has them.
    """

    method: str
    label: str
    setting: float
    spec: str = ""
    quality: float = 1.0
    adapt: AdaptSettings | None = None
    head_seeds: tuple[int, ...] = ()
    symmetries: int | None = None

    @property
    def family(self) -> str:
        """The method without its variant."""
        return self.method.partition(VARIANT)[0]

    @property
    def adapt_seed(self) -> int | None:
        return None if self.adapt is None else self.adapt.seed

    @property
    def name(self) -> str:
        """For files and lines: method and label in ASCII."""
        label = re.sub(r"[^A-Za-z0-9.]+", "-", self.label.replace("λ=", "")).strip("-")
        seed = f"-s{self.adapt_seed}" if self.adapt_seed else ""
        return f"{self.method}-{label}{seed}" if label and label != self.method else f"{self.method}{seed}"

    @property
    def model_name(self) -> str:
        """For the folder of the adapted model, which may serve several points."""
        return self.name if self.family != "nec-hierarchical" else f"{self.method}-s{self.adapt_seed}"

    def identity(self) -> dict[str, Any]:
        """What decides the bytes and the embeddings, beside models and data."""
        identity = {"method": self.method, "spec": self.spec, "quality": self.quality}
        if self.spec:
            from nec.bench.methods import methods

            version = methods(self.spec)[0].version
            identity |= {"version": version} if version > 1 else {}
        if self.symmetries is not None:
            identity["symmetries"] = self.symmetries
        return identity


@dataclass(frozen=True)
class Limits:
    """Most images of each part; None: all of them."""

    train: int | None = None
    val: int | None = None
    test: int | None = None


@dataclass(frozen=True)
class DatasetOptions:
    """Keys of a dataset's section that are plain values.

    Attributes:
        task: "classification" or "segmentation"; by default what the dataset has, masks first.
        seed: of the dataset's split and of the choice of images.
        image_size: side in pixels that images are resized to before they are coded.
        tile, downscale: windows that images with masks are cut into, after averaging down by a whole factor.
        train_tile: windows that the model is trained on; by default its native size.
        models: name of the dataset whose base and adapted models serve this one too, as the paper adapts on one
            dataset and measures on others; by default its own training images make its models.
    """

    task: Literal["classification", "segmentation"] | None = None
    seed: int = 0
    image_size: int | None = None
    tile: int | None = None
    downscale: int = 1
    train_tile: int | None = None
    models: str | None = None


@dataclass(frozen=True)
class DatasetPlan:
    """One dataset of a benchmark. `base`: continued pre-training before anything else, or None."""

    name: str
    spec: str
    options: DatasetOptions
    limits: Limits
    base: TrainingSettings | None
    points: tuple[MethodPoint, ...]


@dataclass(frozen=True)
class BenchRecipe:
    """A whole benchmark. `heads`: task (with "_decoder" for heads with the stage) -> what differs from the default."""

    datasets: tuple[DatasetPlan, ...]
    seeds: tuple[int, ...]
    decoder: tuple[bool, ...]
    heads: dict[str, dict[str, Any]]
    source: dict[str, Any]

    def head_options(self, work: str, decoder: bool) -> dict[str, Any]:
        """What the recipe sets of heads of a task (or of fine-tuning), with the stage or without."""
        own = self.heads.get(f"{work}_decoder", {}) if decoder else {}
        return {**self.heads.get(work, {}), **own}


def load_recipe(path: str | Path | None, datasets: Sequence[str]) -> BenchRecipe:
    """The benchmark that a recipe file (None: the default) describes, of datasets "KIND:PATH" or "NAME=KIND:PATH".

    A dataset takes the section of its name, which is its kind where no name is given.

    Raises:
        InputError: unknown keys, methods or values; datasets of one name; a section without a dataset is no error.
    """
    recipe = Recipe(dict(DEFAULT), Path("(default)")) if path is None else read_recipe(path)
    where = f"recipe {recipe.path}"
    sections = _mapping(recipe.get("datasets", {}), f"{where}: datasets")
    named = [_name_and_spec(item) for item in datasets]
    for name, _ in named:
        if [other for other, _ in named].count(name) > 1:
            raise InputError(f"two datasets are called {name!r}: name them, as in NAME=KIND:PATH")
    plans = tuple(_plan(recipe, name, spec, sections) for name, spec in named)
    for name in sections:  # sections of datasets that were not given are held to the same rules
        if name not in dict(named):
            _plan(recipe, name, "", sections)
    return BenchRecipe(
        plans,
        _head_seeds(recipe),
        tuple(_list(recipe.get("decoder", [False, True]), bool, f"{where}: decoder")),
        _heads(recipe),
        {key: value for key, value in recipe.items() if key != "pretrain"},
    )


def _name_and_spec(text: str) -> tuple[str, str]:
    name, equals, spec = text.partition("=")
    if equals and name.replace("-", "").replace("_", "").isalnum():
        return name, spec
    kind, colon, _ = text.partition(":")
    if not colon:
        raise InputError(f"{text} names no kind of dataset: give KIND:PATH or NAME=KIND:PATH")
    return kind, text


def _plan(recipe: Recipe, name: str, spec: str, sections: dict[str, Any]) -> DatasetPlan:
    where = f"datasets: {name}"
    values = _mapping(sections.get(name) or {}, f"recipe {recipe.path}: {where}")
    nested = {key: values.pop(key, None) for key in ("limits", "base", "adapt", "methods")}
    options = _section(recipe, where, values, DatasetOptions)
    if options.models is not None:
        nested |= _models_section(recipe, where, nested, sections, options.models)
    limits = _section(recipe, f"{where}: limits", nested["limits"] or {}, Limits)
    base = None
    if nested["base"] is not None:
        base = _section(recipe, f"{where}: base", nested["base"], TrainingSettings)
    adapt = {**recipe.get("adapt", {}), **_mapping(nested["adapt"] or {}, f"recipe {recipe.path}: {where}: adapt")}
    methods = nested["methods"] if nested["methods"] is not None else recipe.get("methods", DEFAULT["methods"])
    if not isinstance(methods, list) or not methods:
        raise InputError(f"recipe {recipe.path}: methods must be a list of methods, not {methods!r}")
    seeds = _head_seeds(recipe)
    points = [point for entry in methods for point in _points(recipe, entry, adapt, seeds)]
    for point in points:
        if [(p.method, p.label, p.adapt_seed) for p in points].count((point.method, point.label, point.adapt_seed)) > 1:
            raise InputError(
                f"recipe {recipe.path}: {point.method} {point.label} stands twice in the methods of {name}"
            )
    return DatasetPlan(name, spec, options, limits, base, tuple(points))


def _models_section(
    recipe: Recipe, where: str, nested: Mapping[str, Any], sections: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """`base` and `adapt` of the dataset whose models another one uses."""
    for key in ("base", "adapt"):
        if nested[key] is not None:
            raise InputError(f"recipe {recipe.path}: {where}: {key} and models exclude each other")
    found = _mapping(sections.get(source) or {}, f"recipe {recipe.path}: datasets: {source}")
    if source not in sections or found.get("models") is not None:
        raise InputError(f"recipe {recipe.path}: {where}: models: {source!r} is no dataset that makes its own models")
    return {key: found.get(key) for key in ("base", "adapt")}


def _head_seeds(recipe: Recipe) -> tuple[int, ...]:
    return tuple(_list(recipe.get("seeds", [0, 1, 2]), int, f"recipe {recipe.path}: seeds"))


def _points(recipe: Recipe, entry: Any, adapt: Mapping[str, Any], seeds: tuple[int, ...]) -> list[MethodPoint]:
    """Points of one entry of `methods`: "uqe:2,4", or {nec-factorized: {lmbda: [...]}}."""
    where = f"recipe {recipe.path}: methods"
    if isinstance(entry, Mapping) and len(entry) == 1:
        family, values = next(iter(entry.items()))
        if family == SYMMETRIC:
            return _symmetric_points(recipe, _mapping(values, f"{where}: {family}"))
        if family not in ADAPTED:
            raise InputError(
                f"{where}: {family!r} takes no options; those that do are {', '.join((*ADAPTED, SYMMETRIC))}"
            )
        return _adapted_points(recipe, str(family), _mapping(values, f"{where}: {family}"), adapt, seeds)
    if not isinstance(entry, str):
        raise InputError(f"{where}: {entry!r} is neither a method nor one with options")
    family, _, values = entry.partition(":")
    if entry in REFERENCES:
        return [MethodPoint(family, family, 0.0)]
    if family in ADAPTED:
        raise InputError(f"{where}: write {family} with its options, as in {{{family}: {{lmbda: [30, 100]}}}}")
    if family == SYMMETRIC:
        raise InputError(f"{where}: write {family} with its options, as in {{{family}: {{qualities: [0.1, 0.2]}}}}")
    return _baseline_points(entry, where)


def _adapted_points(
    recipe: Recipe, family: str, values: dict[str, Any], adapt: Mapping[str, Any], head_seeds: tuple[int, ...]
) -> list[MethodPoint]:
    """A point for each lambda and each adaptation, whose heads are those of its turn in the heads' seeds.

    Of "nec-hierarchical" a point for each quality, at which an adaptation's one model is coded. A `variant` tells
    entries of one method apart, which then are methods of their own in curves and tables.
    """
    where = f"methods: {family}"
    values, one_model = dict(values), family == "nec-hierarchical"
    variant = values.pop("variant", None)
    if variant is not None and not (isinstance(variant, str) and re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", variant)):
        raise InputError(
            f"recipe {recipe.path}: {where}: variant must be small letters, digits and single hyphens, not {variant!r}"
        )
    method = family if variant is None else f"{family}{VARIANT}{variant}"
    varied = "qualities" if one_model else "lmbda"
    places = _list(values.pop(varied, None), float, f"recipe {recipe.path}: {where}: {varied}")
    quality = 1.0 if one_model else _number(values.pop("quality", 1.0), f"recipe {recipe.path}: {where}: quality")
    seeds = values.pop("seeds", None)
    merged = {**adapt, **values, "prior": family.removeprefix("nec-")}
    given = merged.get("seed", 0) if seeds is None else seeds
    adaptations = _list(given, int, f"recipe {recipe.path}: {where}: seeds")
    if len(adaptations) > len(head_seeds):
        raise InputError(
            f"recipe {recipe.path}: {where}: {len(adaptations)} seeds of adaptation for {len(head_seeds)} of heads: "
            "each adaptation needs a head of its own, so give as many seeds of heads (seeds: at the top)"
        )
    points = []
    for place in places:
        for turn, seed in enumerate(adaptations):
            own = {"seed": seed} if one_model else {"lmbda": place, "seed": seed}
            settings = _section(recipe, where, {**merged, **own}, AdaptSettings)
            heads = head_seeds[turn :: len(adaptations)]
            if one_model:
                points.append(MethodPoint(method, f"quality {place:g}", place, "", place, settings, heads))
            else:
                points.append(MethodPoint(method, f"λ={place:g}", place, "", quality, settings, heads))
    return points


def _symmetric_points(recipe: Recipe, values: dict[str, Any]) -> list[MethodPoint]:
    """A point for each quality of the pyramid codec on means over symmetries of the square."""
    where = f"recipe {recipe.path}: methods: {SYMMETRIC}"
    unknown = sorted(set(values) - {"symmetries", "qualities"})
    if unknown:
        raise InputError(f"{where}: unknown key {unknown[0]!r}; known: qualities, symmetries")
    symmetries = values.get("symmetries", 8)
    if type(symmetries) is not int or symmetries not in (2, 4, 8):
        raise InputError(f"{where}: symmetries must be 2, 4 or 8, not {symmetries!r}")
    qualities = _list(values.get("qualities"), float, f"{where}: qualities")
    pyramids = [_baseline_points(f"codec-pyramid:{quality!r}", where)[0] for quality in qualities]
    return [replace(point, method=SYMMETRIC, symmetries=symmetries) for point in pyramids]


def _baseline_points(entry: str, where: str) -> list[MethodPoint]:
    from nec.bench.methods import methods

    family, colon, values = entry.partition(":")
    points = []
    for spec in [f"{family}:{value}" for value in values.split(",")] if colon else [entry]:
        try:
            found = methods(spec)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        points += [MethodPoint(method.family, method.label, method.setting, spec) for method in found]
    return points


def _heads(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Given fields of the heads' settings, with their types checked."""
    where = f"recipe {recipe.path}: heads"
    sections = _mapping(recipe.get("heads", {}), where)
    for name in sections:
        if name not in HEADS:
            raise InputError(f"{where}: unknown key {name!r}; known: {', '.join(HEADS)}")
    found = {}
    for name, section in sections.items():
        values = _mapping(section or {}, f"{where}: {name}")
        settings = _section(recipe, f"heads: {name}", values, HeadSettings)
        work = name.removesuffix("_decoder")
        try:
            settings.check("online" if work == "fine_tune" else work)
        except InputError as error:
            raise InputError(f"{where}: {name}: {error}") from error
        found[name] = {key: getattr(settings, key) for key in values}
    return found


def adapt_dict(settings: TrainingSettings) -> dict[str, Any]:
    """Settings as JSON holds them: tuples as lists."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(settings).items()}


def _section(recipe: Recipe, where: str, values: Any, kind: Any) -> Any:
    values = _mapping(values, f"recipe {recipe.path}: {where}")
    return section_settings(Recipe({where: values}, recipe.path), where, kind)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where} must hold keys and values, not {value!r}")
    return dict(value)


def _list(value: Any, kind: type, where: str) -> list[Any]:
    items = value if isinstance(value, list) else [value]
    if not items:
        raise InputError(f"{where} is empty: give at least one")
    found = [float(item) if kind is float and type(item) is int else item for item in items]
    if any(type(item) is not kind for item in found):
        raise InputError(f"{where} must be a list of {kind.__name__}, not {value!r}")
    return found


def _number(value: Any, where: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"{where}: {value!r} is no number") from None
