"""How a scene becomes the inputs of a model: tiles that overlap by a halo, and pixels normalised band by band.

By the halo the token grid of the whole has no seams.

Along each axis the scene's tokens are split into blocks of `tile - 2 * halo` tokens, counted from the scene's first.
A block's tile reaches `halo` tokens further on both sides and is shifted inwards where it would leave the scene. A
token is kept from the tile of its block, which depends on nothing but the token: any windows, in any order, on any
number of workers, give the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from nec.codec import EmbeddingCodec
from nec.errors import InputError
from nec.scenes.scene import Scene

#: (first row, row behind the last, first column, column behind the last) in tokens of the scene's grid.
TokenWindow = tuple[int, int, int, int]


@dataclass(frozen=True)
class Tile:
    """A square of pixels for the model, and which of its tokens are kept.

    Attributes:
        row, column: first pixel to read, in the scene's pixels, never negative.
        side: rows and columns to read; they may reach beyond the scene's end, see `read_tile`.
        place: window of the scene's token grid that the kept tokens fill.
        origin: token (y, x) of the scene's grid at the tile's first pixel.
    """

    row: int
    column: int
    side: int
    place: TokenWindow
    origin: tuple[int, int]

    @property
    def inner(self) -> tuple[slice, slice]:
        """Which of the tile's own tokens (y, x, d) are kept, as slices of y and x."""
        y0, y1, x0, x1 = self.place
        return slice(y0 - self.origin[0], y1 - self.origin[0]), slice(x0 - self.origin[1], x1 - self.origin[1])

    def within(self, window: TokenWindow) -> tuple[slice, slice]:
        """Where the kept tokens lie in an array of the tokens of `window`, as slices of y and x."""
        y0, y1, x0, x1 = self.place
        return slice(y0 - window[0], y1 - window[0]), slice(x0 - window[2], x1 - window[2])


@dataclass(frozen=True)
class TileGrid:
    """How a scene is cut into tiles.

    Attributes:
        shape_px: (rows, columns) of the scene in pixels.
        tile_px: side of the square tiles, the model's input, in pixels; a multiple of `patch_px`.
        patch_px: side of a token's patch in pixels.
        halo_tokens: tokens dropped along each side of a tile that is not the scene's edge.

    The grid covers every pixel: the last tokens of a scene that is no whole number of patches reach beyond its edge.
    A scene smaller than a tile is one tile that reaches beyond it. `read_tile` fills both by reflection.

    Raises:
        InputError: sizes that are not positive, no whole number of patches a tile, a halo that leaves no token.
    """

    shape_px: tuple[int, int]
    tile_px: int
    patch_px: int
    halo_tokens: int

    def __post_init__(self) -> None:
        if min(*self.shape_px, self.tile_px, self.patch_px) < 1:
            raise InputError(f"a scene of {self.shape_px} px, tiles of {self.tile_px} and patches of {self.patch_px}")
        if self.tile_px % self.patch_px:
            raise InputError(f"tiles of {self.tile_px} px are no whole number of patches of {self.patch_px} px")
        if not 0 <= 2 * self.halo_tokens < self.tile_tokens:
            raise InputError(
                f"a halo of {self.halo_tokens} leaves nothing of tiles of {self.tile_tokens} tokens; give 0 to "
                f"{(self.tile_tokens - 1) // 2}"
            )

    @property
    def tile_tokens(self) -> int:
        """Tokens along a tile's side."""
        return self.tile_px // self.patch_px

    @property
    def step(self) -> int:
        """Tokens along the side of a block, which is what a tile away from the edges contributes.

        Windows that begin and end at multiples of it share no tile with their neighbours.
        """
        return self.tile_tokens - 2 * self.halo_tokens

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens (y, x) of the scene."""
        return -(-self.shape_px[0] // self.patch_px), -(-self.shape_px[1] // self.patch_px)

    def tiles(self, window: TokenWindow | None = None) -> list[Tile]:
        """The tiles whose tokens fill `window` (the whole grid if None), row by row; their places do not overlap.

        Raises:
            InputError: a window that is empty or leaves the grid.
        """
        y, x = self.grid
        y0, y1, x0, x1 = (0, y, 0, x) if window is None else window
        if not (0 <= y0 < y1 <= y and 0 <= x0 < x1 <= x):
            raise InputError(f"the token window {window} is empty or leaves the grid of {y} x {x} tokens")
        columns = list(self._axis(x, x0, x1))
        return [
            Tile(top * self.patch_px, left * self.patch_px, self.tile_px, (a, b, c, d), (top, left))
            for top, a, b in self._axis(y, y0, y1)
            for left, c, d in columns
        ]

    def _axis(self, tokens: int, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """(first token of the tile, first kept, behind the last kept) along an axis, of the tokens [start, stop)."""
        kept = start
        while kept < stop:
            first = self._first(kept // self.step, tokens)
            end = min(stop, (kept // self.step + 1) * self.step)
            while end < stop and self._first(end // self.step, tokens) == first:  # blocks whose tiles were shifted
                end = min(stop, end + self.step)
            yield first, kept, end
            kept = end

    def _first(self, block: int, tokens: int) -> int:
        return max(0, min(block * self.step - self.halo_tokens, tokens - self.tile_tokens))

    def valid_tokens(self, valid: NDArray[np.bool_], share: float = 0.5) -> NDArray[np.bool_]:
        """Valid pixels (rows, columns) of whole patches -> (y, x): at least `share` of the token's pixels are valid."""
        p = self.patch_px
        patches = valid.reshape(valid.shape[0] // p, p, valid.shape[1] // p, p)
        return patches.mean(axis=(1, 3)) >= share


def split_positions(codec: EmbeddingCodec, tile_tokens: int) -> tuple[NDArray[np.float32] | None, EmbeddingCodec]:
    """What to subtract from a tile's tokens (tile, tile, d), and the codec for what is left.

    A transformer repeats much of its position embeddings in its tokens: kept, they would print each tile's borders into
    a scene. `nec fit` finds them as the codec's means by position, which belong to the model and not to a scene, so all
    scenes and dates are levelled alike. None, and the codec as it is, where the codec has no means by position:
    `nec fit` keeps them where they explain 3% of the variance. Raises `InputError` where they are for tiles of another
    size.
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


def default_halo(tile_tokens: int) -> int:
    """Tokens of halo where none is asked for: a quarter of the tile, so that half of its side is kept."""
    return tile_tokens // 4


def token_transform(transform: Sequence[float], patch_px: int) -> tuple[float, float, float, float, float, float]:
    """Affine numbers (a, b, c, d, e, f) of a pixel -> those of a token: x = a * column + b * row + c, and so on.

    Both grids begin at the same corner, so c and f stay as they are.
    """
    a, b, c, d, e, f = (float(value) for value in transform[:6])
    return a * patch_px, b * patch_px, c, d * patch_px, e * patch_px, f


def read_tile(scene: Scene, tile: Tile) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Pixels (side, side, bands) of a tile, NaN where invalid, and which of them are valid (side, side).

    What lies beyond the scene's end is the scene reflected (the edge pixel is not repeated), and not valid.
    """
    rows, columns = (min(tile.side, scene.shape[0] - tile.row), min(tile.side, scene.shape[1] - tile.column))
    pixels, valid = scene.read(tile.row, tile.column, rows, columns)
    missing = ((0, tile.side - rows), (0, tile.side - columns))
    if rows < tile.side or columns < tile.side:
        pixels = np.pad(pixels, (*missing, (0, 0)), mode="reflect")
        valid = np.pad(valid, missing)
    return pixels, valid


class PixelConfig(Protocol):
    """What `match` needs to know of a model; `nec.models.ModelConfig` is one.

    Attributes:
        in_channels: how many bands the model takes.
        mean, std: of each band, of images scaled to 0..1.
        bands: names or common names of the bands in the model's order, or None where nobody wrote them down.
        reflectance: the reflectances that 0 and 1 of the scaled images stand for, or None for 0 and 1.
    """

    @property
    def in_channels(self) -> int: ...
    @property
    def mean(self) -> tuple[float, ...]: ...
    @property
    def std(self) -> tuple[float, ...]: ...
    @property
    def bands(self) -> tuple[str, ...] | None: ...
    @property
    def reflectance(self) -> tuple[float, float] | None: ...


@dataclass(frozen=True)
class Normalization:
    """(clip(pixel * scale + offset) - mean) / std, band by band.

    Attributes:
        mean, std: of each band, of images scaled to 0..1.
        scale, offset: pixel * scale + offset is the scaled image.
        clip: whether the scaled image is limited to 0..1, as that of a model trained on bytes is.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 1.0
    offset: float = 0.0
    clip: bool = False

    def __call__(self, pixels: NDArray[np.floating]) -> NDArray[np.float32]:
        """Pixels (..., rows, columns, bands), NaN where invalid -> model input (..., bands, rows, columns) float32.

        Invalid pixels become 0, which is the mean. Raises `InputError` for another number of bands.
        """
        if pixels.shape[-1] != len(self.mean):
            raise InputError(f"pixels of {pixels.shape[-1]} band(s); the model takes {len(self.mean)}")
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        values = pixels.astype(np.float32) * np.float32(self.scale) + np.float32(self.offset)
        if self.clip:
            np.clip(values, 0, 1, out=values)
        values -= mean
        values /= std
        np.nan_to_num(values, copy=False, nan=0.0)
        return np.ascontiguousarray(np.moveaxis(values, -1, -3))


def match(
    scene: Scene, config: PixelConfig, *, bands: Sequence[str | int] | None = None
) -> tuple[Scene, Normalization]:
    """The bands of a scene that a model takes, and how they become its input.

    Bands are chosen by `bands`, else by the names in the model's configuration; a scene of just as many bands whose
    files do not name them is taken as it is. Physical values are taken for reflectances, bytes for 0..1 by 255.

    Raises:
        InputError: bands are missing or of another number; numbers whose scale nothing tells.
    """
    chosen = list(bands) if bands is not None else _bands(scene, config)
    if chosen is not None:
        scene = scene.select(chosen)
    if len(scene.bands) != config.in_channels:
        names = ", ".join(band.name for band in scene.bands)
        raise InputError(
            f"{scene.name} has {len(scene.bands)} band(s) ({names}), and the model takes {config.in_channels}; choose "
            "so many by name, or by position from 1"
        )
    if scene.physical:
        low, high = config.reflectance or (0.0, 1.0)
        scale, offset = 1 / (high - low), -low / (high - low)
    elif set(scene.dtypes) == {"uint8"}:
        scale, offset = 1 / 255, 0.0
    else:
        raise InputError(
            f"{scene.name} has {'/'.join(sorted(set(scene.dtypes)))} pixels without a scale: give scale "
            "(and offset) such that number * scale + offset is the reflectance (numbers up to 10000: 1e-4)"
        )
    return scene, Normalization(config.mean, config.std, scale, offset, clip=config.reflectance is not None)


def _bands(scene: Scene, config: PixelConfig) -> list[str] | None:
    unnamed = all(band.common is None and band.name == f"band{i}" for i, band in enumerate(scene.bands, 1))
    if config.bands is None or (unnamed and len(scene.bands) == config.in_channels):
        return None
    return list(config.bands)
