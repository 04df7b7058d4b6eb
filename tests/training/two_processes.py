"""Run by torchrun in `test_devices.py`: train whole, then interrupted in the middle of an epoch and resumed.

Arguments: the folder of images, the folder to write into. Writes `whole`, `cut` (resumed) as model folders, and
`interrupted.json` with what the folder held between the two (first process).
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from nec.datasets import open_dataset
from nec.models import ModelConfig, NecModel
from nec.training import FactorizedSettings, Run, adapt, trainer
from nec.training.module import MaskedTraining

SIZES = {
    "image_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2,
    "decoder_embed_dim": 16, "decoder_depth": 2, "decoder_num_heads": 2,
}  # fmt: skip
STOP = 5  # of 9 steps, 3 an epoch


class Interrupted(MaskedTraining):
    """Ctrl-C in the midst of a step, the step after the last checkpoint."""

    def training_step(self, batch, batch_idx):
        if batch[0] == STOP:
            raise KeyboardInterrupt
        super().training_step(batch, batch_idx)


def main(images: str, out: Path) -> None:
    dataset = open_dataset(images)
    settings = FactorizedSettings(epochs=3, batch_size=8, blr=0.03, lmbda=50.0, latent_scale=3.0)
    run = Run(accelerator="cpu", checkpoint_minutes=0.0)
    base = NecModel(ModelConfig.from_dict(SIZES))
    adapt(base, dataset, out / "whole", settings=settings, run=run, progress=False)
    trainer.MaskedTraining = Interrupted
    try:
        adapt(base, dataset, out / "cut", settings=settings, run=run, progress=False)
    except KeyboardInterrupt:
        trainer.MaskedTraining = MaskedTraining
        if os.environ["RANK"] == "0":
            listing = sorted(str(path.relative_to(out)) for path in out.rglob("*"))
            (out / "interrupted.json").write_text(json.dumps(listing))
    adapt(base, dataset, out / "cut", settings=settings, run=replace(run, resume=True), progress=False)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
