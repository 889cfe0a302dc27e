"""`iris train-actor-critic`: learn policy and values from real steps as the agent draws them, in imagination only.

TWM's learn from the real steps themselves, before its joint training; in imagination they learn in `train-agent`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from iris_cli import console, interrupts
from iris_cli.errors import Interrupted
from iris_cli.learn.fit import Steps
from iris_cli.learn.visits import Visits
from iris_cli.progress import Progress
from iris_cli.replay.frames import has_room
from iris_cli.replay.segments import Replay, Segments
from iris_cli.report import Report
from iris_cli.run import TOKENIZE_BLOCK, Run
from iris_cli.stages.training import Batch, Lesson, needs_training, ready_to_draw, train

_VIEW_NUMBERS = 3 * 64 * 64  # of one frame


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
        around=lambda updates: _views_kept(run, replay, updates * starts),
    )  # fmt: skip
    return train(run, lesson, settings.updates)


@contextmanager
def _views_kept(run: Run, replay: Replay, segments: int) -> Iterator[None]:
    """Within it, what the policy burns in on was decoded once for every step, if that is less work and there is room.

    Raises:
        Interrupted: after Ctrl-C.
    """
    if not run.agent.frames_have_tokens or segments * run.config.actor_critic.burn_in < replay.num_steps:
        yield
        return
    dtype = run.agent.dream_dtype
    if not has_room(replay.num_steps * _VIEW_NUMBERS * dtype.itemsize, run.device):
        yield
        return
    assert replay.tokens is not None
    with replay.keeping_views(dtype) as views:
        with console.progress("decode", replay.num_steps, "frames") as bar:
            for tokens, block in zip(replay.tokens.split(TOKENIZE_BLOCK), views.split(TOKENIZE_BLOCK), strict=True):
                block.copy_(run.agent.views_of(tokens))
                bar.advance(len(block))
                if interrupts.requested():
                    raise Interrupted("Stopped while frames were decoded; the same command goes on.")
        yield


def losses(agent: Any, segments: Segments, progress: Progress) -> Steps:
    """The optimizer steps on rollouts that begin at the last steps of segments."""
    return agent.actor_critic_losses(segments, progress.dreams)
