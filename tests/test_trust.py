"""Nothing that is loaded runs code: a module that only a file names is imported when a person says so, not before."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import Result

from iris_cli.agents import presets_for
from iris_cli.envs.make import make
from iris_cli.envs.spec import EnvSpec, training_spec
from iris_cli.envs.vector import VectorEnv
from iris_cli.errors import ConfigError, EnvironmentError_
from iris_cli.replay.dataset import Dataset
from iris_cli.run import COMPONENTS, Run
from iris_cli.stages.imagine import Imagine, imagine

Command = Callable[..., Result]

GAME = """
import pathlib
pathlib.Path(__file__).with_name("imported").touch()
from toy_game import Toy as Game
"""


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is made when `marked_NAME` is imported; a run `runs/r` and a dataset `data/d.zarr` of that game."""
    name = f"marked_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(GAME)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.chdir(tmp_path)
    spec = training_spec(f"{name}:Game")
    steps = 20
    with Dataset.create("data/d.zarr", environment=spec.to_mapping(), action_meanings=list("abcdef")) as dataset:
        dataset.append(
            observations=np.zeros((steps, 64, 64, 3), np.uint8), actions=np.zeros(steps, int), rewards=np.zeros(steps),
            terminations=np.arange(steps) == steps - 1, truncations=np.zeros(steps, bool), episode_lengths=[steps],
            episode_ids=[0], writer="random",
        )  # fmt: skip
    run = Run.create(
        Path("runs/r"), agent="iris", config=presets_for("iris")["tiny"], environment=spec, num_actions=6,
        dataset=Path("data/d.zarr"), seed=0, device=torch.device("cpu"),
    )  # fmt: skip
    run.updates = dict.fromkeys(COMPONENTS, 1)
    run.save()
    run.close()
    return tmp_path / "imported"


def name_of(marker: Path) -> str:
    return f"marked_{marker.parent.name}:Game"


PLAYING = (
    "evaluate --run runs/r --episodes 1 --max-steps 2",
    "imagine --run runs/r --num 1 --steps 1 --policy random --render o.png",
    "diagnose --run runs/r --steps 5 --horizon 2",
    "collect --run runs/r --steps 2",
)


@pytest.mark.parametrize("line", PLAYING)
def test_a_module_that_only_a_file_names_is_not_imported(marker: Path, command: Command, line: str) -> None:
    result = command(*line.split())

    assert result.exit_code == 1
    [error] = [text for text in result.stderr.splitlines() if text.startswith("Error")]
    assert name_of(marker) in error
    assert "--trust-env" in error
    assert not marker.exists()


@pytest.mark.parametrize(
    "line", [PLAYING[0], *(pytest.param(line, marks=pytest.mark.pipeline) for line in PLAYING[1:])]
)
def test_it_is_imported_when_a_person_says_so(marker: Path, command: Command, line: str) -> None:
    result = command(*line.split(), "--trust-env")

    assert result.exit_code == 0, result.output
    assert marker.exists()


def test_it_is_imported_when_a_person_types_its_name(marker: Path, command: Command) -> None:
    result = command("collect", "--run", "runs/r", "--env", name_of(marker), "--steps", "2")

    assert result.exit_code == 0, result.output
    assert marker.exists()


def test_another_name_does_not_vouch_for_the_runs_own(marker: Path, command: Command) -> None:
    result = command("collect", "--run", "runs/r", "--env", "toy_game:Toy", "--steps", "2")

    assert result.exit_code == 1
    assert not marker.exists()


@pytest.mark.parametrize(
    "line",
    [
        "info runs/r",
        "info data/d.zarr",
        pytest.param(
            "train-tokenizer data/d.zarr --run runs/new --preset tiny --updates 1", marks=pytest.mark.pipeline
        ),
        pytest.param("train-dynamics data/d.zarr --run runs/r --updates 1", marks=pytest.mark.pipeline),
        "imagine --run runs/r --num 1 --steps 2 --policy dataset --render o.png",
        pytest.param("diagnose --run runs/r --dataset data/d.zarr --horizon 2", marks=pytest.mark.pipeline),
        "export data/d.zarr --to mp4",
        "push runs/r --to out",
    ],
)
def test_what_plays_nothing_imports_nothing(marker: Path, command: Command, line: str) -> None:
    result = command(*line.split())

    assert result.exit_code == 0, result.output
    assert not marker.exists()


@pytest.mark.pipeline
def test_from_python_a_run_is_trusted_by_name(marker: Path) -> None:
    run = Run.open(Path("runs/r"), device=torch.device("cpu"))
    settings = Imagine(render=Path("o.png"), num=1, steps=1, policy="random")

    with pytest.raises(EnvironmentError_, match="names this environment"):
        imagine(run, settings)
    assert not marker.exists()

    run.environment = run.environment.as_trusted()
    imagine(run, settings)
    assert marker.exists()


@pytest.mark.parametrize("number", [1, pytest.param(2, marks=pytest.mark.pipeline)])
def test_processes_of_their_own_ask_too(marker: Path, number: int) -> None:
    with pytest.raises(EnvironmentError_, match="names this environment"):
        VectorEnv(EnvSpec.from_mapping(training_spec(name_of(marker)).to_mapping()), number)

    assert not marker.exists()


@pytest.mark.pipeline
def test_a_pipeline_that_names_the_game_counts_as_typed_and_so_does_its_resumption(
    marker: Path, command: Command
) -> None:
    Path("p.yaml").write_text(
        f"game: {name_of(marker)}\npreset: tiny\ndataset: data/p.zarr\nrun: runs/p\n"
        "first:\n  - collect: {steps: 20}\nrounds: 2\nround:\n  - evaluate: {episodes: 1, max_steps: 2}\n"
    )

    first = command("run", "p.yaml", "--set", "rounds=1")
    second = command("run", "p.yaml")

    assert first.exit_code == second.exit_code == 0, first.output + second.output
    assert marker.exists()


def test_no_file_can_say_that_it_is_trusted(marker: Path) -> None:
    mapping = training_spec(name_of(marker)).to_mapping()

    assert "trusted" not in mapping
    assert not EnvSpec.from_mapping(mapping).trusted
    with pytest.raises(ConfigError, match="unknown: trusted"):
        EnvSpec.from_mapping({**mapping, "trusted": True})
    with Dataset.open("data/d.zarr") as dataset:
        assert "trusted" not in json.dumps(dataset.attributes)


def test_trust_says_nothing_of_which_game_it_is() -> None:
    spec = training_spec("toy_game:Toy")

    assert spec == replace(spec, trusted=False)
    assert spec.for_testing().trusted
    assert spec.as_grey_stacks().trusted


@pytest.mark.parametrize("id", ["os:getcwd", "evil_module:Pong-v0", "a.b:c"])
@pytest.mark.parametrize("kind", ["gymnasium", "atari"])
def test_no_kind_of_environment_lets_a_module_in(id: str, kind: str) -> None:
    settings = {} if kind == "atari" else training_spec("toy_game:Toy").to_mapping()

    with pytest.raises(Exception, match=r"names this environment|[Nn]o registered|not exist|doesn't exist"):
        make(EnvSpec.from_mapping({**settings, "id": id, "kind": kind}))


def test_imported_data_can_be_named_but_not_played() -> None:
    spec = training_spec("imported:clip")

    assert EnvSpec.from_mapping(spec.to_mapping()) == spec
    assert (spec.name, spec.stem) == ("imported:clip", "imported_clip")
    with pytest.raises(EnvironmentError_, match="nothing to play"):
        make(spec)
