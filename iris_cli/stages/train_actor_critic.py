"""`iris train-actor-critic`: learn policy and values in imagination only.

Source: fact sheet of IRIS, section 5. Burn-in frames are decoded from stored tokens, never encoded again. The clipped
objective, several rollouts per start and the bonus for novelty are variants, not in the paper or released code.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from iris_cli.learn.actor_critic import Rollout, actor_critic_loss, clipped_loss, targets_of
from iris_cli.learn.fit import Part, Steps
from iris_cli.learn.imagination import imagine, look_again
from iris_cli.learn.losses import Losses
from iris_cli.progress import Progress
from iris_cli.replay.segments import Segments
from iris_cli.report import Report
from iris_cli.run import Run
from iris_cli.stages.training import Lesson, needs_training, tokenized, train


@dataclass(frozen=True, kw_only=True)
class TrainActorCritic:
    """How long to train."""

    updates: int | None = None  # None: one for each step of the dataset, less on a CPU


def train_actor_critic(run: Run, settings: TrainActorCritic) -> Report:
    """Train the run's actor-critic inside its world model."""
    needs_training(run, "tokenizer")
    needs_training(run, "dynamics")
    replay, config = tokenized(run), run.config.actor_critic

    def draw(progress: Progress, count: int) -> Segments:
        return replay.from_end(count, config.burn_in + 1, progress.draws, frames=False, tokens=True)

    starts = config.batch_size // config.rollouts_per_start
    lesson = Lesson(
        "train-actor-critic", "actor_critic", draw, losses, starts, probe_size=max(1, starts // 4),
        also=None if run.agent.exploration is None else "exploration",
    )  # fmt: skip
    return train(run, lesson, settings.updates)


def losses(agent: Any, segments: Segments, progress: Progress) -> Steps:
    """One update: rollouts from the last steps of segments, and one optimizer step on them, or several if clipped."""
    config = agent.config.actor_critic
    memory, dream = agent.actor_critic_start(segments.repeated(config.rollouts_per_start), progress.dreams)
    clipped, novelty = config.objective == "clipped", agent.exploration
    keep_views = novelty is not None or (clipped and config.passes > 1)
    rollout = imagine(dream, agent.actor_critic, memory, config.horizon, progress.dreams, keep_views=keep_views)
    besides: list[Losses] = []
    if novelty is not None:
        bonuses, known = novelty(rollout, gamma=config.gamma)
        rollout = replace(rollout, rewards=rollout.rewards + agent.config.exploration.weight * bonuses)
        besides.append(known)
    if clipped:
        return _passes(agent, rollout, memory, besides)
    reinforced = actor_critic_loss(rollout, gamma=config.gamma, lam=config.lam, entropy_weight=config.entropy_weight)
    return [[Part(loss, 1.0) for loss in (reinforced, *besides)]]


def _passes(agent: Any, rollout: Rollout, memory: Any, besides: list[Losses]) -> Iterator[list[Part]]:
    """The passes of the clipped objective; what is learned beside it, in the first."""
    config = agent.config.actor_critic
    targets = targets_of(rollout, gamma=config.gamma, lam=config.lam)
    for number in range(config.passes):
        if number:
            rollout, besides = look_again(rollout, agent.actor_critic, memory), []
        loss = clipped_loss(rollout, targets, clip_ratio=config.clip_ratio, entropy_weight=config.entropy_weight)
        yield [Part(each, 1.0) for each in (loss, *besides)]
