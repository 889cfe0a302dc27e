"""What the draws of a component remember: how often each episode or step was drawn, and what is left of a pass.

Sources: fact sheets of Δ-IRIS, section 8 (episodes; length plays no role), and of TWM, sections 3 and 6 (steps).
What is new starts at 0. The draws of Δ-IRIS in a pipeline's first round are not counted.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def priorities(counts: Tensor, alpha: float) -> Tensor:
    """(episodes,) chances in proportion to (1 + count)**-alpha, float64; alpha 0 makes them even."""
    weights = (1 + counts.double()) ** -alpha
    return weights / weights.sum()


class Visits:
    """Of one component, on the CPU. Plain values of both attributes lie in the run's checkpoint.

    Attributes:
        counts: (episodes,) or (steps,) int64.
        left: (n,) int64, the steps that are still to come in a pass that draws each once.
    """

    def __init__(self, counts: list[int], left: list[int] | None = None) -> None:
        self.counts = torch.tensor(counts, dtype=torch.int64)
        self.left = torch.tensor(left or [], dtype=torch.int64)

    def of(self, number: int) -> Tensor:
        """The counts of that many episodes or steps, which is how many there are now."""
        missing = number - len(self.counts)
        self.counts = torch.cat([self.counts[:number], self.counts.new_zeros(max(0, missing))])
        return self.counts

    def copy(self) -> "Visits":
        """One of its own, which starts from this."""
        return Visits(self.counts.tolist(), self.left.tolist())

    def chances(self, episodes: int, alpha: float) -> Tensor:
        """Of that many episodes."""
        return priorities(self.of(episodes), alpha)

    def note(self, episodes: Tensor | None) -> None:
        """Count draws (B,) of episodes, as `Segments.episodes` tells them; those drawn twice count twice."""
        assert episodes is not None
        self.counts.index_add_(0, episodes, torch.ones_like(episodes))

    def next_of_pass(self, count: int, steps: int, new_pass: Callable[[], Tensor]) -> Tensor:
        """The next (up to `count`,) of a pass; the last batch of a pass may be smaller.

        Args:
            count: of a batch.
            steps: how many there are; what a rewind took away is left out.
            new_pass: (n,) int64, all that a pass draws, in its order.
        """
        self.left = self.left[self.left < steps]
        if not len(self.left):
            self.left = new_pass()
        drawn, self.left = self.left[:count], self.left[count:]
        return drawn
