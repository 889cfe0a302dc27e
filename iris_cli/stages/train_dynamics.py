"""`iris train-dynamics`: fit the GPT to segments, with reward and end heads.

Where frames have tokens of their own, these come from the store, or are encoded once at the start.
"""

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
class TrainDynamics:
    """How long to train."""

    updates: int | None = None  # None: one for each step of the dataset, less on a CPU


def train_dynamics(run: Run, settings: TrainDynamics) -> Report:
    """Train the run's dynamics on the tokens of its dataset."""
    needs_training(run, "tokenizer")
    replay, config = ready_to_draw(run), run.config.dynamics
    visits = run.visits("dynamics")

    def compute(agent: Any, progress: Progress) -> Iterator[Part]:
        return agent.dynamics_parts(replay, progress.draws, config.batch_size, visits=visits)

    def probe(agent: Any, progress: Progress) -> tuple[Part, float]:
        count = min(8, config.batch_size)
        agent.dynamics.train()
        part = next(agent.dynamics_parts(replay, progress.draws, count, visits=Visits([])))
        return part, count / config.batch_size

    return train(run, "train-dynamics", "dynamics", settings.updates, compute, probe=probe)
