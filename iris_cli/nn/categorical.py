"""Vectors of independent categoricals: draws with a straight-through gradient, entropies, cross-entropies.

Logits are (..., K, C), K categoricals of C classes; a latent is their one-hot draws side by side, (..., K * C).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from iris_cli.nn.sampling import sample


def draw_one_hot(logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw a latent (..., K * C) from logits (..., K, C). No gradient."""
    return one_hot(sample(logits.detach(), generator), logits.shape[-1])


def most_probable(logits: Tensor) -> Tensor:
    """The latent (..., K * C) of the most probable classes. No gradient."""
    return one_hot(logits.argmax(-1), logits.shape[-1])


def one_hot(classes: Tensor, count: int) -> Tensor:
    """(..., K) int64 -> (..., K * C) float32."""
    return F.one_hot(classes, count).flatten(-2).float()


def straight_through(latents: Tensor, logits: Tensor) -> Tensor:
    """Draws (..., K * C) with the gradient of the probabilities they were drawn by; the values stay one-hot."""
    probabilities = logits.softmax(-1).flatten(-2)
    return latents + (probabilities - probabilities.detach())


def entropies(logits: Tensor) -> Tensor:
    """(..., K, C) normalised logits -> (..., K) in nats."""
    return -(logits.exp() * logits).sum(-1)


def cross_entropies(targets: Tensor, logits: Tensor) -> Tensor:
    """Sum over the categoricals of the cross-entropy of `logits` under the probabilities of `targets`.

    Args:
        targets: (..., K, C) normalised logits. Not differentiated.
        logits: (..., K, C) normalised logits.

    Returns:
        (...) in nats.
    """
    return -(targets.detach().exp() * logits).sum((-2, -1))


def normalised_entropies(logits: Tensor) -> Tensor:
    """(..., K, C) normalised logits -> (...) mean entropy of the categoricals, 1 being uniform."""
    return entropies(logits).mean(-1) / math.log(logits.shape[-1])
