"""What a model is: sizes, kind of bottleneck, pixel normalisation. Stored as `config.json` in a model folder."""

from __future__ import annotations

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
    how a scene becomes input, see `nec.scenes.normalization`; None where it is not known.

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
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise InputError(f"model config: {name} must be a positive integer, got {getattr(self, name)!r}")
        if self.image_size % self.patch_size:
            raise InputError(
                f"model config: image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        if self.kind not in KINDS:
            raise InputError(f"model config: kind {self.kind!r} is not one of {', '.join(KINDS)}")
        if type(self.symmetries) is not int or self.symmetries not in SYMMETRIES:
            raise InputError(f"model config: symmetries must be 1, 2, 4 or 8, got {self.symmetries!r}")
        if self.hyper_channels % self.hyper_heads:
            raise InputError(
                f"model config: hyper_channels {self.hyper_channels} is no multiple of hyper_heads {self.hyper_heads}"
            )
        for name in ("mean", "std"):
            values = tuple(float(v) for v in getattr(self, name))
            if len(values) != self.in_channels:
                raise InputError(f"model config: {name} has {len(values)} values for {self.in_channels} bands")
            object.__setattr__(self, name, values)
        if self.bands is not None:
            object.__setattr__(self, "bands", tuple(str(name) for name in self.bands))
            if len(self.bands) != self.in_channels:
                raise InputError(f"model config: bands has {len(self.bands)} names for {self.in_channels} bands")
        if self.reflectance is not None:
            low, high = (float(value) for value in self.reflectance)
            if not low < high:
                raise InputError(f"model config: reflectance must be [low, high], got {self.reflectance!r}")
            object.__setattr__(self, "reflectance", (low, high))

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
        if bands != 3:  # ImageNet's statistics exist for RGB only
            ours.setdefault("mean", (0.5,) * bands)
            ours.setdefault("std", (0.25,) * bands)
        return cls(**ours)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able dict that `from_dict` reads."""
        return asdict(self)


#: Encoder sizes of the MAE paper (decoder: the default); merge into a config dict.
PRESETS: dict[str, dict[str, int]] = {
    "vit-t": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "vit-s": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "vit-b": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "vit-l": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
    "vit-h": {"embed_dim": 1280, "depth": 32, "num_heads": 16, "patch_size": 14},
}
