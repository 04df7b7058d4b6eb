"""`terratorch:NAME`: backbones of TerraTorch's registry (Prithvi, TerraMind, ...). Extra `[terratorch]`."""

from __future__ import annotations

from typing import Any

from nec.errors import InputError, missing_extra
from nec.models.adapters import fetching, numbers, truth, whole
from nec.models.backbone import Backbone, Pixels


def load(
    name: str,
    *,
    device: str = "auto",
    precision: str = "fp32",
    pretrained: bool | str = True,
    layer: int | str = -1,
    bands: Any = None,
    mean: Any = None,
    std: Any = None,
    scale: Any = 1e-4,
    image_size: int | str = 224,
    modality: str | None = None,
) -> Backbone:
    """A backbone of TerraTorch; prefix tokens are dropped.

    Args:
        name: as `terratorch.registry.BACKBONE_REGISTRY.build` takes it.
        device, precision: see `nec.load_model`.
        pretrained: with its weights.
        layer: which of the features that it gives; the last by default.
        bands: names of the bands in order, as the library's `bands=`.
        mean, std: of each band, of images scaled to 0..1; the model's own numbers of 10,000 where it tells them.
        scale: what numbers of the files are multiplied with to reach 0..1.
        image_size: side of the input in pixels.
        modality: of models of several, the one that is given.
    """
    try:
        import terratorch
        from terratorch.registry import BACKBONE_REGISTRY
    except ImportError as error:
        missing_extra("TerraTorch", "terratorch", error)
    from nec.models.devices import TorchBackbone

    names = bands.split(",") if isinstance(bands, str) else bands
    given: dict[str, Any] = {} if names is None else {"bands": names}
    if modality is not None:
        given["modalities"] = [modality]
    with fetching(f"terratorch:{name}"):
        module = BACKBONE_REGISTRY.build(name, pretrained=truth(pretrained), **given)
    factor = (numbers(scale) or (1e-4,))[0]
    settings = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None) or {}
    own = [settings.get(key) if isinstance(settings, dict) else getattr(settings, key, None) for key in ("mean", "std")]
    unit = factor if own[1] is not None and max(own[1]) > 2 else 1.0
    chosen = [
        numbers(value) or (None if found is None else tuple(float(number) * unit for number in found))
        for value, found in zip((mean, std), own, strict=True)
    ]
    if None in chosen:
        raise InputError(f"terratorch:{name} tells no mean and std: give them, of images scaled to 0..1")
    found_bands = names or getattr(module, "model_bands", None)
    pixels = Pixels(chosen[0], chosen[1], None if not found_bands else tuple(map(str, found_bands)), scale=factor)  # type: ignore[arg-type]
    index, side = whole(layer), whole(image_size)
    assert index is not None
    assert side is not None

    def features(images: Any) -> Any:
        found = module(images if modality is None else {modality: images})
        if isinstance(found, dict):
            found = list(found.values())
        return found[index] if isinstance(found, list | tuple) else found

    facts = {"layer": index, "library": {"terratorch": getattr(terratorch, "__version__", "unknown")}}
    return TorchBackbone(
        module, features, pixels, (side, side), name=f"terratorch:{name}", facts=facts, device=device,
        precision=precision,
    )  # fmt: skip
