"""TWM's wrappers: against traces of the published classes, and one by one on a film instead of a game."""

import json
import zlib
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from iris_cli.envs.grey_stacks import (
    EpisodicLives,
    FireAfterLosses,
    GreyStack,
    NoOpSteps,
    StepLimit,
    area_averages,
    grey,
)
from iris_cli.envs.make import make
from iris_cli.envs.spec import EnvSpec, training_spec
from iris_cli.envs.vector import VectorEnv
from iris_cli.errors import ConfigError

TRACES = json.loads((Path(__file__).parents[1] / "golden" / "twm_env_trace.json").read_text())["traces"]


def checksum(stack):
    return zlib.crc32(np.ascontiguousarray(stack.transpose(2, 0, 1)).tobytes())


def spec_of(trace):
    spec = training_spec(trace["game"]).as_grey_stacks()
    spec = spec if trace["mode"] == "train" else spec.for_testing()
    return EnvSpec(**{**spec.to_mapping(), "max_frames": 4 * trace["time_limit"]})


@pytest.mark.parity
@pytest.mark.parametrize("index", range(5))
def test_pixels_rewards_ends_and_lives_are_the_published_ones(index):
    trace = TRACES[index]
    training, seed = trace["mode"] == "train", trace["seed"]
    env = make(spec_of(trace))

    def now(info):
        return info["lives"], info["episode_frame_number"]

    stack, info = env.reset(seed=seed)
    lives = trace["reset_lives"]
    assert (checksum(stack), *now(info)) == (trace["reset_crc"], lives, trace["reset_frame"])
    assert stack.mean() == pytest.approx(trace["reset_mean"], abs=1e-5)
    for step in trace["steps"]:
        stack, reward, terminated, truncated, info = env.step(step["a"])

        assert (checksum(stack), reward, *now(info)) == (step["crc"], step["r"], step["lives"], step["frame"])
        assert truncated == step["tr"]
        lost, lives = 0 < step["lives"] < lives, step["lives"]
        assert terminated == (step["te"] if training else step["te"] and not lost)  # ours goes on where theirs pretends
        if training and (terminated or truncated):
            seed = 3 * seed + 13
            stack, info = env.reset(seed=seed)
            lives = step["after_reset_lives"]
            assert (checksum(stack), *now(info)) == (step["after_reset_crc"], lives, step["after_reset_frame"])
            assert (stack == stack[..., :1]).all() == step["after_reset_frames_equal"]


def test_the_traces_hold_lost_lives_whole_games_time_limits_and_games_without_fire():
    ends = [sum(step["te"] for step in trace["steps"]) for trace in TRACES]

    assert ends == [12, 3, 3, 5, 0]
    assert sum(step["tr"] for step in TRACES[2]["steps"]) == 3
    assert {trace["game"] for trace in TRACES} == {"Breakout", "Asterix", "Pong"}


def test_an_average_weighs_each_pixel_by_the_area_it_covers():
    image = np.random.default_rng(0).integers(0, 256, (210, 160), np.uint8)
    large = image.repeat(64, 0).repeat(64, 1).reshape(64, 210, 64, 160).mean((1, 3))  # exact, by 64 pixels for one

    assert np.abs(area_averages(image) - large).max() <= 0.5 + 1e-4


class Film(gymnasium.Env):
    """Frame n is grey of brightness n and worth 1; a life is lost with each frame in `losses`; over at `length`."""

    observation_space = gymnasium.spaces.Box(0, 255, (64, 64), np.uint8)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, *, length=250, losses=(), lives=3):
        self.length, self.losses, self.lives = length, losses, lives
        self.frame, self.actions, self.resets = 0, [], 0

    def _now(self):
        lives = self.lives - sum(loss <= self.frame for loss in self.losses)
        return np.full((64, 64), self.frame, np.uint8), {"lives": lives}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.frame, self.resets = 0, self.resets + 1
        return self._now()

    def step(self, action):
        self.frame += 1
        self.actions.append(action)
        screen, info = self._now()
        return screen, 1.0, self.frame >= self.length, False, info


def test_fire_follows_a_reset_with_action_2_and_each_lost_life_within_its_step():
    film = Film(losses=(4,))
    env = FireAfterLosses(film)
    env.reset()

    steps = [env.step(0) for _ in range(3)]

    assert film.actions == [1, 2, 0, 0, 1, 0]
    assert [step[1] for step in steps] == [1.0, 2.0, 1.0]
    assert steps[1][0].max() == 5


def test_a_lost_life_resumes_and_a_game_that_is_over_begins_anew():
    film = Film(losses=(2,), length=5)
    env = EpisodicLives(film)
    assert not env.reset()[1]["resumed"]
    assert [env.step(1)[2] for _ in range(2)] == [False, True]

    assert env.reset()[1]["resumed"]
    assert film.actions == [1, 1, 0]
    assert [env.step(1)[2] for _ in range(2)] == [False, True]
    assert not env.reset()[1]["resumed"]
    assert film.resets == 2


def test_a_resumption_that_ends_the_game_is_a_real_reset():
    film = Film(losses=(2,), length=3)
    env = EpisodicLives(film)
    env.reset()
    env.step(1)
    env.step(1)

    frame, info = env.reset()

    assert (film.resets, frame.max(), info["resumed"]) == (2, 0, False)


def test_a_game_that_the_time_limit_cut_goes_on_and_its_limit_begins_anew():
    film = Film()
    env = StepLimit(EpisodicLives(film), 2)
    env.reset()

    assert [env.step(1)[3] for _ in range(2)] == [False, True]
    assert env.reset()[1]["resumed"]
    assert [env.step(1)[3] for _ in range(2)] == [False, True]
    assert (film.resets, film.frame) == (1, 5)


def test_no_op_steps_number_one_to_the_most():
    film, counts = Film(), set()
    for seed in range(100):
        film.actions = []
        NoOpSteps(film, 4).reset(seed=seed)
        counts.add(len(film.actions))

    assert counts == {1, 2, 3, 4}


def test_colours_become_grey_by_their_weights():
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[0, 0], frame[0, 1], frame[0, 2] = (255, 0, 0), (0, 255, 0), (255, 255, 255)

    assert grey(frame)[0, :3].tolist() == [76, 150, 255]


def test_a_stack_moves_by_one_frame_a_step_and_is_filled_by_a_reset():
    env = GreyStack(Film())

    assert env.reset()[0].max((0, 1)).tolist() == [0, 0, 0, 0]
    assert [env.step(0)[0].max((0, 1)).tolist() for _ in range(2)] == [[0, 0, 0, 1], [0, 0, 1, 2]]
    assert env.reset()[0].max((0, 1)).tolist() == [0, 0, 0, 0]


def test_several_environments_give_stacks_and_are_built_again_from_their_states():
    spec = training_spec("Breakout").as_grey_stacks()
    with VectorEnv(spec, 1) as envs:
        envs.reset([3])
        for _ in range(12):
            steps = envs.step(np.array([0]))
            if steps.terminations[0]:
                envs.reset([9])
        state, frames = envs.state(), envs.step(np.array([2])).frames

        again = envs.restore(state)

        assert again.shape == (1, 64, 64, 4)
        assert (envs.step(np.array([2])).frames == frames).all()


def test_other_environments_give_grey_stacks_too(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1])  # toy_game.py
    env = make(EnvSpec(id="toy_game:Toy", kind="gymnasium", frame_skip=1, noop_max=0, max_frames=None,
                       life_loss_ends=False, trusted=True).as_grey_stacks())  # fmt: skip

    stack, _ = env.reset(seed=0)

    assert (stack.shape, stack.dtype) == ((64, 64, 4), np.uint8)
    assert env.observation_space.contains(stack)


def test_specs_of_stacks_survive_as_plain_data_and_others_do_not_name_them():
    rgb = training_spec("Pong")
    stacks = rgb.as_grey_stacks()

    assert EnvSpec.from_mapping(stacks.to_mapping()) == stacks
    assert "view" not in rgb.to_mapping()
    assert (stacks.frame_shape, rgb.frame_shape) == ((64, 64, 4), (64, 64, 3))
    assert (stacks.max_frames, stacks.noop_max, stacks.life_loss_ends) == (108_000, 30, True)
    testing = stacks.for_testing()
    assert (testing.max_frames, testing.noop_max, testing.life_loss_ends) == (108_000, 0, False)
    for wrong in ({"view": "grey-stack"}, {"resize": "area"}, {"view": "stereo"}):
        with pytest.raises(ConfigError):
            EnvSpec(id="ALE/Pong-v5", kind="atari", **wrong)
