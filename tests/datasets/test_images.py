"""Decoding of single images, and resizing against Pillow and plain arithmetic."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nec.datasets import ArrayDataset
from nec.datasets.images import decode_image, resize
from nec.errors import InputError


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_modes() -> None:
    rgb = noise(9, 7, 3)
    opaque = np.dstack([rgb, np.full((9, 7), 255, np.uint8)])
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(rgb)), "x"), rgb)
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(opaque)), "x"), rgb)
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(rgb[..., 0])), "x"), rgb[..., :1])
    sixteen = (rgb[..., 0].astype(np.uint16) * 257)[..., None]
    np.testing.assert_array_equal(decode_image(encoded(Image.fromarray(sixteen[..., 0])), "x"), sixteen)
    few = (rgb // 128) * 255  # eight colours fit a palette exactly
    palette = Image.fromarray(few).quantize(8, dither=Image.Dither.NONE)
    assert palette.mode == "P"
    assert decode_image(encoded(palette), "x").shape == (9, 7, 3)
    bits = Image.fromarray(rgb[..., 0]).convert("1")
    assert set(np.unique(decode_image(encoded(bits), "x"))) <= {0, 255}


def test_transparent_and_colour_models_without_bands() -> None:
    alpha = np.dstack([noise(4, 4, 3), np.full((4, 4), 255, np.uint8)])
    alpha[1, 2, 3] = 7
    with pytest.raises(InputError, match=r"clear.png has 1 transparent pixel"):
        decode_image(encoded(Image.fromarray(alpha)), "clear.png")
    with pytest.raises(InputError, match="CMYK"):
        decode_image(encoded(Image.new("CMYK", (4, 4)), "JPEG"), "print.jpg")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP", "BMP"])
def test_truncated_files_are_named(form: str) -> None:
    data = encoded(Image.fromarray(noise(64, 64, 3)), form)
    for keep in (0, 1, 10, len(data) // 2, len(data) - 40):
        with pytest.raises(InputError, match=r"dir/cut\.img"):
            decode_image(data[:keep], "dir/cut.img")


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF"]), st.integers(0, 400))
def test_damaged_files_decode_or_raise_input_error(junk: bytes, form: str, where: int) -> None:
    data = encoded(Image.fromarray(noise(12, 12, 3)), form)
    try:
        image = decode_image(data[:where] + junk + data[where + len(junk) :], "x")
    except InputError:
        return
    assert image.ndim == 3


def test_resize_matches_pillow_on_whole_images() -> None:
    rgb = noise(40, 40, 3)
    expected = np.asarray(Image.fromarray(rgb).resize((16, 16), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resize(rgb, 16), expected)


def test_resize_crops_centrally_without_distortion() -> None:
    wide = np.zeros((20, 60, 1), np.uint8)
    wide[:, 20:40] = 200
    np.testing.assert_array_equal(resize(wide, 20), np.full((20, 20, 1), 200, np.uint8))
    assert resize(noise(20, 60, 3), (10, 30)).shape == (10, 30, 3)


def test_resize_of_other_types() -> None:
    deep = (noise(32, 32, 5).astype(np.int32) * 200 - 20000).astype(np.int16)
    small = resize(deep, 8)
    assert (small.shape, small.dtype) == ((8, 8, 5), np.int16)
    in_bytes = resize(noise(32, 32, 5), 8).astype(float) * 200 - 20000
    assert np.abs(small[2:-2, 2:-2] - in_bytes[2:-2, 2:-2]).max() <= 202  # bytes are rounded twice: 1 step of 200
    with pytest.raises(InputError, match="positive"):
        resize(deep, 0)


def test_array_dataset() -> None:
    images = noise(3, 8, 8, 3)
    ds = ArrayDataset(images, ["c", "a", "b"], labels=[0, 1, 0], class_names=["x", "y"])
    assert (ds.names, len(ds), ds.raw_bytes) == (["c", "a", "b"], 3, images.nbytes)
    np.testing.assert_array_equal(ds.load([2, 0]), images[[2, 0]])
    for bad in (images[0], images[:0]):
        with pytest.raises(InputError, match="images must be"):
            ArrayDataset(bad)
    with pytest.raises(InputError, match="different names"):
        ArrayDataset(images, ["a", "a", "b"])
    with pytest.raises(InputError, match="labels"):
        ArrayDataset(images, labels=[1])
    floats = images.astype(np.float32)
    floats[1, 3, 4, 2] = np.nan
    with pytest.raises(InputError, match=r"000001 has 1 NaN or infinite pixel\(s\) of 64, first at row 3, column 4"):
        ArrayDataset(floats).load([0, 1])
    with pytest.raises(InputError, match="no images"):
        ds.load([])
