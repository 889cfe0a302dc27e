"""A small real dataset, and tiny runs that learn from it."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from iris_cli.agents import presets_for
from iris_cli.config import updated
from iris_cli.envs.spec import training_spec
from iris_cli.open_run import environment_for
from iris_cli.run import Run
from iris_cli.stages.collect import Collect, collect_randomly

NewRun = Callable[..., Run]


@pytest.fixture(scope="session")
def _collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("collected") / "pong.zarr"
    collect_randomly(path, training_spec("Pong"), Collect(steps=300), seed=0)
    return path


@pytest.fixture(scope="session")
def _collected_stacks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("collected") / "stacks.zarr"
    collect_randomly(path, environment_for("twm", "Pong"), Collect(steps=120), seed=0)
    return path


@pytest.fixture
def pong_for(_collected: Path, _collected_stacks: Path, tmp_path: Path) -> Callable[[str], Path]:
    """The dataset `pong` as an agent sees it; of twm, 120 steps."""

    def copied(agent: str) -> Path:
        return Path(shutil.copytree(_collected_stacks if agent == "twm" else _collected, tmp_path / f"{agent}.zarr"))

    return copied


@pytest.fixture
def pong(_collected: Path, tmp_path: Path) -> Path:
    """A dataset of 300 steps of Pong at random, to write to as one likes."""
    return Path(shutil.copytree(_collected, tmp_path / "pong.zarr"))


@pytest.fixture(autouse=True)
def _toy_game(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `toy_game:Toy` a game like others."""
    monkeypatch.syspath_prepend(Path(__file__).parent.parent)


@pytest.fixture
def new_run(tmp_path: Path) -> Iterator[NewRun]:
    """Makes tiny runs, open for training: `new_run(dataset, agent="delta-iris", tokenizer={"batch_size": 4})`."""
    made: list[Run] = []

    def create(dataset: Path, *, name: str = "run", game: str = "Pong", agent: str = "iris", **settings: dict) -> Run:
        config = updated(presets_for(agent)["tiny"], settings, where=lambda *keys: "test", presets={})
        run = Run.create(
            tmp_path / name, agent=agent, config=config, environment=environment_for(agent, game), num_actions=6,
            dataset=dataset, seed=0, device=torch.device("cpu"),
        )  # fmt: skip
        made.append(run)
        return run

    yield create
    for run in made:
        run.close()
