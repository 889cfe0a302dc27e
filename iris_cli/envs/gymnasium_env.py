"""Any other Gymnasium environment with discrete actions, as frames of 64x64 pixels.

Image observations are resized; where there are none, the environment is rendered. Nothing else is changed.
"""

import importlib
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete

import iris_cli.envs.catch
import iris_cli.envs.crafter  # noqa: F401 - registers Crafter
from iris_cli.envs.atari import Frame, Info, Step, resize
from iris_cli.envs.spec import FRAME_SHAPE, EnvSpec
from iris_cli.errors import EnvironmentError_


def make_gymnasium(spec: EnvSpec) -> gymnasium.Env[Frame, int]:
    """The environment with observations (64, 64, 3) uint8 and actions from 0.

    Raises:
        EnvironmentError_: if it cannot be made, its actions are not discrete, or it shows no images.
    """
    try:
        env = _build(spec.id)
        _require_discrete_actions(env, spec)
        if not _observes_images(env):
            env.close()
            env = _build(spec.id, render_mode="rgb_array")
        frames = Frames(env)
        frames.reset(seed=0)  # so that what it lacks for drawing is known now
    except EnvironmentError_:
        raise
    except Exception as error:  # an environment may raise anything
        raise EnvironmentError_(
            f"the environment cannot be made ({type(error).__name__}: {error})",
            where=spec.id,
            fix="It needs image observations or an rgb_array render mode.",
        ) from error
    return frames


class Frames(gymnasium.Wrapper[Frame, int, Any, Any]):
    """Images of any size, observed or rendered, as frames; actions counted from 0."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        assert isinstance(env.action_space, Discrete)
        self._first_action = int(env.action_space.start)
        self._observes_images = _observes_images(env)
        self.observation_space = Box(0, 255, FRAME_SHAPE, np.uint8)
        self.action_space = Discrete(int(env.action_space.n))  # type: ignore[assignment]

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Frame, Info]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._frame(observation), info

    def step(self, action: int) -> Step:
        observation, reward, terminated, truncated, info = self.env.step(action + self._first_action)
        return self._frame(observation), float(reward), bool(terminated), bool(truncated), info

    def _frame(self, observation: Any) -> Frame:
        image = np.asarray(observation if self._observes_images else self.env.render())
        return resize(image.squeeze(2) if image.shape[2:] == (1,) else image)


def _build(id: str, **settings: Any) -> gymnasium.Env[Any, Any]:
    """A registered id, or the class of a module."""
    module, _, name = id.partition(":")
    if not name:
        return gymnasium.make(id, disable_env_checker=True, **settings)
    try:
        build: Callable[..., gymnasium.Env[Any, Any]] = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise EnvironmentError_(
            f"there is no such class ({error})", where=id, fix="Write module:Class, with the module on the Python path."
        ) from error
    return build(**settings)


def _observes_images(env: gymnasium.Env[Any, Any]) -> bool:
    space = env.observation_space
    if not isinstance(space, Box) or space.dtype != np.uint8:
        return False
    return len(space.shape) == 2 or (len(space.shape) == 3 and space.shape[2] in (1, 3))


def _require_discrete_actions(env: gymnasium.Env[Any, Any], spec: EnvSpec) -> None:
    if not isinstance(env.action_space, Discrete):
        env.close()
        raise EnvironmentError_(
            f"its actions are {env.action_space}, but only Discrete actions are supported", where=spec.id
        )
