"""How near `nec encode --target-bytes N` comes to N: bytes an image of all that is coded, sought on a sample of it.

    python benchmarks/target_bytes.py EMBEDDINGS.npz [--seed S]

The codec is fitted to 60% of the images. Of the other 40%, 1,024 (a shard of a store) decide the quality, and all are
coded with it, in frames of 128.
"""

from __future__ import annotations

import numpy as np
from embeddings import FRAME, parts_of_arguments

from nec.codec import EmbeddingCodec
from nec.encoding.codecs import quality_for_bytes

TARGETS = (10, 14, 20, 28, 40, 57, 80, 113, 160, 226, 320, 453, 640, 905, 1280)
SAMPLE = 1024


def main() -> None:
    fitting, coding = parts_of_arguments(__doc__)
    codec = EmbeddingCodec.fit(fitting, spatial="haar", positions=None)
    frames = [coding[start : start + FRAME] for start in range(0, len(coding), FRAME)]
    sample = frames[: SAMPLE // FRAME]  # `split` has shuffled them
    misses = []
    print(f"fitted on {len(fitting)}, sought on {sum(map(len, sample))}, coded {len(coding)} images")
    print(f"{'target':>8}{'quality':>10}{'bytes':>10}{'off by':>9}")
    for target in TARGETS:
        quality = quality_for_bytes(codec, sample, target)
        size = sum(len(codec.encode(frame, quality)) for frame in frames) / len(coding)
        misses.append(size / target - 1)
        print(f"{target:8}{quality:10.4f}{size:10.1f}{misses[-1]:9.1%}", flush=True)
    print(f"off by {np.abs(misses).mean():.1%} on average, {np.abs(misses).max():.1%} at most")


if __name__ == "__main__":
    main()
