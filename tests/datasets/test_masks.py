"""Masks from files to class indices and coarser grids, against plain loops and dictionaries."""

from __future__ import annotations

import io
import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image

from nec.datasets import IGNORE, ArrayDataset
from nec.datasets.images import resize
from nec.datasets.masked import DUBAI_CODING, POTSDAM_CODING, POTSDAM_PREPARED_CODING, read_classes
from nec.datasets.masks import MaskCoding, downscale_image, downscale_mask, resize_mask
from nec.errors import InputError

MASKS = npst.arrays(np.uint8, (7, 9), elements=st.sampled_from([0, 1, 2, 253, IGNORE]))


def encoded(pixels: np.ndarray | Image.Image, form: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    (Image.fromarray(pixels) if isinstance(pixels, np.ndarray) else pixels).save(out, form, **options)
    return out.getvalue()


def painted(indices: np.ndarray, colors: list[tuple[int, int, int]]) -> np.ndarray:
    return np.array(colors, np.uint8)[indices]


@settings(max_examples=30, deadline=None)
@given(npst.arrays(np.int64, (5, 6), elements=st.integers(0, 6)), st.booleans())
def test_colours_and_palettes_become_indices_and_ignored_ones_never_a_class(indices: np.ndarray, flat: bool) -> None:
    colors = [*(DUBAI_CODING.colors or ()), (0x9B, 0x9B, 0x9B), (0, 0, 0)]
    image = Image.fromarray(painted(indices, colors))
    if flat:
        image = image.quantize(16, dither=Image.Dither.NONE)
        assert image.mode == "P"
    expected = np.where(indices > 4, IGNORE, indices)
    np.testing.assert_array_equal(DUBAI_CODING.decode(encoded(image), "m.png"), expected)


def test_unknown_colours_are_one_error_with_file_colour_and_count() -> None:
    pixels = np.full((10, 10, 3), (0x3C, 0x10, 0x98), np.uint8)
    pixels[:2, :3] = (1, 2, 3)
    pixels[9, 9] = (7, 7, 7)
    with pytest.raises(InputError, match=r"a/m.png has 6 pixel\(s\) of the colour #010203 and 1 of 1 other colours"):
        DUBAI_CODING.decode(encoded(pixels), "a/m.png")
    smooth = np.kron(painted(np.arange(4).reshape(2, 2), list(DUBAI_CODING.colors or ())), np.ones((9, 9, 1), np.uint8))
    with pytest.raises(InputError, match=r"JPEG.*use the original"):
        DUBAI_CODING.decode(encoded(smooth, "JPEG", quality=80), "m.jpg")
    with pytest.raises(InputError, match=r"m.png has 16 pixel\(s\) of the colour #030303"):
        DUBAI_CODING.decode(encoded(np.full((4, 4), 3, np.uint8)), "m.png")
    with pytest.raises(InputError, match="uint16"):
        DUBAI_CODING.decode(encoded(np.full((4, 4), 300, np.uint16)), "m.png")


def test_the_two_faulty_potsdam_labels_are_read_where_they_are_clear() -> None:
    # as published: (252, 255, 0) for cars in tile 6_7, lossy colours and blends of neighbours in tile 4_12
    pixels = np.array([[(252, 255, 0), (9, 222, 221), (225, 227, 227), (127, 255, 127), (255, 0, 255)]], np.uint8)
    for tile in ("6_7", "4_12"):
        mask = POTSDAM_CODING.decode(encoded(pixels), f"5_Labels_all/top_potsdam_{tile}_label.tif")
        assert mask.tolist() == [[4, 2, 0, IGNORE, IGNORE]]
    with pytest.raises(InputError, match="#FCFF00"):
        POTSDAM_CODING.decode(encoded(pixels[:, :1]), "top_potsdam_6_8_label.tif")


def test_numbers_as_mmsegmentation_writes_them() -> None:
    numbers = np.array([[0, 1, 6, 255]], np.uint8)
    assert POTSDAM_PREPARED_CODING.decode(encoded(numbers), "m.png").tolist() == [[IGNORE, 0, 5, IGNORE]]
    palette = Image.fromarray(numbers)
    palette.putpalette(list(range(256)) * 3)
    assert palette.mode == "P"
    assert POTSDAM_PREPARED_CODING.decode(encoded(palette), "m.png").tolist() == [[IGNORE, 0, 5, IGNORE]]
    with pytest.raises(InputError, match=r"m.png has 2 pixel\(s\) of the number 7, which is no class: 1 to 6"):
        POTSDAM_PREPARED_CODING.decode(encoded(np.array([[7, 1, 7]], np.uint8)), "m.png")
    with pytest.raises(InputError, match="class numbers are expected"):
        POTSDAM_PREPARED_CODING.decode(encoded(np.zeros((2, 2, 3), np.uint8)), "m.png")
    deep = MaskCoding(("a", "b"), values="numbers").decode(encoded(np.array([[1, 0, 255]], np.uint16)), "m.png")
    assert deep.tolist() == [[1, 0, IGNORE]]


def test_classes_json() -> None:
    none = {"name": "none", "color": [9, 9, 9], "ignore": True}
    text = json.dumps([{"name": "a", "color": "#FF0000"}, none, {"name": "b", "color": "00ff00"}]).encode()
    coding = read_classes(text, "x")
    assert (coding.classes, coding.colors, coding.ignored) == (("a", "b"), ((255, 0, 0), (0, 255, 0)), ((9, 9, 9),))
    pixels = np.array([[(255, 0, 0), (9, 9, 9), (0, 255, 0)]], np.uint8)
    assert coding.decode(encoded(pixels), "m").tolist() == [[0, IGNORE, 1]]
    assert coding.decode(encoded(np.array([[1, 0, 255]], np.uint8)), "m").tolist() == [[1, 0, IGNORE]]  # numbers
    grey = read_classes(b'{"classes": [{"name": "no", "color": "#000000"}, {"name": "yes", "color": "#FFFFFF"}]}', "x")
    assert grey.decode(encoded(np.array([[0, 255]], np.uint8)), "m").tolist() == [[0, 1]]  # not 255: ignored
    plain = read_classes(b'[{"name": "a"}, {"name": "b"}]', "x")
    assert plain.decode(encoded(np.array([[1, 255]], np.uint8)), "m").tolist() == [[1, IGNORE]]
    for bad, message in {
        b"{": "no list of",
        b'["a"]': "no list of",
        b"[]": "has 0 classes",
        b'[{"name": "a"}, {"name": "a"}]': "name a twice",
        b'[{"name": "a", "color": "#0"}]': "has the colour '#0'",
        b'[{"name": "a", "color": [1, 2, 300]}]': "has the colour",
        b'[{"name": "a", "color": "#000001"}, {"name": "b"}]': "some classes only",
        b'[{"name": "a", "ignore": true}]': "write 255",
    }.items():
        with pytest.raises(InputError, match=message):
            read_classes(bad, "classes.json")


@settings(max_examples=60, deadline=None)
@given(MASKS, st.integers(1, 4))
def test_downscaled_masks_vote_and_an_ignored_pixel_ignores_its_block(mask: np.ndarray, factor: int) -> None:
    small = downscale_mask(mask, factor)
    assert small.shape == (7 // factor, 9 // factor)
    for (row, column), value in np.ndenumerate(small):
        block = mask[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor].ravel().tolist()
        counts = Counter(block)
        expected = min(counts, key=lambda v: (-counts[v], v))
        assert value == (IGNORE if IGNORE in block else expected)


@settings(max_examples=30, deadline=None)
@given(
    npst.arrays(st.sampled_from([np.uint8, np.uint16, np.int16, np.float32]), (6, 8, 2), elements=st.integers(0, 200))
)
def test_downscaled_images_are_means(image: np.ndarray) -> None:
    for factor in (2, 3):
        small = downscale_image(image, factor)
        assert small.dtype == image.dtype
        height, width = 6 // factor, 8 // factor
        blocks = image[: height * factor, : width * factor].reshape(height, factor, width, factor, 2)
        tolerance = 1e-4 if image.dtype.kind == "f" else 0.5
        assert np.abs(small.astype(float) - blocks.astype(float).mean(axis=(1, 3))).max() <= tolerance + 1e-9


def test_resized_masks_lie_over_resized_images() -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 20:40] = 3
    image = np.where(mask == 3, np.uint8(200), np.uint8(0))[..., None]
    for size in (20, (10, 30), (60, 60), (40, 60)):
        small = resize_mask(mask, size)
        over = resize(image, size)[..., 0] > 100
        assert small.shape == over.shape
        np.testing.assert_array_equal(small == 3, over)
    rng = np.random.default_rng(0).integers(0, 250, (8, 8)).astype(np.uint8)
    np.testing.assert_array_equal(resize_mask(rng, 16), np.kron(rng, np.ones((2, 2), np.uint8)))


def test_array_dataset_with_masks() -> None:
    images = np.zeros((2, 4, 4, 3), np.uint8)
    masks = np.full((2, 4, 4), IGNORE, np.uint8)
    masks[1] = 1
    ds = ArrayDataset(
        images, masks=masks, mask_classes=["a", "b"], mask_colors=[(0, 0, 0), (1, 1, 1)], split=["train", "test"]
    )
    np.testing.assert_array_equal(ds.masks([1, 0]), masks[::-1])
    assert (ds.has_masks, ds.mask_classes, ds.mask_colors) == (True, ["a", "b"], [(0, 0, 0), (1, 1, 1)])
    assert list(ds.indices("test")) == [1]
    with pytest.raises(InputError, match="masks hold 2"):
        ArrayDataset(images, masks=masks * 0 + 2, mask_classes=["a", "b"])
    with pytest.raises(InputError, match="given together"):
        ArrayDataset(images, masks=masks)
    with pytest.raises(InputError, match=r"masks of \(2, 4, 4\)"):
        ArrayDataset(images, masks=masks[:1], mask_classes=["a", "b"])
    plain = ArrayDataset(images)
    assert not plain.has_masks
    with pytest.raises(InputError, match="has no masks"):
        plain.masks([0])
