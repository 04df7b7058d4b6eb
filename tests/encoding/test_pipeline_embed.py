"""What the model sees, against the model called by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny import build_model, smooth

from nec.datasets import ArrayDataset, Dataset
from nec.encoding.embed import Stream, plan_inputs, sample_positions
from nec.errors import InputError

torch = pytest.importorskip("torch")


def by_hand(model: Any, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return model.embed(model.normalize(images))


def stream(model: Any, dataset: Dataset, batch_size: int = 32, workers: int = 2, **options: Any) -> Stream:
    order = np.arange(len(dataset))
    return Stream(model, dataset, order, plan_inputs(model, dataset, order, **options), batch_size, workers)


@pytest.mark.parametrize(("batch_size", "workers"), [(7, 1), (32, 3), (1000, 2)])
def test_blocks_are_the_models_embeddings_in_order(batch_size: int, workers: int) -> None:
    model, images = build_model(), smooth(50, 16, 3)
    ranges, seen = [(10, 30), (30, 50), (0, 3)], []
    blocks = list(stream(model, ArrayDataset(images), batch_size, workers).blocks(ranges, seen.append))
    for (start, stop), block in zip(ranges, blocks, strict=True):
        np.testing.assert_allclose(block, by_hand(model, images[start:stop]), atol=1e-5)
    assert sum(seen) == 43


def test_image_size_resizes_and_positions_follow() -> None:
    model, images = build_model(), smooth(4, 16, 3)
    bigger = stream(model, ArrayDataset(images), image_size=24)
    assert bigger.inputs.grid == (6, 6)
    block = next(bigger.blocks([(0, 4)]))
    np.testing.assert_allclose(block, by_hand(model, ArrayDataset(images).load(range(4), 24)), atol=1e-5)


def test_scale_and_offset() -> None:
    model = build_model()
    images = smooth(4, 16, 3)
    deep = images.astype(np.int16) * 40 - 1000
    with pytest.raises(InputError, match=r"int16 pixels: give --scale"):
        stream(model, ArrayDataset(deep))
    scaled = next(stream(model, ArrayDataset(deep), scale=1 / 10200, offset=1000 / 10200).blocks([(0, 4)]))
    np.testing.assert_allclose(scaled, by_hand(model, images), atol=1e-4)


def test_inputs_that_do_not_fit() -> None:
    model = build_model()
    with pytest.raises(InputError, match=r"has 4 band\(s\), and the model tiny takes 3"):
        stream(model, ArrayDataset(smooth(2, 16, 4)))
    with pytest.raises(InputError, match=r"18x18 px.*patch of 4 px.*--image-size 16"):
        stream(model, ArrayDataset(smooth(2, 18, 3)))
    with pytest.raises(InputError, match="batch size and workers"):
        stream(model, ArrayDataset(smooth(2, 16, 3)), batch_size=0)


def test_a_later_batch_of_another_size_is_named() -> None:
    class Ragged(ArrayDataset):
        def read(self, index: int) -> np.ndarray:
            image = super().read(index)
            return image[:12] if index >= 5 else image

    ragged = Ragged(smooth(8, 16, 3), [f"n{i}" for i in range(8)])
    with pytest.raises(InputError, match=r"n5 is 16x12 px, n\d is 16x16 px.*--image-size"):
        list(stream(build_model(), ragged, batch_size=5).blocks([(0, 8)]))


def test_sample_positions() -> None:
    chosen = sample_positions(100, 30, seed=3)
    assert len(set(chosen)) == 30
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, sample_positions(100, 30, seed=3))
    np.testing.assert_array_equal(sample_positions(5, 30, seed=3), np.arange(5))
