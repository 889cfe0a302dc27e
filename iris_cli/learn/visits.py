"""How often each episode was drawn, and the chances that follow: what was drawn less comes sooner.

Source: fact sheet of Δ-IRIS, section 8. Length plays no role; a new episode starts at 0. The draws of a pipeline's
first round are not counted.
"""

import torch
from torch import Tensor


def priorities(counts: Tensor, alpha: float) -> Tensor:
    """(episodes,) chances in proportion to (1 + count)**-alpha, float64; alpha 0 makes them even."""
    weights = (1 + counts.double()) ** -alpha
    return weights / weights.sum()


class Visits:
    """Counts of one component's draws, on the CPU.

    Attributes:
        counts: (episodes,) int64.
    """

    def __init__(self, counts: list[int]) -> None:
        self.counts = torch.tensor(counts, dtype=torch.int64)

    def copy(self) -> "Visits":
        """Counts of their own, which start from these."""
        return Visits(self.counts.tolist())

    def chances(self, episodes: int, alpha: float) -> Tensor:
        """Of that many episodes; those that are new count from 0."""
        missing = episodes - len(self.counts)
        self.counts = torch.cat([self.counts[:episodes], self.counts.new_zeros(max(0, missing))])
        return priorities(self.counts, alpha)

    def note(self, episodes: Tensor | None) -> None:
        """Count draws (B,) of episodes, as `Segments.episodes` tells them; those drawn twice count twice."""
        assert episodes is not None
        self.counts.index_add_(0, episodes, torch.ones_like(episodes))
