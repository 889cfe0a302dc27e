"""Tiny runs of real Pong whose dreams listen to actions and do not end by themselves, and sessions in them."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from iris_cli.agents import presets_for
from iris_cli.envs.spec import training_spec
from iris_cli.open_run import environment_for
from iris_cli.play.session import Session
from iris_cli.replay.dataset import Dataset
from iris_cli.run import COMPONENTS, Run
from iris_cli.stages.collect import Collect, collect_randomly

NewSession = Callable[..., Session]
LENGTH = 150  # steps of the stored episode


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of real Pong at random, to be read only."""
    path = tmp_path_factory.mktemp("played") / "pong.zarr"
    collect_randomly(path, training_spec("Pong"), Collect(steps=LENGTH), seed=0)
    return path


@pytest.fixture(scope="session")
def stored_stacks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as grey stacks, for TWM."""
    path = tmp_path_factory.mktemp("played") / "pong-twm.zarr"
    collect_randomly(path, environment_for("twm", "Pong"), Collect(steps=40), seed=0)
    return path


def make_run(directory: Path, agent: str, dataset: Path, **settings: object) -> Run:
    """A tiny run with all components "trained", and some settings of its actor-critic changed."""
    config = presets_for(agent)["tiny"]
    config = replace(config, actor_critic=replace(config.actor_critic, **settings))
    run = Run.create(
        directory, agent=agent, config=config, environment=environment_for(agent, "Pong"),
        num_actions=6, dataset=dataset, seed=0, device=torch.device("cpu"),
    )  # fmt: skip
    with torch.no_grad():
        dynamics = run.agent.dynamics
        if agent == "twm":
            dynamics.embeds["a"].weight.mul_(100)  # fresh weights hardly listen to actions
            for parameter in dynamics.out_heads["z"].parameters():
                parameter.mul_(10)
            for name, parameter in run.agent.tokenizer.decoder.named_parameters():
                parameter.mul_(5) if name.endswith("weight") else parameter.fill_(0.1)  # all would be nearly black
        else:
            dynamics.head_ends[-1].bias.copy_(torch.tensor([8.0, -8.0]))
            dynamics.embed_actions.weight.mul_(100)
            for layer in (0, -1):
                dynamics.head_tokens[layer].weight.mul_(30)
    run.updates = dict.fromkeys(COMPONENTS, 1)
    run.save()
    run.close()
    return run


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, stored: Path, stored_stacks: Path) -> dict[str, Run]:
    """A run of each agent, and one whose policy sees what the dynamics thinks; they share their datasets."""
    place = tmp_path_factory.mktemp("runs")
    return {
        "iris": make_run(place / "iris", "iris", stored),
        "delta-iris": make_run(place / "delta-iris", "delta-iris", stored),
        "twm": make_run(place / "twm", "twm", stored_stacks),
        "twm-thinking": make_run(place / "twm-thinking", "twm", stored_stacks, reads_hidden=True),
    }


@pytest.fixture
def new_session(runs: dict[str, Run]) -> Iterator[NewSession]:
    """Makes sessions of real Pong: `new_session("delta-iris")`, or None for the game alone."""
    made: list[Session] = []

    def create(agent: str | None = "iris", **options: object) -> Session:
        run = None if agent is None else runs[agent]
        session = Session(
            (training_spec("Pong") if run is None else run.environment).for_testing(),
            agent=None if run is None else run.agent,
            dataset=None if run is None else Dataset.open(run.dataset_path),
            trained=() if run is None else COMPONENTS,
            **options,
        )
        made.append(session)
        return session

    yield create
    for session in made:
        session.close()
