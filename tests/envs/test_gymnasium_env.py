"""Environments that are not Atari."""

import re
import sys
import types
from contextlib import closing

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete

from iris_cli.envs.make import action_meanings, make
from iris_cli.envs.spec import training_spec
from iris_cli.envs.vector import VectorEnv
from iris_cli.errors import EnvironmentError_


class Colour(gymnasium.Env):
    """Shows its last action; actions are counted from 1."""

    observation_space = Box(0, 255, (48, 80, 3), np.uint8)
    action_space = Discrete(3, start=1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros((48, 80, 3), np.uint8), {}

    def step(self, action):
        return np.full((48, 80, 3), action, np.uint8), 0.5, action == 3, False, {}


class Grey(Colour):
    observation_space = Box(0, 255, (48, 80, 1), np.uint8)

    def reset(self, *, seed=None, options=None):
        return np.full((48, 80, 1), 9, np.uint8), {}


class Drawn(Colour):
    """Observes two numbers, and draws itself when asked to."""

    observation_space = Box(-1, 1, (2,), np.float32)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def render(self):
        return np.full((20, 30, 3), 77, np.uint8)


class Square(Colour):
    """Sees (3, H, W)."""

    observation_space = Box(0, 255, (3, 48, 80), np.uint8)

    def reset(self, *, seed=None, options=None):
        return np.broadcast_to(np.array([10, 20, 30], np.uint8)[:, None, None], (3, 48, 80)), {}


class Labelled(Drawn):
    observation_space = Dict(image=Box(0, 255, (48, 80, 3), np.uint8), mission=Discrete(2))


class Unlabelled(Colour):
    observation_space = Dict(image=Box(0, 255, (48, 80, 3), np.uint8))


class Liar(Colour):
    """Promises images, and gives something else."""

    def reset(self, *, seed=None, options=None):
        return np.zeros((48, 80, 3)), {}


class Blind(Colour):
    observation_space = Box(-1, 1, (2,), np.float32)


class Steered(Colour):
    action_space = Box(-1, 1, (2,), np.float32)


class Many(Colour):
    action_space = MultiDiscrete([3, 2])


def build():
    """Makes a game: a function does as well as a class."""
    return Colour()


def nothing():
    return "no game"


@pytest.fixture
def spec(monkeypatch):
    """The spec of a class of this file, as a module that can be imported."""
    module = types.ModuleType("toy_games")
    games = (Colour, Grey, Drawn, Blind, Steered, Square, Labelled, Unlabelled, Liar, Many, build, nothing)
    vars(module).update({game.__name__: game for game in games})
    monkeypatch.setitem(sys.modules, "toy_games", module)
    return lambda name: training_spec(f"toy_games:{name}")


def test_images_are_resized_and_actions_counted_from_zero(spec):
    env = make(spec("Colour"))

    first, _ = env.reset(seed=0)
    frame, reward, terminated, truncated, _ = env.step(2)

    assert (first.shape, first.dtype, first.max()) == ((64, 64, 3), np.uint8, 0)
    assert (frame.min(), reward, terminated, truncated) == (3, 0.5, True, False)
    assert (env.action_space, action_meanings(env)) == (Discrete(3), ["0", "1", "2"])


@pytest.mark.parametrize(("name", "brightness"), [("Grey", 9), ("Drawn", 77)])
def test_grey_images_become_rgb_and_other_observations_are_drawn(spec, name, brightness):
    frame, _ = make(spec(name)).reset(seed=0)

    assert (frame.shape, frame.min(), frame.max()) == ((64, 64, 3), brightness, brightness)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Steered", "only Discrete"),
        ("Many", r"MultiDiscrete\(\[3 2\]\), but only Discrete.*numbers 0 to A - 1"),
        ("Blind", "image observations"),
        ("Unlabelled", "a Dict of image, which is no image, and cannot be drawn"),
        ("Liar", "must be uint8"),
        ("nothing", "str, which is no gymnasium.Env"),
        ("Missing", "no such class"),
        ("", "no such class"),
        ("Colour.reset", "no such class"),
    ],
)
def test_an_environment_that_cannot_be_used_is_refused_in_one_sentence(spec, name, message):
    with pytest.raises(EnvironmentError_, match=message):
        make(spec(name))


def test_images_with_channels_first_are_turned(spec):
    frame, _ = make(spec("Square")).reset(seed=0)

    assert (frame.shape, frame[0, 0].tolist(), frame.std(axis=(0, 1)).max()) == ((64, 64, 3), [10, 20, 30], 0)


def test_a_function_may_make_the_game(spec):
    assert make(spec("build")).reset(seed=0)[0].shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("Colour", None),
        ("Drawn", r"it observes Box \(2,\) float32, so frames are its drawings"),
        ("Labelled", "a Dict of"),
    ],
)
def test_frames_that_are_drawn_are_said_to_be(spec, name, note):
    with closing(VectorEnv(spec(name), 1)) as envs:
        assert (envs.note is None) if note is None else re.match(f".*{note}", envs.note)


def test_a_game_in_the_current_directory_is_found_and_hides_nothing(tmp_path, monkeypatch):
    (tmp_path / "corner_game.py").write_text("from tests_colour import Colour as Game\n")
    (tmp_path / "json.py").write_text("raise AssertionError('it hides the real one')\n")
    monkeypatch.setitem(sys.modules, "tests_colour", types.SimpleNamespace(Colour=Colour))
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(EnvironmentError_, match="no such class"):
        make(training_spec("corner_game:Game"))
    monkeypatch.chdir(tmp_path)

    env = make(training_spec("corner_game:Game"))

    assert env.reset(seed=0)[0].shape == (64, 64, 3)
    assert sys.path[-1] == str(tmp_path)


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(EnvironmentError_, match="no_such_module"):
        make(training_spec("no_such_module:Game"))


def test_a_registered_environment_with_continuous_actions_is_refused():
    with pytest.raises(EnvironmentError_, match="only Discrete"):
        make(training_spec("Pendulum-v1"))
