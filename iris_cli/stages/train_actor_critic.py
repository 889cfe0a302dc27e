"""`iris train-actor-critic`: learn policy and values from real steps as the agent draws them, in imagination only.

TWM's learn from the real steps themselves, before its joint training; in imagination they learn in `train-agent`.
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
class TrainActorCritic:
    """How long to train."""

    updates: int | None = None  # None: one for each step of the dataset, less on a CPU


def train_actor_critic(run: Run, settings: TrainActorCritic) -> Report:
    """Train the run's actor-critic inside its world model."""
    needs_training(run, "tokenizer")
    needs_training(run, "dynamics")
    replay, starts = ready_to_draw(run), run.config.actor_critic.starts

    def draw(progress: Progress, count: int, visits: Visits) -> Batch:
        return run.agent.actor_critic_batch(replay, progress.draws, count, visits=visits)

    lesson = Lesson(
        "train-actor-critic", "actor_critic", draw, losses, starts, probe_size=max(1, starts // 4),
        also=() if run.agent.exploration is None else ("exploration",),
    )  # fmt: skip
    return train(run, lesson, settings.updates)


def losses(agent: Any, segments: Segments, progress: Progress) -> Steps:
    """The optimizer steps on rollouts that begin at the last steps of segments."""
    return agent.actor_critic_losses(segments, progress.dreams)
