"""Reports of whole games: every score, the same however many games are played at once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iris_cli import interrupts
from iris_cli.envs.spec import EnvSpec
from iris_cli.errors import ConfigError, Interrupted, RunError
from iris_cli.learn.scores import human_normalised
from iris_cli.run import Run
from iris_cli.stages.evaluate import Evaluate, evaluate

NewRun = Callable[..., Run]


@pytest.fixture
def run(tmp_path: Path, new_run: NewRun) -> Run:
    """Of Pong, untrained; no dataset is needed to evaluate."""
    return new_run(tmp_path / "none.zarr")


@pytest.fixture
def toy_run(tmp_path: Path, new_run: NewRun) -> Run:
    """Of a game that starts in no time, whose scores depend on what was chosen."""
    return new_run(tmp_path / "none.zarr", name="toy", game="toy_game:Toy")


def report(run: Run, **settings: Any) -> dict[str, Any]:
    path = evaluate(run, Evaluate(**settings)).files["report"]
    return json.loads(path.read_text())


def end_games_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A time limit of the game's own, so that episodes are whole and short."""
    testing = EnvSpec.for_testing

    def short(spec: EnvSpec) -> EnvSpec:
        return EnvSpec.from_mapping({**testing(spec).to_mapping(), "max_frames": 4 * steps})

    monkeypatch.setattr(EnvSpec, "for_testing", short)


def test_a_report_holds_every_score_and_the_protocol(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    end_games_after(20, monkeypatch)
    content = report(run, episodes=3, num_envs=1)
    assert len(content["scores"]) == len(content["lengths"]) == 3
    assert all(15 <= length <= 20 for length in content["lengths"])
    assert content["mean"] == pytest.approx(np.mean(content["scores"]))
    assert content["standard_error"] == pytest.approx(np.std(content["scores"], ddof=1) / 3**0.5)
    assert content["human_normalised"] == pytest.approx(human_normalised("Pong", content["mean"]))
    assert content["confidence_interval"][0] <= content["mean"] <= content["confidence_interval"][1]
    assert content["checkpoint"] == "000001"
    assert content["fingerprint"] == run.fingerprint()
    protocol = content["protocol"]
    assert (protocol["episodes"], protocol["temperature"], protocol["epsilon"]) == (3, 0.5, 0.0)
    environment = protocol["environment"]
    assert (environment["noop_max"], environment["life_loss_ends"], environment["clip_rewards"]) == (1, False, False)
    assert [path.name for path in (run.directory / "reports").iterdir()] == ["evaluate-000001.json"]


@pytest.mark.parametrize(("agent", "temperature"), [("iris", 0.5), ("delta-iris", 1.0)])
def test_the_temperature_is_the_agent_s_own_unless_one_is_named(
    tmp_path: Path, new_run: NewRun, agent: str, temperature: float, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run(tmp_path / "none.zarr", game="toy_game:Toy", agent=agent)

    guessed = report(run, episodes=1, max_steps=1)["protocol"]["temperature"]

    assert guessed == temperature
    assert f"Temperature {temperature}, as published for {agent}" in capsys.readouterr().out
    assert report(run, episodes=1, max_steps=1, temperature=0.7)["protocol"]["temperature"] == 0.7
    assert "Temperature" not in capsys.readouterr().out


def test_the_published_test_limit_is_27_000_steps(run: Run) -> None:
    assert run.environment.for_testing().max_frames == 108_000


def test_scores_do_not_depend_on_how_many_games_are_played_at_once(toy_run: Run) -> None:
    settings = {"episodes": 7, "epsilon": 0.3}
    alone, together = report(toy_run, **settings, num_envs=1), report(toy_run, **settings, num_envs=3)
    assert (alone["scores"], alone["lengths"]) == (together["scores"], together["lengths"])
    assert len(set(alone["scores"])) > 2
    assert len(set(alone["lengths"])) > 2


def test_the_seed_decides(toy_run: Run) -> None:
    scores = [report(toy_run, episodes=2, num_envs=1, seed=seed)["scores"] for seed in (0, 0, 1)]
    assert scores[0] == scores[1] != scores[2]


def test_scores_of_cut_games_are_not_compared_with_humans(run: Run) -> None:
    content = report(run, episodes=1, max_steps=3)
    assert content["human_normalised"] is None
    assert content["lengths"] == [3]
    assert content["protocol"]["max_steps"] == 3


def test_a_game_without_published_scores_is_not_compared(toy_run: Run) -> None:
    assert report(toy_run, episodes=1)["human_normalised"] is None


def test_evaluating_changes_nothing_but_the_report(toy_run: Run) -> None:
    run = toy_run
    before = {path: path.read_bytes() for path in run.directory.rglob("*") if path.is_file()}
    fingerprint = run.fingerprint()
    evaluate(run, Evaluate(episodes=1, max_steps=3), name="again")
    after = {path: path.read_bytes() for path in run.directory.rglob("*") if path.is_file()}
    assert after.keys() - before.keys() == {run.directory / "reports" / "evaluate-again.json"}
    assert all(after[path] == before[path] for path in before)
    assert run.fingerprint() == fingerprint


def test_untrained_parts_are_named(toy_run: Run) -> None:
    notes = evaluate(toy_run, Evaluate(episodes=1, max_steps=2)).notes
    assert notes[0] == "never trained: tokenizer, dynamics, actor_critic"


def test_a_run_that_may_not_be_changed_is_refused_before_games_are_played(
    toy_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iris_cli.stages.reports.os.access", lambda path, mode: path != toy_run.directory)
    monkeypatch.setattr("iris_cli.stages.evaluate._play", lambda *_: pytest.fail("games were played"))

    with pytest.raises(RunError, match="no report could be written"):
        evaluate(toy_run, Evaluate(episodes=1))


def test_an_interrupt_writes_no_report(toy_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "requested", lambda: True)
    with pytest.raises(Interrupted, match="after 0 of 1 episodes; no report was written"):
        evaluate(toy_run, Evaluate(episodes=1))
    assert not (toy_run.directory / "reports").exists()


def test_games_at_once_are_never_more_than_games(toy_run: Run) -> None:
    assert report(toy_run, episodes=1, num_envs=5)["protocol"]["num_envs"] == 1


@pytest.mark.parametrize(
    "wrong", [{"episodes": 0}, {"num_envs": 0}, {"temperature": 0.0}, {"epsilon": 2.0}, {"max_steps": 0}, {"seed": -1}]
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Evaluate(**wrong)
