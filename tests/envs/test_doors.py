"""Doors plays by the rules it states."""

import gymnasium
import numpy as np
import pytest

from iris_cli.envs.doors import GONE, STEPS, Doors
from iris_cli.envs.make import action_meanings, make
from iris_cli.envs.spec import training_spec


def played(actions: list[int], *, seed: int) -> tuple[list[np.ndarray], list[float], list[bool]]:
    env = Doors()
    frames, rewards, ends = [env.reset(seed=seed)[0]], [], []
    for action in actions:
        frame, reward, terminated, truncated, _ = env.step(action)
        assert not truncated
        frames.append(frame)
        rewards.append(reward)
        ends.append(terminated)
    return frames, rewards, ends


def test_it_is_known_by_its_id_and_gives_frames() -> None:
    env = make(training_spec("Doors-v0"))

    frame, _ = env.reset(seed=0)

    assert (frame.shape, frame.dtype, env.action_space.n) == ((64, 64, 3), np.uint8, 2)
    assert action_meanings(env) == ["LEFT", "RIGHT"]
    assert env.observation_space.contains(frame)
    assert gymnasium.make("Doors-v0").reset(seed=0)[0].shape == (64, 64, 3)


@pytest.mark.parametrize("seed", range(4))
def test_one_door_pays_all_game_long_and_the_other_costs(seed: int) -> None:
    _, left, ends = played([0] * STEPS, seed=seed)
    _, right, _ = played([1] * STEPS, seed=seed)
    _, mixed, _ = played([0, 1] * (STEPS // 2), seed=seed)

    assert set(left) in ({1.0}, {-1.0})
    assert right == [-reward for reward in left]
    assert mixed == [left[0], right[0]] * (STEPS // 2)
    assert ends == [False] * (STEPS - 1) + [True]


def test_the_prize_is_behind_either_door_as_often() -> None:
    env, wins = Doors(), 0
    env.reset(seed=0)
    for _ in range(400):
        env.reset()
        wins += env.step(0)[1] > 0

    assert 150 < wins < 250


def test_frames_show_the_steps_and_nothing_of_the_prize() -> None:
    seen = [played([0, 1, 0, 0, 1, 1, 0, 1], seed=seed)[0] for seed in range(8)]

    assert len({np.stack(frames).tobytes() for frames in seen}) == 1
    lit = [int((frame == GONE).all(2).any(0).sum()) for frame in seen[0]]
    assert lit == [8 * step for step in range(STEPS + 1)]
