"""Fixtures that several folders share: a small real dataset, and a place to run commands in."""

import copy
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, settings

from iris_cli.agents import presets_for
from iris_cli.cli import cli
from iris_cli.config import dump_yaml, load_yaml
from iris_cli.envs.spec import training_spec
from iris_cli.replay.dataset import Dataset
from iris_cli.run import COMPONENTS, Run
from iris_cli.stages.evaluate import Evaluate, evaluate

REPOSITORY = Path(__file__).resolve().parent.parent

# Properties: few examples, always the same ones, or with --hypothesis-profile=soak many that are new each time.
_QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("ci", max_examples=12, derandomize=True, database=None, **_QUIET)
settings.register_profile("soak", max_examples=1000, print_blob=True, **_QUIET)
settings.load_profile("ci")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave what takes hours out, unless -m speaks of it."""
    if "soak" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("soak")])
        items[:] = [item for item in items if not item.get_closest_marker("soak")]


Iris = Callable[..., "subprocess.CompletedProcess[str]"]
Command = Callable[..., Result]
Scored = Callable[..., Path]


@pytest.fixture
def recorded_graphs(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """Makes graphs that work without a GPU; see recorded_graphs.py."""
    monkeypatch.syspath_prepend(repository / "tests")
    from recorded_graphs import RecordedGraphs

    return RecordedGraphs


@pytest.fixture(scope="session", autouse=True)
def _no_fetched_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests never see weights that a user fetched."""
    before = os.environ.get("IRIS_CACHE")
    os.environ["IRIS_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("IRIS_CACHE") if before is None else os.environ.update(IRIS_CACHE=before)


@pytest.fixture
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


@pytest.fixture
def iris(tmp_path: Path) -> Iris:
    """Runs the real command in a process of its own: `iris("info", "data/pong.zarr", cwd=...)`."""

    def run(
        *arguments: str | Path, cwd: Path = tmp_path, timeout: float = 300, **options: object
    ) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "iris_cli", *map(str, arguments)]
        environment = {**os.environ, "COLUMNS": "200", "PYTHONPATH": str(REPOSITORY)}
        return subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, **options
        )

    return run


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Carries out a command in this process, which is quick: `command("info", "data/pong.zarr")`."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str | Path) -> Result:
        return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="iris")

    return run


@pytest.fixture(scope="session")
def _furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `workplace`."""
    place = tmp_path_factory.mktemp("furnished")
    _make_dataset(place / "data" / "pong.zarr", "Pong", actions=6, lengths=[12, 8])
    _make_dataset(place / "data" / "breakout.zarr", "Breakout", actions=4, lengths=[10])
    _make_dataset(place / "data" / "empty.zarr", "Pong", actions=6, lengths=[])
    for name, updates in (("fresh", 0), ("pong", 1)):
        run = Run.create(
            place / "runs" / name, agent="iris", config=presets_for("iris")["tiny"], environment=training_spec("Pong"),
            num_actions=6, dataset=Path("data/pong.zarr"), seed=0, device=torch.device("cpu"),
        )  # fmt: skip
        run.updates = dict.fromkeys(COMPONENTS, updates)
        shutil.rmtree(run.save().with_name("000001"))  # less to copy
        run.close()
    return place


@pytest.fixture
def workplace(_furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with random frames in data/{pong,breakout,empty}.zarr and two tiny runs of Pong.

    runs/pong says that it has been trained, runs/fresh has not been.
    """
    place = tmp_path / "work"
    shutil.copytree(_furnished, place)
    monkeypatch.chdir(place)
    return place


def _make_dataset(path: Path, game: str, *, actions: int, lengths: list[int]) -> None:
    environment, meanings = training_spec(game).to_mapping(), [f"ACTION{index}" for index in range(actions)]
    steps, draws = sum(lengths), np.random.default_rng(0)
    over = np.isin(np.arange(steps), np.cumsum(lengths) - 1)
    with Dataset.create(path, environment=environment, action_meanings=meanings) as dataset:
        if steps:
            dataset.append(
                observations=draws.integers(0, 256, (steps, 64, 64, 3), np.uint8),
                actions=draws.integers(0, actions, steps), rewards=over.astype(np.float32), terminations=over,
                truncations=np.zeros(steps, bool), episode_lengths=lengths, episode_ids=range(len(lengths)),
                writer="random",
            )  # fmt: skip


@pytest.fixture(scope="session")
def _evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """run.yaml and a report of it as `Run.create` and `evaluate` write them, of two episodes of the toy game."""
    place = tmp_path_factory.mktemp("evaluated")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)  # for the toy game
        run = Run.create(
            place / "toy", agent="iris", config=presets_for("iris")["tiny"], environment=training_spec("toy_game:Toy"),
            num_actions=6, dataset=place / "none.zarr", seed=0, device=torch.device("cpu"),
        )  # fmt: skip
        report = evaluate(run, Evaluate(episodes=2)).files["report"]
        run.close()
    return load_yaml(run.directory / "run.yaml").data, json.loads(report.read_text())


@pytest.fixture
def scored(_evaluated: tuple[dict, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scored:
    """Makes runs with reports by the published protocol, in the current directory: `scored("a", mean=3.0, seed=1)`.

    Called again for the same run, it adds a report. Both files are real ones, changed where the arguments say so.
    """
    monkeypatch.chdir(tmp_path)

    def make(
        name: str, *, game: str = "Pong", seed: int = 0, mean: float = 0.0, episodes: int = 100, updates: int = 300,
        report: str = "then", steps: int | None = 100_000, at: str = "2026-11-21T04:00:00+0000",
        weights: str | None = None, agent: str = "iris", cut: int = 0, **protocol: Any,
    ) -> Path:  # fmt: skip
        card, content = copy.deepcopy(_evaluated)
        environment = training_spec(game).as_grey_stacks() if agent == "twm" else training_spec(game)
        directory = Path("runs") / name
        (directory / "reports").mkdir(parents=True, exist_ok=True)
        card |= {"environment": environment.to_mapping(), "seed": seed, "created": "2026-11-21T03:00:00+0000"}
        (directory / "run.yaml").write_text(dump_yaml(card))
        spread = np.linspace(-1, 1, episodes) if episodes > 1 else np.zeros(1)
        content |= {
            "scores": (mean + spread).tolist(), "lengths": [9] * episodes, "cut": cut, "mean": mean,
            "standard_error": float(spread.std(ddof=1) / episodes**0.5) if episodes > 1 else 0.0,
            "environment": environment.name, "agent": agent, "time": at, "collected_steps": steps,
            "updates": {"tokenizer": updates, "dynamics": 0, "actor_critic": 0},
            "fingerprint": weights or f"{name}-{updates}",
        }  # fmt: skip
        content["protocol"] |= {
            "episodes": episodes, "environment": environment.for_testing().to_mapping(), **protocol
        }  # fmt: skip
        (directory / "reports" / f"evaluate-{report}.json").write_text(json.dumps(content))
        return directory

    return make
