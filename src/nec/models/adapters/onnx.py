"""`onnx:FILE`: ONNX files through onnxruntime, without PyTorch. Extra `[onnx]`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError, missing_extra
from nec.models.adapters import fetching, numbers, whole
from nec.models.backbone import Backbone, CallableBackbone, Layout, Pixels

KEYS = ("input", "output", "layout", "output_layout", "mean", "std", "bands", "scale", "image_size")


class OnnxBackbone(CallableBackbone):
    """A session of onnxruntime as a backbone. It is pickled as the file's bytes."""

    def __init__(self, model: bytes, settings: dict[str, Any], device: str, **options: Any) -> None:
        super().__init__(self._compute, **options)
        self._model, self._settings, self.device = model, settings, device
        self._open()

    def _open(self) -> None:
        import onnxruntime

        wanted = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}.get(self.device)
        if wanted not in onnxruntime.get_available_providers():
            raise InputError(f"onnxruntime has no device {self.device!r} here: give --device auto")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        with fetching(self.name):
            self._session = onnxruntime.InferenceSession(
                self._model, options, list(dict.fromkeys([wanted, "CPUExecutionProvider"]))
            )

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_session"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def _compute(self, images: NDArray[np.float32]) -> Any:
        images = np.asarray(images, np.float32)
        if self._settings["layout"] == "NHWC":
            images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        kind = self._session.get_inputs()[0].type
        if "float16" in kind:
            images = images.astype(np.float16)
        size = self._settings["batch"]
        batches = [images] if size is None else [images[i : i + size] for i in range(0, len(images), size)]
        try:
            made = [self._session.run([self._settings["output"]], {self._settings["input"]: x})[0] for x in batches]
        except Exception as error:  # onnxruntime's own, which share no base
            raise InputError(
                f"{self.name} does not run on {images.shape}: {str(error).splitlines()[0][:200]}"
            ) from error
        return made[0] if len(made) == 1 else np.concatenate(made)


def load(name: str, *, device: str = "auto", precision: str = "fp32", **given: Any) -> Backbone:
    """A model in an ONNX file.

    Args:
        name: the file. A JSON object in FILE.json, or beside it under the same name, gives the options below.
        device: "auto", "cpu" or "cuda".
        precision: "fp32"; a file has its own.
        given: `input`, `output`: names; the first by default. `layout`: "NCHW" or "NHWC" of the input; `output_layout`:
            "NCHW", "NHWC", "NLC" or "NC" of the output, by its axes if it is not given. `mean`, `std`: of each band, of
            images scaled to 0..1 (0 and 1 by default). `bands`: their names. `scale`: what pixels other than bytes are
            multiplied with. `image_size`: where the file leaves it open.

    Raises:
        InputError: no such file, not readable, or options that do not fit it.
    """
    try:
        import onnxruntime
    except ImportError as error:
        missing_extra("onnxruntime", "onnx", error)
    path = Path(name)
    if not path.is_file():
        raise InputError(f"onnx:{name}: there is no such file")
    if precision != "fp32":
        raise InputError(f"onnx:{name} computes in the precision of its file: leave --precision out")
    unknown = sorted(set(given) - set(KEYS))
    options = {**_beside(path), **given}
    if unknown or set(options) - set(KEYS):
        wrong = (unknown or sorted(set(options) - set(KEYS)))[0]
        raise InputError(f"onnx:{name}: unknown option {wrong!r}; known: {', '.join(KEYS)}")
    model = path.read_bytes()
    with fetching(f"onnx:{name}"):
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    inputs, outputs = ({item.name: item for item in found} for found in (session.get_inputs(), session.get_outputs()))
    entry, out = options.get("input", next(iter(inputs))), options.get("output", next(iter(outputs)))
    for wanted, there, what in ((entry, inputs, "input"), (out, outputs, "output")):
        if wanted not in there:
            raise InputError(f"onnx:{name} has no {what} {wanted!r}, but {', '.join(there)}")
    shape = inputs[entry].shape
    if len(shape) != 4:
        raise InputError(f"onnx:{name} takes {len(shape)} axes, not images (n, bands, h, w): wrap it by python:")
    layout = options.get("layout") or _input_layout(shape, name)
    channel, spatial = (3, shape[1:3]) if layout == "NHWC" else (1, shape[2:])
    size = _size(spatial, whole(options.get("image_size")), name)
    mean, std = numbers(options.get("mean")), numbers(options.get("std"))
    bands = options["bands"].split(",") if isinstance(options.get("bands"), str) else options.get("bands")
    count = shape[channel] if isinstance(shape[channel], int) else len(mean or bands or ()) or 3
    pixels = Pixels(mean or (0.0,) * count, std or (1.0,) * count, bands and tuple(bands), scale=options.get("scale"))
    if isinstance(shape[channel], int) and pixels.in_channels != count:
        raise InputError(f"onnx:{name} takes {count} bands, and mean, std or bands have {pixels.in_channels}")
    arrangement: Layout = options.get("output_layout") or _output_layout(outputs[out].shape, size, name)
    if arrangement not in get_args(Layout):
        raise InputError(f"onnx:{name}: output_layout is one of NCHW, NHWC, NLC, NC, not {arrangement!r}")
    there_is_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    facts = {
        "sha256": hashlib.sha256(model).hexdigest(),
        "output": out,
        "library": {"onnxruntime": onnxruntime.__version__},
    }
    batch = shape[0] if isinstance(shape[0], int) else None
    made = OnnxBackbone(
        model,
        {"input": entry, "output": out, "layout": layout, "batch": batch},
        ("cuda" if there_is_cuda else "cpu") if device == "auto" else device,
        pixels=pixels, input_size=size, layout=arrangement, name=f"onnx:{path.name}", facts=facts,
    )  # fmt: skip
    made.probe()
    return made


def _beside(path: Path) -> dict[str, Any]:
    for file in (path.with_name(path.name + ".json"), path.with_suffix(".json")):
        if file.is_file():
            try:
                document = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError) as error:
                raise InputError(f"{file} is not readable JSON: {error}") from error
            if not isinstance(document, dict):
                raise InputError(f"{file} holds no JSON object")
            return document
    return {}


def _input_layout(shape: list[Any], name: str) -> str:
    first, last = shape[1], shape[3]
    if isinstance(last, int) and last <= 16 and (not isinstance(first, int) or first > 16):
        return "NHWC"
    return "NCHW"


def _size(spatial: list[Any], given: int | None, name: str) -> tuple[int, int]:
    fixed = [side if isinstance(side, int) and side > 0 else None for side in spatial]
    if None in fixed and given is None:
        raise InputError(f"onnx:{name} leaves the size of images open: give image_size")
    height, width = (side or given for side in fixed)
    if given is not None and (height, width) != (given, given):
        raise InputError(f"onnx:{name} takes {width}x{height} px, not {given}x{given}")
    return height, width  # type: ignore[return-value]


def _output_layout(shape: list[Any] | None, size: tuple[int, int], name: str) -> Layout:
    """By the number of axes; an output that may be NHWC is not guessed at."""
    if not shape or len(shape) not in (2, 3, 4):
        raise InputError(f"onnx:{name} gives {shape}: no grid, tokens or vectors; choose another output")
    if len(shape) < 4:
        return "NLC" if len(shape) == 3 else "NC"
    _, first, second, third = (side if isinstance(side, int) else None for side in shape)
    proportions = first is not None and second is not None and first * size[1] == second * size[0]
    if proportions and second != third:
        raise InputError(f"onnx:{name} gives {shape[1:]}, which looks like (y, x, channels): give output_layout=NHWC")
    return "NCHW"
