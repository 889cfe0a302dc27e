"""When TWM learns what: its budgets in samples, as updates, and the passes of pre-training.

Pure functions of settings and generators. A sample is one step of one segment or rollout. Source: fact sheet of TWM,
section 6. Pipelines say how many updates they want; these budgets are for commands that are not told.
"""

import torch
from torch import Tensor

from iris_cli.agents.twm.config import ScheduleConfig, TwmConfig
from iris_cli.errors import DatasetError


def pretraining_samples(schedule: ScheduleConfig) -> dict[str, int]:
    """How many samples each stage of pre-training reads, in this order.

    The last share stands apart from the others: they may sum up to more than the budget, as they did in the release.
    """
    shares = {
        "train-tokenizer": schedule.tokenizer_share,
        "train-dynamics": schedule.dynamics_share,
        "train-actor-critic": schedule.actor_critic_share,
    }
    return {stage: round(share * schedule.pretraining_budget) for stage, share in shares.items()}


def planned_updates(config: TwmConfig, stage: str, steps: int) -> int:
    """How many updates of a stage the budget has for a dataset of so many steps, at least 1.

    As published, after 5,000 steps: 24,000 for the tokenizer, about 12,036 for the dynamics and 7,020 for the
    actor-critic; after 100,000 steps 125,000 joint ones.
    """
    if stage == "train-agent":
        return max(1, round((steps - config.schedule.prefill) / steps_per_update(config)))
    length, batch = {
        "train-tokenizer": (1, config.tokenizer.batch_size),
        "train-dynamics": (config.dynamics.segment_length, config.dynamics.batch_size),
        "train-actor-critic": (config.actor_critic.horizon, config.actor_critic.batch_size),
    }[stage]
    windows = max(1.0, sum((steps - offset) // length for offset in range(length)) / length)  # of a pass, on average
    passes = pretraining_samples(config.schedule)[stage] / (windows * length)
    return max(1, round(passes * -(-windows // batch)))


def steps_per_update(config: TwmConfig) -> float:
    """Environment steps for each joint update.

    As published 0.76: 95,000 steps share what pre-training leaves of the budget, and an update reads 100 segments of 16
    steps and 400 rollouts of 15.
    """
    schedule = config.schedule
    samples = (
        config.dynamics.batch_size * config.dynamics.segment_length
        + config.actor_critic.batch_size * config.actor_critic.horizon
    )
    return (schedule.steps - schedule.prefill) * samples / (schedule.budget - schedule.pretraining_budget)


def stack_pass(steps: int, generator: torch.Generator | None = None) -> Tensor:
    """One pass over all observations for the tokenizer: (steps,) int64, shuffled."""
    return torch.randperm(steps, generator=generator)


def start_pass(steps: int, length: int, generator: torch.Generator | None = None) -> Tensor:
    """One pass over all steps for dynamics or actor-critic: windows that do not overlap, from a random offset.

    Args:
        steps: that windows may hold.
        length: of a window.
        generator: of the CPU.

    Returns:
        (windows,) int64 first steps, shuffled.

    Raises:
        DatasetError: if not even one fits at every offset.
    """
    if steps < 2 * length - 1:
        raise DatasetError(
            f"windows of {length} steps need {2 * length} steps, but there are {steps + 1}",
            fix="Collect more: iris collect",
        )
    offset = int(torch.randint(length, (), generator=generator))
    starts = torch.arange(offset, steps - length + 1, length)
    return starts[torch.randperm(len(starts), generator=generator)]
