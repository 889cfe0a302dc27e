"""Films of dreams: real, reconstruction and imagined side by side, under the same actions from the same start."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import pytest

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
    assert report.files["video"] == path
    pictures = imageio.imread(path, index=None)
    if suffix != ".png":
        assert len(pictures) == 7  # the start and six steps
    assert pictures.std() > 5
    assert [file.name for file in path.parent.iterdir()] == [path.name]


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
