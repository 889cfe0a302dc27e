"""Reports of whole games: every score, the same however many games are played at once."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iris_cli import interrupts
from iris_cli.envs.spec import EnvSpec
from iris_cli.envs.vector import Steps, VectorEnv
from iris_cli.errors import ConfigError, Interrupted
from iris_cli.learn.acting import Actor
from iris_cli.learn.scores import human_normalised
from iris_cli.run import Run
from iris_cli.stages.evaluate import Evaluate, evaluate

NewRun = Callable[..., Run]


@pytest.fixture
def run(tmp_path: Path, new_run: NewRun) -> Run:
    """Untrained; no dataset is needed to evaluate."""
    return new_run(tmp_path / "none.zarr")


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


def test_the_published_test_limit_is_27_000_steps(run: Run) -> None:
    assert run.environment.for_testing().max_frames == 108_000


def test_scores_do_not_depend_on_how_many_games_are_played_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    step = VectorEnv.step

    def pay_for_actions(envs: VectorEnv, actions: np.ndarray, active: np.ndarray) -> Steps:
        return replace(step(envs, actions, active), rewards=actions.astype(np.float32))

    monkeypatch.setattr(VectorEnv, "step", pay_for_actions)  # so that a score tells what was chosen
    settings = {"episodes": 4, "max_steps": 12, "epsilon": 0.3}
    alone, together = report(run, **settings, num_envs=1), report(run, **settings, num_envs=3)
    assert (alone["scores"], alone["lengths"]) == (together["scores"], together["lengths"])
    assert len(set(alone["scores"])) > 1


def test_another_seed_plays_other_games(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    actions: list[int] = []
    act = Actor.act
    monkeypatch.setattr(Actor, "act", lambda *a: (chosen := act(*a), actions.append(int(chosen[0])))[0])
    for seed in (0, 0, 1):
        report(run, episodes=1, max_steps=12, seed=seed)
    assert actions[:12] == actions[12:24] != actions[24:]


def test_scores_of_cut_games_are_not_compared_with_humans(run: Run) -> None:
    content = report(run, episodes=1, max_steps=3)
    assert content["human_normalised"] is None
    assert content["lengths"] == [3]
    assert content["protocol"]["max_steps"] == 3


def test_a_game_without_published_scores_is_not_compared(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    end_games_after(8, monkeypatch)
    monkeypatch.setattr("iris_cli.stages.evaluate.RANDOM_AND_HUMAN", {})
    assert report(run, episodes=1, num_envs=1)["human_normalised"] is None


def test_evaluating_changes_nothing_but_the_report(run: Run) -> None:
    before = {path: path.read_bytes() for path in run.directory.rglob("*") if path.is_file()}
    fingerprint = run.fingerprint()
    evaluate(run, Evaluate(episodes=1, max_steps=3), name="again")
    after = {path: path.read_bytes() for path in run.directory.rglob("*") if path.is_file()}
    assert after.keys() - before.keys() == {run.directory / "reports" / "evaluate-again.json"}
    assert all(after[path] == before[path] for path in before)
    assert run.fingerprint() == fingerprint


def test_untrained_parts_are_named(run: Run) -> None:
    notes = evaluate(run, Evaluate(episodes=1, max_steps=2)).notes
    assert notes == ("never trained: tokenizer, dynamics, actor_critic",)


def test_an_interrupt_writes_no_report(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "requested", lambda: True)
    with pytest.raises(Interrupted, match="after 0 of 1 episodes; no report was written"):
        evaluate(run, Evaluate(episodes=1))
    assert not (run.directory / "reports").exists()


def test_games_at_once_are_never_more_than_games(run: Run) -> None:
    content = report(run, episodes=1, num_envs=5, max_steps=2)
    assert content["protocol"]["num_envs"] == 1 <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    "wrong", [{"episodes": 0}, {"num_envs": 0}, {"temperature": 0.0}, {"epsilon": 2.0}, {"max_steps": 0}, {"seed": -1}]
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Evaluate(**wrong)
