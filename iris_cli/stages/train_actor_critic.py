"""`iris train-actor-critic`: learn policy and values in imagination only.

Source: fact sheet of IRIS, section 5. Burn-in frames are decoded from stored tokens, never encoded again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from iris_cli.learn.actor_critic import actor_critic_loss
from iris_cli.learn.fit import Part
from iris_cli.learn.imagination import imagine
from iris_cli.progress import Progress
from iris_cli.report import Report
from iris_cli.run import Run
from iris_cli.stages.training import needs_training, tokenized, train


@dataclass(frozen=True, kw_only=True)
class TrainActorCritic:
    """How long to train."""

    updates: int | None = None  # None: one for each step of the dataset, less on a CPU


def train_actor_critic(run: Run, settings: TrainActorCritic) -> Report:
    """Train the run's actor-critic inside its world model."""
    needs_training(run, "tokenizer")
    needs_training(run, "dynamics")
    replay, config = tokenized(run), run.config.actor_critic

    def part(agent: Any, progress: Progress, batch: int) -> Part:
        segments = replay.from_end(batch, config.burn_in + 1, progress.draws, frames=False, tokens=True)
        memory, dream = agent.actor_critic_start(segments, progress.dreams)
        rollout = imagine(dream, agent.actor_critic, memory, config.horizon, progress.dreams)
        losses = actor_critic_loss(rollout, gamma=config.gamma, lam=config.lam, entropy_weight=config.entropy_weight)
        return Part(losses, 1.0)

    def compute(agent: Any, progress: Progress) -> Iterator[Part]:
        yield part(agent, progress, config.batch_size)

    def probe(agent: Any, progress: Progress) -> tuple[Part, float]:
        count = max(1, config.batch_size // 4)
        return part(agent, progress, count), count / config.batch_size

    return train(run, "train-actor-critic", "actor_critic", settings.updates, compute, probe=probe)
