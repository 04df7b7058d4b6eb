"""What a benchmark runs: the YAML recipe, expanded to datasets and method points; see `docs/bench.md`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from nec.bench.methods import methods
from nec.bench.results import VARIANT
from nec.errors import InputError
from nec.heads.train import HEAD_DEFAULTS, HeadSettings
from nec.settings import convert, mapping, read_yaml, refuse_unknown, settings
from nec.training import AdaptOptions, AdaptSettings, TrainingOptions, TrainingSettings
from nec.training.settings import KEYS

ADAPTED = ("nec-factorized", "nec-hyperprior", "nec-hierarchical")
SYMMETRIC = "codec-symmetric"
FINE_TUNE = "fine-tune"
REFERENCES = ("float", "original", FINE_TUNE)
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

    @property
    def shares_float_tokens(self) -> bool:
        """Whether the consumer has the images bit by bit, or the float tokens: all such points share their heads."""
        return methods(self.spec)[0].lossless if self.spec else self.method in ("float", "original")

    def identity(self) -> dict[str, Any]:
        """What decides the bytes and the embeddings, beside models and data."""
        identity = {"method": self.method, "spec": self.spec, "quality": self.quality}
        if self.spec:
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
    where = f"recipe {path or '(default)'}"
    values = dict(DEFAULT) if path is None else read_yaml(Path(path))
    refuse_unknown(values, KEYS, where)
    named = [_name_and_spec(item) for item in datasets]
    for name, _ in named:
        if [other for other, _ in named].count(name) > 1:
            raise InputError(f"two datasets are called {name!r}: name them, as in NAME=KIND:PATH")
    reader = _Reader(
        where,
        mapping(values.get("datasets", {}), f"{where}: datasets"),
        mapping(values.get("adapt", {}), f"{where}: adapt"),
        values.get("methods", DEFAULT["methods"]),
        tuple(_list(values.get("seeds", [0, 1, 2]), int, f"{where}: seeds")),
    )
    plans = tuple(reader.plan(name, spec) for name, spec in named)
    for name in reader.sections:  # sections of datasets that were not given are held to the same rules
        if name not in dict(named):
            reader.plan(name, "")
    return BenchRecipe(
        plans,
        reader.seeds,
        tuple(_list(values.get("decoder", [False, True]), bool, f"{where}: decoder")),
        _heads(values.get("heads", {}), f"{where}: heads"),
        {key: value for key, value in values.items() if key != "pretrain"},
    )


@dataclass(frozen=True)
class _Reader:
    """Expands datasets and methods of one recipe.

    Attributes:
        where: the recipe, for errors.
        sections: of the datasets, by name.
        adapt: the settings that all adaptations share.
        methods: of the datasets that have none of their own.
        seeds: of the heads.
    """

    where: str
    sections: dict[str, Any]
    adapt: dict[str, Any]
    methods: Any
    seeds: tuple[int, ...]

    def plan(self, name: str, spec: str) -> DatasetPlan:
        """One dataset with all its points."""
        where = f"{self.where}: datasets: {name}"
        values = mapping(self.sections.get(name) or {}, where)
        nested = {key: values.pop(key, None) for key in ("limits", "base", "adapt", "methods")}
        options = settings(DatasetOptions, values, where)
        if options.models is not None:
            nested |= self._models_of(options.models, nested, where)
        base = nested["base"]
        if base is not None:
            base = TrainingOptions.read(base, f"{where}: base").settings()
        methods = self.methods if nested["methods"] is None else nested["methods"]
        if not isinstance(methods, list) or not methods:
            raise InputError(f"{self.where}: methods must be a list of methods, not {methods!r}")
        adapt = {**self.adapt, **mapping(nested["adapt"] or {}, f"{where}: adapt")}
        points = [point for entry in methods for point in self._points(entry, adapt)]
        found = [(point.method, point.label, point.adapt_seed) for point in points]
        for key in found:
            if found.count(key) > 1:
                raise InputError(f"{self.where}: {key[0]} {key[1]} stands twice in the methods of {name}")
        limits = settings(Limits, nested["limits"], f"{where}: limits")
        return DatasetPlan(name, spec, options, limits, base, tuple(points))

    def _models_of(self, source: str, nested: Mapping[str, Any], where: str) -> dict[str, Any]:
        """`base` and `adapt` of the dataset whose models another one uses."""
        for key in ("base", "adapt"):
            if nested[key] is not None:
                raise InputError(f"{where}: {key} and models exclude each other")
        found = mapping(self.sections.get(source) or {}, f"{self.where}: datasets: {source}")
        if source not in self.sections or found.get("models") is not None:
            raise InputError(f"{where}: models: {source!r} is no dataset that makes its own models")
        return {key: found.get(key) for key in ("base", "adapt")}

    def _points(self, entry: Any, adapt: Mapping[str, Any]) -> list[MethodPoint]:
        """Points of one entry of `methods`: "uqe:2,4", or {nec-factorized: {lmbda: [...]}}."""
        where = f"{self.where}: methods"
        if isinstance(entry, Mapping) and len(entry) == 1:
            family, values = next(iter(entry.items()))
            if family not in (*ADAPTED, SYMMETRIC):
                takers = ", ".join((*ADAPTED, SYMMETRIC))
                raise InputError(f"{where}: {family!r} takes no options; those that do are {takers}")
            where = f"{where}: {family}"
            values = mapping(values, where)
            return _symmetric(values, where) if family == SYMMETRIC else self._adapted(family, values, adapt, where)
        if not isinstance(entry, str):
            raise InputError(f"{where}: {entry!r} is neither a method nor one with options")
        if entry in REFERENCES:
            return [MethodPoint(entry, entry, 0.0)]
        family = entry.partition(":")[0]
        if family in (*ADAPTED, SYMMETRIC):
            example = "lmbda: [30, 100]" if family in ADAPTED else "qualities: [0.1, 0.2]"
            raise InputError(f"{where}: write {family} with its options, as in {{{family}: {{{example}}}}}")
        return _baselines(entry, where)

    def _adapted(self, family: str, values: dict[str, Any], adapt: Mapping[str, Any], where: str) -> list[MethodPoint]:
        """A point for each lambda and each adaptation, whose heads are those of its turn in the heads' seeds.

        Of "nec-hierarchical" a point for each quality, at which an adaptation's one model is coded. A `variant` tells
        entries of one method apart, which then are methods of their own in curves and tables.
        """
        one_model = family == "nec-hierarchical"
        variant = values.pop("variant", None)
        if variant is not None and not (isinstance(variant, str) and re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", variant)):
            raise InputError(f"{where}: variant must be small letters, digits and single hyphens, not {variant!r}")
        method = family if variant is None else f"{family}{VARIANT}{variant}"
        varied = "qualities" if one_model else "lmbda"
        places = _list(values.pop(varied, None), float, f"{where}: {varied}")
        quality = convert(values.pop("quality", 1.0), float, f"{where}: quality") if not one_model else 1.0
        merged = {**adapt, **{k: v for k, v in values.items() if k != "seeds"}, "prior": family.removeprefix("nec-")}
        given = values.get("seeds")
        adaptations = _list(merged.get("seed", 0) if given is None else given, int, f"{where}: seeds")
        if len(adaptations) > len(self.seeds):
            raise InputError(
                f"{where}: {len(adaptations)} seeds of adaptation for {len(self.seeds)} of heads: each adaptation "
                "needs a head of its own, so give as many seeds of heads (seeds: at the top)"
            )
        points = []
        for place in places:
            for turn, seed in enumerate(adaptations):
                own = {"seed": seed} if one_model else {"lmbda": place, "seed": seed}
                adapted = AdaptOptions.read({**merged, **own}, where).settings()
                label = f"quality {place:g}" if one_model else f"λ={place:g}"
                heads = self.seeds[turn :: len(adaptations)]
                points.append(MethodPoint(method, label, place, "", place if one_model else quality, adapted, heads))
        return points


def _name_and_spec(text: str) -> tuple[str, str]:
    name, equals, spec = text.partition("=")
    if equals and name.replace("-", "").replace("_", "").isalnum():
        return name, spec
    kind, colon, _ = text.partition(":")
    if not colon:
        raise InputError(f"{text} names no kind of dataset: give KIND:PATH or NAME=KIND:PATH")
    return kind, text


def _symmetric(values: dict[str, Any], where: str) -> list[MethodPoint]:
    """A point for each quality of the pyramid codec on means over symmetries of the square."""
    refuse_unknown(values, ("qualities", "symmetries"), where)
    symmetries = values.get("symmetries", 8)
    if type(symmetries) is not int or symmetries not in (2, 4, 8):
        raise InputError(f"{where}: symmetries must be 2, 4 or 8, not {symmetries!r}")
    qualities = _list(values.get("qualities"), float, f"{where}: qualities")
    pyramids = [_baselines(f"codec-pyramid:{quality!r}", where)[0] for quality in qualities]
    return [replace(point, method=SYMMETRIC, symmetries=symmetries) for point in pyramids]


def _baselines(entry: str, where: str) -> list[MethodPoint]:
    family, colon, values = entry.partition(":")
    points = []
    for spec in [f"{family}:{value}" for value in values.split(",")] if colon else [entry]:
        try:
            found = methods(spec)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        points += [MethodPoint(method.family, method.label, method.setting, spec) for method in found]
    return points


def _heads(sections: Any, where: str) -> dict[str, dict[str, Any]]:
    """Given fields of the heads' settings, with their types checked."""
    sections = mapping(sections, where)
    refuse_unknown(sections, HEADS, where)
    found = {}
    for name, values in sections.items():
        work = name.removesuffix("_decoder")
        made = settings(HeadSettings, values, f"{where}: {name}")
        refuse_unknown(values or {}, HEAD_DEFAULTS["online" if work == "fine_tune" else work], f"{where}: {name}")
        found[name] = {key: getattr(made, key) for key in values or {}}
    return found


def _list(value: Any, kind: type, where: str) -> list[Any]:
    """One value or a list of them, at least one."""
    items = value if isinstance(value, list) else [value]
    if not items:
        raise InputError(f"{where} is empty: give at least one")
    return convert(items, list[kind], where)  # type: ignore[valid-type]
