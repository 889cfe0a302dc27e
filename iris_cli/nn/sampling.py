"""Draws from categorical distributions without waiting for the device."""

import torch
from torch import Tensor

from iris_cli.nn import data_parallel


def sample(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw one class per row.

    An exponential race: argmax(p / noise) with noise ~ Exponential(1) is distributed as p. On a CPU these are the
    draws of `torch.distributions.Categorical` for the same generator state; on a GPU they need no check on the host.
    Processes that share a batch, whose rows then come first, draw on a CPU together what one of them would alone.

    Args:
        logits: (..., classes), unnormalised log-probabilities.
        generator: on the logits' device; None is torch's global one.

    Returns:
        (...) int64 in [0, classes).
    """
    share = data_parallel.current()
    if share.portion == 1 or logits.device.type != "cpu":
        noise = torch.empty_like(logits).exponential_(generator=generator)
    else:
        mine, whole = share.place(logits.numel())
        noise = logits.new_empty(whole).exponential_(generator=generator)[mine].view(logits.shape)
    return (logits.softmax(-1) / noise).argmax(-1)
