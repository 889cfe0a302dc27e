"""Collecting: the same seed gives the same steps, in one piece or several, and policies are burnt in."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from iris_cli import interrupts
from iris_cli.envs.spec import EnvSpec, training_spec
from iris_cli.envs.vector import Steps, VectorEnv
from iris_cli.errors import ConfigError, DatasetError, EnvironmentError_, Interrupted
from iris_cli.learn.acting import Actor
from iris_cli.replay.dataset import Dataset
from iris_cli.run import Run
from iris_cli.stages.collect import Collect, collect, collect_randomly

NewRun = Callable[..., Run]
FIELDS = ("observations", "actions", "rewards", "terminations", "truncations")
TOY = training_spec("toy_game:Toy")
PONG = EnvSpec.from_mapping({**training_spec("Pong").to_mapping(), "max_frames": 130})  # episodes of about 30 steps


def contents(path: Path) -> dict[str, Any]:
    dataset = Dataset.open(path)
    return {
        **{name: dataset.read(name).tobytes() for name in FIELDS},
        "choices": dataset.read("actions").tolist(),
        "ends": dataset.episode_ends.tolist(),
        "ids": dataset.episode_ids.tolist(),
        "collector": json.dumps(dataset.attributes["collector"], sort_keys=True),
    }


def randomly(path: Path, *pieces: int, seed: int = 0, num_envs: int = 1, environment: EnvSpec = TOY) -> Path:
    for steps in pieces:
        collect_randomly(path, environment, Collect(steps=steps, num_envs=num_envs), seed=seed)
    return path


class Episodes:
    """Watches what environments pay: the scores of episodes that ended, and how many began to be played."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.scores: list[float] = []
        self.begun = 0
        running: dict[int, float] = {}
        step = VectorEnv.step

        def spy(envs: VectorEnv, actions: np.ndarray, active: np.ndarray) -> Steps:
            steps = step(envs, actions, active)
            for env in np.flatnonzero(active).tolist():
                self.begun += env not in running
                running[env] = running.get(env, 0.0) + float(steps.rewards[env])
                if steps.terminations[env] or steps.truncations[env]:
                    self.scores.append(running.pop(env))
            return steps

        monkeypatch.setattr(VectorEnv, "step", spy)


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, Any]:
    """60 steps of seed 0, collected at once."""
    return contents(randomly(tmp_path / "whole", 60))


@pytest.mark.parametrize("environment", [TOY, PONG])
def test_the_same_seed_gives_the_same_steps_in_one_piece_or_several(
    tmp_path: Path, environment: EnvSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = contents(randomly(tmp_path / "whole", 60, environment=environment))
    monkeypatch.setattr("iris_cli.stages.collect.COMMIT_STEPS", 7)
    pieces = contents(randomly(tmp_path / "pieces", 8, 52, environment=environment))
    assert [name for name in whole if whole[name] != pieces[name]] == []
    assert len(whole["ends"]) > 1


def test_several_environments_give_the_same_steps_again(tmp_path: Path) -> None:
    first, second = (contents(randomly(tmp_path / name, 13, num_envs=3)) for name in ("first", "second"))
    assert first == second
    assert first["ends"] == [5, 9, 13]  # a piece of each environment's episode
    assert len({tuple(first["choices"][start : start + 4]) for start in (0, 5, 9)}) == 3


def test_several_environments_keep_the_scores_that_the_game_paid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iris_cli.stages.collect.COMMIT_STEPS", 4)
    played = Episodes(monkeypatch)
    path = tmp_path / "data"
    reports = [collect_randomly(path, TOY, Collect(steps=steps, num_envs=3), seed=0).figures for steps in (100, 17, 80)]
    dataset = Dataset.open(path)
    summary = dataset.summary()

    assert len(played.scores) > 6
    assert len(dataset.episode_ends) > 3 * summary["episodes"]
    assert sorted(dataset.scores()) == sorted(played.scores)
    assert (summary["complete_episodes"], summary["episodes"]) == (len(played.scores), played.begun)
    assert summary["mean_score"] == pytest.approx(np.mean(played.scores))
    assert sum(figures["episodes"] for figures in reports) == played.begun


def test_a_warm_continuation_gives_the_same_as_a_cold_one(tmp_path: Path, new_run: NewRun) -> None:
    results = {}
    for name in ("warm", "cold"):
        run = new_run(tmp_path / f"{name}.zarr", name=name, game="toy_game:Toy")
        for steps in (10, 7, 25, 3):
            collect(run, Collect(steps=steps, num_envs=3, epsilon=0.5))
            if name == "cold":
                run.close()
        results[name] = contents(tmp_path / f"{name}.zarr")
    assert results["warm"] == results["cold"]


def test_environments_stay_warm_until_the_dataset_is_elsewhere_or_the_run_is_closed(
    tmp_path: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "data.zarr", game="toy_game:Toy")
    collect(run, Collect(steps=8))
    first = run.environments
    shutil.copytree(tmp_path / "data.zarr", tmp_path / "copy.zarr")
    with monkeypatch.context() as patch:
        patch.setattr(VectorEnv, "restore", None)
        collect(run, Collect(steps=8))
    assert first is not None
    assert run.environments is first

    run.dataset_path = tmp_path / "copy.zarr"
    collect(run, Collect(steps=8))
    assert run.environments is not first
    assert contents(tmp_path / "copy.zarr")["ids"] == contents(tmp_path / "data.zarr")["ids"]
    last = run.environments
    run.close()
    for closed in (first, last):
        assert closed is not None
        with pytest.raises(EnvironmentError_, match="closed"):
            closed.state()


def test_environments_of_a_collection_that_fails_are_not_kept(
    tmp_path: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "data.zarr", game="toy_game:Toy")
    collect(run, Collect(steps=8))
    with monkeypatch.context() as patch:
        patch.setattr(interrupts, "requested", lambda: True)
        with pytest.raises(Interrupted):
            collect(run, Collect(steps=8))
    assert run.environments is None
    collect(run, Collect(steps=8))
    assert Dataset.open(tmp_path / "data.zarr").num_steps == 16


def test_beginning_anew_repeats_no_steps(tmp_path: Path, whole: dict[str, Any]) -> None:
    path = randomly(tmp_path / "data", 20)
    for seed in (1, 0):
        randomly(path, 20, seed=seed)
    actions = contents(path)["choices"]
    assert actions[:20] == whole["choices"][:20]
    assert len({tuple(actions[start : start + 20]) for start in (0, 20, 40)}) == 3


def test_an_interrupted_collection_keeps_its_steps_and_the_rest_completes_it(
    tmp_path: Path, whole: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([False] * 25 + [True])
    with monkeypatch.context() as patch:
        patch.setattr(interrupts, "requested", lambda: next(answers))
        with pytest.raises(Interrupted, match=r"after 25 of 60 steps.*Another 35 would complete"):
            randomly(tmp_path / "part", 60)
    assert contents(randomly(tmp_path / "part", 35)) == whole


def test_another_environment_is_refused_and_the_dataset_left_alone(tmp_path: Path) -> None:
    path = randomly(tmp_path / "data", 10)
    before = contents(path)
    with pytest.raises(DatasetError, match="another environment"):
        randomly(path, 10, environment=training_spec("Breakout"))
    assert contents(path) == before


def test_a_runs_policy_is_burnt_in_on_the_last_stored_frames(
    pong: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[np.ndarray, ...]] = []
    memories = []
    burn_in, act = Actor.burn_in, Actor.act

    def spy_burn_in(actor: Actor, *steps: np.ndarray) -> None:
        seen.append(steps)
        burn_in(actor, *steps)

    def spy_act(actor: Actor, *arguments: Any) -> np.ndarray:
        memories.append(actor.memory)
        return act(actor, *arguments)

    monkeypatch.setattr(Actor, "burn_in", spy_burn_in)
    monkeypatch.setattr(Actor, "act", spy_act)
    run = new_run(pong, actor_critic={"burn_in": 6})
    stored = Dataset.open(pong)
    assert stored.episode_ends.tolist() == [300]

    collect(run, Collect(steps=4))

    [(frames, mask, actions, rewards)] = seen
    assert mask.all()
    for read, name in ((frames, "observations"), (actions, "actions"), (rewards, "rewards")):
        np.testing.assert_array_equal(read[0], stored.read(name, 294, 300))
    assert memories[0].hidden.abs().sum() > 0
    assert Dataset.open(pong).attributes["writers"][-1] == {"start": 300, "who": run.writer}


def test_burn_in_stops_at_the_beginning_of_the_episode(
    tmp_path: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = randomly(tmp_path / "data", 3)
    masks = []
    monkeypatch.setattr(Actor, "burn_in", lambda actor, *steps: masks.append(steps[1]))
    collect(new_run(path, game="toy_game:Toy", actor_critic={"burn_in": 5}), Collect(steps=1))
    assert [mask.tolist() for mask in masks] == [[[False, False, True, True, True]]]


def test_burn_in_reads_all_pieces_of_an_episode(
    tmp_path: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iris_cli.stages.collect.COMMIT_STEPS", 2)
    seen: list[tuple[np.ndarray, ...]] = []
    monkeypatch.setattr(Actor, "burn_in", lambda actor, *steps: seen.append(steps))
    path = randomly(tmp_path / "data", 12, num_envs=3)
    stored = Dataset.open(path)
    assert stored.pieces(1) == [(2, 4), (8, 10)]

    collect(new_run(path, game="toy_game:Toy", actor_critic={"burn_in": 3}), Collect(steps=3, num_envs=3))

    [(frames, mask, actions, rewards)] = seen
    assert mask.all()
    for read, name in ((frames, "observations"), (actions, "actions"), (rewards, "rewards")):
        np.testing.assert_array_equal(read[1], stored.read(name)[[3, 8, 9]])


def test_a_policy_collects_the_same_again_and_goes_on_with_new_draws(tmp_path: Path, new_run: NewRun) -> None:
    results = []
    for name in ("a", "b"):
        run = new_run(tmp_path / f"{name}.zarr", name=name, game="toy_game:Toy")
        for _ in range(2):
            collect(run, Collect(steps=15, epsilon=0.5))
        results.append(contents(tmp_path / f"{name}.zarr"))
        assert run.collected["steps"] == 30
    assert results[0] == results[1]
    assert results[0]["choices"][:15] != results[0]["choices"][15:]


def test_a_run_only_answers_for_its_own_dataset(pong: Path, new_run: NewRun, tmp_path: Path) -> None:
    run = new_run(pong)
    run.dataset_path = Path(shutil.copytree(pong, tmp_path / "other.zarr"))
    collect(run, Collect(steps=2))
    assert run.collected["steps"] == 0


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"num_envs": 0}, {"epsilon": 1.5}, {"temperature": 0.0}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Collect(**wrong)


def test_frames_that_are_drawn_are_said_to_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import toy_game  # on the path within tests only

    class Drawn(toy_game.Toy):
        observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

        def __init__(self, render_mode: str | None = None) -> None:
            self.render_mode = render_mode

        def render(self) -> np.ndarray:
            return self._frame()

    monkeypatch.setattr("toy_game.Drawn", Drawn, raising=False)
    drawn = training_spec("toy_game:Drawn")

    randomly(tmp_path / "d.zarr", 5, 5, environment=drawn)

    said = " ".join(capsys.readouterr().err.split())
    assert said.count("toy_game:Drawn: it observes Box (2,) float32, so frames are its drawings") == 1
