"""The Haar pyramid: its transform against matrices, its rounding, and what it is worth."""

from __future__ import annotations

import numpy as np
import pytest
from codec_samples import smooth_embeddings
from hypothesis import given, settings
from hypothesis import strategies as st

from nec.codec import EmbeddingCodec, pyramid
from nec.errors import InputError


def haar_matrix(size: int, spacing: int) -> np.ndarray:
    """One step along an axis, from the lattice of half the spacing; a last one without partner pairs with itself."""
    matrix, half, root = np.eye(size), spacing // 2, np.sqrt(0.5)
    for at in range(0, size, spacing):
        if at + half < size:
            matrix[np.ix_([at, at + half], [at, at + half])] = [[root, root], [root, -root]]
        elif size > half:
            matrix[at, at] = 1 / root
    return matrix


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 21), columns=st.integers(1, 21), seed=st.integers(0, 9))
def test_pyramid_is_what_matrices_give(rows: int, columns: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=(2, rows, columns, 3))
    expected, spacing = values.copy(), 1
    while spacing < max(rows, columns):
        spacing *= 2
        lattice = np.zeros((rows, columns), bool)
        lattice[:: spacing // 2, :: spacing // 2] = True
        stepped = np.einsum("ab,cd,nbdk->nack", haar_matrix(rows, spacing), haar_matrix(columns, spacing), expected)
        expected = np.where(lattice[..., None], stepped, expected)
    found = pyramid.forward(values)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(pyramid.inverse(found), values, atol=1e-12)


def test_even_grids_keep_their_energy_and_constants_are_all_root() -> None:
    values = np.random.default_rng(0).normal(size=(3, 16, 8, 2))
    np.testing.assert_allclose((pyramid.forward(values) ** 2).sum((1, 2)), (values**2).sum((1, 2)))
    flat = pyramid.forward(np.ones((1, 8, 8, 1)))
    assert flat[0, 0, 0, 0] == pytest.approx(8)
    assert np.abs(flat).sum() == pytest.approx(8)


def test_coarse_coefficients_alone_are_block_means() -> None:
    values = np.random.default_rng(1).normal(size=(1, 8, 8, 2))
    coefficients = pyramid.forward(values)
    coefficients[:, pyramid.octaves(8, 8) < 2] = 0  # root and details at spacing 8 stay
    means = values.reshape(1, 2, 4, 2, 4, 2).mean((2, 4)).repeat(4, 1).repeat(4, 2)
    np.testing.assert_allclose(pyramid.inverse(coefficients), means, atol=1e-12)


def test_relatives_are_the_sums_that_the_page_defines() -> None:
    sizes = np.arange(1, 65).reshape(8, 8, 1, 1)
    wave = next(
        w for w in EmbeddingCodec.fit(smooth_embeddings(9, 8, 8, 2), spatial="haar")._prior.resolutions(8, 8)[3]
    )
    assert (wave.kind, wave.step) == ("across", 2)
    parent, parents, siblings, around = pyramid.Relatives(wave, 8, 8).features(sizes)
    assert siblings.any() == around.any() == False  # noqa: E712
    # the cell of row 4, column 7 lies in the cell (1, 1) at spacing 4: its details are at (4, 6), (6, 4), (6, 6)
    assert parent[2, 3, 0, 0] == 64 * sizes[4, 6]
    total = sizes[[4, 6, 6], [6, 4, 6], 0, 0].sum()
    left, up, corner = total - 3 * 4, total - 3 * 32, total - 3 * 36
    assert parents[2, 3, 0, 0] == 4 * (9 * total + 3 * left + 3 * up + corner)


@settings(max_examples=30, deadline=None)
@given(shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)), level=st.integers(-24, 40))
def test_decoded_batches_encode_to_the_same_bytes(
    codecs: dict[str, EmbeddingCodec], shape: tuple[int, int, int], level: int
) -> None:
    codec, quality = codecs["haar"], 2 ** (level / 8)
    blob = codec.encode(smooth_embeddings(*shape, 5, seed=level & 7), quality)
    assert codec.encode(codec.decode(blob), quality) == blob


def test_rounding_by_cost_lowers_rate_and_error_together(
    codecs: dict[str, EmbeddingCodec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At equal error it needs fewer bytes than the nearest integers."""
    batch, points = smooth_embeddings(60, 8, 8, 5, seed=5), {}
    for name, cost in (("nearest", 0.0), ("cost", 0.13)):
        monkeypatch.setattr("nec.codec.prior.DEAD_ZONE", cost)
        codec = EmbeddingCodec.from_dict(codecs["haar"].to_dict())
        points[name] = []
        for level in range(-20, 5, 2):
            blob = codec.encode(batch, 2 ** (level / 8))
            points[name].append((np.square(codec.decode(blob) - batch).mean(), len(blob)))
    for error, size in points["cost"][2:-2]:
        nearest = np.array(sorted(points["nearest"]))
        assert size < np.interp(error, nearest[:, 0], nearest[:, 1])


def test_a_pyramid_is_smaller_at_low_rates(codecs: dict[str, EmbeddingCodec]) -> None:
    batch = smooth_embeddings(60, 8, 8, 5, seed=6)

    def curve(name: str) -> np.ndarray:
        blobs = [codecs[name].encode(batch, 2 ** (level / 8)) for level in range(-24, 1, 2)]
        return np.array([(np.square(codecs[name].decode(b) - batch).mean(), len(b)) for b in blobs])

    tokens, haar = curve("hierarchical"), curve("haar")
    inside = (haar[:, 0] > 0.5) & (haar[:, 0] < tokens[:, 0].max())
    assert inside.sum() > 3
    assert np.all(haar[inside, 1] < np.interp(haar[inside, 0], tokens[::-1, 0], tokens[::-1, 1]))


@pytest.mark.parametrize(("rows", "columns"), [(8, 8), (8, 4), (6, 5)])
def test_a_prefix_of_a_frame_is_the_grid_of_block_means(
    codecs: dict[str, EmbeddingCodec], rows: int, columns: int
) -> None:
    codec, batch = codecs["haar"], smooth_embeddings(6, rows, columns, 5, seed=7)
    blob = codec.encode(batch, 4.0)
    whole = codec.decode(blob).astype(np.float64)
    for spacing in (2, 4, 8):
        prefix = blob[: codec.coarse_size(blob[:64], spacing)]
        coarse = codec.decode_coarse(prefix, spacing)
        assert coarse.shape == (6, -(-rows // spacing), -(-columns // spacing), 5)
        assert len(prefix) < len(blob)
        if rows % spacing == 0 and columns % spacing == 0:
            blocks = whole.reshape(6, rows // spacing, spacing, columns // spacing, spacing, 5).mean((2, 4))
            np.testing.assert_allclose(coarse, blocks, atol=1e-4)


@pytest.mark.parametrize("gains", [(), (0,), (float("nan"),), (-1, 2), (1,) * 17])
def test_gains_are_checked(gains: tuple[float, ...]) -> None:
    with pytest.raises(InputError, match="gains"):
        EmbeddingCodec.fit(smooth_embeddings(4, 4, 4, 3), spatial="haar", gains=gains)


def test_a_pyramid_needs_the_hierarchical_prior() -> None:
    with pytest.raises(InputError, match="hierarchical"):
        EmbeddingCodec.fit(smooth_embeddings(4, 4, 4, 3), prior="factorized", spatial="haar")
