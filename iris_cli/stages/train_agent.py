"""`iris train-agent`: tokenizer, dynamics and actor-critic learn together, each update from the same real steps.

For agents whose components are trained jointly: TWM. An update is one optimizer step of the world model, and one of the
actor-critic in dreams that begin at the steps it was drawn from; the metric total_loss is the mean of both.
"""

from dataclasses import dataclass
from typing import Any

from iris_cli.agents import check_joint
from iris_cli.learn.fit import Steps
from iris_cli.learn.visits import Visits
from iris_cli.progress import Progress
from iris_cli.replay.windows import Windows
from iris_cli.report import Report
from iris_cli.run import Run
from iris_cli.stages.train_tokenizer import announce_loss
from iris_cli.stages.training import Batch, Lesson, needs_steps, train


@dataclass(frozen=True, kw_only=True)
class TrainAgent:
    """How long to train."""

    updates: int | None = None  # None: as many as the settings' schedule has for the dataset's steps, less on a CPU


def train_agent(run: Run, settings: TrainAgent) -> Report:
    """Train all components of the run's agent at once.

    Raises:
        ConfigError: for an agent whose components are trained one by one.
    """
    check_joint(run.agent_name)
    replay, batch_size = needs_steps(run.replay(), run), run.config.dynamics.batch_size
    announce_loss(run)

    def draw(progress: Progress, count: int, visits: Visits) -> Batch:
        return run.agent.agent_batch(replay, progress.draws, count, visits=visits)

    lesson = Lesson(
        "train-agent", "dynamics", draw, losses, batch_size, probe_size=max(1, batch_size // 4),
        also=("tokenizer", "actor_critic"),
    )  # fmt: skip
    return train(run, lesson, settings.updates)


def losses(agent: Any, windows: Windows, progress: Progress) -> Steps:
    """The optimizer steps on a batch of windows, and on dreams that begin in them."""
    return agent.agent_losses(windows, progress.dreams)
