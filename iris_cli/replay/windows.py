"""Windows: stretches of consecutive steps that may cross the ends of episodes, drawn by how often they were before.

Pure functions of counts and positions; whoever learns keeps the counts. Source: fact sheet of TWM, section 3.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from iris_cli.errors import DatasetError


@dataclass(frozen=True)
class Windows:
    """B stretches of T steps, one step before each, and the observation after its last.

    Attributes:
        stacks: (B, T+2, 4, 64, 64) uint8, or None where latents are read instead.
        actions: (B, T+1) int64
        rewards: (B, T+1) float32, as learned.
        terminations: (B, T+1) bool
        truncations: (B, T+1) bool
        fresh: (P, 4, 64, 64) uint8 observations drawn from all, with which other episodes may begin, or None.
    """

    stacks: Tensor | None
    actions: Tensor
    rewards: Tensor
    terminations: Tensor
    truncations: Tensor
    fresh: Tensor | None = None

    def rows(self, chosen: slice) -> "Windows":
        """Some of the windows; what is fresh stays."""
        return Windows(
            None if self.stacks is None else self.stacks[chosen], self.actions[chosen], self.rewards[chosen],
            self.terminations[chosen], self.truncations[chosen], self.fresh,
        )  # fmt: skip

    @property
    def ends(self) -> Tensor:
        """(B, T+1) bool, whether the next observation is of another episode."""
        return self.terminations | self.truncations


def start_probabilities(visits: Tensor, starts: int, temperature: float) -> Tensor:
    """The chance of each of the first `starts` steps to begin a window.

    Args:
        visits: (N,) int64, how many windows began at each step so far.
        starts: how many there are to choose from: steps - T + 1.
        temperature: the higher, the more alike they are; infinity is uniform. (The released program's is not quite.)

    Returns:
        (starts,) float32 that sum to 1.
    """
    return torch.softmax(-visits[:starts].float() / temperature, 0)


def draw_starts(
    visits: Tensor, *, steps: int, length: int, batch: int, temperature: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw where windows begin, none twice, and count them.

    Args:
        visits: (N,) int64, N >= steps; of the CPU, as is the generator.
        steps: how many have been collected.
        length: T, steps of a window that are learned from.
        batch: B.
        temperature: see `start_probabilities`.
        generator: None is torch's global one.

    Returns:
        Starts (B,) int64, and the visits (N,) with each start counted once more.

    Raises:
        DatasetError: if there are fewer than B places to begin.
    """
    starts = steps - length + 1
    if starts < batch:
        raise DatasetError(
            f"{batch} windows of {length} steps need {batch + length - 1} steps, but there are {steps}",
            fix="Collect more, or make the batch smaller.",
        )
    drawn = torch.multinomial(start_probabilities(visits, starts, temperature), batch, generator=generator)
    return drawn, visits.index_add(0, drawn, torch.ones_like(drawn))


def gather_windows(
    starts: Tensor,
    length: int,
    *,
    stacks: Tensor | None,
    actions: Tensor,
    rewards: Tensor,
    terminations: Tensor,
    truncations: Tensor,
) -> Windows:
    """The windows that begin at some steps.

    Before the very first step of all stands that step itself, with action 0 and reward 0.

    Args:
        starts: (B,) int64, the first of T steps.
        length: T.
        stacks: (N+1, ...), one more than the steps if windows reach the last: the observation after it; or None.
        actions, rewards, terminations, truncations: (N,) of all steps.
    """
    rows = window_steps(starts, length)  # (B, T+2)
    steps, nothing_before = rows[:, :-1], torch.zeros_like(rows[:, :-1], dtype=torch.bool)
    nothing_before[:, 0] = starts == 0
    return Windows(
        stacks=None if stacks is None else take_rows(stacks, rows),
        actions=actions[steps].masked_fill(nothing_before, 0),
        rewards=rewards[steps].masked_fill(nothing_before, 0.0),
        terminations=terminations[steps],
        truncations=truncations[steps],
    )


def window_steps(starts: Tensor, length: int) -> Tensor:
    """(B, T+2) int64: the step before each of `starts` (B,), the T steps from there on, and the one after them."""
    return (starts[:, None] + torch.arange(-1, length + 1, device=starts.device)).clamp(min=0)


def take_rows(values: Tensor, rows: Tensor) -> Tensor:
    """`values[rows]`, as index_select: six times faster on a CPU when the rows are frames."""
    return values.index_select(0, rows.flatten()).unflatten(0, rows.shape)


def adjoining_pairs(values: Tensor) -> Tensor:
    """All pairs of consecutive steps of windows: (B, T+1, ...) -> (B * T, 2, ...)."""
    return torch.stack([values[:, :-1], values[:, 1:]], 2).flatten(0, 1)
