"""Image codecs: rates, files that another program reads, and what they refuse."""

from __future__ import annotations

import io

import numpy as np
import pytest

imagecodecs = pytest.importorskip("imagecodecs")
Image = pytest.importorskip("PIL.Image")

import nec  # noqa: E402
from nec.baselines import Jpeg2000, Method, methods  # noqa: E402

SHAPES = [(1, 64, 64, 3), (4, 32, 48, 3), (2, 33, 17, 1), (2, 5, 3, 3), (3, 1, 1, 1)]


def pictures(shape: tuple[int, ...], dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=shape)
    for axis in (1, 2):
        noise = sum(np.roll(noise, shift, axis) for shift in range(-4, 5))
    low, high = noise.min(), noise.max()
    return ((noise - low) / max(high - low, 1e-9) * np.iinfo(dtype).max).astype(dtype)


def psnr(decoded: np.ndarray, images: np.ndarray) -> float:
    error = np.square(decoded.astype(float) - images).mean()
    return 10 * np.log10(255**2 / error)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", methods("png jpeg2000:1,2,20 jpeg:90 rdc:uint8,uint8-zstd"), ids=lambda m: m.name)
def test_shapes_come_back(method: Method, shape: tuple[int, ...]) -> None:
    images = pictures(shape)
    blob = method.encode(images)
    decoded = method.decode(blob)
    assert (decoded.shape, decoded.dtype) == (images.shape, images.dtype)
    if method.lossless:
        np.testing.assert_array_equal(decoded, images)
    np.testing.assert_array_equal(method.decode(blob), decoded)


@pytest.mark.parametrize("spec", ["png", "jpeg2000:1", "rdc:uint16", "rdc:uint16-zstd"])
def test_sixteen_bits(spec: str) -> None:
    (method,) = methods(spec)
    images = pictures((3, 24, 24, 1), np.uint16)
    np.testing.assert_array_equal(method.decode(method.encode(images)), images)


@pytest.mark.parametrize("bands", [2, 4])
def test_png_of_more_bands(bands: int) -> None:
    (method,) = methods("png")
    images = pictures((2, 16, 16, bands))
    np.testing.assert_array_equal(method.decode(method.encode(images)), images)


@pytest.mark.parametrize(
    ("spec", "bands", "dtype"),
    [("jpeg:90", 4, np.uint8), ("jpeg:90", 3, np.uint16), ("jpeg2000:8", 12, np.uint8), ("png", 5, np.uint8),
     ("jpeg2000:8", 3, np.uint16), ("rdc:uint8", 3, np.uint16), ("png", 3, np.float32)],
)  # fmt: skip
def test_what_a_format_does_not_hold_is_refused(spec: str, bands: int, dtype: type) -> None:
    (method,) = methods(spec)
    with pytest.raises(nec.InputError):
        method.encode(np.zeros((2, 16, 16, bands), dtype))


def test_constant_images() -> None:
    images = np.full((3, 64, 64, 3), 200, np.uint8)
    for method in methods("png jpeg2000:1,100 jpeg:90 rdc:uint8-zstd"):
        assert np.abs(method.decode(method.encode(images)).astype(int) - 200).max() <= 2, method.name


@pytest.mark.parametrize("ratio", [4, 8, 16, 24, 48, 96, 200])
def test_jpeg2000_keeps_to_the_rate(ratio: float) -> None:
    images = pictures((40, 64, 64, 3)) // 2 + np.random.default_rng(1).integers(0, 100, (40, 64, 64, 3), dtype=np.uint8)
    target = images[0].nbytes / ratio
    sizes = Jpeg2000(ratio).image_bytes(blob := Jpeg2000(ratio).encode(images))
    assert max(sizes) <= target + 1
    assert (0.85 if ratio < 100 else 0.6) * target <= np.mean(sizes)  # coding passes of noise are coarse grains there
    assert len(blob) - sum(sizes) < 170  # header and what the files share


def test_jpeg2000_gets_better_with_the_rate() -> None:
    images = pictures((10, 64, 64, 3))
    quality = [psnr(method.decode(method.encode(images)), images) for method in methods("jpeg2000:200,96,48,24,12")]
    assert quality == sorted(quality)
    assert quality[-1] > quality[0] + 5


def test_jpeg2000_files_are_standard_codestreams() -> None:
    images = pictures((6, 64, 64, 3))
    for method in methods("jpeg2000:1,16"):
        blob = method.encode(images)
        decoded = method.decode(blob)
        for file, image in zip(method.files(blob), decoded, strict=True):
            assert b"OpenJPEG" not in file
            np.testing.assert_array_equal(imagecodecs.jpeg2k_decode(file), image)


def test_the_files_of_a_frame_open_elsewhere() -> None:
    images = pictures((3, 32, 32, 3))
    for method in methods("png jpeg:80"):
        blob = method.encode(images)
        for file, image in zip(method.files(blob), method.decode(blob), strict=True):
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(file))), image)
            assert Image.open(io.BytesIO(file)).format == method.family.upper()


def test_shared_headers_are_stored_once() -> None:
    images = pictures((30, 64, 64, 3))
    (method,) = methods("jpeg:50")
    blob = method.encode(images)
    assert len(blob) < sum(map(len, method.files(blob))) - 29 * 600
