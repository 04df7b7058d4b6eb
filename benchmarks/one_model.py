"""What one adapted model for every rate costs beside models adapted for a single quality each.

    python benchmarks/one_model.py DATASET --origin eurosat-tiny --every MODEL --single 0.25=MODEL 0.0625=MODEL

The models are those of `nec adapt --prior hierarchical --distortion features --symmetries N`, the single ones with
both ends of `--quality-range` at their quality (recipes/hierarchical.yaml makes them). Each codes images of the test
part with its own codec, at its quality, in frames of 128. The error is the squared distance of decoded tokens to what
all were trained to give, the mean of the origin's tokens over the symmetries, in the metric of the origin's codec.
Bytes of the one model are taken at the single one's error, between neighbouring levels.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from embeddings import FRAME
from numpy.typing import NDArray

import nec
from nec.codec.transform import level_quality, quality_level
from nec.datasets import open_dataset
from nec.models import NecModel
from nec.models.codec_bottleneck import CodecBottleneck
from nec.models.symmetry import GROUPS
from nec.training.module import features_target


@dataclass(frozen=True)
class Aim:
    """What tokens ought to be, and how far they are from it."""

    metric: CodecBottleneck
    tokens: torch.Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, origin: NecModel, pixels: NDArray[np.uint8], symmetries: int) -> Aim:
        if origin.codec is None:
            raise SystemExit(f"{origin.name} has no codec: nec fit it first")
        metric = CodecBottleneck(origin.codec)
        batches = [origin.normalize(pixels[i : i + FRAME]) for i in range(0, len(pixels), FRAME)]
        targets = [features_target(origin, metric, batch, GROUPS[symmetries]) for batch in batches]
        return cls(metric, torch.cat(targets))

    @torch.no_grad()
    def rate_and_error(self, model: NecModel, tokens: NDArray[np.float32], level: int) -> tuple[float, float]:
        """Bytes an image and mean squared distance, through the model's codec."""
        assert model.codec is not None
        size = error = 0.0
        for start in range(0, len(tokens), FRAME):
            blob = model.codec.encode(tokens[start : start + FRAME], level_quality(level))
            decoded = torch.from_numpy(np.asarray(model.codec.decode(blob), np.float32))
            size += len(blob)
            error += float(self.metric.distance(decoded, self.tokens[start : start + FRAME]).sum())
        return size / len(tokens), error / len(tokens)


@torch.no_grad()
def embedded(model: NecModel, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    batches = [model.normalize(pixels[i : i + FRAME]) for i in range(0, len(pixels), FRAME)]
    return np.concatenate([model.embed(batch) for batch in batches])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", help="KIND:PATH")
    parser.add_argument("--origin", default="eurosat-tiny")
    parser.add_argument("--every", required=True, metavar="MODEL")
    parser.add_argument("--single", required=True, nargs="+", metavar="QUALITY=MODEL")
    parser.add_argument("--symmetries", type=int, default=8)
    parser.add_argument("--images", type=int, default=1024)
    args = parser.parse_args()
    dataset, origin = open_dataset(args.dataset, seed=0), nec.load_model(args.origin)
    chosen = np.sort(np.random.default_rng(0).permutation(dataset.indices("test"))[: args.images])
    pixels = dataset.load(chosen, origin.config.image_size)
    aim = Aim.of(origin, pixels, args.symmetries)
    every = nec.load_model(args.every)
    every_tokens = embedded(every, pixels)
    print(f"{len(pixels)} test images, bytes an image at equal error")
    print(f"{'quality':>8}{'error':>10}{'for this rate':>15}{'one for all':>13}{'lost':>8}")
    for item in args.single:
        quality, _, path = item.partition("=")
        level, single = quality_level(float(quality)), nec.load_model(path)
        size, error = aim.rate_and_error(single, embedded(single, pixels), level)
        points = [aim.rate_and_error(every, every_tokens, level + step) for step in (4, 2, 1, 0, -1, -2, -4)]
        sizes, errors = np.log(points).T
        whole = float(np.exp(np.interp(np.log(error), errors, sizes)))
        print(f"{quality:>8}{error:10.1f}{size:15.1f}{whole:13.1f}{whole / size - 1:8.1%}", flush=True)


if __name__ == "__main__":
    main()
