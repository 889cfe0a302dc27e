"""The worked example of a game of one's own: what the README shows is what runs."""

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Iris = Callable[..., "CompletedProcess[str]"]


def test_the_readme_shows_the_game_as_it_is(repository: Path) -> None:
    game = (repository / "docs" / "own_game.py").read_text()

    assert game[game.index("import gymnasium") :] in (repository / "README.md").read_text()


@pytest.mark.pipeline
def test_a_game_of_ones_own_collects_trains_evaluates_and_dreams(iris: Iris, repository: Path, tmp_path: Path) -> None:
    (tmp_path / "my_game.py").write_text((repository / "docs" / "own_game.py").read_text())
    small = ["rounds=1", "collect.steps=70", "evaluate.episodes=3", "imagine.steps=5", "imagine.num=1"]
    small += [f"train-{part}.updates=2" for part in ("tokenizer", "dynamics", "actor-critic")]
    pipeline = ["run", repository / "pipelines" / "own-game.yaml", "--preset", "tiny", "--game", "my_game:Dodge"]
    pipeline += [word for setting in small for word in ("--set", setting)]

    whole = iris(*pipeline)

    assert whole.returncode == 0, whole.stderr
    [run] = (tmp_path / "runs").iterdir()
    report = json.loads((run / "reports" / "evaluate-then.json").read_text())
    assert set(report["lengths"]) == {31}
    assert set(report["scores"]) <= {0.0, 1.0}
    assert (run / "media" / "dodge.mp4").stat().st_size > 1000

    resumed = iris(*pipeline)
    asked = iris("evaluate", "--run", run, "--episodes", "2", "--num-envs", "2")
    answered = iris("evaluate", "--run", run, "--episodes", "2", "--num-envs", "2", "--trust-env")

    assert resumed.returncode == 0, resumed.stderr
    assert "everything is done already" in resumed.stdout
    assert asked.returncode == 1
    assert "--trust-env" in asked.stderr
    assert answered.returncode == 0, answered.stderr
