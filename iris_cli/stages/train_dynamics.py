"""`iris train-dynamics`: fit the GPT to segments of tokens and actions, with reward and end heads.

Source: fact sheet of IRIS, sections 3.3 and 6. Tokens come from the store, or are encoded once at the start.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from iris_cli.learn.fit import Part
from iris_cli.progress import Progress
from iris_cli.report import Report
from iris_cli.run import Run
from iris_cli.stages.training import needs_training, tokenized, train


@dataclass(frozen=True, kw_only=True)
class TrainDynamics:
    """How long to train."""

    updates: int | None = None  # None: one for each step of the dataset, less on a CPU


def train_dynamics(run: Run, settings: TrainDynamics) -> Report:
    """Train the run's dynamics on the tokens of its dataset."""
    needs_training(run, "tokenizer")
    replay, config = tokenized(run), run.config.dynamics

    def compute(agent: Any, progress: Progress) -> Iterator[Part]:
        segments = replay.from_start(
            config.batch_size, config.segment_length, progress.draws, frames=False, tokens=True
        )
        yield Part(agent.dynamics.loss(segments), 1.0)

    def probe(agent: Any, progress: Progress) -> tuple[Part, float]:
        count = min(8, config.batch_size)
        segments = replay.from_start(count, config.segment_length, progress.draws, frames=False, tokens=True)
        agent.dynamics.train()
        return Part(agent.dynamics.loss(segments), 1.0), count / config.batch_size

    return train(run, "train-dynamics", "dynamics", settings.updates, compute, probe=probe)
