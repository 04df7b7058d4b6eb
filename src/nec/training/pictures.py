"""Pictures of what a masked autoencoder reconstructs, for TensorBoard."""

from __future__ import annotations

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray
from torch import Tensor

from nec.models import NecModel
from nec.training.module import MaskedTraining, validation_mask_noise

TAG = "val/reconstructions"
_GREY = 128
_GAP = 2  # pixels between panels


class Reconstructions(Callback):
    """At each validation, the first validation images: as they are, masked, with the masked patches predicted.

    Only the first process draws and writes them.
    """

    def __init__(self, images: int = 4) -> None:
        self.images = images

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: MaskedTraining) -> None:  # type: ignore[override]
        boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        drawn = trainer.is_global_zero and boards and pl_module.model.config.decoder_depth
        if not drawn or pl_module.validation_images is None:
            return
        count = min(self.images, len(pl_module.validation_images))
        pixels = pl_module.validation_images.take(np.arange(count))
        picture = mosaic(panels(pl_module.model, pixels, validation_mask_noise(pl_module.model, count, 0)))
        for board in boards:
            board.experiment.add_image(TAG, picture, trainer.global_step, dataformats="HWC")


@torch.no_grad()
def panels(model: NecModel, pixels: NDArray[np.uint8], mask_noise: Tensor) -> NDArray[np.uint8]:
    """Images (n, h, w, c) -> (n, 3, h, w, c): the images, the same with masked patches grey, and with them predicted.

    With `norm_pix_loss` a predicted patch gets the original patch's mean and deviation back, which the model does not
    know (as in MAE's demonstration). Visible patches are the input's, to the bit.
    """
    views = model.normalize(pixels)
    out = model(views, mask_noise.to(views))
    predicted = out["prediction"].float()
    if model.config.norm_pix_loss:
        patches = model.patchify(views)
        mean, variance = patches.mean(dim=-1, keepdim=True), patches.var(dim=-1, keepdim=True)
        predicted = predicted * (variance + 1e-6).sqrt() + mean
    grid, size = model.grid_of(views), model.config.patch_size
    images = model.unpatchify(predicted, grid).permute(0, 2, 3, 1).cpu().numpy()
    images = (images * np.array(model.config.std) + np.array(model.config.mean)) * 255
    filled = images.round().clip(0, 255).astype(np.uint8)
    mask = out["mask"].bool().cpu().numpy().reshape(-1, *grid).repeat(size, 1).repeat(size, 2)[..., None]
    masked = np.where(mask, np.uint8(_GREY), pixels)
    return np.stack([pixels, masked, np.where(mask, filled, pixels)], axis=1)


def mosaic(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Panels (n, m, h, w, c) -> one picture (height, width, 3): a row an image, a white line between panels.

    Of more than three bands the first three are shown, of fewer the first one.
    """
    rgb = pictures[..., :3] if pictures.shape[-1] >= 3 else pictures[..., :1].repeat(3, axis=-1)
    rows, columns, height, width = rgb.shape[:4]
    framed = np.full((rows, columns, height + _GAP, width + _GAP, 3), 255, np.uint8)
    framed[:, :, :height, :width] = rgb
    whole = framed.transpose(0, 2, 1, 3, 4).reshape(rows * (height + _GAP), columns * (width + _GAP), 3)
    return whole[:-_GAP, :-_GAP]
