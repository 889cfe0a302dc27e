"""`iris collect`: play real episodes and append them to a dataset.

Without a run, actions are uniform random; with one, its policy acts (fact sheet of IRIS, section 8). Environments
outlive a collection: the state they are left in is stored with the data, and the next collection goes on from there,
so that several short collections give the same data as one long one. In one process they also stay warm, in the run.
"""

import itertools
import time
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch

from iris_cli import console, interrupts
from iris_cli.envs.spec import EnvSpec
from iris_cli.envs.vector import Steps, VectorEnv
from iris_cli.errors import ConfigError, Interrupted
from iris_cli.learn.achievements import summarise
from iris_cli.learn.acting import Actor
from iris_cli.object_store import Location, located
from iris_cli.replay.dataset import Dataset
from iris_cli.report import Report
from iris_cli.run import Run

COMMIT_STEPS = 1000  # per environment, between two commits
_KINDS = {
    "observations": np.uint8,
    "actions": np.int64,
    "rewards": np.float32,
    "terminations": np.bool_,
    "truncations": np.bool_,
}
_ACTION_STREAM = 0xAC  # sets the draws of random actions apart from other uses of a seed


@dataclass(frozen=True, kw_only=True)
class Collect:
    """How to collect. Defaults of the policy: fact sheet of IRIS, section 1."""

    steps: int = 10_000  # environment steps to add (4 game frames each)
    num_envs: int = 1  # environments in parallel, each in a process of its own
    epsilon: float = 0.01  # chance of a uniform random action, with a run's policy
    temperature: float = 1.0  # divides the policy's logits

    def __post_init__(self) -> None:
        if self.steps < 1 or self.num_envs < 1:
            raise ConfigError("steps and num_envs must be at least 1", where="collect")
        if not 0 <= self.epsilon <= 1 or not self.temperature > 0:
            raise ConfigError("epsilon must lie in [0, 1] and temperature above 0", where="collect")


def collect(run: Run, settings: Collect) -> Report:
    """Add steps played by the run's policy to the run's dataset, which is made where there is none."""
    [draws] = run.seeds("collect", 1)
    generator = torch.Generator().manual_seed(draws)
    actor = Actor(
        run.agent, settings.num_envs, temperature=settings.temperature, epsilon=settings.epsilon, generators=[generator]
    )
    with open_dataset(run.dataset_path, run.environment) as dataset:
        warm, run.environments = run.environments, None
        collection = _Collection(dataset, run.environment, settings, seed=run.seed, writer=run.writer, warm=warm)
        try:
            collection.burn_in(actor)
            report = collection.play(actor, title=f"collect ({run.environment.name}, policy of {run.directory})")
        except BaseException:
            collection.close()
            raise
        run.environments = collection.envs
    take_note(run)
    return report


def collect_alone(run: Run, settings: Collect) -> Report:
    """`collect` outside a pipeline, where what an interruption leaves is kept."""
    try:
        return collect(run, settings)
    except Interrupted:
        take_note(run)
        run.save()
        raise


def take_note(run: Run) -> None:
    """Let the run know how far its own dataset goes, and that its next collection draws anew."""
    if run.dataset_path == located(run.card["dataset"]):
        dataset = run.dataset()
        run.collected = {"steps": dataset.num_steps, "collector": dataset.attributes.get("collector")}
    run.end("collect")


def collect_randomly(path: Location, environment: EnvSpec, settings: Collect, *, seed: int) -> Report:
    """Add steps of uniform random play to the dataset at `path`, which is made where there is none."""
    with open_dataset(path, environment) as dataset:
        collection = _Collection(dataset, environment, settings, seed=seed, writer="random")
        with closing(collection):
            policy = _Uniform(collection.num_actions, settings.num_envs, collection.draws)
            return collection.play(policy, title=f"collect ({environment.name}, random policy)")


def open_dataset(path: Location, environment: EnvSpec) -> Dataset:
    """The dataset at `path`, open for writing; an empty one of this environment where there is none.

    Raises:
        DatasetError: if what is there is not a dataset of this environment.
    """
    if Dataset.exists(path):
        return Dataset.open_or_create(path, environment=environment.to_mapping(), action_meanings=[])
    with closing(VectorEnv(environment, 1)) as envs:
        return Dataset.create(
            path, environment=environment.to_mapping(), action_meanings=envs.action_meanings,
            achievements=envs.achievements,
        )  # fmt: skip


@lru_cache  # once in a process, however many rounds there are
def _tell(note: str) -> None:
    console.warn(note)


class _Policy(Protocol):
    """Chooses actions (E,) for frames (E, 64, 64, 3); rows that are not active are not acted in."""

    def act(self, frames: np.ndarray, active: np.ndarray) -> np.ndarray: ...

    def took(self, actions: np.ndarray, rewards: np.ndarray) -> None: ...

    def forget(self, which: np.ndarray) -> None: ...


class _Uniform:
    """Every action alike."""

    def __init__(self, num_actions: int, num_envs: int, draws: np.random.Generator) -> None:
        self._num_actions, self._num_envs, self._draws = num_actions, num_envs, draws

    def act(self, frames: np.ndarray, active: np.ndarray) -> np.ndarray:
        return self._draws.integers(self._num_actions, size=self._num_envs)

    def took(self, actions: np.ndarray, rewards: np.ndarray) -> None:
        """Nothing to learn from it."""

    def forget(self, which: np.ndarray) -> None:
        """Nothing to forget."""


class _Collection:
    """Environments that go on from where the dataset's last collection left them, and what they gave since then.

    Environments of this spec that are `warm` are used as they are if they stand just there, else closed.
    """

    def __init__(
        self,
        dataset: Dataset,
        environment: EnvSpec,
        settings: Collect,
        *,
        seed: int,
        writer: str,
        warm: VectorEnv | None = None,
    ) -> None:
        self._dataset, self._settings, self._seed, self._writer = dataset, settings, seed, writer
        self._buffers: list[_Buffer] = [_Buffer() for _ in range(settings.num_envs)]
        self._scores: list[float] = []
        saved = dataset.attributes.get("collector")
        if saved is not None and (saved["num_envs"] != settings.num_envs or saved["seed"] != seed):
            saved = None
        if warm is not None and (saved is None or warm.state() != saved["envs"]):
            warm.close()
            warm = None
        self.envs = warm or VectorEnv(environment, settings.num_envs)
        self.num_actions = self.envs.num_actions
        if self.envs.note is not None:
            _tell(f"{environment.name}: {self.envs.note}")
        # What begins anew after stored steps must not repeat them, even with their seed.
        self._origin: int = dataset.num_steps if saved is None else saved["origin"]
        self.draws = np.random.default_rng([seed, _ACTION_STREAM, self._origin])
        if saved is not None:
            self._resets: list[int] = saved["resets"]
            self._episodes: list[int | None] = saved["episodes"]
            self._running: list[float] = saved["scores"]
            self.draws.bit_generator.state = saved["draws"]
            unchanged = [None] * settings.num_envs
            self._frames = self.envs.restore(saved["envs"]) if warm is None else self.envs.reset(unchanged)
        else:
            self._resets = [0] * settings.num_envs
            self._episodes = [None] * settings.num_envs  # under way, of which steps are stored
            self._running = [0.0] * settings.num_envs
            self._frames = self.envs.reset([self._next_seed(env) for env in range(settings.num_envs)])

    def burn_in(self, actor: Actor) -> None:
        """Fill the policy's memory from the last stored steps of the episodes under way; left padding."""
        length = actor.burn_in_steps
        shape = (self._settings.num_envs, length)
        frames, mask = np.zeros((*shape, *self._frames.shape[1:]), np.uint8), np.zeros(shape, bool)
        actions, rewards = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
        for env, episode in enumerate(self._episodes):
            missing = length
            for start, stop in reversed([] if episode is None else self._dataset.pieces(episode)):
                known = min(stop - start, missing)
                if not known:
                    break
                filled = slice(missing - known, missing)
                frames[env, filled], mask[env, filled] = self._dataset.read("observations", stop - known, stop), True
                actions[env, filled] = self._dataset.read("actions", stop - known, stop)
                rewards[env, filled] = self._dataset.read("rewards", stop - known, stop)
                missing -= known
        actor.burn_in(frames, mask, actions, rewards)

    def play(self, policy: _Policy, *, title: str) -> Report:
        """Play and commit `settings.steps` steps."""
        begun, first_episode, collected = time.monotonic(), self._dataset.num_episodes, 0
        with console.progress(title, self._settings.steps, "steps") as bar:
            while collected < self._settings.steps and not interrupts.requested():
                active = np.arange(self._settings.num_envs) < self._settings.steps - collected
                self._step(policy, active)
                collected += int(active.sum())
                bar.advance(int(active.sum()), f"{len(self._scores)} episodes  mean score {self._mean_score()}")
                if max(len(buffer.actions) for buffer in self._buffers) >= COMMIT_STEPS:
                    self._commit()
        self._commit()
        if collected < self._settings.steps:
            raise Interrupted(
                f"Stopped after {collected:,} of {self._settings.steps:,} steps; they are in {self._dataset.path}. "
                f"Another {self._settings.steps - collected:,} would complete the collection."
            )
        figures = {
            "steps": collected,
            "episodes": self._dataset.num_episodes - first_episode,
            "mean_score": self._mean_score(),
            **self._achievements(),
            "steps_in_all": self._dataset.num_steps,
            "steps_per_second": collected / (time.monotonic() - begun),
        }
        return Report(stage="collect", figures=figures, files={"dataset": self._dataset.path})

    def close(self) -> None:
        """Stop the environments."""
        self.envs.close()

    def _step(self, policy: _Policy, active: np.ndarray) -> None:
        actions = policy.act(self._frames, active)
        steps = self.envs.step(actions, active)
        policy.took(actions, steps.rewards)
        for env in np.flatnonzero(active).tolist():
            self._buffers[env].add(self._frames[env], actions[env], steps, env)
            self._running[env] += float(steps.rewards[env])
        over = (steps.terminations | steps.truncations) & active
        self._frames = steps.frames
        if over.any():
            for env in np.flatnonzero(over).tolist():
                self._scores.append(self._running[env])
                self._running[env] = 0.0
            policy.forget(over)
            self._frames = self.envs.reset([self._next_seed(env) if over[env] else None for env in range(len(over))])

    def _next_seed(self, env: int) -> int:
        self._resets[env] += 1
        return int(np.random.SeedSequence([self._seed, env, self._resets[env], self._origin]).generate_state(1)[0]) >> 1

    def _commit(self) -> None:
        if not any(buffer.actions for buffer in self._buffers):
            return
        lengths: list[int] = []
        ids: list[int] = []
        new = itertools.count(self._dataset.num_episodes)
        for env, buffer in enumerate(self._buffers):
            for length in buffer.lengths():
                episode = self._episodes[env]
                ids.append(next(new) if episode is None else episode)
                lengths.append(length)
                self._episodes[env] = None
            if buffer.actions and not buffer.over():
                self._episodes[env] = ids[-1]
        arrays = {
            name: np.concatenate(
                [np.asarray(getattr(buffer, name), kind) for buffer in self._buffers if buffer.actions]
            )
            for name, kind in _KINDS.items()
        }
        if self._dataset.achievements:
            arrays["achievements"] = np.concatenate([np.array(b.achievements) for b in self._buffers if b.actions])
        self._dataset.append(
            **arrays, episode_lengths=lengths, episode_ids=ids, writer=self._writer,
            attributes={"collector": self._state()},
        )  # fmt: skip
        self._buffers = [_Buffer() for _ in self._buffers]

    def _state(self) -> dict[str, Any]:
        return {
            "num_envs": self._settings.num_envs,
            "seed": self._seed,
            "origin": self._origin,
            "resets": self._resets,
            "episodes": self._episodes,
            "scores": self._running,
            "draws": self.draws.bit_generator.state,
            "envs": self.envs.state(),
        }

    def _achievements(self) -> dict[str, float | int | str]:
        """Of all episodes in the dataset, as the benchmark counts; nothing where the game has none."""
        if not self._dataset.achievements:
            return {}
        found = summarise(self._dataset.achievements, self._dataset.unlocked())
        return {"achievement_score_in_all": "-" if found is None else round(found.score, 3)}

    def _mean_score(self) -> float | str:
        return round(float(np.mean(self._scores)), 3) if self._scores else "-"


class _Buffer:
    """Steps of one environment that are not yet on disk."""

    def __init__(self) -> None:
        self.observations: list[np.ndarray] = []
        self.actions: list[int] = []
        self.rewards: list[float] = []
        self.terminations: list[bool] = []
        self.truncations: list[bool] = []
        self.achievements: list[np.ndarray] = []

    def add(self, frame: np.ndarray, action: int, steps: Steps, env: int) -> None:
        """The frame acted on, and what the action gave."""
        self.observations.append(frame.copy())
        self.actions.append(int(action))
        self.rewards.append(float(steps.rewards[env]))
        self.terminations.append(bool(steps.terminations[env]))
        self.truncations.append(bool(steps.truncations[env]))
        self.achievements.append(steps.achievements[env])

    def over(self) -> bool:
        """Whether the last step ended its episode."""
        return self.terminations[-1] or self.truncations[-1]

    def lengths(self) -> list[int]:
        """Steps of each piece of an episode, in order."""
        ends = np.flatnonzero(np.logical_or(self.terminations, self.truncations)) + 1
        return np.diff(np.union1d(ends, [len(self.actions)]), prepend=0).tolist() if self.actions else []
