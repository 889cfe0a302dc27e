"""`iris evaluate`: scores of whole games, by the published protocol.

100 episodes of the real game with one no-op, no life ends, 108,000 game frames at most, policy sampled at the agent's
published temperature, raw rewards summed (fact sheet of IRIS, sections 1, 8, 9). Episodes are numbered; each has its
own seed for the game and for the policy's draws, so that how many games are played at once matters only through
rounding in a batch.

On the first steps played the world model is measured as `iris diagnose` does it; scores do not depend on that.
"""

import math
import os
import time
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from iris_cli import console, interrupts
from iris_cli.envs.vector import VectorEnv
from iris_cli.errors import ConfigError, Interrupted
from iris_cli.evaluations import TEMPERATURES
from iris_cli.learn.achievements import Achievements, in_words, summarise
from iris_cli.learn.acting import Actor
from iris_cli.learn.diagnosis import Episode
from iris_cli.learn.hints import hints, parts, plain
from iris_cli.learn.scores import RANDOM_AND_HUMAN, human_normalised, mean_score
from iris_cli.report import Report
from iris_cli.run import Run
from iris_cli.stages.diagnose import HORIZON, key_figures, measured, training_rewards
from iris_cli.stages.recorder import Recorder
from iris_cli.stages.reports import about, check_writable, write_report

MAX_ENVS = 25  # published: 100 episodes in 4 waves of 25
SHOWN = ("moving_error", "changed_tokens_right", f"dream_error_{HORIZON}", f"copy_error_{HORIZON}")  # of those


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """The protocol. Defaults: fact sheet of IRIS, section 1."""

    episodes: int = 100
    temperature: float | None = None  # divides the policy's logits before sampling; None: as published for the agent
    epsilon: float = 0.0  # chance of a uniform random action
    num_envs: int | None = None  # games at once; None: as many as episodes and processors allow, at most 25
    seed: int = 0
    max_steps: int | None = None  # steps per episode, for quick looks; None: the published 27,000
    measured_steps: int = 2000  # of the first episodes, that the world model is measured on (25 MB of frames); 0: none

    def __post_init__(self) -> None:
        counts = (self.episodes, self.num_envs, self.max_steps)
        if any(count is not None and count < 1 for count in counts) or self.seed < 0:
            raise ConfigError("episodes, num_envs, max_steps must be at least 1, seed not negative", where="evaluate")
        if self.measured_steps < 0:
            raise ConfigError(f"measured_steps is {self.measured_steps}, but cannot be negative", where="evaluate")
        if self.temperature is not None and not self.temperature > 0:
            raise ConfigError(f"temperature is {self.temperature:g}, but must be above 0", where="evaluate")
        if not 0 <= self.epsilon <= 1:
            raise ConfigError(f"epsilon is {self.epsilon:g}, but must be in [0, 1]", where="evaluate")


def evaluate(run: Run, settings: Evaluate, *, name: str | None = None) -> Report:
    """Play the run's environment with its policy and write `reports/evaluate-NAME.json`.

    Args:
        run: whose agent plays.
        settings: the protocol.
        name: of the report, which replaces one of the same name; None takes the checkpoint's number, and a further
            one where that report is there already.

    Raises:
        RunError: before anything is played, if no report could be written.
    """
    begun, settings = time.monotonic(), _with_temperature(run, settings)
    check_writable(run)  # now, and not after 100 games
    scores, lengths, achievements, recorders = _play(run, settings)
    seconds = time.monotonic() - begun
    world_model, shown = _measure(run, recorders, settings) if settings.measured_steps else (None, {})
    result = mean_score(scores)
    cut = 0 if settings.max_steps is None else sum(length >= settings.max_steps for length in lengths)
    game = run.environment.name
    comparable = game in RANDOM_AND_HUMAN and settings.max_steps is None  # scores of cut games are not
    normalised = float(human_normalised(game, result.mean)) if comparable else None
    untrained = [component for component in run.updates if not run.is_trained(component)]
    content = {
        "scores": scores,
        "lengths": lengths,
        "cut": cut,
        "mean": result.mean,
        "standard_error": result.standard_error,
        "confidence_interval": [result.low, result.high],
        "human_normalised": normalised,
        **({} if achievements is None else {"achievements": achievements.to_mapping()}),
        "protocol": _protocol(run, settings),
        "world_model": world_model,
        **about(run, seconds=seconds),
    }
    path = write_report(run, "evaluate", name, content)
    figures: dict[str, float | int | str] = {
        "mean_score": result.mean,
        "confidence_interval": f"{console.number(result.low)} to {console.number(result.high)} (95 %, bootstrap)",
        "human_normalised": "-" if normalised is None else normalised,
        "episodes": len(scores),
        "best_and_worst": f"{console.number(max(scores))} and {console.number(min(scores))}",
        "mean_length": float(np.mean(lengths)),
        **_achievement_figures(achievements),
        **shown,
    }
    notes = [f"never trained: {', '.join(untrained)}"] if untrained else []
    if cut:
        notes.append(f"{cut} of {len(scores)} games were cut at {settings.max_steps} steps, so this is not a score")
    return Report(stage="evaluate", figures=figures, files={"report": path}, notes=tuple(notes))


def _with_temperature(run: Run, settings: Evaluate) -> Evaluate:
    """The settings with the temperature that the agent was published with, where they name none; says so."""
    if settings.temperature is not None:
        return settings
    temperature = TEMPERATURES[run.agent_name]
    console.say(f"Temperature {temperature}, as published for {run.agent_name}; --temperature sets another.")
    return replace(settings, temperature=temperature)


def _achievement_figures(achievements: Achievements | None) -> dict[str, float | int | str]:
    if achievements is None:
        return {}
    return {
        "achievement_score": achievements.score,
        "achievements_per_episode": achievements.unlocked,
        "success_rates": in_words(achievements.success_rates),
    }


def _protocol(run: Run, settings: Evaluate) -> dict[str, Any]:
    return {
        "episodes": settings.episodes,
        "temperature": settings.temperature,
        "epsilon": settings.epsilon,
        "sampled": True,
        "seed": settings.seed,
        "num_envs": _num_envs(settings),
        "max_steps": settings.max_steps,
        "environment": run.environment.for_testing().to_mapping(),
        "score": "sum of raw rewards over a whole game",
        "interval": "95 % percentile bootstrap of the mean over episodes, 10,000 resamples",
    }


def _num_envs(settings: Evaluate) -> int:
    if settings.num_envs is not None:
        return min(settings.num_envs, settings.episodes)
    return min(settings.episodes, MAX_ENVS, max(4, 2 * (os.cpu_count() or 1)))


def _measure(run: Run, recorders: list[Recorder], settings: Evaluate) -> tuple[dict[str, Any], dict[str, Any]]:
    """The world model on the first steps of these games: for the report, and the figures that are shown."""
    episodes = _first_steps(recorders, settings.measured_steps)
    diagnosis = measured(run, episodes, horizon=HORIZON, seed=settings.seed)
    lives = run.environment.life_loss_ends  # in training, not here
    found = hints(diagnosis, training_rewards=training_rewards(run), judge_ends=not lives)
    shown: dict[str, Any] = {name: value for name, value in key_figures(diagnosis).items() if name in SHOWN}
    shown["weak_parts"] = f"{parts(found)} (more: iris diagnose)"
    about_games = {"held_out": "the first steps of these games", "ends_as_in_training": not lives}
    return {**diagnosis.to_mapping(), **about_games, "hints": plain(found)}, shown


def _first_steps(recorders: list[Recorder], left: int) -> list[Episode]:
    """What was kept of the games in the order of their numbers, `left` steps at most."""
    episodes = []
    for recorder in recorders:
        if left:
            episodes.append(recorder.episode(left))
            left -= len(episodes[-1])
    return episodes


def _play(run: Run, settings: Evaluate) -> tuple[list[float], list[int], Achievements | None, list[Recorder]]:
    """Scores, lengths, achievements and first steps of every episode, in the order of their numbers."""
    num_envs, episodes = _num_envs(settings), settings.episodes
    assert settings.temperature is not None
    scores, lengths = [0.0] * episodes, [0] * episodes
    seeds = [
        [int(s) >> 1 for s in np.random.SeedSequence([settings.seed, e]).generate_state(2)] for e in range(episodes)
    ]
    # Of N episodes of one length, these are the first `kept` steps and little more, however many run at once.
    kept = settings.measured_steps
    recorders = [Recorder(kept // (episode + 1)) for episode in range(min(episodes, kept))]
    playing = np.arange(num_envs)  # the episode that each environment plays
    generators = [torch.Generator().manual_seed(seeds[episode][1]) for episode in playing]
    actor = Actor(
        run.agent, num_envs, temperature=settings.temperature, epsilon=settings.epsilon, generators=generators
    )
    limit, started, finished = settings.max_steps or math.inf, num_envs, 0
    with (
        closing(VectorEnv(run.environment.for_testing(), num_envs)) as envs,
        console.progress(f"evaluate ({run.environment.name})", episodes, "episodes") as bar,
    ):
        unlocked = np.zeros((episodes, len(envs.achievements)), bool)
        frames = envs.reset([seeds[episode][0] for episode in playing])
        active = np.ones(num_envs, bool)
        while active.any():
            if interrupts.requested():
                raise Interrupted(f"evaluate stopped after {finished} of {episodes} episodes; no report was written.")
            actions = actor.act(frames, active)
            steps = envs.step(actions, active)
            actor.took(actions, steps.rewards)
            before, frames, over = frames, steps.frames, np.zeros(num_envs, bool)
            for env in np.flatnonzero(active):
                episode = playing[env]
                if episode < len(recorders):
                    ended = bool(steps.terminations[env] or steps.truncations[env])
                    recorders[episode].add(before[env], int(actions[env]), float(steps.rewards[env]), ended)
                scores[episode] += float(steps.rewards[env])
                lengths[episode] += 1
                unlocked[episode] = steps.achievements[env]
                over[env] = steps.terminations[env] or steps.truncations[env] or lengths[episode] >= limit
            if not over.any():
                continue
            finished += int(over.sum())
            done = [scores[playing[env]] for env in np.flatnonzero(over)]
            bar.advance(len(done), f"last score {console.number(done[-1])}")
            resets: list[int | None] = [None] * num_envs
            for env in np.flatnonzero(over):
                if started == episodes:
                    active[env] = False
                    continue
                playing[env] = started
                resets[env] = seeds[started][0]
                generators[env].manual_seed(seeds[started][1])
                started += 1
            actor.forget(over)
            frames = envs.reset(resets)
        achievements = summarise(envs.achievements, unlocked)
    return scores, lengths, achievements, recorders
