"""Settings of a training run: what may be given (options), and what then decides the run and is recorded (settings)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, Self

from nec.errors import InputError
from nec.models.config import SYMMETRIES
from nec.settings import settings as dataclass_of

Prior = Literal["factorized", "hyperprior", "hierarchical"]
Quantization = Literal["noise", "mixed", "straight-through"]
Distortion = Literal["pixels", "features", "mix"]


@dataclass(frozen=True)
class TrainingSettings:
    """What decides a training run, beside the model's sizes and the data. Defaults: MAE's (He et al. 2022).

    The fields are explained in `TrainingOptions`.
    """

    epochs: float = 20.0
    batch_size: int = 256
    blr: float = 1.5e-4
    warmup_epochs: float = 1.0
    weight_decay: float = 0.05
    optimizer: Literal["adamw", "muon"] = "adamw"
    crop_scale: tuple[float, float] = (0.2, 1.0)
    turns: bool = False
    decoded_share: float = 1.0
    precision: str = "32-true"
    seed: int = 0

    def __post_init__(self) -> None:
        _positive(self, "epochs", "batch_size", "blr")
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise InputError(f"crop_scale must be LOW HIGH with 0 < LOW <= HIGH <= 1, got {low} {high}")
        if not 0 < self.decoded_share <= 1:
            raise InputError(f"decoded_share must lie in 0..1, got {self.decoded_share}")

    @property
    def learning_rate(self) -> float:
        """Peak learning rate, scaled with the batch."""
        return self.blr * self.batch_size / 256

    def steps(self, images: int) -> int:
        """Optimiser steps for so many training images; batches run on over the end of an epoch."""
        return max(1, round(self.epochs * images / self.batch_size))

    def warmup_steps(self, images: int) -> int:
        """Steps of the linear warm-up."""
        return min(round(self.warmup_epochs * images / self.batch_size), self.steps(images) - 1)

    def to_dict(self) -> dict[str, Any]:
        """As recorded in a model's recipe: JSON-able; `TrainingOptions.read` makes the same settings of it."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class AdaptSettings(TrainingSettings):
    """What every adaptation has; one of the three classes below. The fields are explained in `AdaptOptions`.

    Weight decay is the 0.01 that acted in the published script.
    """

    prior: ClassVar[Prior]

    weight_decay: float = 0.01
    lmbda: float = 3e4
    trainable_blocks: int | None = 1
    latent_scale: float = 1.0
    quantiles_lr: float = 1e-3
    principal_axes: bool = False
    prior_lr: float | None = None
    prior_scale: float = 10.0
    quantization: Quantization = "noise"

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive(self, "lmbda", "latent_scale", "quantiles_lr", "prior_lr", "prior_scale")
        if self.trainable_blocks is not None and self.trainable_blocks < 0:
            raise InputError(f"trainable_blocks must not be negative, got {self.trainable_blocks}")

    def to_dict(self) -> dict[str, Any]:
        # What the other priors have is recorded as well, as it always was: models are found by it.
        others = {"distortion": "pixels", "symmetries": 1, "quality_range": [0.03, 2.0]}
        sizes = {"hyper_channels": 96, "hyper_heads": 4}
        return {**others, **sizes, **super().to_dict(), "prior": self.prior}


@dataclass(frozen=True)
class FactorizedSettings(AdaptSettings):
    """Adaptation with the fully factorised prior (Ballé et al. 2018)."""

    prior: ClassVar[Prior] = "factorized"

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of(self, "quantization", ("noise", "mixed"))


@dataclass(frozen=True)
class HyperpriorSettings(FactorizedSettings):
    """Adaptation with the scale hyperprior of `hyper_channels` a token and `hyper_heads`."""

    prior: ClassVar[Prior] = "hyperprior"

    hyper_channels: int = 96
    hyper_heads: int = 4


@dataclass(frozen=True)
class HierarchicalSettings(AdaptSettings):
    """Adaptation through the product codec: one model for all qualities. Without a distortion of features there is
    nothing to turn: symmetries are then 1.
    """

    prior: ClassVar[Prior] = "hierarchical"

    lmbda: float = 2.3e6
    quantization: Quantization = "straight-through"
    distortion: Distortion = "features"
    symmetries: int = 8
    quality_range: tuple[float, float] = (0.03, 2.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of(self, "quantization", ("noise", "mixed", "straight-through"))
        _one_of(self, "distortion", ("pixels", "features", "mix"))
        if self.symmetries not in SYMMETRIES:
            raise InputError(f"symmetries must be 1, 2, 4 or 8, got {self.symmetries}")
        if self.symmetries > 1 and self.distortion == "pixels":
            raise InputError("symmetries are of the features' target: give prior hierarchical and distortion features")
        low, high = self.quality_range
        if not 0 < low <= high:
            raise InputError(f"quality_range must be LOW HIGH with 0 < LOW <= HIGH, got {low} {high}")


_PRIORS: dict[str, type[AdaptSettings]] = {
    kind.prior: kind for kind in (FactorizedSettings, HyperpriorSettings, HierarchicalSettings)
}


@dataclass(frozen=True)
class TrainingOptions:
    """What flags and recipes may say of a training; what is left out has the default named here.

    Attributes:
        epochs: passes over the training images; fractions are allowed (default 20).
        batch_size: images an optimiser step, over all devices together (default 256).
        blr: learning rate of a batch of 256; the rate used is blr * batch_size / 256 (default 1.5e-4).
        warmup_epochs: linear warm-up, then cosine to zero (default 1).
        weight_decay: on matrices only, not on biases, norms and tokens (default 0.05; nec adapt 0.01).
        optimizer: "adamw" with betas 0.9 and 0.95, the paper's and the default, or "muon" for the matrices in blocks.
        crop_scale: range of the random crop's share of the area (default 0.2 1).
        turns: augment by vertical flips and transpositions too, beside the horizontal flip.
        decoded_share: share of the masked patches that the decoder predicts; less saves time (default 1).
        precision: Lightning's: 32-true (default), bf16-mixed, 16-mixed.
        seed: of the weights, the order, the augmentation, the masks, the noise and the dataset's split (default 0).
    """

    epochs: float | None = None
    batch_size: int | None = None
    blr: float | None = None
    warmup_epochs: float | None = None
    weight_decay: float | None = None
    optimizer: Literal["adamw", "muon"] | None = None
    crop_scale: tuple[float, float] | None = None
    turns: bool | None = None
    decoded_share: float | None = None
    precision: str | None = None
    seed: int | None = None

    @classmethod
    def read(cls, values: Any, where: str, **overrides: Any) -> Self:
        """From a section of a recipe, or from what `to_dict` of the settings recorded; `overrides` win.

        Raises:
            InputError: unknown keys, values of another type or out of range; the message begins with `where`.
        """
        options = dataclass_of(cls, values, where, **overrides)
        try:
            options.settings()
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        return options

    def given(self) -> dict[str, Any]:
        """The fields that are not left out."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}

    def settings(self) -> TrainingSettings:
        """The settings of pre-training; raises InputError for values out of range."""
        return TrainingSettings(**self.given())


@dataclass(frozen=True)
class AdaptOptions(TrainingOptions):
    """What flags and recipes may say of an adaptation. A recipe may hold what another prior needs: it is passed over.

    Attributes:
        prior: "factorized" (default); "hyperprior"; or "hierarchical": through the product codec, which is fitted
            first, serves all qualities, and is refitted when training is done.
        lmbda: weight of the distortion against the bits of one image's tokens, CLS left out (default 3e4; hierarchical
            2.3e6, docs/adaptation.md). The published code's lambda P, for bits summed over one GPU's batch of B of
            which a quarter of the tokens is visible, corresponds to about 4 * P / B. Of the hierarchical prior it is
            the pixels' weight at quality 1, and grows as 1 / step^2.
        trainable_blocks: last encoder blocks that train, beside the first decoder block, the prior and what lies
            outside the blocks (default 1, the paper's adapter); "all" trains everything.
        latent_scale: scale the tokens by this first, and the decoder's embedding by its inverse (default 1). The
            quantiser's step is 1 and a pre-trained model's tokens are small.
        quantiles_lr: learning rate of the prior's quantiles, which have their own loss and schedule (default 1e-3).
        principal_axes: start in the principal axes of the tokens, which changes no reconstruction: a factorised prior
            starts with uncorrelated channels (`nec.models.axes`).
        prior_lr: peak learning rate of the prior's densities (default: the main rate, as published, at which a run of
            some hundred steps does not see them settle).
        prior_scale: scale of the logistic densities that the prior starts from, in steps (default 10).
        quantization: what stands for rounding in training. "noise": additive uniform noise in both terms (the paper's,
            and the default); "mixed": noise for the rate, straight-through rounding for the distortion;
            "straight-through", the hierarchical prior's default: rounding in both terms.
        distortion: of the hierarchical prior. "features", its default: the squared distance to the tokens before
            adaptation, in the codec's metric, weighted as the codec's rounding weighs it against bits; "pixels": the
            MAE's, in a second, masked pass; "mix": the mean of both.
        symmetries: aim the distortion of features at the mean of the old tokens over so many turns and flips, of which
            a step takes two drawn ones: 8 (default), 4, 2 or 1. One pass then gives what would have taken so many.
        quality_range: that the hierarchical prior trains for (default 0.03 2): each image of a step draws its own.
        hyper_channels: of the hyperprior (default 96).
        hyper_heads: attention heads of the hyperprior (default 4).
    """

    prior: Prior | None = None
    lmbda: float | None = None
    trainable_blocks: int | Literal["all"] | None = None
    latent_scale: float | None = None
    quantiles_lr: float | None = None
    principal_axes: bool | None = None
    prior_lr: float | None = None
    prior_scale: float | None = None
    quantization: Quantization | None = None
    distortion: Distortion | None = None
    symmetries: int | None = None
    quality_range: tuple[float, float] | None = None
    hyper_channels: int | None = None
    hyper_heads: int | None = None

    @classmethod
    def read(cls, values: Any, where: str, **overrides: Any) -> Self:
        if isinstance(values, Mapping) and values.get("trainable_blocks", 1) is None:  # as recorded
            values = {**values, "trainable_blocks": "all"}
        return super().read(values, where, **overrides)

    def settings(self) -> AdaptSettings:
        """The settings of the prior; raises InputError for what does not go with it, and for values out of range."""
        given = self.given()
        prior = given.pop("prior", "factorized")
        if prior not in _PRIORS:
            raise InputError(f"prior {prior!r} is not one of {', '.join(_PRIORS)}")
        kind = _PRIORS[prior]
        if kind is HierarchicalSettings:
            if given.get("distortion") == "pixels":
                given.setdefault("symmetries", 1)
        elif given.get("distortion", "pixels") != "pixels":
            raise InputError(f"distortion {given['distortion']!r} is not one of pixels (prior {prior})")
        elif given.get("symmetries", 1) != 1:
            raise InputError("symmetries are of the features' target: give prior hierarchical and distortion features")
        if given.get("trainable_blocks") == "all":
            given["trainable_blocks"] = None
        own = {field.name for field in fields(kind)}
        return kind(**{key: value for key, value in given.items() if key in own})


def _positive(settings: TrainingSettings, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise InputError(f"{name} must be positive, got {value}")


def _one_of(settings: AdaptSettings, name: str, known: tuple[str, ...]) -> None:
    if getattr(settings, name) not in known:
        raise InputError(
            f"{name} {getattr(settings, name)!r} is not one of {', '.join(known)} (prior {settings.prior})"
        )
