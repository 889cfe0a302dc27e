"""`iris train-dynamics`: fit the GPT to segments of tokens and actions, with reward and end heads.

Source: fact sheet of IRIS, sections 3.3 and 6. Tokens come from the store, or are encoded once at the start.
"""

from dataclasses import dataclass
from typing import Any

from iris_cli.learn.fit import Part, Steps
from iris_cli.progress import Progress
from iris_cli.replay.segments import Segments
from iris_cli.report import Report
from iris_cli.run import Run
from iris_cli.stages.training import Lesson, needs_training, tokenized, train


@dataclass(frozen=True, kw_only=True)
class TrainDynamics:
    """How long to train."""

    updates: int | None = None  # None: one for each step of the dataset, less on a CPU


def train_dynamics(run: Run, settings: TrainDynamics) -> Report:
    """Train the run's dynamics on the tokens of its dataset."""
    needs_training(run, "tokenizer")
    replay, config = tokenized(run), run.config.dynamics

    def draw(progress: Progress, count: int) -> Segments:
        return replay.from_start(count, config.segment_length, progress.draws, frames=False, tokens=True)

    lesson = Lesson("train-dynamics", "dynamics", draw, losses, config.batch_size, probe_size=8)
    return train(run, lesson, settings.updates)


def losses(agent: Any, segments: Segments, progress: Progress) -> Steps:
    """One optimizer step on a batch of segments. Dropout draws from torch's global stream."""
    return [[Part(agent.dynamics.loss(segments), 1.0)]]
