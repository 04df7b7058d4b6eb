"""Settings of a training run. They are recorded in the model that comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from nec.errors import InputError
from nec.models.config import SYMMETRIES


@dataclass(frozen=True)
class TrainingSettings:
    """What decides a training run, beside the model's sizes and the data. Defaults: MAE's (He et al. 2022).

    Attributes:
        epochs: passes over the training images; fractions are allowed.
        batch_size: images an optimiser step, over all devices together.
        blr: learning rate for a batch of 256; the rate used is blr * batch_size / 256.
        warmup_epochs: linear warm-up, then cosine to zero.
        weight_decay: on matrices only, not on biases, norms and tokens.
        optimizer: "adamw" with betas 0.9 and 0.95 (the paper's), or "muon" for the matrices in the blocks.
        crop_scale: range of RandomResizedCrop's share of the area.
        turns: vertical flips and transpositions too, beside the horizontal flip.
        decoded_share: share of the masked patches that the decoder predicts; less saves time.
        precision: Lightning's: "32-true", "bf16-mixed", ...
        seed: of the weights, the order, the augmentation, the masks and the noise.
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
        for name in ("epochs", "batch_size", "blr"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be positive, got {getattr(self, name)}")
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


@dataclass(frozen=True)
class AdaptSettings(TrainingSettings):
    """Settings of NEC adaptation; weight decay is the 0.01 that acted in the published script.

    Attributes:
        lmbda: weight of the distortion (masked-patch MSE) against the bits of one image's tokens, CLS left out. The
            published code's lambda P, for bits summed over one GPU's batch of B of which a quarter of the tokens is
            visible, corresponds to about 4 * P / B. None: 3e4, or 2.3e6 with the hierarchical prior, what the unadapted
            shipped model trades on EuroSAT (docs/adaptation.md); the settings then hold that number.
        trainable_blocks: last encoder blocks that train, beside the first decoder block, the prior and what lies
            outside the blocks (the paper's adapter); None trains everything.
        latent_scale: the tokens are scaled by this before adaptation starts (and the decoder's embedding by its
            inverse), since the quantiser's step is 1 and a pre-trained model's tokens are small.
        quantiles_lr: of the prior's quantiles, which have their own loss and schedule.
        principal_axes: write the model in the principal axes of its tokens first, which changes no reconstruction (see
            `nec.models.axes`): a factorised prior starts with uncorrelated channels.
        prior_lr: peak learning rate of the prior's densities; None: the main rate, as published. Densities start ten
            steps wide, and at the main rate a run of some hundred steps does not see them settle.
        prior_scale: scale of the logistic densities that the prior starts from, in steps of the quantiser.
        quantization: what stands for rounding in training. "noise": additive uniform noise in both terms (the paper's,
            and the default); "mixed": noise for the rate, straight-through rounding for the distortion.
        prior: "factorized"; "hyperprior", the scale hyperprior of `hyper_channels` a token and `hyper_heads`; or
            "hierarchical": through the product codec, which is fitted first, serves all qualities, and is refitted
            when training is done. `lmbda` is then the pixels' weight at quality 1; it grows as 1 / step^2. Its
            `quantization` is "straight-through" unless given: rounding in both terms.
        distortion: "pixels": the MAE's, the only one of the other priors; of the hierarchical prior in a second, masked
            pass. "features", the hierarchical prior's default: the squared distance to the tokens before adaptation, in
            the codec's metric, weighted as the codec's rounding weighs it against bits. "mix": the mean of both.
        symmetries: of the distortion of features (and mix, 8 unless given): what is aimed at is the mean of the old
            tokens over so many symmetries of the square (`nec.models.symmetry`), of which a step takes two drawn ones.
            One pass then gives what would have taken so many. What that is worth: docs/adaptation.md.
        quality_range: of the hierarchical prior: each image of a step is coded at its own, drawn between these.
    """

    weight_decay: float = 0.01
    lmbda: float = None  # type: ignore[assignment]  # a number once __post_init__ has run
    trainable_blocks: int | None = 1
    latent_scale: float = 1.0
    quantiles_lr: float = 1e-3
    principal_axes: bool = False
    prior_lr: float | None = None
    prior_scale: float = 10.0
    quantization: Literal["noise", "mixed", "straight-through"] = None  # type: ignore[assignment]  # as lmbda
    prior: Literal["factorized", "hyperprior", "hierarchical"] = "factorized"
    distortion: Literal["pixels", "features", "mix"] = None  # type: ignore[assignment]  # as lmbda
    symmetries: int = None  # type: ignore[assignment]  # as lmbda
    quality_range: tuple[float, float] = (0.03, 2.0)
    hyper_channels: int = 96
    hyper_heads: int = 4

    def _default(self, name: str, value: Any) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("lmbda", "latent_scale", "quantiles_lr", "prior_lr", "prior_scale"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} must be positive, got {value}")
        hierarchical = self.prior == "hierarchical"
        self._default("lmbda", 2.3e6 if hierarchical else 3e4)
        self._default("quantization", "straight-through" if hierarchical else "noise")
        self._default("distortion", "features" if hierarchical else "pixels")
        self._default("symmetries", 8 if hierarchical and self.distortion != "pixels" else 1)
        for name, known in (
            ("prior", ("factorized", "hyperprior", "hierarchical")),
            ("quantization", ("noise", "mixed", "straight-through") if hierarchical else ("noise", "mixed")),
            ("distortion", ("pixels", "features", "mix") if hierarchical else ("pixels",)),
        ):
            if getattr(self, name) not in known:
                raise InputError(
                    f"{name} {getattr(self, name)!r} is not one of {', '.join(known)} (prior {self.prior})"
                )
        if self.symmetries not in SYMMETRIES:
            raise InputError(f"symmetries must be 1, 2, 4 or 8, got {self.symmetries}")
        if self.symmetries > 1 and (not hierarchical or self.distortion == "pixels"):
            raise InputError("symmetries are of the features' target: give prior hierarchical and distortion features")
        low, high = self.quality_range
        if not 0 < low <= high:
            raise InputError(f"quality_range must be LOW HIGH with 0 < LOW <= HIGH, got {low} {high}")
        if self.trainable_blocks is not None and self.trainable_blocks < 0:
            raise InputError(f"trainable_blocks must not be negative, got {self.trainable_blocks}")
