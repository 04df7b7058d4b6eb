"""Tokens of tiled scenes against a sliding window: every token from the centre of a tile of its own.

What differs is what a model makes of a token in other surroundings and at another place of its tile. The tolerances
are on the mean squared difference as a share of the reference tokens' variance; measured: see docs/rasters.md.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import nec
from nec.errors import InputError
from nec.scenes import open_scene
from nec.scenes.tiles import TileGrid, default_halo, match, read_tile, split_positions

torch = pytest.importorskip("torch")
rasterio = pytest.importorskip("rasterio")

SIDE = 128  # pixels of the scene: 16 x 16 tokens
# Half of the tile: nearer to the scene's edge the reference is not at its tile's centre either.
INNER = (slice(4, -4), slice(4, -4))


class Runner:
    """The shipped model on a scene."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.model = nec.load_model("eurosat-tiny")
        scene = open_scene(path, sensor="sentinel-2-l2a")
        self.scene, self.normalization = match(scene, self.model.config)
        self.tile, self.patch = self.model.config.image_size, self.model.config.patch_size
        self.tokens = self.tile // self.patch
        places, _ = split_positions(self.model.codec, self.tokens)
        assert places is not None
        self.places = places

    def embed(self, pixels: list[np.ndarray], level: bool) -> np.ndarray:
        with torch.inference_mode():
            tokens = self.model.embed(torch.from_numpy(self.normalization(np.stack(pixels))))
        return tokens - self.places if level else tokens

    def tiled(self, halo: int, level: bool = True) -> np.ndarray:
        tiling = TileGrid((SIDE, SIDE), self.tile, self.patch, halo)
        whole = (0, tiling.grid[0], 0, tiling.grid[1])
        out = np.full((*tiling.grid, self.places.shape[-1]), np.nan, np.float32)
        tiles = tiling.tiles()
        for tile, tokens in zip(tiles, self.embed([read_tile(self.scene, t)[0] for t in tiles], level), strict=True):
            out[tile.within(whole)] = tokens[tile.inner]
        assert np.isfinite(out).all()
        return out

    def sliding(self, level: bool = True) -> np.ndarray:
        """Written without `TileGrid`: the tile of token t begins half a tile before it, within the scene."""
        count = SIDE // self.patch
        starts = [min(max(t - self.tokens // 2, 0), count - self.tokens) for t in range(count)]
        firsts = sorted(set(starts))
        corners = [(y, x) for y in firsts for x in firsts]
        pixels = [self.scene.read(y * self.patch, x * self.patch, self.tile, self.tile)[0] for y, x in corners]
        made = dict(zip(corners, self.embed(pixels, level), strict=True))
        return np.stack([[made[y, x][i - y, j - x] for j, x in enumerate(starts)] for i, y in enumerate(starts)])


def share(difference: np.ndarray, reference: np.ndarray) -> float:
    """Mean squared difference as a share of the reference's variance, both summed over the channels."""
    reference = reference[INNER].reshape(-1, reference.shape[-1])
    return float((difference[INNER] ** 2).sum(-1).mean() / reference.var(0).sum())


def step_across_borders(tokens: np.ndarray, step: int) -> float:
    """Squared steps between neighbours across the borders of blocks, as a multiple of those within blocks."""
    steps = ((tokens[1:] - tokens[:-1]) ** 2).sum(-1).mean(1)
    border = np.arange(1, len(tokens)) % step == 0
    return float(steps[border].mean() / steps[~border].mean())


@pytest.fixture(scope="module", params=["generated", "ssl4eos12_val_0173706_0.tif", "ssl4eos12_val_0080717_0.tif"])
def runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    if request.param != "generated":
        path = request.getfixturevalue("data_dir") / "geotiff" / "sentinel2_l2a" / request.param
        if not path.is_file():
            pytest.skip(f"{path} not found")
        return Runner(path)
    path = tmp_path_factory.mktemp("seams") / "generated.tif"
    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE)))
    spectrum = np.fft.fft2(rng.normal(size=(12, SIDE, SIDE))) / np.maximum(frequency, 1 / SIDE)
    texture = np.fft.ifft2(spectrum).real  # amplitudes fall with the frequency, as in photographs
    bands = (1000 + 300 * texture / texture.std()).clip(1, 10000).astype(np.uint16)
    profile = {"count": 12, "height": SIDE, "width": SIDE, "dtype": "uint16", "crs": "EPSG:32633"}
    with rasterio.open(path, "w", "GTiff", transform=rasterio.Affine(10, 0, 0, 0, -10, 0), **profile) as file:
        file.write(bands)
    return Runner(path)


def test_more_halo_comes_nearer_to_the_sliding_window(runner: Runner) -> None:
    reference = runner.sliding()
    shares = [share(runner.tiled(halo) - reference, reference) for halo in range(4)]
    assert all(more < 0.9 * less for less, more in pairwise(shares))
    assert shares[default_halo(runner.tokens)] < 0.15
    assert shares[3] < 0.05


def test_borders_do_not_show(runner: Runner) -> None:
    tokens = runner.tiled(2)
    jump = max(step_across_borders(tokens, 4), step_across_borders(tokens.swapaxes(0, 1), 4))
    assert jump < 1.2
    assert step_across_borders(runner.tiled(0, level=False), 8) > 1.3 * jump


def test_places_make_most_of_the_difference(runner: Runner) -> None:
    level, raw = runner.sliding(), runner.sliding(level=False)
    assert share(runner.tiled(2) - level, level) < 0.3 * share(runner.tiled(2, level=False) - raw, raw)


def test_any_window_gives_the_same_tokens(runner: Runner) -> None:
    whole = runner.tiled(2)
    tiling = TileGrid((SIDE, SIDE), runner.tile, runner.patch, 2)
    for window in ((0, 8, 0, 8), (3, 11, 5, 16), (15, 16, 0, 16)):
        for tile in tiling.tiles(window):
            tokens = runner.embed([read_tile(runner.scene, tile)[0]], level=True)[0][tile.inner]
            y, x = tile.within((0, 16, 0, 16))
            np.testing.assert_allclose(tokens, whole[y, x], atol=1e-4)  # batches of another size round otherwise


def test_the_example_of_the_document_makes_these_tokens(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    document = Path(__file__).parents[2] / "docs" / "rasters.md"
    code = re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)[-1]
    opened = open_scene(runner.path, sensor="sentinel-2-l2a")
    monkeypatch.setattr("nec.scenes.open_scene", lambda path, sensor: opened)
    names: dict = {}
    exec(code, names)
    # The last blocks' tiles of the chips, which are larger than the part that `tiled` takes, lie elsewhere.
    np.testing.assert_allclose(names["tokens"][:12, :12], runner.tiled(2)[:12, :12], atol=1e-4)


def test_places_of_another_tile_size() -> None:
    codec = nec.load_model("eurosat-tiny").codec
    with pytest.raises(InputError, match="8 x 8 places, and tiles have 14 x 14"):
        split_positions(codec, 14)
    places, plain = split_positions(codec, 8)
    assert split_positions(plain, 14) == (None, plain)
    batch = np.random.default_rng(0).normal(size=(2, 8, 8, codec.dimensions)).astype(np.float32)
    np.testing.assert_array_equal(codec.symbols(batch + places), plain.symbols(batch))
