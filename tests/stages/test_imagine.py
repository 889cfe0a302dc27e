"""Films of dreams: real, reconstruction and imagined side by side, under the same actions from the same start."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest
import torch

from iris_cli import interrupts
from iris_cli.errors import ConfigError, Interrupted, RunError
from iris_cli.render import Film
from iris_cli.replay.dataset import Dataset
from iris_cli.run import Run
from iris_cli.stages import imagine as stage
from iris_cli.stages.imagine import Imagine, imagine

NewRun = Callable[..., Run]
PLAYED: dict[str, Any] = {"steps": 6, "num": 1, "warm_up": 3, "context": 2}
QUICK: dict[str, Any] = {**PLAYED, "policy": "dataset"}  # needs no game


@pytest.fixture
def run(pong: Path, new_run: NewRun) -> Run:
    """A run whose components count as trained."""
    run = new_run(pong)
    run.updates = dict.fromkeys(run.updates, 1)
    return run


@pytest.fixture
def films(monkeypatch: pytest.MonkeyPatch) -> list[Film]:
    """What the stage hands to the renderer, which then draws nothing much."""
    seen: list[Film] = []

    def compose(given: list[Film]) -> np.ndarray:
        seen.extend(given)
        return np.zeros((2, 64, 64, 3), np.uint8)

    monkeypatch.setattr(stage, "compose", compose)
    return seen


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".png"])
def test_every_format_is_written_and_readable(run: Run, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "films" / f"dream{suffix}"
    report = imagine(run, Imagine(render=path, **QUICK))
    assert report.files["picture" if suffix == ".png" else "video"] == path
    pictures = imageio.imread(path, index=None)
    if suffix != ".png":
        assert len(pictures) == 7  # the start and six steps
    assert pictures.std() > 5
    assert sorted(file.name for file in path.parent.iterdir()) == sorted([path.name, "dream.json"])


@pytest.mark.parametrize("policy", ["agent", "random", "dataset"])
def test_three_columns_follow_the_same_actions_from_the_same_start(
    run: Run, tmp_path: Path, films: list[Film], policy: str
) -> None:
    report = imagine(run, Imagine(render=tmp_path / "a.png", **{**PLAYED, "policy": policy, "num": 2}))
    assert len(films) == 2
    assert report.figures["policy"] == policy
    for film in films:
        assert [column.label for column in film.columns] == ["real", "reconstruction", "imagined"]
        real, seen, imagined = film.columns
        assert len(real.frames) == len(seen.frames) == len(imagined.frames) == 7
        assert len(film.actions) == 6
        difference = seen.frames[0].astype(int) - imagined.frames[0]
        assert np.abs(difference).max() <= 1  # the dream begins at what is seen, but for rounding
        assert not np.array_equal(real.frames[0], seen.frames[0])


def test_a_dream_of_the_dataset_is_of_stored_steps(run: Run, tmp_path: Path, films: list[Film]) -> None:
    imagine(run, Imagine(render=tmp_path / "a.png", **QUICK))
    dataset = Dataset.open(run.dataset_path)
    frames, [film] = dataset.read("observations"), films
    [start] = [n for n in range(len(frames)) if np.array_equal(frames[n : n + 7], film.columns[0].frames)]
    meanings = dataset.attributes["action_meanings"]
    assert list(film.actions) == [meanings[action] for action in dataset.read("actions", start, start + 6)]


def test_actions_and_what_they_earned_lie_beside_the_film(run: Run, tmp_path: Path, films: list[Film]) -> None:
    report = imagine(run, Imagine(render=tmp_path / "a.png", **{**QUICK, "num": 2}))

    assert report.files["trajectories"] == tmp_path / "a.json"
    written = json.loads((tmp_path / "a.json").read_text())["dreams"]
    assert len(written) == len(films) == 2
    for dream, film in zip(written, films, strict=True):
        assert dream["actions"] == list(film.actions)
        assert dream["real"] == {"rewards": film.columns[0].rewards[1:].tolist(), "ended_with_step": None}
        assert len(dream["imagined"]["rewards"]) == film.columns[2].length - 1


@pytest.fixture
def stacks_run(pong_for: Callable[[str], Path], new_run: NewRun) -> Run:
    """One that sees stacks of grey frames, whose components count as trained."""
    run = new_run(pong_for("twm"), agent="twm")
    run.updates = dict.fromkeys(run.updates, 1)
    return run


@pytest.mark.parametrize("policy", ["agent", "dataset"])
def test_of_stacks_the_newest_frame_is_shown(stacks_run: Run, tmp_path: Path, films: list[Film], policy: str) -> None:
    imagine(stacks_run, Imagine(render=tmp_path / "a.png", **{**PLAYED, "policy": policy}))

    real, seen, imagined = films[0].columns
    assert real.frames.shape == seen.frames.shape == (7, 64, 64, 3)
    assert len(imagined.frames) == 7
    assert all((column.frames == column.frames[..., :1]).all() for column in films[0].columns)
    if policy == "dataset":
        stored = Dataset.open(stacks_run.dataset_path).read("observations")
        [start] = [n for n in range(len(stored)) if np.array_equal(stored[n : n + 7, ..., -1], real.frames[..., 0])]
        stacks = torch.from_numpy(stored[start : start + 7]).permute(0, 3, 1, 2)
        images = stacks_run.agent.tokenizer.decode(stacks_run.agent.see(stacks))
        shown = (images[:, -1].clamp(0, 1) * 255).round().to(torch.uint8)
        assert np.array_equal(seen.frames[..., 0], shown.numpy())


def test_a_dream_is_told_the_rewards_that_came_before_it(
    stacks_run: Run, tmp_path: Path, films: list[Film], monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, told = stacks_run.agent.begin_dream, []

    def begun(*known: Any, **more: Any) -> Any:
        told.append((known[2], more["rewards"]))
        return begin(*known, **more)

    monkeypatch.setattr(stacks_run.agent, "begin_dream", begun)
    imagine(stacks_run, Imagine(render=tmp_path / "a.png", **{**QUICK, "context": 4}))

    [(actions, rewards)] = told
    dataset = Dataset.open(stacks_run.dataset_path)
    assert actions.shape == rewards.shape == (1, 3)
    stored = dataset.read("actions")
    starts = [n for n in range(117) if np.array_equal(stored[n : n + 3], actions[0].numpy())]
    assert any(np.array_equal(dataset.read("rewards", n, n + 3), rewards[0].numpy()) for n in starts)


def test_a_dream_ends_where_it_rather_ends_than_goes_on_and_small_rewards_are_none(
    stacks_run: Run, tmp_path: Path, films: list[Film]
) -> None:
    heads = stacks_run.agent.dynamics.out_heads
    with torch.no_grad():
        for name, says in (("r", 0.04), ("g", 0.5)):
            last = list(heads[name].modules())[-1]
            last.weight.zero_()
            last.bias.fill_(says)
    imagine(stacks_run, Imagine(render=tmp_path / "a.png", **QUICK))
    with torch.no_grad():
        list(heads["r"].modules())[-1].bias.fill_(0.761)
        list(heads["g"].modules())[-1].bias.fill_(-0.5)
    imagine(stacks_run, Imagine(render=tmp_path / "b.png", **QUICK))

    goes_on, ends = (film.columns[2] for film in films)
    assert (goes_on.ended, goes_on.rewards.any()) == (False, False)
    assert (ends.length, ends.rewards.tolist()[:2]) == (2, [0.0, 0.76])


def test_the_seed_decides(run: Run, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.gif" for name in "abc"]
    for path, seed in zip(paths, (0, 0, 1), strict=True):
        imagine(run, Imagine(render=path, seed=seed, **QUICK))
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()


def test_untrained_dynamics_still_films_and_says_what_to_run(run: Run, tmp_path: Path, films: list[Film]) -> None:
    run.updates.update(dynamics=0, actor_critic=0)
    report = imagine(run, Imagine(render=tmp_path / "a.png", **PLAYED))
    assert (tmp_path / "a.png").exists()
    assert len(films) == 1
    dynamics, actor_critic = report.notes
    assert "the dynamics has not been trained, so the imagined column is noise" in dynamics
    assert dynamics.endswith(f"iris train-dynamics {run.dataset_path} --run {run.directory}")
    assert actor_critic.endswith(f"iris train-actor-critic {run.dataset_path} --run {run.directory}")


def test_an_untrained_tokenizer_is_refused(run: Run, tmp_path: Path) -> None:
    run.updates["tokenizer"] = 0
    with pytest.raises(RunError, match="tokenizer has not been trained yet"):
        imagine(run, Imagine(render=tmp_path / "a.png", **QUICK))
    assert not (tmp_path / "a.png").exists()


def test_episodes_too_short_to_dream_of_are_one_clear_error(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="402 steps in a row are needed, but the longest stored episode has 300"):
        imagine(run, Imagine(render=tmp_path / "a.png", **{**QUICK, "steps": 400}))


def test_an_interrupt_writes_nothing_unless_the_last_dream_is_over(
    run: Run, tmp_path: Path, films: list[Film], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interrupts, "requested", lambda: True)
    with pytest.raises(Interrupted, match="nothing was written"):
        imagine(run, Imagine(render=tmp_path / "two.png", **{**QUICK, "num": 2}))
    imagine(run, Imagine(render=tmp_path / "one.png", **QUICK))
    assert [path.name for path in tmp_path.glob("*.png")] == ["one.png"]
    assert len(films) == 1


@pytest.mark.parametrize(
    "wrong", [{"policy": "human"}, {"steps": 0}, {"num": 0}, {"context": 0}, {"warm_up": -1}, {"render": Path("a.avi")}]
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Imagine(**wrong)
