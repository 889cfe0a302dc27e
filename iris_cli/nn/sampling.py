"""Draws from categorical distributions without waiting for the device."""

import torch
from torch import Tensor


def sample(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw one class per row.

    An exponential race: argmax(p / noise) with noise ~ Exponential(1) is distributed as p. On a CPU these are the
    draws of `torch.distributions.Categorical` for the same generator state; on a GPU they need no check on the host.

    Args:
        logits: (..., classes), unnormalised log-probabilities.
        generator: on the logits' device; None is torch's global one.

    Returns:
        (...) int64 in [0, classes).
    """
    noise = torch.empty_like(logits).exponential_(generator=generator)
    return (logits.softmax(-1) / noise).argmax(-1)
