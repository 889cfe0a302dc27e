"""Which floats to compute in, and copies of networks in them.

bfloat16 halves the memory that a product reads, and processors that know it multiply it two to sixteen times as fast
as float32. Where it is used, weights, losses, logits and draws stay in float32.
"""

from contextlib import AbstractContextManager
from copy import deepcopy
from typing import Generic, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def compute_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What `precision`, auto, float32 or bfloat16, means on a device."""
    if precision == "auto":
        precision = "bfloat16" if multiplies_bfloat16(device) else "float32"
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for it, and not only a slow way."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def mixed(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Within it, products and convolutions are computed in `precision`."""
    dtype = compute_dtype(precision, device)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


class Copy(Generic[M]):
    """A module's copy in another precision, for inference only. It is no part of the module's state.

    Args:
        module: what to copy.
        dtype: of the copy's weights.
    """

    def __init__(self, module: M, dtype: torch.dtype) -> None:
        self._of, self._dtype = module, dtype
        self._copy = deepcopy(module).eval().requires_grad_(False)
        self._copy.to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def is_of(self, module: nn.Module, dtype: torch.dtype) -> bool:
        """Whether this is that module's copy, on the device where the module is."""
        theirs, ours = next(module.parameters()), next(self._copy.parameters())
        return self._of is module and self._dtype == dtype and theirs.device == ours.device

    @torch.no_grad()
    def refreshed(self) -> M:
        """The copy, with the weights that the module has now, in the memory that the copy had before."""
        mine = [*self._copy.parameters(), *self._copy.buffers()]
        theirs = [*self._of.parameters(), *self._of.buffers()]
        for target, source in zip(mine, theirs, strict=True):
            target.copy_(source)
        return self._copy
