"""The Lightning module of both pre-training and adaptation: one masked pass a step."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader

from nec.data.augment import random_resized_crop_flip
from nec.models.mae import MASK_RATIO, NecModel
from nec.training.batches import Images, StepBatches, rank_share, step_generator
from nec.training.optim import MuonAdamW, warmup_cosine
from nec.training.settings import AdaptSettings, TrainingSettings


class MaskedTraining(lightning.LightningModule):
    """Trains a `NecModel` by masked reconstruction, with the rate of its bottleneck if it has one.

    Loss: recon_loss, or lmbda * recon_loss + bits an image + the quantiles' own loss. The bits are those of the
    visible patch tokens scaled up to all tokens, CLS left out, which no product codes.
    """

    def __init__(self, model: NecModel, settings: TrainingSettings, train: Images, val: Images | None = None) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.images = train
        self.validation_images = val
        self.steps = settings.steps(len(train))

    # -- data -----------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader:
        s = self.settings
        share = rank_share(s.batch_size, self.trainer.global_rank, self.trainer.world_size)
        batches = StepBatches(self.images, s.batch_size, self.steps, self.trainer.global_step, s.seed, share)
        return DataLoader(batches, batch_size=None)

    def val_dataloader(self) -> list[DataLoader]:
        if self.validation_images is None:
            return []
        size = min(self.settings.batch_size, len(self.validation_images))
        steps = len(self.validation_images) // size
        return [DataLoader(StepBatches(self.validation_images, size, steps, 0, 0, slice(None)), batch_size=None)]

    # -- steps ----------------------------------------------------------------------------------------------------

    def training_step(self, batch: tuple[int, Tensor], batch_idx: int) -> Tensor:
        step, pixels = batch
        s, grid = self.settings, self.model.config.grid
        generator = step_generator(step, s.seed)
        share = rank_share(s.batch_size, self.trainer.global_rank, self.trainer.world_size)

        def draw(*shape: int) -> Tensor:
            return torch.rand(s.batch_size, *shape, generator=generator)[share]

        views = random_resized_crop_flip(self.model.normalize(pixels), draw(7), s.crop_scale, s.turns)
        mask_noise = draw(grid[0] * grid[1]).to(views)
        noise = None
        if self.model.bottleneck is not None:
            kept = 1 + int(grid[0] * grid[1] * (1 - MASK_RATIO))
            noise = (draw(kept, self.model.config.embed_dim) - 0.5).to(views)
        out = self.model(views, mask_noise, noise, s.decoded_share)
        loss, figures = self._loss(out)
        self.log_dict({f"train/{key}": value for key, value in figures.items()}, prog_bar=True, sync_dist=True)
        return loss

    def validation_step(self, batch: tuple[int, Tensor], batch_idx: int) -> None:
        step, pixels = batch
        views = self.model.normalize(pixels)
        tokens = self.model.config.grid[0] * self.model.config.grid[1]
        mask_noise = torch.rand(len(views), tokens, generator=step_generator(step, 0)).to(views)
        _, figures = self._loss(self.model(views, mask_noise))
        self.log_dict({f"val/{key}": value for key, value in figures.items()}, sync_dist=True)

    def _loss(self, out: dict[str, Any]) -> tuple[Tensor, dict[str, Tensor]]:
        figures = {"recon_loss": out["recon_loss"]}
        if not isinstance(self.settings, AdaptSettings):
            return out["recon_loss"], figures
        patches = out["likelihoods"][:, 1:]
        bits = -patches.log2().sum() / len(patches) * out["mask"].shape[1] / patches.shape[1]
        figures |= {"bytes_per_image": bits.detach() / 8, "aux_loss": out["aux_loss"].detach()}
        # The auxiliary loss moves the quantiles alone, and nothing else does: adding it changes no other gradient.
        return self.settings.lmbda * out["recon_loss"] + bits + out["aux_loss"], figures

    # -- optimiser ------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> OptimizerLRScheduler:
        s = self.settings
        groups = parameter_groups(self.model, s)
        lr = s.learning_rate
        if s.optimizer == "muon":
            optimizer: torch.optim.Optimizer = MuonAdamW(groups, lr, s.weight_decay)
        else:
            plain = [{key: value for key, value in group.items() if key != "muon"} for group in groups]
            optimizer = torch.optim.AdamW(plain, lr, betas=(0.9, 0.95), weight_decay=s.weight_decay)
        warmup = s.warmup_steps(len(self.images))

        def follow(step: int) -> float:
            return warmup_cosine(step, self.steps, warmup)

        def stay(step: int) -> float:
            return 1.0

        factors: list[Any] = [stay if group.get("constant") else follow for group in groups]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def parameter_groups(model: NecModel, settings: TrainingSettings) -> list[dict[str, Any]]:
    """Trainable parameters by treatment: matrices in blocks, other matrices, vectors, the prior, its quantiles.

    The quantiles have their own constant rate and no weight decay, which with AdamW is the separate Adam of the
    published code.
    """
    blocks: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    prior: list[nn.Parameter] = []
    quantiles: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.endswith("quantiles"):
            quantiles.append(parameter)
        elif name.startswith("bottleneck.") or (isinstance(settings, AdaptSettings) and name.startswith("norm.")):
            prior.append(parameter)  # the norm's gain is the latents' scale against the quantiser's step
        elif parameter.ndim == 2 and "blocks." in name:
            blocks.append(parameter)
        else:
            (matrices if parameter.ndim > 1 and not name.endswith("_token") else vectors).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": blocks, "muon": True},
        {"params": matrices},
        {"params": vectors, "weight_decay": 0.0},
        {"params": prior, "weight_decay": 0.0},
    ]
    if isinstance(settings, AdaptSettings):
        if settings.prior_lr is not None:
            groups[-1]["lr"] = settings.prior_lr
        groups.append({"params": quantiles, "weight_decay": 0.0, "lr": settings.quantiles_lr, "constant": True})
    return [group for group in groups if group["params"]]
