"""Choose the quality that gives a wanted size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec

_SLACK = 0.95  # how far beside the target the last level in reach may lie
_COARSEST, _FINEST = -80, 80  # levels: qualities 1/1024 to 1024
_STEP = 8  # levels a first step away from quality 1, a factor of 2


def quality_for_bytes(codec: EmbeddingCodec, blocks: Sequence[NDArray[np.float32]], target: float) -> float:
    """Quality at which `blocks` of embeddings (n, y, x, d), one a chunk, take nearest to `target` bytes an image.

    Real bytes are counted, frames included. Bisects the integer quality level; one level changes the size by some 5 to
    15%, so the result is within half of that.

    Raises:
        InputError: a target below the smallest size or above the largest that the codec gives on these blocks.
    """
    if not (math.isfinite(target) and target > 0):
        raise InputError(f"--target-bytes must be a positive number of bytes an image, not {target}")
    from nec.codec.transform import level_quality

    sizes: dict[int, float] = {}

    def size(level: int) -> float:
        if level not in sizes:
            coded = sum(len(codec.encode(block, level_quality(level))) for block in blocks)
            sizes[level] = coded / sum(len(block) for block in blocks)
        return sizes[level]

    low, high, step = 0, 0, _STEP
    while size(low) > target and low > _COARSEST:
        low, step = max(low - step, _COARSEST), 2 * step
    while size(high) < target and high < _FINEST:
        high, step = min(high + step, _FINEST), 2 * step
    if not size(low) * _SLACK <= target <= size(high) / _SLACK:
        raise InputError(
            f"--target-bytes {target:g} is out of reach: an image takes at least {size(_COARSEST):.0f} bytes "
            f"and at most {size(_FINEST):.0f}"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) < target else (low, middle)
    return level_quality(min((low, high), key=lambda level: abs(math.log(size(level) / target))))
