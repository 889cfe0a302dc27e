"""Catch plays by the rules it states."""

from collections.abc import Callable

import gymnasium
import numpy as np
import pytest
from numpy.typing import NDArray

from iris_cli.envs.catch import BACKGROUND, BALL, CELL_PIXELS, CELLS, PADDLE, Catch
from iris_cli.envs.make import action_meanings, make
from iris_cli.envs.spec import training_spec

LEFT, STAY, RIGHT = 0, 1, 2
Frame = NDArray[np.uint8]


def cells(frame: Frame, colour: tuple[int, int, int]) -> list[tuple[int, int]]:
    """Where (row, column) cells show nothing but this colour."""
    board = frame.reshape(CELLS, CELL_PIXELS, CELLS, CELL_PIXELS, 3)
    return [(int(row), int(column)) for row, column in np.argwhere((board == colour).all((1, 3, 4)))]


def play(env: gymnasium.Env, choose: Callable[[Frame], int], *, seed: int | None = None) -> tuple[list[Frame], list]:
    """A game's frames and rewards."""
    frame, _ = env.reset(seed=seed)
    frames, rewards, over = [frame], [], False
    while not over:
        frame, reward, over, truncated, _ = env.step(choose(frame))
        assert not truncated
        frames.append(frame)
        rewards.append(reward)
    return frames, rewards


def towards_the_ball(frame: Frame) -> int:
    """What one sees in the frame is enough to catch any ball that can be caught: all of them."""
    paddle = cells(frame, PADDLE)[0][1]
    ball = cells(frame, BALL)[0][1]
    return STAY + int(np.sign(ball - paddle))


def place(ball: int, paddle: int) -> Catch:
    """A game that has just begun, with ball and paddle in these columns."""
    env = Catch()
    for seed in range(10_000):
        frame, _ = env.reset(seed=seed)
        if cells(frame, BALL) == [(0, ball)] and cells(frame, PADDLE) == [(CELLS - 1, paddle)]:
            return env
    raise AssertionError(f"no game begins with the ball in {ball} and the paddle in {paddle}")


# Getting it


@pytest.mark.parametrize("build", [lambda: gymnasium.make("Catch-v0"), lambda: make(training_spec("Catch-v0"))])
def test_it_is_known_by_its_id_and_gives_frames(build: Callable[[], gymnasium.Env]) -> None:
    env = build()

    frame, _ = env.reset(seed=0)

    assert (frame.shape, frame.dtype) == ((64, 64, 3), np.uint8)
    assert env.observation_space.contains(frame)
    assert env.action_space == gymnasium.spaces.Discrete(3)
    assert action_meanings(env) == ["LEFT", "NOOP", "RIGHT"]


def test_the_wrappers_change_no_pixel() -> None:
    frames, _ = play(make(training_spec("Catch-v0")), towards_the_ball, seed=3)
    bare, _ = play(Catch(), towards_the_ball, seed=3)

    assert np.array_equal(frames, bare)


# Playing


def test_a_game_has_seven_steps_and_pays_at_the_last() -> None:
    env = Catch()
    for seed in range(30):
        frames, rewards = play(env, lambda _: STAY, seed=seed)

        assert len(rewards) == 7
        assert not any(rewards[:-1])
        caught = cells(frames[0], BALL)[0][1] == cells(frames[0], PADDLE)[0][1]
        assert rewards[-1] == (1 if caught else -1)


def test_the_ball_falls_a_row_a_step_in_its_column() -> None:
    env = place(ball=6, paddle=1)

    frames = [env.step(STAY)[0] for _ in range(7)]

    assert [cells(frame, BALL) for frame in frames] == [[(row, 6)] for row in range(1, CELLS)]


@pytest.mark.parametrize(
    ("action", "columns"),
    [(LEFT, [1, 0, 0, 0, 0, 0]), (STAY, [2, 2, 2, 2, 2, 2]), (RIGHT, [3, 4, 5, 6, 7, 7])],
)
def test_the_paddle_moves_a_column_a_step_up_to_the_walls(action: int, columns: list[int]) -> None:
    env = place(ball=4, paddle=2)

    frames = [env.step(action)[0] for _ in columns]

    assert [cells(frame, PADDLE) for frame in frames] == [[(CELLS - 1, column)] for column in columns]


def test_a_paddle_that_goes_to_the_ball_catches_it_from_anywhere() -> None:
    env, starts = Catch(), set()
    for seed in range(500):
        frames, rewards = play(env, towards_the_ball, seed=seed)
        assert sum(rewards) == 1
        starts.add((*cells(frames[0], BALL), *cells(frames[0], PADDLE)))

    assert len(starts) == CELLS**2  # also from wall to wall


def test_random_play_scores_about_minus_three_quarters() -> None:
    env, draws = Catch(), np.random.default_rng(0)
    env.reset(seed=0)

    scores = [sum(play(env, lambda _: int(draws.integers(3)))[1]) for _ in range(2000)]

    assert np.mean(scores) == pytest.approx(-0.75, abs=0.06)  # four standard errors


# Starting


def test_games_begin_in_every_column_alike() -> None:
    env = Catch()
    env.reset(seed=0)
    counts = np.zeros((CELLS, CELLS))
    for _ in range(3200):
        frame, _ = env.reset()
        counts[cells(frame, BALL)[0][1], cells(frame, PADDLE)[0][1]] += 1

    assert ((counts - 50) ** 2 / 50).sum() < 120  # chi-squared, 63 degrees of freedom: more in one of 50,000 samples


def test_the_same_seed_gives_the_same_games() -> None:
    def games(seed: int) -> list[Frame]:
        env = Catch()
        frames, _ = play(env, towards_the_ball, seed=seed)
        return [frame for later in range(8) for frame in (play(env, towards_the_ball)[0] if later else frames)]

    assert np.array_equal(games(5), games(5))
    assert not np.array_equal(games(5), games(6))


# Drawing


def test_ball_and_paddle_are_drawn_where_they_are_and_nothing_else() -> None:
    frame, *_ = place(ball=6, paddle=1).step(RIGHT)

    assert cells(frame, BALL) == [(1, 6)]
    assert cells(frame, PADDLE) == [(CELLS - 1, 2)]
    assert len(cells(frame, BACKGROUND)) == CELLS**2 - 2


def test_a_caught_ball_is_seen_in_place_of_the_paddle() -> None:
    frames, rewards = play(Catch(), towards_the_ball, seed=1)

    column = cells(frames[0], BALL)[0][1]
    assert sum(rewards) == 1
    assert cells(frames[-1], BALL) == [(CELLS - 1, column)]
    assert cells(frames[-1], PADDLE) == []


def test_a_missed_ball_and_the_paddle_are_both_seen() -> None:
    env = place(ball=0, paddle=7)

    for _ in range(7):
        frame, reward, over, *_ = env.step(STAY)

    assert (reward, over) == (-1, True)
    assert (cells(frame, BALL), cells(frame, PADDLE)) == ([(7, 0)], [(7, 7)])
