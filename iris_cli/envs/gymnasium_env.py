"""Any other Gymnasium environment with discrete actions, as frames of 64x64 pixels.

Image observations are resized; where there are none, the environment is rendered. Nothing else is changed.
"""

import importlib
import os
import sys
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete

import iris_cli.envs.catch
import iris_cli.envs.crafter
import iris_cli.envs.doors  # noqa: F401 - registers Doors
from iris_cli.envs.atari import Frame, Info, Step
from iris_cli.envs.pictures import frame_of, layout_of
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
        if _layout(env) is not None:
            frames = Frames(env)
            frames.reset(seed=0)  # so that an image that is not as promised is known now
            return frames
        env.close()
    except EnvironmentError_:
        raise
    except Exception as error:  # an environment may raise anything
        raise EnvironmentError_(
            f"the environment cannot be made ({type(error).__name__}: {error})", where=spec.id
        ) from error
    return _drawn(spec, env.observation_space)


def _drawn(spec: EnvSpec, observed: gymnasium.Space[Any]) -> "Frames":
    """The environment that draws itself, as what it observes is no image."""
    try:
        frames = Frames(_build(spec.id, render_mode="rgb_array"))
        frames.reset(seed=0)  # so that what it lacks for drawing is known now
    except Exception as error:  # an environment may raise anything
        raise EnvironmentError_(
            f"it observes {_words(observed)}, which is no image, and cannot be drawn ({type(error).__name__}: {error})",
            where=spec.id,
            fix="It needs image observations, uint8 (H, W, 3), (H, W) or (3, H, W), or an rgb_array render mode.",
        ) from error
    return frames


class Frames(gymnasium.Wrapper[Frame, int, Any, Any]):
    """Images of any size, observed or rendered, as frames; actions counted from 0.

    Attributes:
        note: that frames are drawn, in a sentence; None where they are what is observed.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        assert isinstance(env.action_space, Discrete)
        self._first_action = int(env.action_space.start)
        self._layout = _layout(env)
        self.note: str | None = None
        if self._layout is None:
            self.note = f"it observes {_words(env.observation_space)}, so frames are its drawings (rgb_array)"
        self.observation_space = Box(0, 255, FRAME_SHAPE, np.uint8)
        self.action_space = Discrete(int(env.action_space.n))  # type: ignore[assignment]

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[Frame, Info]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._frame(observation), info

    def step(self, action: int) -> Step:
        observation, reward, terminated, truncated, info = self.env.step(action + self._first_action)
        return self._frame(observation), float(reward), bool(terminated), bool(truncated), info

    def _frame(self, observation: Any) -> Frame:
        image = np.asarray(self.env.render() if self._layout is None else observation)
        layout = self._layout or layout_of(image.shape)
        if layout is None or image.ndim != len(layout) or image.dtype != np.uint8:
            raise TypeError(f"an image must be uint8 (H, W, 3), (H, W) or (3, H, W), not {image.dtype} {image.shape}")
        return frame_of(image, layout)


def _build(id: str, **settings: Any) -> gymnasium.Env[Any, Any]:
    """A registered id, or what the class of a module (or a function in it) makes."""
    module, _, name = id.partition(":")
    if ":" not in id:
        return gymnasium.make(id, disable_env_checker=True, **settings)
    try:
        build = getattr(_imported(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise EnvironmentError_(
            f"there is no such class ({error})", where=id,
            fix="Write module:Class; the module lies in the current directory or on the Python path.",
        ) from error  # fmt: skip
    env = build(**settings)
    if not isinstance(env, gymnasium.Env):
        raise EnvironmentError_(f"it makes {type(env).__name__}, which is no gymnasium.Env", where=id)
    return env


def _imported(module: str) -> ModuleType:
    """A module on the Python path or in the current directory, where `python -m` would look too."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        here = os.getcwd()
        if error.name != module.partition(".")[0] or here in sys.path:
            raise
    sys.path.append(here)  # last, so that nothing there hides what is installed
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        sys.path.remove(here)
        raise


def _layout(env: gymnasium.Env[Any, Any]) -> str | None:
    """Of the images that are observed; None if it is no images."""
    space = env.observation_space
    return layout_of(space.shape) if isinstance(space, Box) and space.dtype == np.uint8 else None


def _words(space: gymnasium.Space[Any]) -> str:
    """A space in a few words: Dict(image, mission), Box(4,) float32."""
    if isinstance(space, Dict):
        return f"a Dict of {', '.join(space.spaces)}"
    return f"{type(space).__name__} {space.shape} {space.dtype}" if isinstance(space, Box) else str(space)[:80]


def _require_discrete_actions(env: gymnasium.Env[Any, Any], spec: EnvSpec) -> None:
    if not isinstance(env.action_space, Discrete):
        env.close()
        raise EnvironmentError_(
            f"its actions are {env.action_space}, but only Discrete actions are supported", where=spec.id,
            fix="Wrap it so that numbers 0 to A - 1 stand for such actions, and name what makes it: module:function.",
        )  # fmt: skip
