"""Backbones: whatever turns images into grids of embeddings. The rest of the program knows no more of a model."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError
from nec.models.symmetry import GROUPS, symmetric_mean

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec

Precision = Literal["fp32", "bf16", "fp16"]


@dataclass(frozen=True)
class Pixels:
    """What a backbone wants of pixels: (value - mean) / std, band by band, of values scaled to 0..1.

    Attributes:
        mean, std: of each band, of images scaled to 0..1.
        bands: names or STAC common names of the bands in order, or None where nobody wrote them down.
        reflectance: the reflectances that 0 and 1 of the scaled images stand for; None: 0 and 1.
        scale, offset: pixel * scale + offset is scaled, for pixels other than bytes; None: the user must say.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    bands: tuple[str, ...] | None = None
    reflectance: tuple[float, float] | None = None
    scale: float | None = None
    offset: float = 0.0

    def __post_init__(self) -> None:
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        if self.bands is not None:
            object.__setattr__(self, "bands", tuple(str(name) for name in self.bands))
        lengths = {len(self.mean), len(self.std), *([len(self.bands)] if self.bands else [])}
        if len(lengths) != 1 or 0 in lengths:
            raise InputError(f"mean, std and bands must be of one length, got {len(self.mean)}, {len(self.std)} and "
                             f"{'none' if self.bands is None else len(self.bands)}")  # fmt: skip
        if not np.isfinite([*self.mean, *self.std]).all() or min(self.std) <= 0:
            raise InputError(f"mean and std must be finite and std positive, got {self.mean} and {self.std}")

    @property
    def in_channels(self) -> int:
        """How many bands the backbone takes."""
        return len(self.mean)


class Backbone(ABC):
    """Images -> grids of embeddings. Our own model is one, `nec.models.adapters` makes others, and so may you.

    A subclass defines `identity`, `dimensions`, `patch`, `pixels`, `input_size` and `embed`; or see `from_callable`.

    Attributes:
        name: what errors and stores call it.
        codec: fitted to its embeddings, or None; `nec.encode` then fits one.
        device: where it computes: "cpu", "cuda", "mps".
        precision: in which it computes: "fp32", "bf16" or "fp16". Others than "fp32" are part of `identity`.
        any_size: whether images of other sizes than `input_size` may be given; else they are resized to it.
    """

    name: str = ""
    codec: EmbeddingCodec | None = None
    device: str = "cpu"
    precision: Precision = "fp32"
    any_size: bool = False

    @property
    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What decides its embeddings, JSON-able: name, sha256 of the weights, and more. Held on resume and append."""

    @property
    @abstractmethod
    def dimensions(self) -> int:
        """Channels of an embedding."""

    @property
    @abstractmethod
    def patch(self) -> tuple[int, int]:
        """Pixels (y, x) that a token stands for; the whole input where there is one vector an image."""

    @property
    @abstractmethod
    def pixels(self) -> Pixels:
        """What it wants of pixels."""

    @property
    @abstractmethod
    def input_size(self) -> tuple[int, int]:
        """(height, width) in pixels that it was made for; scenes are cut into tiles of that size."""

    @abstractmethod
    def embed(self, images: Any) -> NDArray[np.float32]:
        """What `normalize` returns, or float32 (n, bands, h, w) normalised -> embeddings (n, y, x, d)."""

    @property
    def bands(self) -> tuple[str, ...] | int:
        """Names of the bands that it takes, in order, or how many where they have none."""
        return self.pixels.bands or self.pixels.in_channels

    @property
    def fingerprint(self) -> str:
        """`identity` in one word, for the keys of caches."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()

    def normalize(self, images: NDArray[Any]) -> Any:
        """Images (n, h, w, bands), bytes or scaled to 0..1 -> what `embed` takes.

        Raises `InputError` for another number of bands.
        """
        check_bands(images.shape, self.pixels.in_channels)
        values = images.astype(np.float32)
        if images.dtype == np.uint8:
            values /= np.float32(255)
        values -= np.asarray(self.pixels.mean, np.float32)
        values /= np.asarray(self.pixels.std, np.float32)
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Token grid (y, x) of an image; `InputError` where its size does not fit."""
        (down, across), (rows, columns) = self.patch, self.input_size
        if not self.any_size and (height, width) != (rows, columns):
            raise InputError(f"{self.name} takes images of {columns}x{rows} px, not {width}x{height} px")
        if not height or not width or height % down or width % across:
            near = max(down, min(height, width) // down * down)
            raise InputError(
                f"{width}x{height} px is no multiple of the model's patch of {down} px; resize with --image-size {near}"
            )
        return height // down, width // across

    def symmetric(self, symmetries: int) -> Backbone:
        """A backbone whose embeddings are means over 1, 2, 4 or 8 symmetries of the square, without a codec."""
        if symmetries not in GROUPS:
            raise InputError(f"symmetries must be 1, 2, 4 or 8, not {symmetries!r}")
        return self if symmetries == 1 else SymmetricBackbone(self, symmetries)

    @staticmethod
    def from_callable(
        function: Callable[[NDArray[np.float32]], Any],
        *,
        input_size: int | tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        patch: int | tuple[int, int] | None = None,
        bands: Sequence[str] | None = None,
        scale: float | None = None,
        name: str = "callable",
        sha256: str = "",
        any_size: bool = False,
        layout: Layout = "auto",
    ) -> Backbone:
        """A backbone of a function, float32 (n, bands, h, w), normalised -> a batch of features.

        Args:
            function: gives token grids (n, y, x, d), tokens (n, t, d) or vectors (n, d); NumPy arrays or tensors.
            input_size: height and width in pixels, or the side of a square.
            mean, std: of each band, of images scaled to 0..1.
            patch: pixels a token; found by one call if None.
            bands: names of the bands in order.
            scale: what pixels other than bytes are multiplied with to reach 0..1.
            name: what stores and errors call it.
            sha256: of the weights, or whatever else tells this version from others.
            any_size: whether the function takes images of other sizes.
            layout: axes of what it gives, see `grids`; "auto" takes four axes for (n, y, x, d).

        Raises:
            InputError: what the function gives is no batch of features.

        Example:
            >>> import numpy as np, nec
            >>> def mean_of_patches(images):
            ...     n, bands, h, w = images.shape
            ...     return images.reshape(n, bands, h // 8, 8, w // 8, 8).mean((3, 5)).transpose(0, 2, 3, 1)
            >>> backbone = nec.Backbone.from_callable(mean_of_patches, input_size=32, mean=[0.5] * 3, std=[0.25] * 3)
            >>> backbone.patch, backbone.dimensions
            ((8, 8), 3)
        """
        pixels = Pixels(tuple(mean), tuple(std), None if bands is None else tuple(bands), scale=scale)
        made = CallableBackbone(
            function, pixels, pair(input_size), layout="last" if layout == "auto" else layout, name=name,
            facts={"sha256": sha256}, any_size=any_size,
        )  # fmt: skip
        made.probe(None if patch is None else pair(patch))
        return made


Layout = Literal["auto", "last", "NHWC", "NCHW", "NLC", "NC"]


class CallableBackbone(Backbone):
    """A backbone of a function on normalised images; what the adapters build.

    Args:
        function: float32 (n, bands, h, w) -> features.
        layout: their axes, see `grids`.
        facts: the identity beside the name and what is known here.
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        pixels: Pixels,
        input_size: tuple[int, int],
        *,
        layout: Layout = "auto",
        name: str,
        facts: dict[str, Any],
        any_size: bool = False,
    ) -> None:
        self.name, self.any_size = name, any_size
        self._function, self._pixels, self._size, self._layout, self._facts = (
            function,
            pixels,
            input_size,
            layout,
            facts,
        )
        self._patch, self._dimensions = input_size, 0

    def probe(self, patch: tuple[int, int] | None = None) -> None:
        """Find patch and dimensions by one call on zeros. `InputError` where there is no grid, or not that patch."""
        y, x, self._dimensions = self.embed(np.zeros((1, self.pixels.in_channels, *self._size), np.float32)).shape[1:]
        if self._size[0] % y or self._size[1] % x:
            raise InputError(f"{self.name} gives {y}x{x} tokens for {self._size[0]}x{self._size[1]} px: no whole patch")
        self._patch = self._size[0] // y, self._size[1] // x
        if patch is not None and patch != self._patch:
            raise InputError(
                f"{self.name} has patches of {self._patch[0]}x{self._patch[1]} px, not {patch[0]}x{patch[1]}"
            )

    @property
    def identity(self) -> dict[str, Any]:
        pixels: dict[str, Any] = {"mean": list(self._pixels.mean), "std": list(self._pixels.std)}
        if self._pixels.bands:
            pixels["bands"] = list(self._pixels.bands)
        rest = {} if self.precision == "fp32" else {"precision": self.precision}
        return {"name": self.name, **self._facts, "preprocessing": {**pixels, "input_size": list(self._size)}, **rest}

    @property
    def dimensions(self) -> int:
        return self._dimensions

    @property
    def patch(self) -> tuple[int, int]:
        return self._patch

    @property
    def pixels(self) -> Pixels:
        return self._pixels

    @property
    def input_size(self) -> tuple[int, int]:
        return self._size

    def embed(self, images: Any) -> NDArray[np.float32]:
        check_bands(images.shape, self._pixels.in_channels, axis=1)
        found = grids(self._function(images), images.shape[2:], self._layout, self.name)
        if len(found) != len(images):
            raise InputError(f"{self.name} gives {len(found)} grids for {len(images)} images")
        return found


class SymmetricBackbone(Backbone):
    """Means over symmetries of the square of another backbone's embeddings; the work is so many times its own."""

    def __init__(self, base: Backbone, symmetries: int) -> None:
        (height, width), (down, across) = base.input_size, base.patch
        if height != width or down != across:
            raise InputError(f"{base.name} takes no square images: it has no means over turns of them")
        self.name, self.device, self.precision, self.any_size = base.name, base.device, base.precision, base.any_size
        self.base, self.symmetries = base, symmetries

    @property
    def identity(self) -> dict[str, Any]:
        return {**self.base.identity, "symmetries": self.symmetries}

    @property
    def dimensions(self) -> int:
        return self.base.dimensions

    @property
    def patch(self) -> tuple[int, int]:
        return self.base.patch

    @property
    def pixels(self) -> Pixels:
        return self.base.pixels

    @property
    def input_size(self) -> tuple[int, int]:
        return self.base.input_size

    def normalize(self, images: NDArray[Any]) -> Any:
        return self.base.normalize(images)

    def embed(self, images: Any) -> NDArray[np.float32]:
        return symmetric_mean(self.base.embed, images, GROUPS[self.symmetries])


def check_bands(shape: Sequence[int], bands: int, axis: int = 3) -> None:
    """`InputError` for a batch of images of another form."""
    if len(shape) != 4 or shape[axis] != bands:
        form = f"(n, h, w, {bands})" if axis == 3 else f"(n, {bands}, h, w)"
        raise InputError(f"images have shape {tuple(shape)}; this model takes {form}")


def grids(features: Any, size: Sequence[int], layout: Layout, name: str) -> NDArray[np.float32]:
    """Features of a model as token grids (n, y, x, d) float32.

    Args:
        features: (n, y, x, d), (n, d, y, x), (n, t, d) or (n, d): NumPy array or tensor. Of tokens (n, t, d) the first
            ones that are over beside the largest grid of the image's form are taken for CLS and registers, and dropped.
        size: (height, width) of the images.
        layout: "NHWC", "NCHW", "NLC" or "NC"; "auto" decides by the number of axes, four being "NCHW",
            "last" likewise, four being "NHWC".
        name: of the model, for errors.

    Raises:
        InputError: another form, NaN or infinite values.
    """
    if hasattr(features, "detach"):
        features = features.detach().float().cpu().numpy()
    try:
        array = np.asarray(features, np.float32)
    except (TypeError, ValueError):
        raise InputError(f"{name} gives {type(features).__name__}: one array of features is needed") from None
    four = {"auto": "NCHW", "last": "NHWC"}.get(layout)
    form = layout if four is None else {4: four, 3: "NLC", 2: "NC"}.get(array.ndim, "")
    if array.ndim != len(form) or 0 in array.shape:
        raise InputError(f"{name} gives features of shape {array.shape}: no batch of grids, tokens or vectors")
    if form == "NC":
        array = array[:, None, None]
    elif form == "NCHW":
        array = array.transpose(0, 2, 3, 1)
    elif form == "NLC":
        y, x = _grid_of(array.shape[1], size, name)
        array = array[:, array.shape[1] - y * x :].reshape(len(array), y, x, -1)
    if not np.isfinite(array).all():
        raise InputError(f"{name} gives NaN or infinite values, {np.sum(~np.isfinite(array))} of {array.size}")
    return np.ascontiguousarray(array)


def _grid_of(tokens: int, size: Sequence[int], name: str) -> tuple[int, int]:
    """The largest grid (y, x) of an image's proportions within so many tokens; few may be over."""
    height, width = size
    y = max(
        (y for y in range(1, tokens + 1) if y * y * width <= tokens * height and y * width % height == 0), default=0
    )
    x = y * width // height
    over = tokens - y * x
    if not y or over > max(16, 1):
        raise InputError(f"{name} gives {tokens} tokens for {width}x{height} px, which are no grid")
    return y, x


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """A number, or two, as (y, x); `InputError` for what is not positive."""
    values = (value, value) if isinstance(value, int) else tuple(int(item) for item in value)
    if len(values) != 2 or min(values) < 1:
        raise InputError(f"a size is a positive number of pixels, or two (y, x), not {value!r}")
    return values[0], values[1]
