"""When TWM learns what: its budgets in samples, as updates. Pure functions of settings and generators.

A sample is one step of one segment or rollout. Source: fact sheet of TWM, section 6; the rests that floating point
leaves are kept, so that the numbers of updates are the released program's.
"""

import torch
from torch import Tensor

from iris_cli.agents.twm.config import ScheduleConfig, TwmConfig


def pretraining_samples(schedule: ScheduleConfig) -> dict[str, int]:
    """How many samples each component reads before the joint updates begin, in this order.

    The last share stands apart from the others: they may sum up to more than the budget, as they did in the release.
    """
    shares = {
        "tokenizer": schedule.tokenizer_share,
        "dynamics": schedule.dynamics_share,
        "actor_critic": schedule.actor_critic_share,
    }
    return {component: round(share * schedule.pretraining_budget) for component, share in shares.items()}


def stack_batches(steps: int, batch: int, generator: torch.Generator | None = None) -> list[Tensor]:
    """One pass over all observations for the tokenizer: shuffled, in batches (up to `batch`,) int64."""
    return list(torch.randperm(steps, generator=generator).split(batch))


def start_batches(steps: int, *, length: int, batch: int, generator: torch.Generator | None = None) -> list[Tensor]:
    """One pass over all steps for dynamics or actor-critic: windows that do not overlap, from a random offset.

    Args:
        steps: how many have been collected.
        length: of a window.
        batch: windows at most at once.
        generator: of the CPU.

    Returns:
        Shuffled first steps of windows, in batches (up to `batch`,) int64.
    """
    offset = int(torch.randint(length, (), generator=generator))
    starts = torch.arange(offset, steps - length + 1, length)
    return list(starts[torch.randperm(len(starts), generator=generator)].split(batch))


def updates_due(config: TwmConfig) -> list[int]:
    """How many joint updates follow each environment step after the prefill.

    As published 1 or 2, one for every 0.76 steps: 95,000 steps share what pre-training leaves of the budget, and an
    update reads 100 segments of 16 steps and 400 rollouts of 15.
    """
    schedule = config.schedule
    samples = (
        config.dynamics.batch_size * config.dynamics.segment_length
        + config.actor_critic.batch_size * config.actor_critic.horizon
    )
    steps = schedule.steps - schedule.prefill
    per_update = steps * samples / (schedule.budget - schedule.pretraining_budget)
    due, saved = [], 0.0
    for _ in range(steps):
        saved += 1
        updates = 0
        while saved >= per_update:
            saved -= per_update
            updates += 1
        due.append(updates)
    return due
