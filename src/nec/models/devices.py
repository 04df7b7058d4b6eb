"""On which device and in which precision a PyTorch model computes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

import torch
from numpy.typing import NDArray
from torch import Tensor

from nec.errors import InputError
from nec.models.backbone import CallableBackbone, Pixels, Precision, check_bands


def choose_device(device: str) -> str:
    """ "auto" -> the best there is; `InputError` for a device that is not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there.get(device.partition(":")[0], False):
        found = ", ".join(name for name, is_there in there.items() if is_there)
        raise InputError(f"there is no device {device!r} here, only {found}: give --device auto")
    return device


def check_precision(precision: str) -> Precision:
    """`InputError` for a name that is no precision."""
    if precision not in get_args(Precision):
        raise InputError(f"precision {precision!r} is unknown: give {', '.join(get_args(Precision))}")
    return precision  # type: ignore[return-value]


@contextmanager
def computing(device: str, precision: Precision) -> Iterator[None]:
    """Within, torch computes without gradients and, in other precisions than fp32, with autocast."""
    kind = device.partition(":")[0]
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    with torch.inference_mode(), torch.autocast(kind, dtype=dtype, enabled=dtype is not None):
        yield


def to_arrays(function: Callable[[Tensor], Tensor], images: Any, device: str, precision: Precision) -> Any:
    """`function` of images, array or tensor, on a device -> float32 array."""
    with computing(device, precision):
        return function(torch.as_tensor(images).to(device)).float().cpu().numpy()


def normalize(images: NDArray[Any] | Tensor, pixels: Pixels, device: torch.device | str) -> Tensor:
    """Images (n, h, w, c), bytes or scaled to 0..1 -> float32 (n, c, h, w), normalised, on the device."""
    values = torch.as_tensor(images)
    check_bands(values.shape, pixels.in_channels)
    scale = 255.0 if values.dtype == torch.uint8 else 1.0
    mean, std = (torch.tensor(numbers, device=device) for numbers in (pixels.mean, pixels.std))
    return ((values.to(device).float() / scale - mean) / std).permute(0, 3, 1, 2).contiguous()


class TorchBackbone(CallableBackbone):
    """A `CallableBackbone` whose function is a PyTorch module's, on a device and in a precision.

    Args:
        module: moved to the device and put into evaluation mode.
        function: normalised images (n, bands, h, w) -> features, all tensors.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        function: Callable[[Tensor], Tensor],
        pixels: Pixels,
        input_size: tuple[int, int],
        *,
        device: str,
        precision: str,
        facts: dict[str, Any],
        **options: Any,
    ) -> None:
        facts = {"sha256": weights_sha256(module), **facts}
        super().__init__(self._compute, pixels, input_size, facts=facts, **options)
        self.device, self.precision = choose_device(device), check_precision(precision)
        self._module, self._features = module.eval().requires_grad_(False).to(self.device), function
        self.probe()

    def _compute(self, images: Any) -> Any:
        return to_arrays(self._features, images, self.device, self.precision)

    def normalize(self, images: NDArray[Any]) -> Tensor:
        return normalize(images, self.pixels, self.device)


def weights_sha256(module: torch.nn.Module) -> str:
    """SHA-256 over the names and values of a module's state, in the order of the names."""

    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}\n".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return digest.hexdigest()
