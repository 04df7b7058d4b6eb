"""The Lightning module of both pre-training and adaptation: one masked pass a step."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from nec.models.codec_bottleneck import BIT_WORTH, CodecBottleneck, draw_levels
from nec.models.mae import MASK_RATIO, NecModel
from nec.models.symmetry import GROUPS, symmetric_mean
from nec.training.augment import random_resized_crop_flip
from nec.training.batches import Images, StepBatches, rank_share, step_generator
from nec.training.optim import MuonAdamW, decays, parameter_groups, warmup_cosine
from nec.training.settings import AdaptSettings, HierarchicalSettings, TrainingSettings


class MaskedTraining(lightning.LightningModule):
    """Trains a `NecModel` by masked reconstruction, with the rate of its bottleneck if it has one.

    Loss: recon_loss, or lmbda * recon_loss + bits an image + the quantiles' own loss. The bits are those of the
    visible patch tokens scaled up to all tokens, CLS left out, which no product codes. Through the product codec the
    bits are those of all tokens, from a pass that is not masked: `_coded_loss`.

    Args:
        accumulate: parts in which a process works on its share of a batch; their gradients are summed before the step.
        teacher: the model before adaptation, frozen, for a distortion of features.
    """

    def __init__(
        self,
        model: NecModel,
        settings: TrainingSettings,
        train: Images,
        val: Images | None = None,
        accumulate: int = 1,
        teacher: NecModel | None = None,
    ) -> None:
        super().__init__()
        # One batch is one optimiser step, whose parts this module accumulates: logs, checkpoints and the resumed place
        # count steps, and none falls between two parts of a step.
        self.automatic_optimization = False
        self.accumulate = accumulate
        self.model = model
        self.teacher = teacher
        self.settings = settings
        self.images = train
        self.validation_images = val
        self.steps = settings.steps(len(train))

    # -- data -----------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader:
        s = self.settings
        share = rank_share(s.batch_size, self.trainer.global_rank, self.trainer.world_size)
        batches = StepBatches(self.images, s.batch_size, self.steps, self.trainer.global_step, s.seed, share)
        return _loader(batches)

    def val_dataloader(self) -> list[DataLoader]:
        if self.validation_images is None:
            return []
        size = min(self.settings.batch_size, len(self.validation_images))
        steps = len(self.validation_images) // size
        batches = StepBatches(self.validation_images, size, steps, 0, 0, self._validation_share(size))
        return [_loader(batches)]

    def _validation_share(self, size: int) -> slice:
        """The process's part of a validation batch; all of it where it does not divide, since figures are averaged."""
        world = self.trainer.world_size
        return slice(None) if size % world else rank_share(size, self.trainer.global_rank, world)

    # -- steps ----------------------------------------------------------------------------------------------------

    def training_step(self, batch: tuple[int, Tensor], batch_idx: int) -> None:
        step, pixels = batch
        s, grid = self.settings, self.model.config.grid
        generator = step_generator(step, s.seed)
        share = rank_share(s.batch_size, self.trainer.global_rank, self.trainer.world_size)

        def draw(*shape: int) -> Tensor:
            return torch.rand(s.batch_size, *shape, generator=generator)[share]

        crops, mask_noise, noise = draw(7), draw(grid[0] * grid[1]), None
        symmetries = GROUPS[1]
        if isinstance(self.model.bottleneck, CodecBottleneck):
            noise = {"level": draw(1)}
            assert isinstance(s, HierarchicalSettings)
            symmetries = drawn_symmetries(s, generator)
            if self.model.bottleneck.quantization != "straight-through":
                noise["latent"] = draw(*self.model.bottleneck.noise_shape(*grid)) - 0.5
        elif self.model.bottleneck is not None:
            kept = 1 + int(grid[0] * grid[1] * (1 - MASK_RATIO))
            shapes = self.model.bottleneck.noise_shapes(kept)
            noise = {name: draw(*shape) - 0.5 for name, shape in shapes.items()}
        parts = [rank_share(len(pixels), i, self.accumulate) for i in range(self.accumulate)]
        figures = []
        for part in parts:
            views = random_resized_crop_flip(self.model.normalize(pixels[part]), crops[part], s.crop_scale, s.turns)
            part_noise = None if noise is None else {name: drawn[part].to(views) for name, drawn in noise.items()}
            if isinstance(self.model.bottleneck, CodecBottleneck):
                assert part_noise is not None
                loss, values = self._coded_loss(
                    views, mask_noise[part].to(views), part_noise, symmetries, s.decoded_share
                )
            else:
                out = self.model(views, mask_noise[part].to(views), part_noise, s.decoded_share)
                loss, values = self._loss(out)
            self._backward(loss / len(parts), last=part is parts[-1])
            figures.append({"loss": loss.detach(), **values})
        self._update()
        means = {f"train/{key}": torch.stack([f[key].detach() for f in figures]).mean() for key in figures[0]}
        self.log_dict(means, prog_bar=True, sync_dist=True)

    def _backward(self, loss: Tensor, last: bool) -> None:
        """Add the gradients of a part of the step; the processes exchange them once, with the last part's."""
        wrapped = self.trainer.strategy.model
        exchange: Any = nullcontext()
        if isinstance(wrapped, DistributedDataParallel) and not last:
            exchange = wrapped.no_sync()
        with exchange, torch.autocast(self.device.type, enabled=False):
            self.manual_backward(loss)

    def _update(self) -> None:
        optimizer: Any = self.optimizers()
        scheduler: Any = self.lr_schedulers()
        with torch.autocast(self.device.type, enabled=False):  # the optimisers compute in the parameters' precision
            optimizer.step()
        optimizer.zero_grad()
        scheduler.step()

    def validation_step(self, batch: tuple[int, Tensor], batch_idx: int) -> None:
        step, pixels = batch
        views = self.model.normalize(pixels)
        assert self.validation_images is not None
        size = min(self.settings.batch_size, len(self.validation_images))
        share = self._validation_share(size)
        mask_noise = validation_mask_noise(self.model, size, step)[share].to(views)
        if isinstance(self.model.bottleneck, CodecBottleneck):
            places = (torch.arange(size)[share, None].to(views) + 0.5) / size  # all qualities, evenly
            assert isinstance(self.settings, HierarchicalSettings)
            symmetries = drawn_symmetries(self.settings, step_generator(step, 0))
            loss, figures = self._coded_loss(views, mask_noise, {"level": places}, symmetries)
        else:
            loss, figures = self._loss(self.model(views, mask_noise))
        self.log_dict({f"val/{key}": value for key, value in {"loss": loss, **figures}.items()}, sync_dist=True)

    def _loss(self, out: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        figures = {"recon_loss": out["recon_loss"]}
        if not isinstance(self.settings, AdaptSettings):
            return out["recon_loss"], figures
        coded = [out[key][:, 1:] for key in ("likelihoods", "hyper_likelihoods") if key in out]
        images, patches = coded[0].shape[:2]
        bits = sum(-part.log2().sum() for part in coded) / images * out["mask"].shape[1] / patches
        figures |= {"bytes_per_image": bits.detach() / 8, "aux_loss": out["aux_loss"].detach()}
        # The auxiliary loss moves the quantiles alone, and nothing else does: adding it changes no other gradient.
        return self.settings.lmbda * out["recon_loss"] + bits + out["aux_loss"], figures

    def _coded_loss(
        self,
        views: Tensor,
        mask_noise: Tensor,
        noise: dict[str, Tensor],
        symmetries: tuple[int, ...],
        decoded_share: float = 1.0,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over images of (bits + distortion's weight * distortion) / typical bits, each at its own level.

        `noise`: "level" (n, 1) in 0..1 chooses the level, "latent" is the quantiser's. The bits are those of whole
        grids from a pass without a mask; what coding does to the tokens there is done to the visible ones of the masked
        pass, whose reconstruction is the distortion of pixels. `symmetries`: those over which the features' target is
        the mean.
        """
        s, bottleneck = self.settings, self.model.bottleneck
        assert isinstance(s, HierarchicalSettings)
        assert isinstance(bottleneck, CodecBottleneck)
        levels = draw_levels(noise["level"][:, 0], s.quality_range)
        tokens = self.model.token_grid(views)
        coded = bottleneck(tokens, levels, noise.get("latent"))
        parts, figures = [], {"bytes_per_image": coded.bits.detach().mean() / 8}
        if self.teacher is not None:
            with torch.no_grad():
                target = features_target(self.teacher, bottleneck, views, symmetries)
            distances = bottleneck.distance(coded.tokens, target)
            figures["squared_steps"] = distances.detach().mean()
            parts.append(BIT_WORTH * distances)
        if s.distortion != "features":
            change = (coded.tokens - tokens).detach().flatten(1, 2)
            out = self.model(views, mask_noise, None, decoded_share, change)
            figures["recon_loss"] = out["recon_loss"].detach()
            parts.append(s.lmbda * out["recon_losses"])
        distortion = bottleneck.level_weight(levels) * sum(parts) / len(parts)
        return ((coded.bits + distortion) / bottleneck.typical_bits(levels)).mean(), figures

    # -- optimiser ------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRScheduler:
        s = self.settings
        groups = parameter_groups(self.model, partial(treatment, settings=s))
        constant = [group.pop("constant", False) for group in groups]
        if s.optimizer == "muon":
            optimizer: torch.optim.Optimizer = MuonAdamW(groups, s.learning_rate, s.weight_decay)
        else:
            optimizer = torch.optim.AdamW(groups, s.learning_rate, betas=(0.9, 0.95), weight_decay=s.weight_decay)
        follow = warmup_cosine(self.steps, s.warmup_steps(len(self.images)))
        factors: list[Any] = [(lambda _: 1.0) if stays else follow for stays in constant]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _loader(batches: StepBatches) -> DataLoader:
    return DataLoader(batches, batch_size=None, generator=torch.Generator())  # else it draws from torch's global one


def features_target(
    teacher: NecModel, bottleneck: CodecBottleneck, views: Tensor, symmetries: tuple[int, ...]
) -> Tensor:
    """Tokens (n, y, x, d) that the features of views (n, c, h, w) aim at: the teacher's mean over `symmetries`.

    What its tokens have in common at each place of the grid, most of it position embeddings, is no matter of images: it
    stays as it is instead of being turned with them. `symmetries` are indices of `nec.models.symmetry.turn`;
    `bottleneck` has the means by place.
    """
    if symmetries == GROUPS[1]:
        return teacher.token_grid(views)
    places = bottleneck.means(*teacher.grid_of(views))
    return symmetric_mean(lambda turned: teacher.token_grid(turned) - places, views, symmetries) + places


def drawn_symmetries(settings: HierarchicalSettings, generator: torch.Generator) -> tuple[int, ...]:
    """The symmetries of a step's target: two of the group, whose mean has the group's mean as its expectation."""
    if settings.symmetries == 1:
        return GROUPS[1]
    group = GROUPS[settings.symmetries]
    return tuple(group[i] for i in torch.randperm(len(group), generator=generator)[:2].tolist())


def validation_mask_noise(model: NecModel, images: int, step: int) -> Tensor:
    """What decides the masks (images, y*x) of a validation batch: the same at every validation."""
    return torch.rand(images, model.config.grid[0] * model.config.grid[1], generator=step_generator(step, 0))


def treatment(name: str, parameter: nn.Parameter, settings: TrainingSettings) -> dict[str, Any]:
    """How a parameter is trained: matrices in blocks, other matrices, vectors, the prior, its quantiles.

    The quantiles have their own constant rate and no weight decay, which with AdamW is the separate Adam of the
    published code.
    """
    if isinstance(settings, AdaptSettings):
        if name.endswith("quantiles"):
            return {"weight_decay": 0.0, "lr": settings.quantiles_lr, "constant": True}
        # The final norm's gain is the latents' scale against the quantiser's step; the hyperprior's transformers train
        # as others do.
        if name.startswith("norm.") or (name.startswith("bottleneck.") and ".h_" not in name):
            return {"weight_decay": 0.0, "lr": settings.prior_lr or settings.learning_rate}
    if not decays(parameter):
        return {"weight_decay": 0.0}
    return {"muon": True} if settings.optimizer == "muon" and parameter.ndim == 2 and "blocks." in name else {}
