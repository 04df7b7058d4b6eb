"""`hf:NAME`: vision models of Hugging Face's transformers, their last hidden state. Extra `[hf]`."""

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
    layer: int | str | None = None,
    mean: Any = None,
    std: Any = None,
    image_size: int | str | None = None,
    trust_remote_code: bool | str = False,
) -> Backbone:
    """A model of `transformers.AutoModel`; CLS and register tokens are dropped.

    Args:
        name: of a model on the hub, or a folder.
        device, precision: see `nec.load_model`.
        layer: which of the hidden states, from 0 (behind the embedding); the last, normalised one if None.
        mean, std: other statistics than those of its image processor.
        image_size: side of the input in pixels; the model's own if None.
        trust_remote_code: run code that comes with the weights.
    """
    try:
        import transformers
        from transformers import AutoModel
        from transformers.image_processing_base import ImageProcessingMixin
    except ImportError as error:
        missing_extra("transformers", "hf", error)
    from nec.models.devices import TorchBackbone

    with fetching(f"hf:{name}"):
        module = AutoModel.from_pretrained(name, trust_remote_code=truth(trust_remote_code))
    try:
        processor = ImageProcessingMixin.get_image_processor_dict(name)[0]
    except Exception:  # many models have none
        processor = {}
    settings = getattr(module.config, "vision_config", module.config)
    module = getattr(module, "vision_model", module)
    bands = int(getattr(settings, "num_channels", 3))
    statistics = [numbers(given) or processor.get(key) for given, key in ((mean, "image_mean"), (std, "image_std"))]
    if None in statistics:
        raise InputError(f"hf:{name} comes without an image processor: give mean and std, of images scaled to 0..1")
    pixels = Pixels(tuple(statistics[0]), tuple(statistics[1]))
    if pixels.in_channels != bands:
        raise InputError(f"hf:{name} takes {bands} bands: give mean and std of as many")
    own = getattr(settings, "image_size", 224)
    side = whole(image_size) or (own if isinstance(own, int) else int(own[0]))
    patch, chosen = getattr(settings, "patch_size", None), whole(layer)

    def features(images: Any) -> Any:
        found = module(pixel_values=images, output_hidden_states=chosen is not None)
        tokens = found.last_hidden_state if chosen is None else found.hidden_states[chosen]
        if tokens.ndim == 3 and isinstance(patch, int):  # CLS and registers come first
            return tokens[:, tokens.shape[1] - (images.shape[2] // patch) * (images.shape[3] // patch) :]
        return tokens

    facts = {"layer": chosen, "library": {"transformers": transformers.__version__}}
    return TorchBackbone(
        module, features, pixels, (side, side), name=f"hf:{name}", facts=facts, device=device, precision=precision
    )
