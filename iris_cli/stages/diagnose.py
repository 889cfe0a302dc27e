"""`iris diagnose`: which part of the world model fails, measured on games that training never saw.

The run's policy plays fresh games under the settings of collection; they stay in memory, are measured by the agent
itself (`Agent.diagnose`), and the figures become hints. Nothing of the run is changed but its log and reports.
"""

import itertools
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch

from iris_cli import console, interrupts
from iris_cli.config import to_mapping
from iris_cli.envs.vector import VectorEnv
from iris_cli.errors import ConfigError, DatasetError, Interrupted
from iris_cli.learn.acting import Actor
from iris_cli.learn.diagnosis import Diagnosis, Episode
from iris_cli.learn.hints import behind_copying, hints, parts, plain
from iris_cli.object_store import Location
from iris_cli.replay.dataset import Dataset
from iris_cli.report import Report
from iris_cli.run import Run
from iris_cli.stages.collect import Collect
from iris_cli.stages.diagnosis_tables import tables
from iris_cli.stages.recorder import Recorder
from iris_cli.stages.reports import about, write_report

HORIZON = 20  # steps of the dreams that are compared with what really came
_STREAM = 0xD1A6  # sets these games apart from those of collections and evaluations with the same seed


@dataclass(frozen=True, kw_only=True)
class Diagnose:
    """What to measure, and on what."""

    steps: int = 2000  # environment steps at most
    episodes: int | None = None  # episodes at most; None: as many as the steps hold
    horizon: int = HORIZON  # steps of the dreams that are compared with what really came
    dataset: Location | None = None  # measure on the first steps of this one instead of on fresh games
    seed: int = 0  # of games, actions and dreams

    def __post_init__(self) -> None:
        for name in ("steps", "horizon"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, but must be at least 1", where=f"diagnose.{name}")
        if (self.episodes is not None and self.episodes < 1) or self.seed < 0:
            raise ConfigError("episodes must be at least 1 and seed not negative", where="diagnose")


def diagnose(run: Run, settings: Diagnose, *, name: str | None = None) -> Report:
    """Measure the run's world model and write `reports/diagnose-NAME.json`; also to its log, if it may be written to.

    Args:
        run: whose agent is measured.
        settings: on what.
        name: of the report, which replaces one of the same name; None takes the checkpoint's number, and a further
            one where that report is there already.

    Raises:
        DatasetError: if the dataset that is named is empty, or of another environment.
        Interrupted: after Ctrl-C; nothing is written.
    """
    begun = time.monotonic()
    if settings.dataset is None:
        policy = "agent" if run.is_trained("actor_critic") and run.is_trained("tokenizer") else "random"
        source = f"fresh games, {policy} policy"
        episodes = _played(run, settings, policy)
    else:
        source = f"dataset {settings.dataset}"
        episodes = stored(run, settings.dataset, steps=settings.steps, most=settings.episodes)
    diagnosis = measured(run, episodes, horizon=settings.horizon, seed=settings.seed)
    rewards = training_rewards(run)
    found = hints(diagnosis, training_rewards=rewards)
    content = {
        "held_out": source,
        "settings": to_mapping(settings),
        "training_rewards": rewards,
        "world_model": diagnosis.to_mapping(),
        "hints": plain(found),
        **about(run, seconds=time.monotonic() - begun),
    }
    path = write_report(run, "diagnose", name, content)
    figures = key_figures(diagnosis)
    if run.is_writable:
        run.log(stage="diagnose", **figures)
    return Report(
        stage="diagnose",
        figures={**figures, "weak_parts": parts(found)},
        sections=tables(
            diagnosis,
            found,
            title=f"{run.directory}, on {diagnosis.steps:,} steps of {diagnosis.episodes} episodes ({source})",
        ),
        files={"report": path},
        notes=_notes(run, settings),
    )


def measured(run: Run, episodes: list[Episode], *, horizon: int, seed: int) -> Diagnosis:
    """What the run's agent says of itself on episodes in memory.

    Raises:
        Interrupted: after Ctrl-C.
    """
    trained = [component for component in run.updates if run.is_trained(component)]
    with console.progress("measure", sum(map(len, episodes)), "frames") as bar:

        def watch(frames: int) -> None:
            bar.advance(frames)
            if interrupts.requested():
                raise Interrupted("Stopped while the world model was measured; no report was written.")

        return run.agent.diagnose(episodes, trained=trained, horizon=horizon, seed=seed, watch=watch)


def key_figures(diagnosis: Diagnosis) -> dict[str, float | int | str]:
    """The few that make curves worth having, of what was measured."""
    figures: dict[str, float | None] = {}
    if (tokenizer := diagnosis.tokenizer) is not None:
        figures |= {
            "reconstruction_error": tokenizer.reconstruction.absolute,
            "moving_error": tokenizer.reconstruction.moving_absolute,
            "perplexity": tokenizer.perplexity,
            "latent_entropy": tokenizer.latent_entropy,
        }
    if (dynamics := diagnosis.dynamics) is not None:
        figures |= {
            "token_cross_entropy": dynamics.cross_entropy,
            "changed_tokens_right": dynamics.changed_accuracy,
            "tokens_right": dynamics.next_accuracy,
            "tokens_right_copying": dynamics.copy_accuracy,
        }
    for part, classifier in (("reward", diagnosis.rewards), ("end", diagnosis.ends)):
        if classifier is not None:
            figures[f"{part}_accuracy"] = classifier.accuracy
            for name, one in classifier.classes.items():
                if name not in ("0", "goes on"):
                    figures[f"{part}_f1" if part == "end" else f"{part}_f1_{name}"] = one.f1
    if (dream := diagnosis.dream) is not None:
        step = behind_copying(dream, dream.sampled)
        figures |= {
            f"dream_error_{dream.horizon}": dream.sampled.error[-1],
            f"copy_error_{dream.horizon}": dream.copy.error[-1],
            "dream_behind_copying_from": step,
        }
    if (policy := diagnosis.policy) is not None:
        figures |= {"policy_entropy": policy.entropy, "value_correlation": policy.value_correlation}
    return {name: value for name, value in figures.items() if value is not None}


def training_rewards(run: Run) -> dict[str, int] | None:
    """Steps of the run's dataset by the sign of their reward; None where the dataset is missing or unreadable."""
    try:
        with run.dataset() as dataset:
            signs = np.sign(dataset.read("rewards"))
    except DatasetError:  # an imported run has none, and an evaluation must not fail for want of a hint
        return None
    return {name: int((signs == sign).sum()) for name, sign in (("-1", -1), ("0", 0), ("+1", 1))}


def _notes(run: Run, settings: Diagnose) -> tuple[str, ...]:
    own = settings.dataset is not None and settings.dataset.resolve() == run.dataset_path.resolve()
    return (f"{run.directory} was trained on this dataset, so these steps are not held out",) if own else ()


def stored(run: Run, path: Location, *, steps: int, most: int | None = None) -> list[Episode]:
    """The first steps of a dataset of the run's environment, by pieces of episodes, up to `most` of them.

    Raises:
        DatasetError: if the dataset is empty, or of another environment.
    """
    with Dataset.open(path) as dataset:
        dataset.check_environment(run.environment.to_mapping())
        if not dataset.num_steps:
            raise DatasetError(
                "the dataset has no steps", where=path, fix=f"Collect: iris collect --env {run.environment.name}"
            )
        ends = dataset.episode_ends[:most]
        pieces = zip(np.append(0, ends[:-1]).tolist(), np.minimum(ends, steps).tolist(), strict=True)
        return [
            Episode(
                frames=dataset.read("observations", start, stop),
                actions=dataset.read("actions", start, stop),
                rewards=dataset.read("rewards", start, stop),
                ends=dataset.read("terminations", start, stop) | dataset.read("truncations", start, stop),
            )
            for start, stop in pieces
            if start < stop
        ]


def _played(run: Run, settings: Diagnose, policy: str) -> list[Episode]:
    """Fresh games under the settings of collection, the last one cut where the steps are used up."""
    words = np.random.SeedSequence([settings.seed, 0, 0, 0, _STREAM]).generate_state(2)
    draws = torch.Generator().manual_seed(int(words[1]))
    usual = Collect()
    actor = Actor(run.agent, 1, temperature=usual.temperature, epsilon=usual.epsilon, generators=[draws])
    episodes: list[Episode] = []
    with (
        closing(VectorEnv(run.environment, 1)) as envs,
        console.progress(f"play ({run.environment.name}, {policy} policy)", settings.steps, "steps") as bar,
    ):
        for seed in itertools.islice(_game_seeds(settings.seed), settings.episodes):
            left = settings.steps - sum(map(len, episodes))
            if not left:
                break
            actor.forget(np.ones(1, bool))
            recorder, frames = Recorder(left), envs.reset([seed])
            while not recorder.is_complete:
                if interrupts.requested():
                    raise Interrupted("diagnose stopped while it played; no report was written.")
                action = actor.act(frames) if policy == "agent" else _random(run.agent.num_actions, draws)
                steps = envs.step(action)
                actor.took(action, steps.rewards)
                over = bool(steps.terminations[0] or steps.truncations[0])
                recorder.add(frames[0], int(action[0]), float(steps.rewards[0]), over)
                frames = steps.frames
                bar.advance()
            episodes.append(recorder.episode())
    return episodes


def _random(num_actions: int, draws: torch.Generator) -> np.ndarray:
    return torch.randint(num_actions, (1,), generator=draws).numpy()


def _game_seeds(seed: int) -> Iterator[int]:
    """Seeds of games that neither a collection nor an evaluation gives, whatever its own seed: 5 words, not 2 or 4."""
    for number in itertools.count():
        yield int(np.random.SeedSequence([seed, number, 0, 0, _STREAM]).generate_state(1)[0]) >> 1
