"""`iris train-actor-critic`: learn policy and values in imagination only."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from iris_cli.learn.fit import Part
from iris_cli.learn.visits import Visits
from iris_cli.progress import Progress
from iris_cli.report import Report
from iris_cli.run import Run
from iris_cli.stages.training import needs_training, ready_to_draw, train


@dataclass(frozen=True, kw_only=True)
class TrainActorCritic:
    """How long to train."""

    updates: int | None = None  # None: one for each step of the dataset, less on a CPU


def train_actor_critic(run: Run, settings: TrainActorCritic) -> Report:
    """Train the run's actor-critic inside its world model."""
    needs_training(run, "tokenizer")
    needs_training(run, "dynamics")
    replay, config = ready_to_draw(run), run.config.actor_critic
    visits = run.visits("actor_critic")

    def compute(agent: Any, progress: Progress) -> Iterator[Part]:
        return agent.actor_critic_parts(replay, progress.draws, progress.dreams, config.batch_size, visits=visits)

    def probe(agent: Any, progress: Progress) -> tuple[Part, float]:
        count = max(1, config.batch_size // 4)
        part = next(agent.actor_critic_parts(replay, progress.draws, progress.dreams, count, visits=Visits([])))
        return part, count / config.batch_size

    return train(run, "train-actor-critic", "actor_critic", settings.updates, compute, probe=probe)
