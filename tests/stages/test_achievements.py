"""Achievements on their way from the game to the dataset, the report and the tables; nothing of them elsewhere."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result

from iris_cli.envs.spec import training_spec
from iris_cli.evaluations import final_evaluation
from iris_cli.learn.achievements import achievement_score
from iris_cli.replay.dataset import Dataset
from iris_cli.run import Run
from iris_cli.stages import collect as collecting
from iris_cli.stages.collect import Collect, collect, collect_randomly
from iris_cli.stages.evaluate import Evaluate, evaluate
from iris_cli.stages.info import info
from iris_cli.stages.scores import scores

NewRun = Callable[..., Run]
Command = Callable[..., Result]
BUILDER = training_spec("toy_game:Builder")


def expected(dataset: Dataset) -> np.ndarray:
    """What finished episodes unlocked, counted from their actions."""
    actions, rows = dataset.read("actions"), []
    over = dataset.read("terminations")
    for episode in range(dataset.num_episodes):
        pieces = dataset.pieces(episode)
        if over[pieces[-1][1] - 1]:
            played = np.concatenate([actions[start:stop] for start, stop in pieces])
            rows.append([(played % 2 == 1).any(), (played == 5).sum() >= 3])
    return np.array(rows, bool)


@pytest.fixture
def builder(tmp_path: Path) -> Path:
    path = tmp_path / "builder.zarr"
    collect_randomly(path, BUILDER, Collect(steps=200), seed=0)
    return path


@pytest.fixture
def run(builder: Path, new_run: NewRun) -> Run:
    return new_run(builder, game="toy_game:Builder")


@pytest.mark.parametrize("num_envs", [1, 3])
def test_a_dataset_keeps_what_each_episode_unlocked(
    tmp_path: Path, num_envs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "COMMIT_STEPS", 7)  # episodes in several pieces
    path = tmp_path / "builder.zarr"
    for _ in range(2):
        report = collect_randomly(path, BUILDER, Collect(steps=150, num_envs=num_envs), seed=0)

    with Dataset.open(path) as dataset:
        unlocked = dataset.unlocked()
        assert dataset.achievements == ["be_odd", "fifth_thrice"]
        assert sorted(map(tuple, unlocked)) == sorted(map(tuple, expected(dataset)))
    assert 0 < unlocked[:, 1].mean() < 1
    score = achievement_score(100 * unlocked.mean(0))
    assert report.figures["achievement_score_in_all"] == pytest.approx(score, abs=1e-3)
    facts = info(path)["achievements"]
    assert (facts["score"], facts["episodes"]) == (pytest.approx(score), len(unlocked))


def test_what_is_taken_back_is_not_counted(builder: Path) -> None:
    with Dataset.open(builder, writable=True) as dataset:
        dataset.rewind(100, writer="random")

        assert np.array_equal(dataset.unlocked(), expected(dataset))
        assert len(dataset.read("achievements")) == 100


def test_a_run_adds_to_them_and_tells_them(run: Run, builder: Path) -> None:
    before = len(Dataset.open(builder).unlocked())

    collect(run, Collect(steps=60))
    run.save()

    facts = info(run.directory)["collected_achievements"]
    assert facts == info(builder)["achievements"]
    assert facts["episodes"] > before


def test_a_report_holds_those_of_the_evaluated_episodes(run: Run) -> None:
    report = evaluate(run, Evaluate(episodes=6, measured_steps=0))

    content = json.loads(report.files["report"].read_text())["achievements"]
    assert content["episodes"] == 6
    assert content["success_rates"].keys() == {"be_odd", "fifth_thrice"}
    assert content["success_rates"]["be_odd"] == 100
    assert content["score"] == pytest.approx(achievement_score(list(content["success_rates"].values())), rel=1e-4)
    assert report.figures["achievement_score"] == content["score"]
    assert "be_odd 100 %" in str(report.figures["success_rates"])
    evaluation = final_evaluation(run.directory)
    assert evaluation is not None
    assert evaluation.achievement_score == content["score"]
    assert info(run.directory)["last_evaluation"]["achievements"] == content


def test_scores_name_them_beside_the_run(run: Run, command: Command) -> None:
    evaluate(run, Evaluate(episodes=2, measured_steps=0))

    [report] = scores([run.directory])["reports"]

    result = command("scores", run.directory)
    assert f"achievement score {report['achievement_score']:.2f} %" in result.output


def test_other_games_know_nothing_of_them(tmp_path: Path, new_run: NewRun) -> None:
    path = tmp_path / "toy.zarr"
    report = collect_randomly(path, training_spec("toy_game:Toy"), Collect(steps=60), seed=0)
    run = new_run(path, game="toy_game:Toy")

    evaluated = evaluate(run, Evaluate(episodes=1, measured_steps=0))

    assert not (path / "achievements").exists()
    seen = [report.figures, evaluated.figures, json.loads(evaluated.files["report"].read_text()), info(path)]
    assert not [
        name for facts in (*seen, info(run.directory), scores([run.directory])) for name in facts if "achi" in name
    ]
