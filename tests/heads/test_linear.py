"""The NumPy probe against scikit-learn's solver, and the pooling against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nec.errors import InputError
from nec.heads import fit_path, fit_probe, pooled_features


def _blobs(n: int, f: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    scale = rng.uniform(0.1, 10, f)
    return (rng.normal(size=(n, f)) + rng.normal(size=(classes, f))[labels]) * scale + 5, labels


@pytest.mark.parametrize(("n", "f", "classes"), [(300, 12, 4), (40, 60, 3), (50, 5, 2)])
@pytest.mark.parametrize("l2", [1e-1, 1e-2])
def test_same_optimum_as_scikit_learn(n: int, f: int, classes: int, l2: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    features, labels = _blobs(n, f, classes, seed=n)
    probe = fit_path(features, labels, classes, [l2], tolerance=1e-9, max_iterations=2000)[0]
    mean, std = features.mean(axis=0), features.std(axis=0)
    x = (features - mean) / std

    def objective(weight: np.ndarray, bias: np.ndarray) -> float:
        scores = x @ weight + bias
        loss = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(n), labels]
        return float(loss.mean() + l2 / 2 * (weight**2).sum())

    weight, bias = probe.weight * std[:, None], probe.bias + mean @ probe.weight
    if classes > 2:
        reference = linear_model.LogisticRegression(C=1 / (n * l2), tol=1e-10, max_iter=10000).fit(x, labels)
        expected = reference.coef_.T, reference.intercept_
    else:  # scikit-learn's two-class model has one weight vector w = w1 - w0, so |W|^2 = |w|^2 / 2
        reference = linear_model.LogisticRegression(C=2 / (n * l2), tol=1e-10, max_iter=10000).fit(x, labels)
        half, offset = reference.coef_[0] / 2, reference.intercept_[0] / 2
        expected = np.stack([-half, half], axis=1), np.array([-offset, offset])
    assert objective(weight, bias) <= objective(*expected) + 1e-8
    np.testing.assert_allclose(weight, expected[0], atol=2e-4)
    np.testing.assert_allclose(bias - bias.mean(), expected[1] - expected[1].mean(), atol=2e-3)


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(1, 4), y=st.integers(1, 5), x=st.integers(1, 5), d=st.integers(1, 3), seed=st.integers(0, 2**32 - 1)
)
def test_pooling_by_hand(n: int, y: int, x: int, d: int, seed: int) -> None:
    grid = np.random.default_rng(seed).normal(size=(n, y, x, d)).astype(np.float32)
    features = pooled_features(grid)
    assert features.shape == (n, d * (6 if y > 1 and x > 1 else 2))
    for i in range(n):
        for c in range(d):
            values = [float(grid[i, r, q, c]) for r in range(y) for q in range(x)]
            assert features[i, c] == pytest.approx(np.mean(values), abs=1e-5)
            assert features[i, d + c] == pytest.approx(np.std(values), abs=1e-5)
            if y > 1 and x > 1:
                corner = [float(grid[i, r, q, c]) for r in range(y // 2, y) for q in range(x // 2)]
                assert features[i, 4 * d + c] == pytest.approx(np.mean(corner), abs=1e-5)


def test_constant_features_are_ignored() -> None:
    features, labels = _blobs(60, 4, 3, seed=1)
    padded = np.hstack([features, np.full((60, 1), 7.0)])
    probe = fit_path(padded, labels, 3, [1e-2])[0]
    assert np.isfinite(probe.weight).all()
    assert np.abs(probe.weight[-1]).max() == 0


def test_penalty_is_chosen_on_validation() -> None:
    rng = np.random.default_rng(0)
    signal, labels = _blobs(400, 3, 3, seed=3)
    noisy = np.hstack([signal, rng.normal(size=(400, 300))])
    train, val = (noisy[:60], labels[:60]), (noisy[60:], labels[60:])
    probe = fit_probe(train, val, 3)
    shares = [np.mean(p.predict(val[0]) == val[1]) for p in fit_path(*train, 3)]
    assert np.mean(probe.predict(val[0]) == val[1]) == max(shares)


@pytest.mark.parametrize(
    ("features", "labels"),
    [
        (np.zeros((3, 2)), np.zeros(2, int)),
        (np.zeros((0, 2)), np.zeros(0, int)),
        (np.full((2, 2), np.nan), np.array([0, 1])),
    ],
)
def test_bad_arrays(features: np.ndarray, labels: np.ndarray) -> None:
    with pytest.raises(InputError):
        fit_path(features, labels, 2)
