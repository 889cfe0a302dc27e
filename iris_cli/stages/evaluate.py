"""`iris evaluate`: scores of whole games, by the published protocol.

100 episodes of the real game with one no-op, no life ends, 108,000 game frames at most, policy sampled at temperature
0.5, raw rewards summed (fact sheet of IRIS, sections 1, 8, 9). Episodes are numbered; each has its own seed for the
game and for the policy's draws, so that how many games are played at once matters only through rounding in a batch.
"""

import itertools
import json
import math
import os
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from iris_cli import console, interrupts
from iris_cli.envs.vector import VectorEnv
from iris_cli.errors import ConfigError, Interrupted
from iris_cli.learn.acting import Actor
from iris_cli.learn.scores import RANDOM_AND_HUMAN, human_normalised, mean_score
from iris_cli.report import Report
from iris_cli.run import Run
from iris_cli.version import VERSION

MAX_ENVS = 25  # published: 100 episodes in 4 waves of 25


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """The protocol. Defaults: fact sheet of IRIS, section 1."""

    episodes: int = 100
    temperature: float = 0.5  # divides the policy's logits before sampling
    epsilon: float = 0.0  # chance of a uniform random action
    num_envs: int | None = None  # games at once; None: as many as episodes and processors allow, at most 25
    seed: int = 0
    max_steps: int | None = None  # steps per episode, for quick looks; None: the published 27,000

    def __post_init__(self) -> None:
        counts = (self.episodes, self.num_envs, self.max_steps)
        if any(count is not None and count < 1 for count in counts) or self.seed < 0:
            raise ConfigError("episodes, num_envs, max_steps must be at least 1, seed not negative", where="evaluate")
        if not self.temperature > 0 or not 0 <= self.epsilon <= 1:
            raise ConfigError("temperature must be above 0 and epsilon in [0, 1]", where="evaluate")


def evaluate(run: Run, settings: Evaluate, *, name: str | None = None) -> Report:
    """Play the run's environment with its policy and write `reports/evaluate-NAME.json`.

    Args:
        run: whose agent plays.
        settings: the protocol.
        name: of the report, which replaces one of the same name; None takes the checkpoint's number, and a further
            one where that report is there already.
    """
    begun = time.monotonic()
    scores, lengths = _play(run, settings)
    seconds = time.monotonic() - begun
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
        "protocol": _protocol(run, settings),
        "agent": run.agent_name,
        "environment": game,
        "updates": run.updates,
        "collected_steps": run.collected["steps"] or None,  # None: others collected, and the run does not know
        "tokenizer_loss": run.tokenizer_loss,
        "checkpoint": f"{run.checkpoint_number:06d}",
        "fingerprint": run.fingerprint(),
        "device": str(run.device),
        "seconds": round(seconds, 1),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {"iris-wm": VERSION, "torch": str(torch.__version__)},
    }
    path = _report_path(run, name)
    draft = path.with_suffix(".partial")
    draft.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    draft.replace(path)
    figures: dict[str, float | int | str] = {
        "mean_score": result.mean,
        "confidence_interval": f"{console.number(result.low)} to {console.number(result.high)} (95 %, bootstrap)",
        "human_normalised": "-" if normalised is None else normalised,
        "episodes": len(scores),
        "best_and_worst": f"{console.number(max(scores))} and {console.number(min(scores))}",
        "mean_length": float(np.mean(lengths)),
    }
    notes = [f"never trained: {', '.join(untrained)}"] if untrained else []
    if cut:
        notes.append(f"{cut} of {len(scores)} games were cut at {settings.max_steps} steps, so this is not a score")
    return Report(stage="evaluate", figures=figures, files={"report": path}, notes=tuple(notes))


def _report_path(run: Run, name: str | None) -> Path:
    reports = run.directory / "reports"
    reports.mkdir(exist_ok=True)
    if name is not None:
        return reports / f"evaluate-{name}.json"
    number = f"{run.checkpoint_number:06d}"
    names = itertools.chain([number], (f"{number}-{again}" for again in itertools.count(2)))
    return next(path for path in (reports / f"evaluate-{name}.json" for name in names) if not path.exists())


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


def _play(run: Run, settings: Evaluate) -> tuple[list[float], list[int]]:
    """Scores and lengths of every episode, in the order of their numbers."""
    num_envs, episodes = _num_envs(settings), settings.episodes
    scores, lengths = [0.0] * episodes, [0] * episodes
    seeds = [
        [int(s) >> 1 for s in np.random.SeedSequence([settings.seed, e]).generate_state(2)] for e in range(episodes)
    ]
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
        frames = envs.reset([seeds[episode][0] for episode in playing])
        active = np.ones(num_envs, bool)
        while active.any():
            if interrupts.requested():
                raise Interrupted(f"evaluate stopped after {finished} of {episodes} episodes; no report was written.")
            steps = envs.step(actor.act(frames, active), active)
            frames, over = steps.frames, np.zeros(num_envs, bool)
            for env in np.flatnonzero(active):
                episode = playing[env]
                scores[episode] += float(steps.rewards[env])
                lengths[episode] += 1
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
    return scores, lengths
