"""Baselines that are fitted: against faiss's own decoding, plain counts and independent formulas; damaged bytes."""

from __future__ import annotations

import numpy as np
import pytest

import nec
from nec.bench.methods import Method, fit_methods, methods
from nec.bench.methods.fitted import FittedMethod
from nec.bench.methods.vectors import rotation
from nec.bench.sizes import measure_methods as measure

pytest.importorskip("faiss")

SPEC = "pca-int8:1,5 pca-entropy:0.3,0.03 pq:3,8,24 rq:3,16 sign itq:4,12"
D = 12


def tokens(n: int, seed: int) -> np.ndarray:
    """Correlated tokens (n, 4, 4, 12) with channels of unequal variance, and means that differ by place."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(9).normal(size=(D, D)) * np.logspace(0, -1.5, D)[:, None]
    places = np.random.default_rng(8).normal(size=(4, 4, D))
    return (rng.laplace(size=(n, 4, 4, D)) @ mixing + places).astype(np.float32)


SAMPLE, BATCH = tokens(300, 0), tokens(40, 1)
FITTED = [method.fit(SAMPLE) for method in methods(SPEC)]


def ids(method: Method) -> str:
    return method.name


def relative_error(method: Method, batch: np.ndarray = BATCH) -> float:
    decoded = method.decode(method.encode(batch))
    return float(np.square(decoded - batch).sum() / np.square(batch - SAMPLE.mean(axis=0)).sum())


@pytest.mark.parametrize("method", FITTED, ids=ids)
def test_round_trips(method: FittedMethod) -> None:
    for batch in (BATCH, BATCH[:1], BATCH[:3, :2, :3], np.full((1, 4, 4, D), 1e4, np.float32)):
        blob = method.encode(batch)
        decoded = method.decode(blob)
        assert (decoded.shape, decoded.dtype) == (batch.shape, np.float32)
        np.testing.assert_array_equal(decoded, method.decode(bytes(blob)))
        if method.repeats:
            assert method.encode(decoded) == blob
    assert relative_error(method) < 1
    assert method.nbytes == sum(array.nbytes for array in method._side().values()) > 4 * D


@pytest.mark.parametrize("method", FITTED, ids=ids)
def test_damage_is_found(method: FittedMethod) -> None:
    blob = method.encode(BATCH[:2])
    for place in range(0, len(blob), 7):
        with pytest.raises(nec.CorruptError):
            method.decode(blob[:place] + bytes([blob[place] ^ 1]) + blob[place + 1 :])
    for stop in range(0, len(blob), 9):
        with pytest.raises(nec.CorruptError):
            method.decode(blob[:stop])


@pytest.mark.parametrize("method", FITTED, ids=ids)
def test_payloads_that_a_right_checksum_covers_are_checked(method: FittedMethod) -> None:
    from nec.bench.methods import method as frame

    blob = method.encode(BATCH[:2])
    _, payload = frame.unpack(blob, method.family)
    rng = np.random.default_rng(0)
    for _ in range(40):
        broken = bytearray(payload)
        broken[4 + rng.integers(len(payload) - 4)] ^= 1 << rng.integers(8)
        cut = bytes(broken[: rng.integers(4, len(payload))])
        for body in (bytes(broken), cut):
            try:
                decoded = method.decode(frame.pack(method.family, BATCH[:2], body))
            except nec.CorruptError:
                continue
            assert decoded.shape == BATCH[:2].shape


@pytest.mark.parametrize("spec", ["pca-int8:4", "pca-entropy:0.1", "pq:8", "rq:8", "sign", "itq:8"])
def test_other_fits_settings_and_shapes_are_refused(spec: str) -> None:
    (method,) = methods(spec)
    with pytest.raises(nec.InputError, match="not fitted"):
        method.encode(BATCH)
    mine, other = method.fit(SAMPLE), method.fit(tokens(200, 5))
    with pytest.raises(nec.CorruptError, match="another setting or fit"):
        other.decode(mine.encode(BATCH))
    with pytest.raises(nec.InputError, match="12 values"):
        mine.encode(np.zeros((1, 4, 4, 7), np.float32))
    with pytest.raises(nec.InputError, match="NaN"):
        mine.encode(np.full((1, 4, 4, D), np.nan, np.float32))


@pytest.mark.parametrize(
    ("spec", "named"),
    [("pq:12", "whole bytes"), ("pq:0", "1 to 1024"), ("rq:1.5", "1 to 1024"), ("pca-entropy:1", "between 0 and 1"),
     ("pca-int8:0", "from 1"), ("sign:3", "'sign:3'"), ("itq:0", "from 1")],
)  # fmt: skip
def test_settings_that_are_none_are_refused(spec: str, named: str) -> None:
    with pytest.raises(nec.InputError, match=named):
        methods(spec)


@pytest.mark.parametrize("spec", ["pca-int8:13", "itq:13", "pq:40"])
def test_more_than_the_dimensions_give_is_refused(spec: str) -> None:
    (method,) = methods(spec)
    with pytest.raises(nec.InputError, match="12"):
        method.fit(SAMPLE)


def test_codes_take_their_bits() -> None:
    """Header of a frame, 4 bytes of check, 1 of layout; 16 tokens an image."""
    for method in FITTED:
        if method.family in ("pq", "rq", "sign", "itq"):
            bits = D if method.family == "sign" else int(method.setting)
            assert len(method.encode(BATCH)) <= 16 + len(method.family) + 5 + -(-40 * 16 * bits // 8)


@pytest.mark.parametrize("bits", [3, 8, 24])
def test_product_codes_decode_as_faiss_decodes_them(bits: int) -> None:
    import faiss

    (method,) = methods(f"pq:{bits}")
    method = method.fit(SAMPLE)
    assert isinstance(method, FittedMethod)
    books = method.tables["codebooks"].astype(np.float32)
    quantiser = faiss.ProductQuantizer(D, len(books), min(bits, 8))
    faiss.copy_array_to_vector(books.ravel(), quantiser.centroids)
    assert method.transform is not None
    values = method.transform.project(BATCH).reshape(-1, D)
    wanted = quantiser.decode(quantiser.compute_codes(values.astype(np.float32)))
    found = method.transform.project(method.decode(method.encode(BATCH))).reshape(-1, D)
    np.testing.assert_allclose(found, wanted, atol=2e-5 * np.abs(wanted).max())
    # each part is the nearest codeword, by plain distances
    for i, book in enumerate(books):
        part = values[:, i * book.shape[1] : (i + 1) * book.shape[1]]
        nearest = np.square(part[:, None] - book).sum(axis=2).argmin(axis=1)
        assert (method._codes(values)[:, i] == nearest).mean() > 0.999


def test_residual_codes_decode_as_faiss_decodes_them() -> None:
    import faiss

    (method,) = methods("rq:16")
    method = method.fit(SAMPLE)
    assert isinstance(method, FittedMethod)
    assert method.transform is not None
    books = method.tables["codebooks"].astype(np.float32)
    quantiser = faiss.ResidualQuantizer(D, 2, 8)
    faiss.copy_array_to_vector(books.ravel(), quantiser.codebooks)
    quantiser.is_trained = True
    values = method.transform.project(BATCH).reshape(-1, D).astype(np.float32)
    wanted = quantiser.decode(quantiser.compute_codes(values))
    found = method.transform.project(method.decode(method.encode(BATCH))).reshape(-1, D)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_signs_are_those_of_centred_channels() -> None:
    (method,) = methods("sign")
    method = method.fit(SAMPLE)
    above = SAMPLE.mean(axis=0) < BATCH
    decoded = method.decode(method.encode(BATCH))
    inside = np.abs(BATCH - SAMPLE.mean(axis=0)) > 0.01  # means by place are stored in half precision
    np.testing.assert_array_equal((decoded > SAMPLE.mean(axis=0))[inside], above[inside])
    for channel in range(D):
        values = (SAMPLE - SAMPLE.mean(axis=0))[..., channel]
        wanted = values[values > 0].mean()
        found = (decoded - SAMPLE.mean(axis=0))[..., channel].max()
        assert found == pytest.approx(wanted, rel=0.01)


def test_itq_rotates_towards_signs() -> None:
    values = np.random.default_rng(2).normal(size=(500, 6)) * [3, 2, 1, 1, 0.5, 0.2]

    def loss(turned: np.ndarray) -> float:
        return float(np.square(np.sign(turned) - turned).sum())

    losses = [loss(values @ rotation(values, turns)) for turns in (0, 1, 5, 50)]
    assert losses == sorted(losses, reverse=True)
    np.testing.assert_allclose(rotation(values) @ rotation(values).T, np.eye(6), atol=1e-9)


def test_water_filling_meets_its_error_near_the_gaussian_bound() -> None:
    """Gaussian components of known variances: the error asked for, at the bound's rate plus 0.25 bits and less."""
    rng = np.random.default_rng(0)
    deviations = np.logspace(0.5, -1.5, D)
    sample, batch = (rng.normal(size=(n, 4, 4, D)).astype(np.float32) * deviations.astype("f4") for n in (1500, 500))
    for error in (0.01, 0.1, 0.4):
        (method,) = methods(f"pca-entropy:{error}")
        method = method.fit(sample)
        blob = method.encode(batch)
        found = float(np.square(method.decode(blob) - batch).sum() / np.square(batch).sum())
        assert found == pytest.approx(error, rel=0.06)
        levels = np.logspace(-6, 1, 20001)
        reached = np.minimum(deviations**2, levels[:, None]).sum(axis=1)
        level = levels[np.searchsorted(reached, error * (deviations**2).sum())]
        bound = 0.5 * np.log2(np.maximum(deviations**2 / level, 1)).sum()
        bits = 8 * len(blob) / batch[..., 0].size
        kept = int((deviations**2 > level).sum())
        assert bound < bits < bound + 0.27 * kept + 0.1


def test_entropy_coding_costs_what_the_tables_say() -> None:
    (method,) = methods("pca-entropy:0.05")
    method = method.fit(SAMPLE)
    assert isinstance(method, FittedMethod)
    assert method.transform is not None
    codes = method._codes(method.transform.project(BATCH).reshape(-1, method.transform.rank))
    radii, tables, start, bits = method.tables["radii"].astype(int), method.tables["frequencies"].astype(float), 0, 0.0
    for radius, column in zip(radii, codes.T, strict=True):
        table = tables[start : start + 2 * radius + 2]
        assert table.sum() == 65536
        start += len(table)
        escaped = np.abs(column) > radius
        bits += (16 - np.log2(table[np.where(escaped, 2 * radius + 1, column + radius)])).sum() + 12 * escaped.sum()
    assert len(method.encode(BATCH)) == pytest.approx(bits / 8, rel=0.02, abs=60)


def test_more_bytes_are_closer() -> None:
    for spec in ("pca-int8:1,3,6,12", "pca-entropy:0.5,0.2,0.05,0.01", "pq:4,8,24,48", "rq:4,8,24", "itq:2,6,12"):
        found = [(len(m.encode(BATCH)), relative_error(m)) for m in (m.fit(SAMPLE) for m in methods(spec))]
        assert [size for size, _ in found] == sorted(size for size, _ in found), spec
        assert [error for _, error in found] == sorted((error for _, error in found), reverse=True), spec


def test_constant_embeddings() -> None:
    flat = np.full((20, 2, 2, D), 3.5, np.float32)
    for method in methods("pca-int8:2 pca-entropy:0.1 pq:4 sign itq:4"):
        fitted = method.fit(flat)
        np.testing.assert_allclose(fitted.decode(fitted.encode(flat)), flat, atol=1e-3, err_msg=method.name)


def test_measuring_fits_what_needs_it() -> None:
    wanted = fit_methods(methods("pca-int8:2 uqe:4 rq:8"), lambda: SAMPLE)
    images = np.zeros((40, 8, 8, 3), np.uint8)
    rows = measure(wanted, [(images, BATCH)])
    assert [(row.method.name, row.promise, row.exact) for row in rows] == [
        ("pca-int8-2", "same bytes again", True), ("uqe-4", "same bytes again", True), ("rq-8", "decodes alike", True),
    ]  # fmt: skip
    assert rows[0].side_information > 0
