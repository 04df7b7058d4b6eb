"""What a model adds to a token for its place in the tile: the other half of tiling without seams.

A transformer repeats much of its position embeddings in its tokens: in those of the shipped model their variance is
several times that of the content. Kept, they would print each tile's borders into a scene. `nec fit` finds them as
the codec's means by position, which belong to the model and not to a scene: all scenes and dates are levelled alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nec.codec import EmbeddingCodec
from nec.errors import InputError


def split_places(codec: EmbeddingCodec, tile_tokens: int) -> tuple[NDArray[np.float32] | None, EmbeddingCodec]:
    """What to subtract from a tile's tokens (tile, tile, d), and the codec for what is left.

    None, and the codec as it is, where the codec has no means by position: `nec fit` keeps them where they explain 3%
    of the variance. Raises `InputError` where they are for tiles of another size.
    """
    if codec.positions is None:
        return None, codec
    if codec.positions.shape[:2] != (tile_tokens, tile_tokens):
        y, x = codec.positions.shape[:2]
        raise InputError(
            f"the codec has means for {y} x {x} places, and tiles have {tile_tokens} x {tile_tokens} tokens; fit it "
            "again on images of the model's own size (nec fit)"
        )
    return codec.positions.astype(np.float32), codec.without_positions()
