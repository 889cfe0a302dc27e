"""The published wrappers: against an independent reading of them, and one by one on a film instead of a game."""

import hashlib
import json
import runpy
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from iris_cli.envs.atari import FrameLimit, FrameSkip, LifeLossEnds, NoOpReset, resize
from iris_cli.envs.make import make
from iris_cli.envs.spec import EnvSpec

REFERENCE = runpy.run_path(str(Path(__file__).with_name("atari_reference.py")))
TRACES = json.loads(REFERENCE["GOLDEN"].read_text())
IDS = {"pong": "ALE/Pong-v5", "breakout": "ALE/Breakout-v5", "ms_pacman": "ALE/MsPacman-v5"}


def play(game, *, seed, steps, max_frames, noop_max):
    """What atari_reference.trace does, with our environment."""
    env = make(EnvSpec(id=IDS[game], kind="atari", max_frames=max_frames, noop_max=noop_max))
    frame, _ = env.reset(seed=seed)
    digest = hashlib.sha256(frame.tobytes())
    result = {"checksums": [], "rewards": [], "terminations": [], "truncations": [], "resumptions": []}
    for t, action in enumerate(np.random.default_rng(seed).integers(0, env.action_space.n, steps).tolist()):
        frame, reward, terminated, truncated, _ = env.step(action)
        if reward:
            result["rewards"].append([t, reward])
        if terminated:
            result["terminations"].append(t)
        if truncated:
            result["truncations"].append(t)
        if terminated or truncated:
            frame, info = env.reset(seed=seed + t)
            result["resumptions"] += [t] if info["resumed"] else []
        digest.update(frame.tobytes())
        if (t + 1) % REFERENCE["INTERVAL"] == 0:
            result["checksums"].append(digest.hexdigest()[:16])
    return result


@pytest.mark.parametrize("game", IDS)
def test_pixels_rewards_and_ends_equal_the_stored_trace(game):
    golden = dict(TRACES[game])

    assert play(game, **golden.pop("settings")) == golden


def test_the_stored_traces_hold_lost_lives_whole_games_and_time_limits():
    assert len(TRACES["pong"]["truncations"]) == 2
    for game in ("breakout", "ms_pacman"):
        assert set(TRACES[game]["resumptions"]) < set(TRACES[game]["terminations"])


def test_the_stored_trace_is_what_the_reference_gives_here():
    settings = TRACES["breakout"]["settings"] | {"steps": 60}

    trace = REFERENCE["trace"]("breakout", **settings)

    assert trace["checksums"] == TRACES["breakout"]["checksums"][:3]
    assert trace["terminations"] == TRACES["breakout"]["terminations"][:2]


def test_another_seed_gives_another_trajectory():
    settings = TRACES["pong"]["settings"] | {"steps": 20}

    assert play("pong", **settings) != play("pong", **settings | {"seed": 8})


class Film(gymnasium.Env):
    """Frame n is grey of brightness n; every frame is worth `reward`; a life is lost after each frame in `losses`."""

    observation_space = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, *, length=250, losses=(), lives=3, reward=1.0):
        self.length, self.losses, self.lives, self.reward = length, losses, lives, reward
        self.frame, self.actions, self.resets = 0, [], 0

    def _now(self):
        lives = self.lives - sum(loss <= self.frame for loss in self.losses)
        return np.full((8, 8, 3), self.frame, np.uint8), {"lives": lives}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.frame, self.actions, self.resets = 0, [], self.resets + 1
        return self._now()

    def step(self, action):
        self.frame += 1
        self.actions.append(action)
        screen, info = self._now()
        return screen, self.reward, self.frame >= self.length, False, info


def test_the_time_limit_counts_game_frames_and_no_ops():
    env = FrameSkip(NoOpReset(FrameLimit(Film(), max_frames=10), noop_max=1), 4)
    env.reset(seed=0)

    ends = [env.step(1)[2:4] for _ in range(3)]

    assert ends == [(False, False), (False, False), (False, True)]  # 1 + 4 + 4, and 1 of the third step
    assert env.unwrapped.frame == 10


def test_no_ops_number_exactly_one_or_one_to_thirty():
    one, thirty = Film(), Film()
    for seed in range(300):
        NoOpReset(one, 1).reset(seed=seed)
        NoOpReset(thirty, 30).reset(seed=seed)
        assert one.actions == [0]
        assert set(thirty.actions) == {0}
        thirty.counts = {*getattr(thirty, "counts", ()), len(thirty.actions)}

    assert thirty.counts == set(range(1, 31))


def test_a_game_that_ends_within_the_no_ops_is_reset_and_goes_on():
    film = Film(length=1)
    NoOpReset(film, 1).reset(seed=0)

    assert (film.resets, film.frame) == (2, 0)


def test_a_step_sums_rewards_and_keeps_the_maximum_of_its_last_two_frames():
    env = FrameSkip(Film(), 4)
    env.reset()

    frame, reward, *_ = env.step(1)

    assert (frame.shape, frame.max(), reward) == ((64, 64, 3), 4, 4.0)


def test_a_step_cut_short_by_the_end_still_gives_a_frame():
    env = FrameSkip(Film(length=1), 4)
    env.reset()

    frame, reward, terminated, *_ = env.step(1)

    assert (frame.max(), reward, terminated) == (1, 1.0, True)


def test_a_reset_after_a_lost_life_makes_one_no_op_step_and_keeps_the_time_limit():
    env = LifeLossEnds(FrameSkip(FrameLimit(Film(losses=(3,)), max_frames=12), 4))
    env.reset()
    _, _, terminated, truncated, _ = env.step(1)
    assert (terminated, truncated) == (True, False)

    frame, info = env.reset(seed=5)
    _, _, terminated, truncated, _ = env.step(1)

    assert info["resumed"]
    assert frame.max() == 8
    assert env.unwrapped.actions == [1] * 4 + [0] * 4 + [1] * 4
    assert (env.unwrapped.resets, terminated, truncated) == (1, False, True)
    assert not env.reset()[1]["resumed"]


def test_the_last_life_and_an_end_in_the_same_step_are_real_ends():
    for film in (Film(losses=(3,), lives=1, length=4), Film(losses=(3,), length=4)):
        env = LifeLossEnds(FrameSkip(film, 4))
        env.reset()

        assert env.step(1)[2]
        assert not env.reset()[1]["resumed"]


def test_clipped_rewards_are_the_signs_of_each_game_frame():
    env = make(EnvSpec(id="ALE/MsPacman-v5", kind="atari", clip_rewards=True))
    env.reset(seed=0)

    assert {env.step(2)[1] for _ in range(90)} == {0.0, 1.0}


def test_resizing_averages_instead_of_skipping_pixels():
    stripes = np.zeros((210, 160, 3), np.uint8)
    stripes[::2] = 200

    assert np.abs(resize(stripes).astype(int) - 100).max() < 35
