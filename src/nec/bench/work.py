"""A dataset at work: its models, the keys of what decides each figure, and what the cache has of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.bench.cache import Cache, key_of
from nec.bench.heads import recipe_for
from nec.bench.models import ModelRef, Models
from nec.bench.panels import write_panel
from nec.bench.recipe import BenchRecipe, DatasetPlan, MethodPoint
from nec.bench.results import Row
from nec.bench.subset import Subset, save_truth

FINE_TUNE = "fine-tune"


@dataclass
class Work:
    """A dataset of a benchmark. `base` is None where it is not trained yet and not to be.

    What a figure depends on is hashed to its key: images and truth (`identity`), the model's fingerprint, the point,
    the head's recipe and seed.
    """

    plan: DatasetPlan
    recipe: BenchRecipe
    cache: Cache
    models: Models
    subset: Subset
    base: ModelRef | None
    truth: Path
    identity: dict[str, Any]
    adapted: dict[MethodPoint, ModelRef] = field(default_factory=dict)

    @classmethod
    def open(
        cls, plan: DatasetPlan, recipe: BenchRecipe, cache: Cache, models: Models, origin: ModelRef, *, train: bool
    ) -> Work:
        """Open a dataset and its base model; `train`: make the model if the recipe wants one and it is not there."""
        subset = Subset(plan)
        if subset.task == "segmentation":  # fine-tuning is for classification only
            plan = replace(plan, points=tuple(point for point in plan.points if point.method != FINE_TUNE))
        base = models.base(plan, origin, train=train)
        return cls(plan, recipe, cache, models, subset, base, save_truth(cache, subset), subset.identity())

    def job(self, point: MethodPoint) -> str:
        """What a point's heads do: `HeadJob.work`."""
        return "fine_tune" if point.method == FINE_TUNE else self.subset.task

    def model(self, point: MethodPoint, *, train: bool = False) -> ModelRef | None:
        """The model whose tokens a point codes; None where it is not trained yet and not to be."""
        if point.adapt is None or self.base is None:
            return self.base
        if point not in self.adapted:
            found = self.models.get(self.plan, point.model_name, point.adapt, self.base, train=train)
            if found is None:
                return None
            self.adapted[point] = found
        return self.adapted[point]

    def keys(self, point: MethodPoint) -> tuple[str, str] | None:
        """Keys of a point's bytes and of its tokens; None while its model does not exist.

        What gives the images back exactly has the base model's float tokens, and shares their heads.
        """
        model = self.model(point)
        if model is None:
            return None
        facts = {"model": model.fingerprint, **self.identity}
        own = key_of({"point": point.identity(), **facts})
        return own, key_of(facts) if point.shares_float_tokens else own

    def heads(self, point: MethodPoint, tokens: str) -> dict[tuple[bool, int], str]:
        """(decoder, seed) of a point's heads -> their keys. A model that is fine-tuned needs no decoder."""
        decoders = [False] if point.method == FINE_TUNE else self.recipe.decoder
        return {
            (decoder, seed): self._head_key(point, tokens, decoder, seed)
            for decoder in decoders
            for seed in self._seeds(point)
        }

    def _head_key(self, point: MethodPoint, tokens: str, decoder: bool, seed: int) -> str:
        kind, images = self.job(point), len(self.subset.indices["train"])
        recipe = recipe_for(kind, images, decoder, self.recipe.head_options(kind, decoder))
        return key_of({"head": tokens, "decoder": decoder, "recipe": recipe, "seed": seed})

    def _seeds(self, point: MethodPoint) -> tuple[int, ...]:
        return point.head_seeds or self.recipe.seeds

    # -- what is finished ---------------------------------------------------------------------------------------------

    def missing_heads(self, point: MethodPoint) -> int:
        """Heads of a point that are not in the cache; those of shared tokens count with the first such point."""
        keys = self.keys(point)
        if keys is None:
            return len(self.recipe.decoder) * len(self._seeds(point))
        if point.shares_float_tokens and point is not next(p for p in self.plan.points if p.shares_float_tokens):
            return 0
        return sum(self.cache.get("head", key) is None for key in self.heads(point, keys[1]).values())

    def finished(self) -> Iterator[tuple[Row, str]]:
        """Rows of all points, with the keys of their heads."""
        for point in self.plan.points:
            keys = self.keys(point)
            measured = None if keys is None else self.cache.get("measured", keys[0])
            if keys is None or measured is None:
                continue
            for (decoder, seed), key in self.heads(point, keys[1]).items():
                head = self.cache.get("head", key)
                if head is not None:
                    yield self._row(point, decoder, seed, measured, head), key

    def _row(self, point: MethodPoint, decoder: bool, seed: int, measured: dict[str, Any], head: dict[str, Any]) -> Row:
        return Row(
            dataset=self.plan.name,
            method=point.method,
            label=point.label,
            setting=point.setting,
            decoder=decoder,
            seed=seed,
            adapt_seed=point.adapt_seed,
            bytes_per_image=measured["bytes_per_image"],
            side_information=measured["side_information"],
            metrics=head["metrics"],
            confusion=head["confusion"],
            fidelity=measured["fidelity"],
            exact=measured["exact"],
            seconds={**measured["seconds"], "head": round(head["seconds"], 3)},
        )

    def outcome(self, key: str) -> NDArray[Any] | None:
        """What a head got right: by test image, or of windows with masks summed over each whole tile."""
        found = self.cache.get_array("outcome", key)
        groups = self.subset.dataset.groups
        if found is None or self.subset.task != "segmentation" or groups is None:
            return found
        names, tile = np.unique(groups[self.subset.indices["test"]], return_inverse=True)
        sums = np.zeros((len(names), *found.shape[1:]), np.int64)
        np.add.at(sums, tile, found)
        return sums

    def write_panels(self, out: Path) -> None:
        """Predicted class maps of the first seed's heads, `out/panels/<dataset>/<point>-<decoder|plain>.npz`."""
        for point in self.plan.points if self.subset.task == "segmentation" else ():
            keys = self.keys(point)
            for (decoder, seed), key in self.heads(point, keys[1]).items() if keys else ():
                source = self.cache.path("panels", key, ".npz")
                if seed == self.recipe.seeds[0] and source.is_file():
                    path = out / "panels" / self.plan.name / f"{point.name}-{'decoder' if decoder else 'plain'}.npz"
                    facts = {"method": point.method, "label": point.label, "decoder": decoder}
                    write_panel(path, self.subset, source, **facts)
