"""Reconstructions in TensorBoard, read back from the event file."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nec.models import ModelConfig, NecModel
from nec.training import Run, TrainingSettings, pretrain
from nec.training.pictures import TAG, mosaic, panels

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def test_pictures_at_every_validation(config: ModelConfig, dataset, tmp_path: Path) -> None:
    settings = TrainingSettings(epochs=24, batch_size=14, blr=0.1, crop_scale=(0.5, 1.0))  # 120 steps
    run = Run(accelerator="cpu", devices=1)
    pretrain(dataset, tmp_path / "m", config=config, settings=settings, run=run, progress=False)
    (file,) = (tmp_path / "m.run" / "tensorboard").rglob("events.out.*")
    events = event_accumulator.EventAccumulator(str(file), size_guidance={"images": 0}).Reload()
    images = events.Images(TAG)
    assert [event.step for event in images] == list(range(6, 121, 6))  # 20 validations
    pictures = [np.asarray(Image.open(io.BytesIO(event.encoded_image_string))) for event in images]
    assert {picture.shape for picture in pictures} == {(4 * 18 - 2, 3 * 18 - 2, 3)}
    pixels = dataset.images[70:74]
    for picture in (pictures[0], pictures[-1]):
        cells = [[picture[18 * i : 18 * i + 16, 18 * j : 18 * j + 16] for j in range(3)] for i in range(4)]
        for image, (original, masked, filled) in zip(pixels, cells, strict=True):
            np.testing.assert_array_equal(original, image)
            hidden = np.array(
                [[(masked[y : y + 4, x : x + 4] == 128).all() for x in (0, 4, 8, 12)] for y in (0, 4, 8, 12)]
            )
            assert hidden.sum() == 12  # of 16 patches
            visible = ~hidden.repeat(4, 0).repeat(4, 1)
            np.testing.assert_array_equal(masked[visible], image[visible])
            np.testing.assert_array_equal(filled[visible], image[visible])
    errors = [np.abs(p[:, 36:].astype(float) - p[:, :16]).mean() for p in (pictures[0], pictures[-1])]
    assert errors[1] < 0.6 * errors[0]  # it has learnt


@pytest.mark.parametrize("normalised", [False, True])
def test_predictions_come_back_to_pixels(
    normalised: bool, config: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that predicts its target exactly gives the image back, whatever the target's form."""
    model = NecModel(replace(config, norm_pix_loss=normalised)).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)

    def perfect(images: torch.Tensor, mask_noise: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"prediction": model.target(images), "mask": torch.ones(3, 16)}

    monkeypatch.setattr(model, "forward", perfect)
    original, masked, filled = panels(model, pixels, torch.rand(3, 16)).transpose(1, 0, 2, 3, 4)
    np.testing.assert_array_equal(original, pixels)
    assert (masked == 128).all()
    np.testing.assert_array_equal(filled, pixels)


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_a_mosaic_shows_three_bands(bands: int) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5, bands), dtype=np.uint8)
    whole = mosaic(pictures)
    assert whole.shape == (2 * 6 - 2, 3 * 7 - 2, 3)
    shown = pictures[1, 2, ..., :3] if bands > 2 else pictures[1, 2, ..., [0, 0, 0]].transpose(1, 2, 0)
    np.testing.assert_array_equal(whole[6:10, 14:19], shown)
