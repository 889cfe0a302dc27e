"""Environments that are not Atari."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete

from iris_cli.envs.make import action_meanings, make
from iris_cli.envs.spec import training_spec
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


class Blind(Colour):
    observation_space = Box(-1, 1, (2,), np.float32)


class Steered(Colour):
    action_space = Box(-1, 1, (2,), np.float32)


@pytest.fixture
def spec(monkeypatch):
    """The spec of a class of this file, as a module that can be imported."""
    import sys
    import types

    module = types.ModuleType("toy_games")
    vars(module).update({kind.__name__: kind for kind in (Colour, Grey, Drawn, Blind, Steered)})
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
    [("Steered", "only Discrete"), ("Blind", "image observations"), ("Missing", "no such class")],
)
def test_an_environment_that_cannot_be_used_is_refused_in_one_sentence(spec, name, message):
    with pytest.raises(EnvironmentError_, match=message):
        make(spec(name))


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(EnvironmentError_, match="no_such_module"):
        make(training_spec("no_such_module:Game"))


def test_a_registered_environment_with_continuous_actions_is_refused():
    with pytest.raises(EnvironmentError_, match="only Discrete"):
        make(training_spec("Pendulum-v1"))
