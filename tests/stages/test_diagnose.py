"""Reports on games that training never saw: repeatable, disjoint from collection, and without a trace in the run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from iris_cli import interrupts
from iris_cli.envs.spec import training_spec
from iris_cli.errors import ConfigError, DatasetError, Interrupted
from iris_cli.learn.diagnosis import Diagnosis, Episode
from iris_cli.replay.dataset import Dataset
from iris_cli.report import Report
from iris_cli.run import COMPONENTS, Run
from iris_cli.stages import evaluate as evaluation
from iris_cli.stages.collect import Collect, collect_randomly
from iris_cli.stages.diagnose import Diagnose, diagnose
from iris_cli.stages.evaluate import Evaluate, evaluate
from iris_cli.stages.recorder import Recorder

NewRun = Callable[..., Run]
PARTS = ("tokenizer", "dynamics", "rewards", "ends", "dream", "policy")


@pytest.fixture
def toys(tmp_path: Path, _toy_game: None) -> Path:
    """A dataset of 60 steps of the toy game, at random with seed 0."""
    path = tmp_path / "toys.zarr"
    collect_randomly(path, training_spec("toy_game:Toy"), Collect(steps=60), seed=0)
    return path


@pytest.fixture
def run(toys: Path, new_run: NewRun) -> Run:
    """Of the toy game, with random weights; says that all was trained."""
    made = new_run(toys, name="toy", game="toy_game:Toy")
    made.updates = dict.fromkeys(COMPONENTS, 1)
    return made


def content(report: Report) -> dict[str, Any]:
    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(report.files["report"].read_text(), parse_constant=refuse)


def quick(**settings: Any) -> Diagnose:
    return Diagnose(**{"steps": 50, "horizon": 3, **settings})


def test_a_report_holds_every_part_and_what_it_is_about(run: Run) -> None:
    report = diagnose(run, quick())
    found = content(report)

    assert found["held_out"] == "fresh games, agent policy"
    assert found["settings"] == {"steps": 50, "episodes": None, "horizon": 3, "dataset": None, "seed": 0}
    world = found["world_model"]
    assert all(world[part] for part in PARTS)
    assert world["steps"] == 50
    assert world["skipped"] == {}
    assert set(world["rewards"]["classes"]) == {"-1", "0", "+1"}
    assert {"count", "predicted", "mean_probability", "precision", "recall", "f1"} == set(
        world["ends"]["classes"]["ends"]
    )
    assert all(len(world["dynamics"][f"position_{name}"]) == 16 for name in ("cross_entropy", "accuracy"))
    assert all(len(world["dream"][name][over]) == 3 for name in ("sampled", "copy") for over in ("error", "moving"))
    assert found["hints"]
    assert all(set(hint) == {"part", "text"} for hint in found["hints"])
    assert (found["checkpoint"], found["fingerprint"]) == ("000001", run.fingerprint())
    assert sum(found["training_rewards"].values()) == 60
    titles = [section.title.partition(":")[0].partition(",")[0] for section in report.sections[1:]]
    assert titles[0] == "Tokenizer"
    assert titles[-1] == "Hints"


def test_no_report_is_overwritten_but_one_of_the_same_name(run: Run) -> None:
    for name in (None, None, "then", "then"):
        diagnose(run, quick(steps=8), name=name)

    names = sorted(path.name for path in (run.directory / "reports").iterdir())
    assert names == ["diagnose-000001-2.json", "diagnose-000001.json", "diagnose-then.json"]


def test_the_seed_decides(run: Run) -> None:
    first, again, other = (content(diagnose(run, quick(seed=seed)))["world_model"] for seed in (0, 0, 1))

    assert first == again
    assert first["tokenizer"] != other["tokenizer"]


def test_games_are_not_those_of_the_collection_with_the_same_seed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    first_frames: list[np.ndarray] = []

    def note(episodes: Any, **options: Any) -> Diagnosis:
        first_frames.extend(episode.frames[0] for episode in episodes)
        return Diagnosis(episodes=len(episodes), steps=0)

    monkeypatch.setattr(run.agent, "diagnose", note)
    diagnose(run, quick(steps=300))
    with Dataset.open(run.dataset_path) as dataset:
        collected = dataset.read("observations")[[0, *dataset.episode_ends[:-1]]]

    assert len(first_frames) > 8
    assert len({frame.tobytes() for frame in first_frames}) > 8
    places = [[int(np.flatnonzero(f[:, 20, 0] == 255)[0]) for f in frames] for frames in (first_frames, collected)]
    assert places[0][: len(places[1])] != places[1]


@pytest.mark.parametrize("stage", ["diagnose", "evaluate", "evaluate at once"])
def test_each_frame_is_measured_with_the_action_it_was_answered_by(
    run: Run, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    played: list[Episode] = []

    def note(episodes: list[Episode], **options: Any) -> Diagnosis:
        played.extend(episodes)
        return Diagnosis(episodes=len(episodes), steps=0)

    monkeypatch.setattr(run.agent, "diagnose", note)
    if stage == "diagnose":
        diagnose(run, quick(steps=100))
    else:
        evaluate(run, Evaluate(episodes=4, num_envs=1 + 2 * (stage == "evaluate at once"), epsilon=0.9))

    assert len(played) > 3
    for episode in played:
        places = episode.frames[:, :, 20, 0].argmax(1)  # where the toy's square begins
        moves = (np.diff(places) - episode.actions[:-1]) % 56  # it goes as far as the action says, or one further
        assert set(moves.tolist()) <= {0, 1}
        assert episode.rewards.tolist() == (episode.actions % 2).tolist()


@pytest.mark.parametrize(("settings", "episodes"), [({"steps": 12}, None), ({"steps": 200, "episodes": 2}, 2)])
def test_steps_and_episodes_are_bounds(run: Run, settings: dict[str, int], episodes: int | None) -> None:
    world = content(diagnose(run, quick(**settings)))["world_model"]

    assert 10 <= world["steps"] <= settings["steps"]
    assert episodes is None or world["episodes"] == episodes
    assert episodes is None or world["ends"]["classes"]["ends"]["count"] == episodes


def test_an_untrained_policy_leaves_the_play_to_chance(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.updates["actor_critic"] = 0
    monkeypatch.setattr(run.agent.actor_critic, "forward", None)  # whoever asks it fails

    found = content(diagnose(run, quick()))

    assert found["held_out"] == "fresh games, random policy"
    assert found["world_model"]["policy"] is None
    assert found["world_model"]["skipped"] == {"policy": "the actor-critic was never trained"}
    assert "iris train-actor-critic" in found["hints"][0]["text"]


def test_a_fresh_run_is_told_what_to_do_first(toys: Path, new_run: NewRun) -> None:
    report = diagnose(new_run(toys, game="toy_game:Toy"), quick())

    assert report.figures == {"weak_parts": "tokenizer"}
    assert content(report)["world_model"]["skipped"].keys() == set(PARTS)


def test_a_run_open_for_training_logs_its_figures_and_changes_nothing_else(run: Run) -> None:
    run.save()
    before = {path: path.read_bytes() for path in run.directory.rglob("*") if path.is_file()}
    state, fingerprint = torch.get_rng_state(), run.fingerprint()

    report = diagnose(run, quick())

    after = {path: path.read_bytes() for path in run.directory.rglob("*") if path.is_file()}
    assert after.keys() - before.keys() == {report.files["report"], run.directory / "metrics.jsonl"}
    assert all(after[path] == before[path] for path in before)
    assert run.fingerprint() == fingerprint
    assert torch.equal(torch.get_rng_state(), state)
    [line] = [json.loads(text) for text in (run.directory / "metrics.jsonl").read_text().splitlines()]
    assert line["stage"] == "diagnose"
    assert {"moving_error", "perplexity", "token_cross_entropy", "end_accuracy", "dream_error_3"} <= line.keys()


def test_a_run_that_is_only_read_is_not_logged_to(run: Run) -> None:
    run.save()
    run.close()

    opened = Run.open(run.directory, device=torch.device("cpu"))
    opened.environment = opened.environment.as_trusted()
    diagnose(opened, quick(steps=8))

    assert not (run.directory / "metrics.jsonl").exists()


def test_a_dataset_takes_the_place_of_games(run: Run, toys: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.zarr"
    collect_randomly(other, training_spec("toy_game:Toy"), Collect(steps=40), seed=3)

    mine, theirs = diagnose(run, quick(dataset=toys)), diagnose(run, quick(dataset=other))

    assert content(theirs)["held_out"] == f"dataset {other}"
    assert content(theirs)["world_model"]["steps"] == 40
    assert theirs.notes == ()
    assert content(mine)["world_model"]["steps"] == 50
    assert "was trained on this dataset, so these steps are not held out" in mine.notes[0]
    assert content(diagnose(run, quick(dataset=other, episodes=1)))["world_model"]["episodes"] == 1


def test_a_dataset_of_another_game_or_of_nothing_is_refused(run: Run, pong: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.zarr"
    Dataset.create(empty, environment=run.environment.to_mapping(), action_meanings=["A"] * 6).close()

    with pytest.raises(DatasetError, match="toy_game"):
        diagnose(run, quick(dataset=pong))
    with pytest.raises(DatasetError, match="no steps"):
        diagnose(run, quick(dataset=empty))
    assert not (run.directory / "reports").exists()


def test_an_interrupt_writes_no_report(run: Run, toys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "requested", lambda: True)

    for settings in (quick(), quick(dataset=toys)):
        with pytest.raises(Interrupted, match="no report was written"):
            diagnose(run, settings)
    assert not (run.directory / "reports").exists()


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"horizon": 0}, {"episodes": 0}, {"seed": -1}])
def test_wrong_settings_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="diagnose"):
        Diagnose(**wrong)


def test_a_recorder_keeps_the_first_steps_up_to_the_end() -> None:
    recorder = Recorder(3)
    frame = np.zeros((64, 64, 3), np.uint8)
    for step in range(5):
        frame[:] = step
        recorder.add(frame, step, float(step), over=False)

    kept = recorder.episode()
    assert (kept.actions.tolist(), kept.frames[:, 0, 0, 0].tolist()) == ([0, 1, 2], [0, 1, 2])
    assert recorder.episode(2).rewards.tolist() == [0.0, 1.0]


# -- in evaluations --


def test_scores_are_the_same_with_and_without_measuring(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Evaluate(episodes=5, num_envs=1, epsilon=0.3)
    state = torch.get_rng_state()
    measured = content(evaluate(run, settings))
    monkeypatch.setattr(evaluation, "measured", lambda *_, **__: Diagnosis(episodes=0, steps=0))
    alone = content(evaluate(run, settings))

    assert (measured["scores"], measured["lengths"]) == (alone["scores"], alone["lengths"])
    assert measured["world_model"]["tokenizer"] is not None
    assert torch.equal(torch.get_rng_state(), state)


def test_an_evaluation_measures_the_games_it_plays(run: Run) -> None:
    found = content(evaluate(run, Evaluate(episodes=4, num_envs=1)))
    world = found["world_model"]

    assert world["steps"] == sum(found["lengths"])
    assert world["ends"]["classes"]["ends"]["count"] == world["episodes"] == 4
    assert world["rewards"]["classes"]["+1"]["count"] == sum(found["scores"])  # the toy pays 1
    assert world["ends_as_in_training"] is True
    assert world["hints"]


def test_what_is_measured_does_not_depend_on_how_many_games_are_played_at_once(run: Run) -> None:
    alone, together = (
        content(evaluate(run, Evaluate(episodes=4, measured_steps=50, num_envs=n)))["world_model"] for n in (1, 3)
    )

    assert alone == together
    assert alone["steps"] <= 50


def test_ends_of_whole_games_are_not_judged_where_training_ended_with_each_life(pong: Path, new_run: NewRun) -> None:
    run = new_run(pong)  # an Atari game, whose every life is an episode in training
    run.updates = dict.fromkeys(COMPONENTS, 1)

    world = content(evaluate(run, Evaluate(episodes=1, max_steps=8)))["world_model"]

    assert world["ends"]["steps"] == 8
    assert world["ends_as_in_training"] is False
    assert "ends" not in {hint["part"] for hint in world["hints"]}


def test_an_untrained_run_is_evaluated_all_the_same(toys: Path, new_run: NewRun) -> None:
    world = content(evaluate(new_run(toys, game="toy_game:Toy"), Evaluate(episodes=1)))["world_model"]

    assert world["skipped"].keys() == set(PARTS)


@pytest.mark.parametrize("there", [False, True])
def test_an_evaluation_does_not_need_the_dataset(run: Run, tmp_path: Path, there: bool) -> None:
    run.dataset_path = tmp_path / "elsewhere.zarr"
    if there:
        run.dataset_path.mkdir()  # and nothing in it

    assert content(evaluate(run, Evaluate(episodes=1)))["world_model"]["hints"]
    assert content(diagnose(run, quick(steps=8)))["training_rewards"] is None
