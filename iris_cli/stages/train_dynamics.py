"""`iris train-dynamics`: fit the GPT to segments, as the agent draws them, with reward and end heads.

Where frames have tokens of their own, these come from the store, or are encoded once at the start.
"""

from dataclasses import dataclass
from typing import Any

from iris_cli.learn.fit import Steps
from iris_cli.learn.visits import Visits
from iris_cli.progress import Progress
from iris_cli.replay.segments import Segments
from iris_cli.report import Report
from iris_cli.run import Run
from iris_cli.stages.training import Batch, Lesson, needs_training, ready_to_draw, train


@dataclass(frozen=True, kw_only=True)
class TrainDynamics:
    """How long to train."""

    updates: int | None = None  # None: one for each step of the dataset, less on a CPU


def train_dynamics(run: Run, settings: TrainDynamics) -> Report:
    """Train the run's dynamics on its dataset."""
    needs_training(run, "tokenizer")
    replay = ready_to_draw(run)

    def draw(progress: Progress, count: int, visits: Visits) -> Batch:
        return run.agent.dynamics_batch(replay, progress.draws, count, visits=visits)

    lesson = Lesson("train-dynamics", "dynamics", draw, losses, run.config.dynamics.batch_size, probe_size=8)
    return train(run, lesson, settings.updates)


def losses(agent: Any, segments: Segments, progress: Progress) -> Steps:
    """The optimizer steps on a batch of segments."""
    return agent.dynamics_losses(segments)
