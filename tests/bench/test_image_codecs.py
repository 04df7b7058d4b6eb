"""Image codecs: rates, files that another program reads, and what they refuse."""

from __future__ import annotations

import io

import numpy as np
import pytest

imagecodecs = pytest.importorskip("imagecodecs")
Image = pytest.importorskip("PIL.Image")

import nec  # noqa: E402
from nec.bench.methods import Jpeg2000, Method, methods  # noqa: E402

ANY_BANDS = "png jpeg2000:1,2,20 jpeg2000-psnr:30 htj2k:0.05 jpegxl:3 jpeg:90 rdc:uint8,uint8-zstd"
RGB = "webp:0,40 avif:0,40"
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
@pytest.mark.parametrize(
    "method",
    methods(ANY_BANDS),
    ids=lambda m: m.name,
)
def test_shapes_come_back(method: Method, shape: tuple[int, ...]) -> None:
    images = pictures(shape)
    blob = method.encode(images)
    decoded = method.decode(blob)
    assert (decoded.shape, decoded.dtype) == (images.shape, images.dtype)
    if method.lossless:
        np.testing.assert_array_equal(decoded, images)
    np.testing.assert_array_equal(method.decode(blob), decoded)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[3] == 3])
@pytest.mark.parametrize("method", methods(RGB), ids=lambda m: m.name)
def test_shapes_of_colour_images_come_back(method: Method, shape: tuple[int, ...]) -> None:
    test_shapes_come_back(method, shape)


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


def test_jpeg2000_has_the_colour_transform() -> None:
    """Grey pictures with a little colour: the byte of the multi-component transform in COD is 1 (15444-1, A.6.1)."""
    images = pictures((4, 64, 64, 3))
    for method in methods("jpeg2000:1,16 jpeg2000-psnr:30"):
        for file in method.files(method.encode(images)) or []:
            assert file[file.index(b"\xff\x52") + 8] == 1
    (grey,) = methods("jpeg2000:16")
    (file,) = grey.files(grey.encode(images[:1, ..., :1])) or []
    assert file[file.index(b"\xff\x52") + 8] == 0


@pytest.mark.parametrize(
    ("spec", "decoder"),
    [
        ("webp:30", "webp_decode"),
        ("avif:30", "avif_decode"),
        ("jpegxl:4", "jpegxl_decode"),
        ("htj2k:.1", "jpeg2k_decode"),
    ],
)
def test_modern_files_are_what_their_encoder_wrote(spec: str, decoder: str) -> None:
    """Lengths that were taken out come back, so that the files are the encoder's own; Pillow reads two of them too."""
    images = pictures((8, 48, 40, 3))
    (method,) = methods(spec)
    blob = method.encode(images)
    files = method.files(blob)
    assert files == method.write(images)  # type: ignore[attr-defined]
    assert sum(method.image_bytes(blob) or []) < len(blob) < sum(map(len, files or []))
    for file, image in zip(files or [], method.decode(blob), strict=True):
        np.testing.assert_array_equal(getattr(imagecodecs, decoder)(file), image)
        if spec.startswith(("webp", "avif")):
            seen = np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).astype(int)
            assert np.abs(seen - image).mean() < 2  # another conversion from YCbCr


@pytest.mark.parametrize("shape", [(8, 8), (64, 64), (48, 40), (1, 300), (300, 1), (256, 192), (513, 700), (120, 160)])
def test_declared_sizes_are_read_without_decoding(shape: tuple[int, int]) -> None:
    images = pictures((1, *shape, 3))
    for method in methods("jpegxl:10 avif:10 htj2k:0.5 webp:10"):
        (file,) = method.write(images)  # type: ignore[attr-defined]
        assert method.size(file) == shape  # type: ignore[attr-defined]


def test_rates_of_modern_codecs_span_what_embeddings_need() -> None:
    images = pictures((12, 64, 64, 3)) // 2 + np.random.default_rng(1).integers(0, 20, (12, 64, 64, 3), dtype=np.uint8)
    for spec in ("webp:0,30,80", "avif:0,30,70", "jpegxl:25,8,2", "htj2k:0.5,0.1,0.02"):
        found = [(len(blob := m.encode(images)), psnr(m.decode(blob), images)) for m in methods(spec)]
        assert found == sorted(found), spec
        assert found[0][0] / 12 < 200, spec


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
