"""Apply a trained head to images of any size or to token grids, window by window with averaged probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError
from nec.heads.saved import SavedHead

if TYPE_CHECKING:
    from nec.models.mae import NecModel

Apply = Callable[[NDArray[Any]], NDArray[np.float32]]  # windows (n, y, x, c) -> probabilities (n, k, rows, columns)


@dataclass(frozen=True)
class Embedder:
    """Images (n, height, width, bands) -> embeddings (n, y, x, d) as a head takes them.

    `quality`: code and decode them with the model's codec; None leaves them as floats. `scale`, `offset`: pixels *
    scale + offset lie in 0..1, for other types than bytes.
    """

    model: NecModel
    quality: float | None = None
    scale: float | None = None
    offset: float = 0.0

    def __post_init__(self) -> None:
        if self.quality is not None and self.model.codec is None:
            raise InputError(f"the model {self.model.name} has no codec for --quality: make one with `nec fit`")

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        import torch

        if self.scale is not None:
            images = images.astype(np.float32) * np.float32(self.scale) + np.float32(self.offset)
        elif images.dtype != np.uint8:
            raise InputError(f"the images have {images.dtype} pixels: give --scale S (and --offset O), see nec encode")
        with torch.inference_mode():
            tokens = self.model.embed(self.model.normalize(images)).float().numpy()
        if self.quality is None:
            return tokens
        assert self.model.codec is not None
        return self.model.codec.decode(self.model.codec.encode(tokens, self.quality))


def check_model(head: SavedHead, model: dict[str, Any] | None) -> None:
    """`InputError` where the head was trained on embeddings of another model than `model`, an identity, says."""
    other = model or {}
    ours, theirs = head.model.get("sha256"), other.get("sha256")
    if ours and theirs and head.model.get("symmetries", 1) != other.get("symmetries", 1):
        raise InputError(
            f"the head was trained on means over {head.model.get('symmetries', 1)} symmetries, these embeddings are"
            f" over {other.get('symmetries', 1)}: nec fit --symmetries makes such a model"
        )
    if ours and theirs and ours != theirs:
        raise InputError(
            f"the head was trained on embeddings of the model {head.model.get('name')!r} ({ours[:12]}), these are of"
            f" {(model or {}).get('name')!r} ({theirs[:12]})"
        )


def predict_image(
    head: SavedHead, embedder: Embedder, image: NDArray[Any], overlap: float = 0.5, batch: int = 16
) -> NDArray[Any]:
    """Image (height, width, bands) -> class of each pixel, uint8 (height, width), or the probabilities (classes,).

    The model sees windows of the size that the head was trained on, which overlap by the share `overlap`; their
    probabilities are averaged (of a segmenter: less weight towards a window's edge). A smaller image is reflected.
    """
    patch = embedder.model.config.patch_size
    window = (head.grid[0] * patch, head.grid[1] * patch)
    height, width = image.shape[:2]
    missing = [(0, max(0, side - have)) for side, have in zip(window, (height, width), strict=True)]
    padded = np.pad(image, [*missing, (0, 0)], mode="reflect")

    def apply(windows: NDArray[Any]) -> NDArray[np.float32]:
        return head.probabilities(embedder(windows))

    if not head.segments:
        parts = [apply(windows) for _, windows in _windows(padded, window, overlap, batch)]
        return np.concatenate(parts).mean(axis=0)
    return predict_classes(padded, window, overlap, apply, batch)[:height, :width]


def predict_grid(head: SavedHead, tokens: NDArray[np.floating], overlap: float = 0.5, batch: int = 16) -> NDArray[Any]:
    """Tokens (y, x, d) of one image -> as `predict_image`, in the pixels that the tokens stand for.

    Raises `InputError` for a grid smaller than the head's, where the head needs its own.
    """
    if not head.bound_to_grid or tokens.shape[:2] == head.grid:
        found = head.probabilities(tokens[None])[0]
        return found.argmax(axis=0).astype(np.uint8) if head.segments else found
    if tokens.shape[0] < head.grid[0] or tokens.shape[1] < head.grid[1]:
        head.probabilities(tokens[None])  # which says what it takes
    if head.segments:
        return predict_classes(tokens, head.grid, overlap, head.probabilities, batch)
    parts = [head.probabilities(windows) for _, windows in _windows(tokens, head.grid, overlap, batch)]
    return np.concatenate(parts).mean(axis=0)


def predict_classes(
    image: NDArray[Any], window: tuple[int, int], overlap: float, apply: Apply, batch: int = 16
) -> NDArray[np.uint8]:
    """Most probable class of each pixel, see `sliding_probabilities`."""
    bands = sliding_probabilities(image, window, overlap, apply, batch)
    return np.concatenate([band.argmax(axis=0).astype(np.uint8) for band in bands])


def sliding_probabilities(
    image: NDArray[Any], window: tuple[int, int], overlap: float, apply: Apply, batch: int = 16
) -> Iterator[NDArray[np.float32]]:
    """Averaged probabilities of an image (height, width, c) of pixels or tokens, in bands (classes, rows, columns) from
    the top: only one window's height is held at a time.

    Each window's probabilities weigh less towards its edges, where a model sees little of what is around. The last
    window of a row or column is shifted inwards.

    Args:
        window: (rows, columns) of a window, at most those of the image.
        overlap: share of a window that the next one covers again, in 0..1 (1 excluded).
        apply: windows (n, *window, c) -> probabilities (n, classes, rows, columns), `rows` a multiple of the window's.
    """
    total: NDArray[np.float32] = np.empty((0, 0, 0), np.float32)
    weight: NDArray[np.float32] = np.empty((0, 0), np.float32)
    tops = _starts(image.shape[0], window[0], overlap)
    for top, following in zip(tops, [*tops[1:], None], strict=True):
        band = image[top : top + window[0]]
        for lefts, windows in _windows(band, window, overlap, batch):
            for left, found in zip(lefts, apply(windows), strict=True):
                rows, columns = found.shape[1] // window[0], found.shape[2] // window[1]
                if not total.size:
                    total = np.zeros((len(found), found.shape[1], image.shape[1] * columns), np.float32)
                    weight = np.zeros(total.shape[1:], np.float32)
                taper = np.outer(_taper(found.shape[1]), _taper(found.shape[2]))
                place = slice(left * columns, left * columns + found.shape[2])
                total[:, :, place] += found * taper
                weight[:, place] += taper
        ready = total.shape[1] if following is None else (following - top) * rows
        yield total[:, :ready] / weight[:ready]
        total = np.concatenate([total[:, ready:], np.zeros_like(total[:, :ready])], axis=1)
        weight = np.concatenate([weight[ready:], np.zeros_like(weight[:ready])])


def _windows(
    image: NDArray[Any], window: tuple[int, int], overlap: float, batch: int
) -> Iterator[tuple[list[int], NDArray[Any]]]:
    """Windows of an image row by row, `batch` at a time, with their first columns."""
    corners = [
        (top, left)
        for top in _starts(image.shape[0], window[0], overlap)
        for left in _starts(image.shape[1], window[1], overlap)
    ]
    for begin in range(0, len(corners), batch):
        part = corners[begin : begin + batch]
        windows = np.stack([image[top : top + window[0], left : left + window[1]] for top, left in part])
        yield [left for _, left in part], windows


def _starts(length: int, window: int, overlap: float) -> list[int]:
    """First rows or columns of the windows that cover `length`, which is at least one window."""
    if not 0 <= overlap < 1:
        raise InputError(f"the overlap of windows must lie in 0..1 (1 excluded), not {overlap}")
    stride = max(1, round(window * (1 - overlap)))
    return [*range(0, length - window, stride), length - window]


def _taper(length: int) -> NDArray[np.float32]:
    """Weights that fall linearly from the middle to the edges of a window, and stay positive."""
    return (1 - np.abs(np.arange(length) - (length - 1) / 2) / (length / 2)).astype(np.float32)
