"""Tilings: each token once, from a tile that depends on it alone; pixels and transforms in the right place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nec.errors import InputError
from nec.scenes.tiles import Tile, TileGrid, default_halo, read_tile, token_transform


@st.composite
def tilings(draw: st.DrawFn) -> TileGrid:
    patch, tokens = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    halo = draw(st.integers(0, (tokens - 1) // 2))
    shape = draw(st.tuples(st.integers(1, 90), st.integers(1, 90)))
    return TileGrid(shape, tokens * patch, patch, halo)


def sources(tiling: TileGrid, tiles: list[Tile], window: tuple[int, int, int, int]) -> np.ndarray:
    """(y, x, 2): first pixel of the tile that each token of a window is kept from; checks that each has one."""
    y0, y1, x0, x1 = window
    found = np.full((y1 - y0, x1 - x0, 2), -1)
    for tile in tiles:
        inside = found[tile.within(window)]
        assert inside.size
        assert (inside == -1).all(), "a token is kept twice"
        inside[...] = (tile.row, tile.column)
        tokens = np.empty((tiling.tile_tokens,) * 2)
        assert tokens[tile.inner].shape == inside.shape[:2]
    assert (found >= 0).all(), "a token is missing"
    return found


@settings(max_examples=60)
@given(tilings(), st.data())
def test_each_token_comes_from_one_tile_in_any_window(tiling: TileGrid, data: st.DataObject) -> None:
    y, x = tiling.grid
    assert y == int(np.ceil(tiling.shape_px[0] / tiling.patch_px))
    whole = sources(tiling, tiling.tiles(), (0, y, 0, x))
    y0, x0 = data.draw(st.integers(0, y - 1)), data.draw(st.integers(0, x - 1))
    y1, x1 = data.draw(st.integers(y0 + 1, y)), data.draw(st.integers(x0 + 1, x))
    part = sources(tiling, tiling.tiles((y0, y1, x0, x1)), (y0, y1, x0, x1))
    np.testing.assert_array_equal(part, whole[y0:y1, x0:x1])


@given(tilings())
def test_tiles_stay_inside_and_keep_their_halo(tiling: TileGrid) -> None:
    for tile in tiling.tiles():
        for first, tokens, (start, stop) in zip(
            tile.origin, tiling.grid, (tile.place[:2], tile.place[2:]), strict=True
        ):
            last = first + tiling.tile_tokens
            assert first >= 0
            assert last <= max(tokens, tiling.tile_tokens)
            assert start - first >= (tiling.halo_tokens if first > 0 else 0)
            assert last - stop >= (tiling.halo_tokens if last < tokens else 0) or last > tokens
        assert (tile.row, tile.column) == (tile.origin[0] * tiling.patch_px, tile.origin[1] * tiling.patch_px)


def test_windows_of_whole_blocks_share_no_tile() -> None:
    tiling = TileGrid((640, 640), 64, 8, 2)
    assert tiling.step == 4
    assert len(tiling.tiles()) == 20 * 20
    assert len(TileGrid((648, 64), 64, 8, 2).tiles()) == 20  # the last two of 21 blocks lie in one shifted tile
    windows = [(a, a + 40, b, b + 40) for a in (0, 40) for b in (0, 40)]
    apart = [(tile.row, tile.column) for window in windows for tile in tiling.tiles(window)]
    assert len(set(apart)) == len(apart) == 20 * 20


def test_bad_tilings_and_windows() -> None:
    for arguments in (((0, 5), 8, 2, 0), ((5, 5), 9, 2, 0), ((5, 5), 8, 2, 2), ((5, 5), 8, 2, -1)):
        with pytest.raises(InputError):
            TileGrid(*arguments)
    with pytest.raises(InputError, match="leaves the grid of 3 x 3"):
        TileGrid((5, 5), 4, 2, 0).tiles((0, 4, 0, 3))
    assert [default_halo(tokens) for tokens in (1, 2, 8, 14)] == [0, 0, 2, 3]


@dataclass
class Numbered:
    """A scene whose pixels are their own row and column."""

    shape: tuple[int, int]

    def read(self, row: int, column: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        assert row + rows <= self.shape[0]
        assert column + columns <= self.shape[1]
        pixels = np.stack(np.mgrid[row : row + rows, column : column + columns], axis=-1).astype(np.float32)
        return pixels, np.ones((rows, columns), bool)


@pytest.mark.parametrize("shape", [(50, 40), (9, 40), (3, 2), (1, 33)])
def test_tiles_beyond_the_edge_are_reflected(shape: tuple[int, int]) -> None:
    tiling = TileGrid(shape, 16, 4, 1)

    def mirrored(index: int, size: int) -> int:
        period = max(1, 2 * (size - 1))
        return min(index % period, period - index % period) if size > 1 else 0

    for tile in tiling.tiles():
        # What is beyond the tile's own part of the scene is never needed: fewer pixels stick out than it holds, or
        # the tile begins at the scene's first pixel.
        pixels, valid = read_tile(Numbered(shape), tile)  # type: ignore[arg-type]
        for row in range(16):
            for column in range(16):
                y, x = tile.row + row, tile.column + column
                assert pixels[row, column].tolist() == [mirrored(y, shape[0]), mirrored(x, shape[1])]
                assert valid[row, column] == (y < shape[0] and x < shape[1])


def test_valid_tokens_by_share() -> None:
    valid = np.ones((8, 8), bool)
    valid[:2, :2] = False  # 4 of 16
    valid[4:, 4:7] = False  # 12 of 16
    tiling = TileGrid((8, 8), 8, 4, 0)
    assert tiling.valid_tokens(valid).tolist() == [[True, True], [True, False]]
    assert tiling.valid_tokens(valid, 1.0).tolist() == [[False, True], [True, False]]


@given(
    st.tuples(*[st.floats(-1e6, 1e6, allow_subnormal=False)] * 6),
    st.integers(1, 32),
    st.integers(0, 99),
    st.integers(0, 99),
)
def test_token_transform_maps_tokens_to_their_pixels(transform: tuple, patch: int, row: int, column: int) -> None:
    a, b, c, d, e, f = token_transform(transform, patch)
    assert (c, f) == (transform[2], transform[5])
    x = transform[0] * patch * column + transform[1] * patch * row + transform[2]
    y = transform[3] * patch * column + transform[4] * patch * row + transform[5]
    size = 1 + max(abs(value) for value in transform) * patch * 100
    assert a * column + b * row + c == pytest.approx(x, abs=1e-12 * size)
    assert d * column + e * row + f == pytest.approx(y, abs=1e-12 * size)
