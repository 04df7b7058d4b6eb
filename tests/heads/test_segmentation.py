"""Segmentation heads: they learn what is there, and no ignored pixel enters loss, score or figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from nec.errors import InputError  # noqa: E402
from nec.heads import HeadResult, HeadSettings, train_head  # noqa: E402
from nec.heads.network import Segmenter, fit_arrays, masked_cross_entropy, turned  # noqa: E402
from nec.store import IGNORE  # noqa: E402

TINY = HeadSettings(width=8, blocks=1, epochs=2, batch=8)
Masked = tuple[np.ndarray, np.ndarray]


def fit(train: Masked, val: Masked, stage: Any, settings: HeadSettings, seed: int) -> tuple[Segmenter, int, float]:
    return fit_arrays(train, val, "segmentation", 3, stage, settings.resolve("segmentation", 96, False), seed)


def segment(store: Any, **options: Any) -> HeadResult:
    sizes = {key: options.pop(key) for key in ("epochs", "width", "blocks") if key in options}
    settings = HeadSettings(**{"epochs": 1} | sizes)
    return train_head(store, "segmentation", settings=settings, **options)


def blocks(images: int, seed: int, grid: int = 4, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Grids (n, 4, 4, 6) of blocks of 2x2 tokens of one class each, over noise; masks (n, 16, 16)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (images, grid // 2, grid // 2))
    tokens = coarse.repeat(2, axis=1).repeat(2, axis=2)
    patterns = np.random.default_rng(99).normal(size=(classes, 6))
    grids = 2 * patterns[tokens] + 0.5 * rng.normal(size=(*tokens.shape, 6))
    masks = tokens.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)
    return grids.astype(np.float32), masks


def test_colour_blocks_are_learnt() -> None:
    train, val, test = blocks(96, 0), blocks(16, 1), blocks(32, 2)
    head, epoch, score = fit(train, val, None, HeadSettings(width=16, blocks=1, epochs=12), 0)
    predicted = head.predict(test[0])
    assert predicted.shape == test[1].shape
    assert predicted.dtype == np.uint8
    overlaps = [np.sum((predicted == c) & (test[1] == c)) / np.sum((predicted == c) | (test[1] == c)) for c in range(3)]
    assert min(overlaps) > 0.85
    assert score > 0.85
    assert 1 <= epoch <= 12
    probabilities = head.probabilities(test[0])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), predicted)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0, 1))
def test_ignored_pixels_never_enter_the_loss(seed: int, share: float) -> None:
    """Neither value nor gradient depends on the logits where the mask says so; the rest is the mean by definition."""
    rng = np.random.default_rng(seed)
    truth = torch.from_numpy(rng.integers(0, 4, (2, 6, 6)))
    ignored = torch.from_numpy(rng.random((2, 6, 6)) < share)
    truth[ignored] = IGNORE
    logits = torch.from_numpy(rng.normal(size=(2, 4, 6, 6))).requires_grad_()
    loss = masked_cross_entropy(logits, truth)
    loss.backward()
    assert logits.grad is not None
    assert not logits.grad.permute(0, 2, 3, 1)[ignored].any()
    odds = logits.detach().log_softmax(dim=1).permute(0, 2, 3, 1)[~ignored]
    expected = -odds[torch.arange(len(odds)), truth[~ignored]].sum() / max(1, len(odds))
    torch.testing.assert_close(loss.detach(), expected)


def test_what_is_under_ignored_pixels_does_not_show() -> None:
    """Training on masks whose ignored part once held other classes gives the same weights, bit for bit."""
    (grids, masks), val = blocks(24, 3), blocks(8, 4)
    hidden = np.random.default_rng(5).random(masks.shape) < 0.3
    first, second = masks.copy(), (masks + 1) % 3
    second = np.where(hidden, second, masks).astype(np.uint8)
    first[hidden] = second[hidden] = IGNORE
    heads = [fit((grids, part), val, None, TINY, 1)[0] for part in (first, second)]
    for a, b in zip(*(head.state_dict().values() for head in heads), strict=True):
        assert torch.equal(a, b)


def test_turns_are_the_symmetries_of_the_square() -> None:
    grid = torch.arange(32).view(1, 4, 4, 2)
    seen = {tuple(turned(grid, which).flatten().tolist()) for which in range(8)}
    expected = {
        tuple(torch.rot90(image, k, (1, 2)).flatten().tolist()) for image in (grid, grid.flip(1)) for k in range(4)
    }
    assert seen == expected


def test_seeds_and_random_state() -> None:
    train, val = blocks(16, 6), blocks(8, 7)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    settings = replace(TINY, drop_path=0.2)
    heads = [fit(train, val, None, settings, seed)[0].state_dict() for seed in (0, 0, 1)]
    torch.testing.assert_close(torch.rand(2), expected)
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    assert not torch.equal(heads[0]["head.first_conv.weight"], heads[2]["head.first_conv.weight"])


def test_the_decoder_stage_takes_the_grid_and_is_trained() -> None:
    from nec.models import ModelConfig, NecModel

    torch.manual_seed(0)
    sizes = {"image_size": 16, "patch_size": 8, "embed_dim": 8, "depth": 1, "num_heads": 2}
    sizes |= {"decoder_embed_dim": 12, "decoder_depth": 1, "decoder_num_heads": 2}
    model = NecModel(ModelConfig.from_dict(sizes))
    stage = model.decoder_stage()  # of 2x2 tokens
    assert torch.equal(stage.on_grid((2, 2)).positions, stage.positions)
    grids, masks = blocks(16, 8)
    grids = np.concatenate([grids, grids[..., :2]], axis=-1)
    head, _, _ = fit((grids, masks), (grids[:4], masks[:4]), stage, TINY, 0)
    assert head.stage.positions.shape == (1, 16, 12)
    assert not torch.equal(head.stage.embed.weight, stage.embed.weight)
    assert head.predict(grids[:2]).shape == (2, 16, 16)


def test_the_default_recipe_sees_as_many_images() -> None:
    for images in (50, 450, 700):
        assert abs(HeadSettings().resolve("segmentation", images, False).epochs * images - 3000) <= images


@pytest.fixture
def masked_store(make_store: Callable[..., Any]) -> Any:
    store = make_store()
    store.labels = store.class_names = None
    grids, masks = blocks(90, 9)
    masks[::7, :3] = IGNORE
    store.embeddings, store.masks = grids, masks
    store.mask_classes, store.mask_colors = ["a", "b", "never", "c"], [(255, 0, 0), (0, 255, 0), (9, 9, 9), (0, 0, 255)]
    masks[masks == 2] = 3
    store.groups = np.array([f"tile {i // 15}" for i in range(90)])
    store.split = np.repeat(["train", "train", "train", "val", "test", "test"], 15)
    return store


def test_a_store_is_segmented(masked_store: Any) -> None:
    report = segment(masked_store, epochs=6, width=16, blocks=1, seeds=2).report
    values = json.loads(report.to_json())
    assert {"overall_accuracy", "mean_iou", "mean_f1", "per_class", "bytes_per_image", "seconds"} <= values.keys()
    assert (report.train_images, report.val_images, report.test_images) == (45, 15, 30)
    labelled = int((masked_store.masks[60:] != IGNORE).sum())
    assert np.sum(report.figures["confusion"]) == 2 * labelled
    assert values["per_class"]["never"] == {"iou": None, "f1": None, "accuracy": None}
    assert values["mean_iou"] > 0.6
    assert values["mean_iou_std"] is not None
    assert [run["epoch"] for run in values["runs"]] == [run["epoch"] for run in report.figures["runs"]]


def test_the_test_part_never_reaches_the_fit(masked_store: Any) -> None:
    first = segment(masked_store, epochs=1, width=8, blocks=0)
    masked_store.embeddings[60:] *= 30
    masked_store.masks[60:] = 0
    second = segment(masked_store, epochs=1, width=8, blocks=0)
    for a, b in zip(first.head.module.state_dict().values(), second.head.module.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_drawn_parts_take_whole_groups(masked_store: Any) -> None:
    from nec.heads.splits import choose_split

    for seed in range(5):
        split = choose_split(
            np.zeros(90, np.int64), None, ["x"], test_fraction=0.3, seed=seed, groups=masked_store.groups
        )
        tiles = [set(masked_store.groups[part]) for part in (split.train, split.val, split.test)]
        assert [len(part) for part in tiles] == [3, 1, 2]
        assert len(set.union(*tiles)) == 6


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"masks": None}, {}, "no masks"),
        ({"mask_classes": ["only"]}, {}, "at least two"),
        ({"masks": np.full((90, 16, 16), IGNORE, np.uint8)}, {}, "no pixel of the training part"),
        ({"masks": np.full((90, 16, 16), 4, np.uint8)}, {}, "none of the 4 classes"),
        ({}, {"seeds": 0}, "at least 1"),
        ({}, {"with_decoder": True}, "--model"),
        ({"split": None}, {}, "--test-fraction"),
        ({"split": None, "groups": np.repeat(["one", "two"], 45)}, {"test_fraction": 0.2}, "3 different groups"),
    ],
)
def test_bad_requests(masked_store: Any, change: dict, options: dict, message: str) -> None:
    for name, value in change.items():
        setattr(masked_store, name, value)
    with pytest.raises(InputError, match=message):
        segment(masked_store, **options)
