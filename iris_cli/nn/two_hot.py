"""Numbers of any size as classes: buckets evenly spread on a logarithmic scale, two neighbours sharing a number.

Source: Hafner et al. 2023 (DreamerV3), sections on symlog and two-hot; sizes as in the fact sheet of Δ-IRIS,
section 3.5.
"""

import torch
from torch import Tensor, nn

_INSIDE = 1e-5  # keeps the largest number below the last bucket, so that it has a neighbour above


def symlog(x: Tensor) -> Tensor:
    """sign(x) * ln(|x| + 1): about x near 0, logarithmic far from it."""
    return x.sign() * x.abs().log1p()


def symexp(x: Tensor) -> Tensor:
    """The inverse of `symlog`."""
    return x.sign() * x.abs().expm1()


class TwoHotSymlog(nn.Module):
    """A distribution over buckets of symlog(x), and the number that it means. Has no weights.

    Args:
        buckets: how many.
        limit: the buckets reach from -limit to limit, in symlog space.
    """

    buckets: Tensor

    def __init__(self, buckets: int = 255, limit: float = 20.0) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("buckets", torch.linspace(-limit, limit, buckets), persistent=False)

    def probabilities(self, x: Tensor) -> Tensor:
        """(...) -> (..., buckets): all weight on the two buckets around symlog(x), in proportion to their nearness.

        Numbers beyond the buckets count as the outermost.
        """
        return self.weights(symlog(x))

    def weights(self, y: Tensor) -> Tensor:
        """As `probabilities`, of numbers in symlog space."""
        y = y.clamp(-self.limit, self.limit - _INSIDE).unsqueeze(-1)  # (..., 1)
        above = torch.searchsorted(self.buckets, y).clamp_min(1)
        low, high = self.buckets[above - 1], self.buckets[above]
        share = (y - low) / (high - low)  # of the bucket above
        weights = torch.zeros(*y.shape[:-1], len(self.buckets), dtype=y.dtype, device=y.device)
        return weights.scatter(-1, above - 1, 1 - share).scatter(-1, above, share)

    def expectation(self, logits: Tensor) -> Tensor:
        """(..., buckets) -> (...): symexp of the mean bucket, in this order."""
        return symexp((logits.softmax(-1) * self.buckets).sum(-1))

    def loss(self, logits: Tensor, x: Tensor) -> Tensor:
        """Cross-entropies (...) of logits (..., buckets) with the distribution that stands for x (...)."""
        return -(self.probabilities(x) * logits.log_softmax(-1)).sum(-1)
