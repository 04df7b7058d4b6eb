"""Backbones of functions, Python modules and ONNX files; prefixes without their library. No model from elsewhere."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nec
from nec.models.backbone import Backbone, grids

MODULE = """
import numpy as np
from nec import Backbone

def means(images):
    n, bands, rows, columns = images.shape
    return images.reshape(n, bands, rows // 8, 8, columns // 8, 8).mean((3, 5)).transpose(0, 2, 3, 1)

def make(gain=1.0):
    gain = float(gain)
    return Backbone.from_callable(lambda x: gain * means(x), input_size=32, mean=[0.5] * 3, std=[0.25] * 3, name="m")

def wrong():
    return 3
"""


def patches(images: np.ndarray, side: int) -> np.ndarray:
    """Means over patches of images (n, bands, h, w), as (n, y, x, bands)."""
    n, bands, rows, columns = images.shape
    return images.reshape(n, bands, rows // side, side, columns // side, side).mean((3, 5)).transpose(0, 2, 3, 1)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


def test_layouts_of_features() -> None:
    tokens = np.random.default_rng(0).normal(size=(2, 12, 7)).astype(np.float32)
    grid = tokens.reshape(2, 3, 4, 7)
    for features, layout in ((grid, "NHWC"), (grid.transpose(0, 3, 1, 2), "auto"), (tokens, "auto")):
        np.testing.assert_array_equal(grids(features, (48, 64), layout, "m"), grid)
    for prefix in (1, 5):  # CLS, and registers, come first and go
        first = np.full((2, prefix, 7), 9, np.float32)
        np.testing.assert_array_equal(grids(np.concatenate([first, tokens], 1), (48, 64), "auto", "m"), grid)
    np.testing.assert_array_equal(grids(tokens[:, 0], (48, 64), "auto", "m"), tokens[:, None, :1])
    for bad, message in (
        (tokens[0, 0], "no batch"),
        (np.full((2, 12, 7), np.nan), "NaN or infinite values, 168 of 168"),
        ({"a": tokens}, "gives dict"),
        ([tokens, tokens[:1]], "gives list"),
    ):
        with pytest.raises(nec.InputError, match=message):
            grids(bad, (48, 64), "auto", "m")


def test_a_function_is_a_backbone(images: np.ndarray) -> None:
    made = Backbone.from_callable(
        lambda x: patches(x, 8), input_size=32, mean=[0.1, 0.2, 0.3], std=[1, 2, 4], bands=["red", "green", "blue"]
    )
    assert (made.patch, made.dimensions, made.bands, made.input_size, made.device) == (
        (8, 8), 3, ("red", "green", "blue"), (32, 32), "cpu",
    )  # fmt: skip
    scaled = (images / 255 - [0.1, 0.2, 0.3]) / [1, 2, 4]
    expected = scaled.reshape(5, 4, 8, 4, 8, 3).mean((2, 4))
    np.testing.assert_allclose(made.embed(made.normalize(images)), expected, atol=1e-5)
    turned = made.symmetric(8)
    np.testing.assert_allclose(turned.embed(turned.normalize(images)), expected, atol=1e-5)  # means turn with images
    assert turned.identity == {**made.identity, "symmetries": 8}
    vectors = Backbone.from_callable(lambda x: x.mean((2, 3)), input_size=(32, 48), mean=[0], std=[1])
    assert (vectors.patch, vectors.dimensions) == ((32, 48), 1)
    with pytest.raises(nec.InputError, match=r"takes \(n, h, w, 3\)"):
        made.normalize(images[..., :2])
    with pytest.raises(nec.InputError, match="takes images of 32x32 px, not 24x16"):
        made.grid(16, 24)
    with pytest.raises(nec.InputError, match="patches of 8x8 px, not 4x4"):
        Backbone.from_callable(lambda x: patches(x, 8), input_size=32, mean=[0] * 3, std=[1] * 3, patch=4)
    with pytest.raises(nec.InputError, match="one length"):
        Backbone.from_callable(lambda x: patches(x, 8), input_size=32, mean=[0] * 3, std=[1] * 2)


def test_python_module(images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_backbones.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    plain, double = nec.load_model("python:my_backbones:make"), nec.load_model("python:my_backbones:make", gain="2")
    np.testing.assert_allclose(
        2 * plain.embed(plain.normalize(images)), double.embed(double.normalize(images)), atol=1e-5
    )
    for name, message in {
        "my_backbones": "give python:MODULE:FUNCTION",
        "nowhere:make": "no module 'nowhere'",
        "my_backbones:other": "no function 'other'",
        "my_backbones:wrong": "returned int",
    }.items():
        with pytest.raises(nec.InputError, match=message):
            nec.load_model(f"python:{name}")
    with pytest.raises(nec.InputError, match="does not take the option 'layer'"):
        nec.load_model("python:my_backbones:make", layer=3)


@pytest.mark.parametrize(
    ("name", "extra"),
    [("timm:resnet18", "timm"), ("torchgeo:resnet18", "torchgeo"), ("terratorch:x", "terratorch"), ("hf:x", "hf")],
)
def test_a_missing_library_names_its_extra(name: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, {"hf": "transformers"}.get(extra, extra), None)
    with pytest.raises(nec.MissingExtraError, match=rf"pip install 'neural-embedding-compression\[{extra}\]'"):
        nec.load_model(name)


# -- ONNX


def write(
    path: Path, output: str = "NHWC", shape: tuple[Any, ...] = ("n", 3, 32, 32), layout: str = "NCHW", **said: Any
) -> Path:
    """A file whose network gives means over patches of 8 px, in one of the layouts."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    nodes, last = [], "images"
    if layout == "NHWC":
        nodes.append(helper.make_node("Transpose", [last], ["channels"], perm=[0, 3, 1, 2]))
        last = "channels"
    nodes.append(helper.make_node("AveragePool", [last], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]))
    last, axes = "pooled", [shape[0], 3, 4, 4]
    if output == "NHWC":
        nodes.append(helper.make_node("Transpose", [last], ["moved"], perm=[0, 2, 3, 1]))
        last, axes = "moved", [shape[0], 4, 4, 3]
    elif output == "NC":
        nodes.append(helper.make_node("GlobalAveragePool", [last], ["all"]))
        nodes.append(helper.make_node("Flatten", ["all"], ["flat"]))
        last, axes = "flat", [shape[0], 3]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, said.pop("axes", axes))],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    if said:
        path.with_suffix(".json").write_text(json.dumps(said))
    return path


def test_onnx_file(images: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    expected = ((images / 255 - mean) / std).reshape(5, 4, 8, 4, 8, 3).mean((2, 4))
    said: dict[str, Any] = {"mean": mean, "std": std}
    unbound: dict[str, Any] = {"shape": ("n", 3, "h", "w"), "axes": ["n", 3, "y", "x"], "image_size": 32}
    for name, made in {
        "nchw": write(tmp_path / "nchw.onnx", "NCHW", **said),
        "nhwc": write(tmp_path / "nhwc.onnx", "NHWC", output_layout="NHWC", **said),
        "last": write(tmp_path / "last.onnx", "NCHW", ("n", 32, 32, 3), "NHWC", **said),
        "one": write(tmp_path / "one.onnx", "NCHW", (1, 3, 32, 32), **said),  # one image at a time
        "open": write(tmp_path / "open.onnx", "NCHW", **unbound, **said),
    }.items():
        model = nec.load_model(f"onnx:{made}")
        assert (model.patch, model.dimensions, model.input_size) == ((8, 8), 3, (32, 32)), name
        np.testing.assert_allclose(model.embed(model.normalize(images)), expected, atol=1e-5)
        again = pickle.loads(pickle.dumps(model))  # as it goes to the workers of a cluster
        np.testing.assert_array_equal(again.embed(again.normalize(images)), model.embed(model.normalize(images)))
    vectors = nec.load_model(f"onnx:{write(tmp_path / 'nc.onnx', 'NC')}", mean="0.5,0.4,0.3", std="0.2,0.3,0.4")
    np.testing.assert_allclose(vectors.embed(vectors.normalize(images))[:, 0, 0], expected.mean((1, 2)), atol=1e-5)
    sha256 = __import__("hashlib").sha256((tmp_path / "nc.onnx").read_bytes()).hexdigest()
    assert (vectors.identity["name"], vectors.identity["sha256"]) == ("onnx:nc.onnx", sha256)


def test_onnx_files_that_do_not_fit(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "text.onnx").write_text("hello")
    plain = write(tmp_path / "plain.onnx", "NCHW")
    for name, options, message in (
        (tmp_path / "nowhere.onnx", {}, "no such file"),
        (tmp_path / "text.onnx", {}, "cannot be loaded"),
        (write(tmp_path / "nhwc.onnx", "NHWC"), {}, "give output_layout=NHWC"),
        (write(tmp_path / "open.onnx", "NCHW", ("n", 3, "h", "w"), axes=["n", 3, "y", "x"]), {}, "give image_size"),
        (plain, {"output": "tokens"}, "has no output 'tokens', but pooled"),
        (plain, {"layer": 3}, "unknown option 'layer'"),
        (plain, {"mean": [0.5], "std": [1.0]}, "takes 3 bands"),
        (plain, {"precision": "bf16"}, "precision"),
        (plain, {"device": "cuda"}, "no device 'cuda'"),
    ):
        with pytest.raises(nec.InputError, match=message):
            nec.load_model(f"onnx:{name}", **options)


def test_devices_and_names_that_are_not_there() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        with pytest.raises(nec.InputError, match="no device 'cuda' here"):
            nec.load_model("eurosat-tiny", "cuda")
    with pytest.raises(nec.InputError, match="precision 'fp8' is unknown"):
        nec.load_model("eurosat-tiny", precision="fp8")
    with pytest.raises(nec.InputError, match="lacks a name"):
        nec.load_model("timm:")


def test_symbols_that_differ_between_precisions() -> None:
    """bf16 changes some symbols at quality 1, by one step as a rule; fp32 none."""
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (16, 8, 8, 3), dtype=np.uint8)
    pictures = coarse.repeat(8, 1).repeat(8, 2)
    exact, half = nec.load_model("eurosat-tiny", "cpu"), nec.load_model("eurosat-tiny", "cpu", precision="bf16")
    assert half.identity == {**exact.identity, "precision": "bf16"}
    assert half.fingerprint != exact.fingerprint
    made = [exact.codec.symbols(model.embed(model.normalize(pictures)), 1.0) for model in (exact, exact, half)]
    np.testing.assert_array_equal(made[0], made[1])
    share = np.mean(made[0] != made[2])
    assert 0 < share < 0.05
    assert np.mean(np.abs(made[0] - made[2]) > 1) < 0.002
