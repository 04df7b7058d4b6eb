"""What a model is: sizes, kind of bottleneck, pixel normalisation. Stored as `config.json` in a model folder."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from nec.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_POSITIVE = (
    "image_size", "patch_size", "in_channels", "embed_dim", "num_heads", "decoder_num_heads", "hyper_channels",
    "hyper_heads",
)  # fmt: skip
KINDS = ("mae", "factorized", "hyperprior", "hierarchical")
SYMMETRIES = (1, 2, 4, 8)

# Names in other people's configurations (timm, MAE, the published NEC code) -> ours.
_ALIASES = {"img_size": "image_size", "in_chans": "in_channels", "drop_path": None, "num_classes": None}


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a masked autoencoder and of the bottleneck on its tokens. Defaults: MAE's ViT-B/16 (He et al. 2022).

    `image_size` and `patch_size` are in pixels; `mean` and `std` per band, in units of images scaled to 0..1.
    `kind`: "mae" (no bottleneck), "factorized" or "hyperprior" (Ballé et al. 2018), the latter with `hyper_channels` a
    token and `hyper_heads`, or "hierarchical", adapted through the product codec, which the model then comes with.
    `lmbda` weighs distortion against bits.

    `bands` (names or STAC common names, in order) and `reflectance` (what 0 and 1 of the scaled images stand for) tell
    how a scene becomes input, see `nec.scenes.tiles`; None where it is not known.

    `symmetries`: embeddings are means over so many symmetries of the square, see `nec.models.symmetry`; 1: plain ones.
    """

    image_size: int = 224
    patch_size: int = 16
    in_channels: int = 3
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    decoder_embed_dim: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    mlp_ratio: float = 4.0
    norm_pix_loss: bool = False
    kind: str = "mae"
    lmbda: float = 1.0
    hyper_channels: int = 96
    hyper_heads: int = 4
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    bands: tuple[str, ...] | None = None
    reflectance: tuple[float, float] | None = None
    symmetries: int = 1

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            self._need(name, type(getattr(self, name)) is int and getattr(self, name) >= 1, "a positive integer")
        for name in ("depth", "decoder_depth"):
            self._need(name, type(getattr(self, name)) is int and getattr(self, name) >= 0, "a number of blocks")
        for name in ("mlp_ratio", "lmbda"):
            self._need(name, _is_number(getattr(self, name)) and getattr(self, name) >= 0, "a number, not negative")
        self._need("kind", self.kind in KINDS, f"one of {', '.join(KINDS)}")
        self._need("symmetries", type(self.symmetries) is int and self.symmetries in SYMMETRIES, "1, 2, 4 or 8")
        self._need_multiple("image_size", "patch_size")
        self._need_multiple("hyper_channels", "hyper_heads")
        self._need_multiple("embed_dim", "num_heads")
        self._need_multiple("embed_dim", 4)
        if self.decoder_depth:
            self._need_multiple("decoder_embed_dim", "decoder_num_heads")
            self._need_multiple("decoder_embed_dim", 4)
        for name in ("mean", "std"):
            self._numbers(name, self.in_channels)
        self._need("std", min(self.std) > 0, "positive in every band")
        if self.bands is not None:
            self._need("bands", isinstance(self.bands, list | tuple), "a list of names")
            object.__setattr__(self, "bands", tuple(str(name) for name in self.bands))
            if len(self.bands) != self.in_channels:
                raise InputError(f"model config: bands has {len(self.bands)} names for {self.in_channels} bands")
        if self.reflectance is not None:
            self._numbers("reflectance", 2, "[low, high]")
            self._need("reflectance", self.reflectance[0] < self.reflectance[1], "[low, high]")

    def _need(self, name: str, holds: bool, what: str) -> None:
        if not holds:
            raise InputError(f"model config: {name} must be {what}, got {getattr(self, name)!r}")

    def _need_multiple(self, name: str, other: str | int) -> None:
        divisor = other if isinstance(other, int) else getattr(self, other)
        value, words = getattr(self, name), str(other) if isinstance(other, int) else f"{other} {divisor}"
        if value % divisor:
            raise InputError(f"model config: {name} {value} is not a multiple of {words}")

    def _numbers(self, name: str, count: int, form: str = "a list of numbers") -> None:
        """Turn a list in JSON into a tuple of so many floats."""
        values = getattr(self, name)
        self._need(name, isinstance(values, list | tuple) and all(map(_is_number, values)), form)
        if len(values) != count:
            raise InputError(f"model config: {name} has {len(values)} values for {count} bands")
        object.__setattr__(self, name, tuple(float(value) for value in values))

    @property
    def grid(self) -> tuple[int, int]:
        """Token grid (y, x) at the native image size."""
        side = self.image_size // self.patch_size
        return side, side

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """From a dict or parsed JSON with our names or those of timm and MAE; raises InputError on unknown keys."""
        known = {f.name for f in fields(cls)}
        ours: dict[str, Any] = {}
        for key, value in values.items():
            name = _ALIASES.get(key, key)
            if name is None:
                continue
            if name not in known:
                raise InputError(f"model config: unknown key {key!r}; known: {', '.join(sorted(known))}")
            ours[name] = value
        bands = ours.get("in_channels", 3)
        if type(bands) is int and 0 < bands < 1 << 16 and bands != 3:  # ImageNet's statistics exist for RGB only
            ours.setdefault("mean", (0.5,) * bands)
            ours.setdefault("std", (0.25,) * bands)
        return cls(**ours)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able dict that `from_dict` reads."""
        return asdict(self)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


#: Encoder sizes of the MAE paper (decoder: the default); merge into a config dict.
PRESETS: dict[str, dict[str, int]] = {
    "vit-t": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "vit-s": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "vit-b": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "vit-l": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
    "vit-h": {"embed_dim": 1280, "depth": 32, "num_heads": 16, "patch_size": 14},
}
