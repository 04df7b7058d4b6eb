"""Trained heads on disk: a folder with config.json (what it is, for which model) and head.safetensors (its weights)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nec.errors import CorruptError, InputError, missing_extra
from nec.files import atomic_path, checksum, write_json
from nec.heads.linear import LinearProbe, pooled_features

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nec.heads.classification import ClassificationResult
    from nec.heads.segmentation import SegmentationResult
    from nec.store import Store

FORMAT = 1
CONFIG_FILE, WEIGHTS_FILE = "config.json", "head.safetensors"
SEGMENTER, ATTENTION, LINEAR = "segmenter", "attention", "linear"


@dataclass(frozen=True)
class SavedHead:
    """A trained head and what it was trained for.

    Attributes:
        kind: "segmenter", "attention" or "linear".
        class_names: in the order of the probabilities.
        class_colors: (red, green, blue) of each class, or None.
        grid: (y, x) tokens of the images it was trained on.
        dimensions: values a token.
        model: what the store says of the model that made its embeddings; {} if nothing.
        module: a `Segmenter`, an `AttentionClassifier` or a `LinearProbe`.
    """

    kind: str
    class_names: list[str]
    class_colors: list[tuple[int, int, int]] | None
    grid: tuple[int, int]
    dimensions: int
    model: dict[str, Any]
    module: Any

    @property
    def segments(self) -> bool:
        """Whether it gives a class for each pixel, and not one for an image."""
        return self.kind == SEGMENTER

    @property
    def bound_to_grid(self) -> bool:
        """Whether it takes grids of `grid` only: it maps pixels, or its decoder stage has positions."""
        return self.segments or hasattr(getattr(self.module, "stage", None), "positions")

    def probabilities(self, embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
        """Embeddings (n, y, x, d) -> probabilities (n, classes), of a segmenter (n, classes, rows, columns).

        Raises `InputError` for embeddings of other dimensions, or another grid where the head needs its own.
        """
        shape = embeddings.shape[1:]
        if shape[-1] != self.dimensions or (self.bound_to_grid and shape[:2] != self.grid):
            y, x = self.grid
            raise InputError(
                f"the head takes grids of {y}x{x} tokens of {self.dimensions} values, not {'x'.join(map(str, shape))}"
            )
        if self.segments:
            return self.module.probabilities(embeddings)
        scores = self.module.scores(pooled_features(embeddings) if self.kind == LINEAR else embeddings)
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        return (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)


def save_head(folder: str | Path, store: Store, result: ClassificationResult | SegmentationResult) -> None:
    """Write the head that `classify` or `segment` trained on `store` with its first seed.

    Raises:
        InputError: `folder` is in the way.
        MissingExtraError: safetensors is not there.
    """
    try:
        from safetensors.numpy import save_file
    except ImportError as error:
        missing_extra("safetensors", "torch", error)
    kind, sizes = _describe(result.model)
    weights = {name: np.ascontiguousarray(value) for name, value in _weights(result.model).items()}
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        save_file(weights, temporary / WEIGHTS_FILE)
        document = {
            "format": FORMAT,
            "kind": kind,
            "classes": result.class_names,
            "colors": getattr(result, "class_colors", None),
            "grid": list(store.grid),
            "dimensions": int(store.embeddings.shape[-1]),
            "sizes": sizes,
            "weights_crc32c": checksum((temporary / WEIGHTS_FILE).read_bytes()),
            "model": store.attrs.get("model"),
            "quality": store.quality,
            "figures": result.to_dict(),
        }
        write_json(temporary / CONFIG_FILE, document)


def load_head(folder: str | Path) -> SavedHead:
    """Read what `save_head` wrote.

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
        return SavedHead(
            kind=document["kind"],
            class_names=list(document["classes"]),
            class_colors=None if colors is None else [(red, green, blue) for red, green, blue in colors],
            grid=(document["grid"][0], document["grid"][1]),
            dimensions=document["dimensions"],
            model=document["model"] or {},
            module=_rebuild(document, load(data)),
        )
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError) as error:
        if isinstance(error, InputError | CorruptError):
            raise
        raise CorruptError(f"{folder / CONFIG_FILE} is damaged ({error}): copy the head again") from error


def _describe(module: Any) -> tuple[str, dict[str, Any]]:
    """Kind and sizes of a head that its weights alone do not tell."""
    if isinstance(module, LinearProbe):
        return LINEAR, {"l2": module.l2, "iterations": module.iterations}
    block = getattr(module.stage, "block", None)
    sizes = {"stage_heads": None if block is None else block.attn.heads}
    if hasattr(module, "pool"):
        return ATTENTION, sizes | {"heads": module.pool.heads}
    return SEGMENTER, sizes | {
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
        return LinearProbe(weights["weight"], weights["bias"], sizes["l2"], sizes["iterations"])
    try:
        import torch

        from nec.heads.attention import AttentionClassifier
        from nec.heads.segmenter import Segmenter
        from nec.models.heads import SegmentationHead
    except ImportError as error:
        missing_extra("torch", "torch", error)
    state = {name: torch.from_numpy(value.copy()) for name, value in weights.items()}
    stage, width = _stage(state, sizes["stage_heads"])
    classes = len(document["classes"])
    module: nn.Module
    if document["kind"] == ATTENTION:
        module = AttentionClassifier(width, classes, sizes["heads"], stage)
    elif document["kind"] == SEGMENTER:
        options = {name: sizes[name] for name in ("width", "blocks", "upscale")}
        module = Segmenter(stage, SegmentationHead(width, classes, **options), tuple(sizes["pixels"]))
    else:
        raise InputError(f"a head of kind {document['kind']!r} is not known to this nec: upgrade it")
    module.load_state_dict(state)
    return module.eval()


def _stage(state: dict[str, Tensor], heads: int | None) -> tuple[nn.Module, int]:
    """The input stage that these weights are of, and the width of what it gives."""
    from torch import nn

    from nec.heads.attention import Standardize
    from nec.models.mae import DecoderStage
    from nec.models.vit import Block

    if heads is None:
        return Standardize(state["stage.mean"], state["stage.scale"]), state["stage.mean"].shape[-1]
    width, dimensions = state["stage.embed.weight"].shape
    ratio = state["stage.block.mlp.fc1.weight"].shape[0] / width
    stage = DecoderStage(nn.Linear(dimensions, width), Block(width, heads, ratio), state["stage.positions"])
    return stage, width
