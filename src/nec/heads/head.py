"""Trained heads: what they predict, and a folder of config.json (what it is) and head.safetensors (its weights)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nec.errors import CorruptError, InputError, missing_extra
from nec.files import atomic_path, checksum, write_json
from nec.heads.linear import LinearProbe, pooled_features

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = 2
CONFIG_FILE, WEIGHTS_FILE = "config.json", "head.safetensors"
SEGMENTER, ATTENTION, LINEAR = "segmenter", "attention", "linear"


@dataclass(frozen=True)
class Head:
    """A trained head and what it was trained for. Made by `train_head` and `load_head`.

    Attributes:
        task: "classification", "segmentation", "regression" or "multilabel".
        class_names: of the classes or targets, in the order of what it gives.
        class_colors: (red, green, blue) of each class, or None.
        grid: (y, x) tokens of the images it was trained on.
        dimensions: values a token.
        model: what the store says of the model that made its embeddings; {} if nothing.
        module: a `LinearProbe` of pooled features, an `AttentionHead` or a `Segmenter`; of a fine-tuned model an
            `OnlineClassifier`, which neither predicts from embeddings nor can be saved.
        quality: of the store that it was trained on, or None.
        figures: what its training measured.
    """

    task: str
    class_names: list[str]
    class_colors: list[tuple[int, int, int]] | None
    grid: tuple[int, int]
    dimensions: int
    model: dict[str, Any]
    module: Any = None
    quality: float | None = None
    figures: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def kind(self) -> str:
        """ "segmenter", "attention" or "linear"."""
        if isinstance(self.module, LinearProbe):
            return LINEAR
        return SEGMENTER if self.segments else ATTENTION

    @property
    def segments(self) -> bool:
        """Whether it gives a class for each pixel, and not one for an image."""
        return self.task == "segmentation"

    @property
    def bound_to_grid(self) -> bool:
        """Whether it takes grids of `grid` only: it maps pixels, or its decoder stage has positions."""
        return self.segments or hasattr(getattr(self.module, "stage", None), "positions")

    def outputs(self, embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
        """Embeddings (n, y, x, d) -> what the head gives, float32.

        Probabilities of the classes (n, classes), of a segmenter (n, classes, rows, columns), of each label (n, k); or
        the numbers of a regression (n, k). A linear head of labels gives scores that may leave 0..1.

        Raises `InputError` for embeddings of other dimensions, or another grid where the head needs its own.
        """
        if hasattr(self.module, "source"):
            raise InputError("this head goes with its fine-tuned model, head.module, and takes images")
        shape = embeddings.shape[1:]
        if shape[-1] != self.dimensions or (self.bound_to_grid and shape[:2] != self.grid):
            y, x = self.grid
            raise InputError(
                f"the head takes grids of {y}x{x} tokens of {self.dimensions} values, not {'x'.join(map(str, shape))}"
            )
        if self.segments:
            return self.module.probabilities(embeddings)
        scores = self.module.scores(pooled_features(embeddings) if self.kind == LINEAR else embeddings)
        if self.task == "classification":
            odds = np.exp(scores - scores.max(axis=1, keepdims=True))
            scores = odds / odds.sum(axis=1, keepdims=True)
        elif self.task == "multilabel" and self.kind == ATTENTION:
            scores = 1 / (1 + np.exp(-scores.astype(np.float64)))
        return scores.astype(np.float32)

    def predict(self, embeddings: NDArray[np.floating]) -> NDArray[Any]:
        """Embeddings (n, y, x, d) -> class of each image int64 (n,), of each pixel uint8 (n, rows, columns), whether
        each label holds bool (n, k), or numbers float32 (n, k).
        """
        found = self.outputs(embeddings)
        if self.segments:
            return found.argmax(axis=1).astype(np.uint8)
        if self.task == "classification":
            return found.argmax(axis=1)
        return found > 0.5 if self.task == "multilabel" else found

    def save(self, folder: str | Path) -> None:
        """Write it to a new folder, for `load_head`.

        Raises:
            InputError: `folder` is in the way.
            MissingExtraError: safetensors is not there.
        """
        if hasattr(self.module, "source"):
            raise InputError("this head goes with its fine-tuned model, which is not saved")
        try:
            from safetensors.numpy import save_file
        except ImportError as error:
            missing_extra("safetensors", "torch", error)
        weights = {name: np.ascontiguousarray(value) for name, value in _weights(self.module).items()}
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            save_file(weights, temporary / WEIGHTS_FILE)
            document = {
                # Older readers know classes only, and would take numbers for them.
                "format": FORMAT if self.task in ("regression", "multilabel") else 1,
                "task": self.task,
                "kind": self.kind,
                "classes": self.class_names,
                "colors": self.class_colors,
                "grid": list(self.grid),
                "dimensions": self.dimensions,
                "sizes": _sizes(self.module),
                "weights_crc32c": checksum((temporary / WEIGHTS_FILE).read_bytes()),
                "model": self.model or None,
                "quality": self.quality,
                "figures": self.figures,
            }
            write_json(temporary / CONFIG_FILE, document)


def load_head(folder: str | Path) -> Head:
    """Read what `Head.save` wrote.

    Raises:
        InputError: there is no head, or one of a newer format.
        CorruptError: its files are damaged.
    """
    folder = Path(folder)
    if not (folder / CONFIG_FILE).is_file() or not (folder / WEIGHTS_FILE).is_file():
        raise InputError(f"{folder} is no head: make one with `nec segment` or `nec classify` and --save {folder}")
    try:
        from safetensors.numpy import load
    except ImportError as error:
        missing_extra("safetensors", "torch", error)
    try:
        document = json.loads((folder / CONFIG_FILE).read_bytes())
        if document["format"] > FORMAT:
            raise InputError(f"{folder} has head format {document['format']}, newer than this nec reads: upgrade nec")
        data = (folder / WEIGHTS_FILE).read_bytes()
        if checksum(data) != document["weights_crc32c"]:
            raise CorruptError(f"{folder / WEIGHTS_FILE} is damaged (CRC-32C): copy it again, or train the head again")
        colors = document["colors"]
        if document["kind"] not in (SEGMENTER, ATTENTION, LINEAR):
            raise InputError(f"a head of kind {document['kind']!r} is not known to this nec: upgrade it")
        return Head(
            task=document.get("task") or ("segmentation" if document["kind"] == SEGMENTER else "classification"),
            class_names=list(document["classes"]),
            class_colors=None if colors is None else [(red, green, blue) for red, green, blue in colors],
            grid=(document["grid"][0], document["grid"][1]),
            dimensions=document["dimensions"],
            model=document["model"] or {},
            module=_rebuild(document, load(data)),
            quality=document["quality"],
            figures=document["figures"],
        )
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        if isinstance(error, InputError | CorruptError):
            raise
        raise CorruptError(f"{folder / CONFIG_FILE} is damaged ({error}): copy the head again") from error


def _sizes(module: Any) -> dict[str, Any]:
    """What the weights alone do not tell."""
    if isinstance(module, LinearProbe):
        return {"l2": np.asarray(module.l2).tolist(), "iterations": module.iterations}
    block = getattr(module.stage, "block", None)
    sizes = {"stage_heads": None if block is None else block.attn.heads}
    if hasattr(module, "pool"):
        return sizes | {"heads": module.pool.heads}
    return sizes | {
        "width": module.head.first_conv.out_channels,
        "blocks": len(module.head.conv_blocks),
        "upscale": 2 ** len(module.head.upscaling_blocks),
        "pixels": list(module.pixels),
    }


def _weights(module: Any) -> dict[str, NDArray[Any]]:
    if isinstance(module, LinearProbe):
        return {"weight": module.weight, "bias": module.bias}
    return {name: value.detach().cpu().numpy() for name, value in module.state_dict().items()}


def _rebuild(document: dict[str, Any], weights: dict[str, NDArray[Any]]) -> Any:
    sizes = document["sizes"]
    if document["kind"] == LINEAR:
        return LinearProbe(weights["weight"], weights["bias"], np.asarray(sizes["l2"])[()], sizes["iterations"])
    try:
        import torch

        from nec.heads.network import AttentionHead, Segmenter
        from nec.models.heads import SegmentationHead
    except ImportError as error:
        missing_extra("torch", "torch", error)
    state = {name: torch.from_numpy(value.copy()) for name, value in weights.items()}
    stage, width = _stage(state, sizes["stage_heads"])
    classes = len(document["classes"])
    module: nn.Module
    if document["kind"] == ATTENTION:
        module = AttentionHead(width, classes, sizes["heads"], stage)
    else:
        options = {name: sizes[name] for name in ("width", "blocks", "upscale")}
        module = Segmenter(stage, SegmentationHead(width, classes, **options), tuple(sizes["pixels"]))
    module.load_state_dict(state)
    return module.eval()


def _stage(state: dict[str, Tensor], heads: int | None) -> tuple[nn.Module, int]:
    """The input stage that these weights are of, and the width of what it gives."""
    from torch import nn

    from nec.heads.network import Standardize
    from nec.models.mae import DecoderStage
    from nec.models.vit import Block

    if heads is None:
        return Standardize(state["stage.mean"], state["stage.scale"]), state["stage.mean"].shape[-1]
    width, dimensions = state["stage.embed.weight"].shape
    ratio = state["stage.block.mlp.fc1.weight"].shape[0] / width
    stage = DecoderStage(nn.Linear(dimensions, width), Block(width, heads, ratio), state["stage.positions"])
    return stage, width
