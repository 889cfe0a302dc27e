"""`iris imagine`: watch dreams beside what the real game does under the same actions from the same start.

Three columns: the real frame, its reconstruction, and the imagined frame. A dream starts after some real steps, of
which it reads the last few; from then on it sees nothing of the real game. Where there is no game to play, only
imported data, dreams start in stored episodes, and the real column ends there unless the dream follows its actions.
Beside the video lies a file of the same name, .json, with the actions and what they earned in both.
"""

import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from iris_cli import console, interrupts
from iris_cli.envs.vector import VectorEnv
from iris_cli.errors import ConfigError, Interrupted, RunError
from iris_cli.learn.acting import Actor
from iris_cli.nn.sampling import sample
from iris_cli.render import Column, Film, compose, in_colour, media_writer, write_media
from iris_cli.replay.dataset import Dataset
from iris_cli.report import Report
from iris_cli.run import Run
from iris_cli.stages.training import needs_training

POLICIES = ("agent", "random", "dataset")
PAID = 0.05  # expected rewards nearer to 0 are shown as none: an expectation is never exactly 0


@dataclass(frozen=True, kw_only=True)
class Imagine:
    """What to dream and where to put it."""

    render: Path = Path("imagined.mp4")  # .mp4, .gif or .png; in a pipeline relative to the run's media/
    steps: int = 100  # imagined steps
    num: int = 3  # dreams, one row each
    policy: str = "agent"  # agent: acts on what it dreams; random; dataset: the actions of stored episodes
    context: int = 4  # real steps that the world model reads before the dream; published training uses 1
    warm_up: int = 60  # real steps before the dream, at least; each dream starts up to as many later
    temperature: float = 1.0  # of the policy
    fps: float = 15.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ConfigError(f"'{self.policy}' is not one of {', '.join(POLICIES)}", where="imagine.policy")
        if min(self.steps, self.num, self.context) < 1 or min(self.warm_up, self.seed) < 0:
            raise ConfigError("steps, num, context must be at least 1, warm_up and seed not negative", where="imagine")
        if not self.temperature > 0 or not self.fps > 0:
            raise ConfigError("temperature and fps must be above 0", where="imagine")
        media_writer(self.render)


def imagine(run: Run, settings: Imagine, *, path: Path | None = None) -> Report:
    """Render dreams of the run's agent to a file.

    Args:
        run: whose world model dreams.
        settings: what to dream.
        path: where to write; None is `settings.render`.

    Raises:
        ConfigError: if a setting does not fit the agent.
        RunError: if the tokenizer was never trained, or stored episodes are wanted and too short.
    """
    needs_training(run, "tokenizer")
    if settings.context > run.config.dynamics.max_blocks:
        raise ConfigError(
            f"context is {settings.context}, but the dynamics reads {run.config.dynamics.max_blocks} steps at most",
            where="imagine.context",
        )
    begun = time.monotonic()
    with console.progress("imagine", settings.num, "dreams") as bar:
        films = []
        for index in range(settings.num):
            seeds = [int(s) >> 1 for s in np.random.SeedSequence([settings.seed, index]).generate_state(4)]
            films.append(_filmed(run, settings, seeds))
            bar.advance()
            if interrupts.requested() and index + 1 < settings.num:
                raise Interrupted("imagine stopped; nothing was written.")
    path = path or settings.render
    beside = path.with_suffix(".json")
    dreams = {"dreams": [_trajectories(film) for film in films]}
    write_media(compose(films), path, fps=settings.fps, beside=(beside, json.dumps(dreams, indent=1) + "\n"))
    real, dreamt = (np.mean([_total(film.columns[index]) for film in films]) for index in (0, 2))
    has_real = settings.policy == "dataset" or not _has_no_game(run)
    figures: dict[str, float | int | str] = {
        "dreams": settings.num,
        "steps": settings.steps,
        "policy": settings.policy,
        "mean_real_return": float(real) if has_real else "-",
        "mean_imagined_return": float(dreamt),
        "seconds": time.monotonic() - begun,
    }
    files = {"picture" if path.suffix == ".png" else "video": path, "trajectories": beside}
    return Report(stage="imagine", figures=figures, files=files, notes=_notes(run, settings))


def _trajectories(film: Film) -> dict[str, Any]:
    """Actions by name, and for both columns what each earned and with which the episode ended, counted from 1."""

    def of(column: Column) -> dict[str, Any]:
        assert column.rewards is not None
        rewards = [round(float(reward), 4) for reward in column.rewards[1 : column.length]]
        return {"rewards": rewards, "ended_with_step": column.length - 1 if column.ended else None}

    return {"actions": list(film.actions or ()), "real": of(film.columns[0]), "imagined": of(film.columns[2])}


def _has_no_game(run: Run) -> bool:
    return run.environment.kind == "imported"


def _notes(run: Run, settings: Imagine) -> tuple[str, ...]:
    notes = []
    if _has_no_game(run) and settings.policy != "dataset":
        notes.append("there is no game to play, so dreams start in stored episodes, where the real column ends")
    if not run.is_trained("dynamics"):
        notes.append(
            f"the dynamics has not been trained, so the imagined column is noise. Next: {run.command('train-dynamics')}"
        )
    if settings.policy == "agent" and not run.is_trained("actor_critic"):
        notes.append(
            f"the actor-critic has not been trained, so it acts at random. Next: {run.command('train-actor-critic')}"
        )
    return tuple(notes)


def _filmed(run: Run, settings: Imagine, seeds: list[int]) -> Film:
    if settings.policy == "dataset":
        return _stored(run, settings, seeds)
    return _left(run, settings, seeds) if _has_no_game(run) else _played(run, settings, seeds)


def _played(run: Run, settings: Imagine, seeds: list[int]) -> Film:
    """A dream that starts in a real game; the real game then follows the dream's actions."""
    draws, policy = torch.Generator().manual_seed(seeds[1]), torch.Generator(device=run.device).manual_seed(seeds[2])
    actor = Actor(run.agent, 1, temperature=settings.temperature, epsilon=0.0, generators=[draws])
    warm_up = settings.context - 1 + settings.warm_up + seeds[3] % (settings.warm_up + 1)
    with closing(VectorEnv(run.environment.for_testing(), 1)) as envs:
        frames, actions, rewards = [envs.reset([seeds[0]])[0].copy()], [], []
        for _ in range(warm_up):
            action = actor.act(frames[-1][None])
            if settings.policy == "random":
                action = torch.randint(run.agent.num_actions, (1,), generator=draws).numpy()
            steps = envs.step(action)
            actor.took(action, steps.rewards)
            actions.append(int(action[0]))
            rewards.append(float(steps.rewards[0]))
            frames.append(steps.frames[0].copy())
            if steps.terminations[0] or steps.truncations[0]:
                frames, actions, rewards = [envs.reset([seeds[0] + len(frames)])[0].copy()], [], []
                actor.forget(np.ones(1, bool))
        known = min(settings.context, len(frames))
        before = len(actions) - known + 1
        dream = _Dreamed(run, np.stack(frames[-known:]), actions[before:], rewards[before:], policy)
        real = _Real(frames[-1])
        for action in _acting(run, settings, dream, actor.memory, draws, policy):
            real.step(envs, action)
        return _film(run, real, dream, envs.action_meanings)


def _left(run: Run, settings: Imagine, seeds: list[int]) -> Film:
    """A dream that starts in a stored episode, and leaves it: who acts in the dream chooses."""
    dataset = run.dataset()
    start, first = _stretch(run, dataset, settings.context, np.random.default_rng(seeds[0]))
    now = first + settings.context - 1
    before = max(start, first - settings.warm_up)
    frames = dataset.read("observations", before, now + 1)
    actions, rewards = dataset.read("actions", before, now), dataset.read("rewards", before, now)
    draws, policy = torch.Generator().manual_seed(seeds[1]), torch.Generator(device=run.device).manual_seed(seeds[2])
    actor = Actor(run.agent, 1, temperature=settings.temperature, epsilon=0.0, generators=[draws])
    for step, frame in enumerate(frames[:-1]):
        actor.act(frame[None])  # what it would do is not wanted, only what it remembers
        actor.took(actions[step : step + 1], rewards[step : step + 1])
    known = slice(first - before, None)
    dream = _Dreamed(run, frames[known], actions[known].tolist(), rewards[known].tolist(), policy)
    for _ in _acting(run, settings, dream, actor.memory, draws, policy):
        pass
    return _film(run, _Real(frames[-1]), dream, dataset.attributes["action_meanings"])


def _acting(
    run: Run, settings: Imagine, dream: "_Dreamed", memory: Any, draws: torch.Generator, policy: torch.Generator
) -> Iterator[np.ndarray]:
    """Act in the dream, at random or as the policy likes; the actions (1,) as they come."""
    for _ in range(settings.steps):
        if settings.policy == "random":
            action = torch.randint(run.agent.num_actions, (1,), generator=draws).numpy()
        else:
            with torch.no_grad():
                output = run.agent.actor_critic(dream.view, memory)
            memory = output.memory
            action = sample(output.logits_actions / settings.temperature, policy).cpu().numpy()
        dream.step(int(action[0]))
        yield action


def _stretch(run: Run, dataset: Dataset, need: int, draws: np.random.Generator) -> tuple[int, int]:
    """So many stored steps in a row: the first step of their piece of an episode, and of them.

    Raises:
        RunError: if no stored episode is that long.
    """
    ends = dataset.episode_ends
    starts = np.concatenate([[0], ends[:-1]])
    long_enough = np.flatnonzero(ends - starts >= need)
    if not len(long_enough):
        longest = int((ends - starts).max()) if len(ends) else 0
        raise RunError(
            f"{need} steps in a row are needed, but the longest stored episode has {longest}", where=run.dataset_path,
            fix="Ask for fewer: --steps N.",
        )  # fmt: skip
    episode = draws.choice(long_enough)
    first = int(draws.integers(starts[episode], ends[episode] - need + 1))
    return int(starts[episode]), first


def _stored(run: Run, settings: Imagine, seeds: list[int]) -> Film:
    """A dream that starts in a stored episode and follows its actions."""
    dataset, need = run.dataset(), settings.context + settings.steps
    _, first = _stretch(run, dataset, need, np.random.default_rng(seeds[0]))
    frames, actions = dataset.read("observations", first, first + need), dataset.read("actions", first, first + need)
    rewards = dataset.read("rewards", first, first + need)
    generator = torch.Generator(device=run.device).manual_seed(seeds[2])
    now = settings.context - 1
    dream = _Dreamed(run, frames[: now + 1], actions[:now].tolist(), rewards[:now].tolist(), generator)
    real = _Real(frames[now])
    for step in range(now, need - 1):
        dream.step(int(actions[step]))
        real.add(frames[step + 1], rewards[step], ended=False)
    return _film(run, real, dream, dataset.attributes["action_meanings"])


class _Real:
    """What the real game shows and pays."""

    def __init__(self, frame: np.ndarray) -> None:
        self.frames, self._rewards, self._ends = [frame], [0.0], [False]

    def step(self, envs: VectorEnv, action: np.ndarray) -> None:
        if self._ends[-1]:
            return
        steps = envs.step(action)
        ended = bool(steps.terminations[0] or steps.truncations[0])
        self.add(steps.frames[0].copy(), float(steps.rewards[0]), ended=ended)

    def add(self, frame: np.ndarray, reward: float, *, ended: bool) -> None:
        self.frames.append(frame)
        self._rewards.append(float(reward))
        self._ends.append(ended)

    def column(self) -> Column:
        frames = in_colour(np.stack(self.frames))
        return Column(label="real", frames=frames, rewards=np.array(self._rewards), ends=np.array(self._ends))


class _Dreamed:
    """A dream of one episode, and what it showed and paid."""

    def __init__(
        self, run: Run, frames: np.ndarray, actions: list[int], rewards: list[float], generator: torch.Generator
    ) -> None:
        self._agent, self._device = run.agent, run.device
        images = torch.from_numpy(frames).to(run.device).permute(0, 3, 1, 2)[None]  # (1, C, 3, 64, 64), or 4
        before = torch.tensor([actions], dtype=torch.int64, device=run.device)
        earned = torch.tensor([rewards], device=run.device)
        self._dream = run.agent.begin_dream(images, None, before, generator, rewards=earned, keep=images.shape[1])
        self.actions: list[int] = []
        self._views, self._rewards, self._ends = [self.view], [0.0], [False]

    @property
    def view(self) -> Tensor:
        return self._dream.view

    def step(self, action: int) -> None:
        outcome = self._dream.step(torch.tensor([action], device=self._device))
        self.actions.append(action)
        self._views.append(self.view)
        reward = round(float(outcome.rewards[0]), 2)
        self._rewards.append(reward if abs(reward) >= PAID else 0.0)
        self._ends.append(bool(outcome.over[0]))

    def column(self) -> Column:
        return Column(
            label="imagined", frames=_pixels(self._agent.picture(torch.cat(self._views))),
            rewards=np.array(self._rewards), ends=np.array(self._ends),
        )  # fmt: skip


def _film(run: Run, real: _Real, dream: _Dreamed, meanings: list[str]) -> Film:
    images = torch.from_numpy(np.stack(real.frames)).to(run.device).permute(0, 3, 1, 2)
    between = torch.tensor(dream.actions[: len(images) - 1], dtype=torch.int64, device=run.device)
    seen = Column(label="reconstruction", frames=_pixels(run.agent.reconstruct(images, between)))
    return Film(
        columns=(real.column(), seen, dream.column()), actions=tuple(meanings[action] for action in dream.actions)
    )


def _pixels(views: Tensor) -> np.ndarray:
    """(N, 3, 64, 64) in [0, 1] -> (N, 64, 64, 3) uint8."""
    return (views.detach() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()


def _total(column: Any) -> float:
    return float(column.rewards[: column.length].sum())
