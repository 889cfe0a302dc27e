"""Crafter: survive and build in a small open world, with 22 achievements to unlock. 64x64 RGB, 17 actions.

Source: Hafner 2021, "Benchmarking the spectrum of agent capabilities" (package crafter 1.8.3, an extra); settings: fact
sheet of Δ-IRIS, section 9. A step's info["achievements"] counts how often each was reached in the episode so far.
"""

from collections import defaultdict
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from iris_cli.envs.spec import FRAME_SHAPE
from iris_cli.errors import EnvironmentError_

LENGTH = 10_000  # steps of an episode at most
WORLDS = 2**31 - 1  # seeds of worlds, as the package draws them


class Crafter(gymnasium.Env[NDArray[np.uint8], int]):
    """A new world after each reset, all of whose draws follow from the seed.

    Reward: +1 for a step that unlocks any achievement for the first time in the episode, and 0.1 for each point of
    health won or lost. Death terminates; an episode that is still going on after 10,000 steps is truncated.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 - Gymnasium's name and type

    def __init__(self, render_mode: str | None = None) -> None:
        self._crafter = _package()
        self.render_mode = render_mode
        self.observation_space = Box(0, 255, FRAME_SHAPE, np.uint8)
        self.action_space = Discrete(len(self._crafter.constants.actions))  # type: ignore[assignment]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        self._game = self._crafter.Env(length=LENGTH, seed=int(self.np_random.integers(WORLDS)))
        _order_creatures(self._game)
        frame = self._game.reset()
        return frame, {"achievements": dict.fromkeys(self.get_achievements(), 0)}

    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        frame, reward, over, info = self._game.step(int(action))
        dead = info["discount"] == 0
        return frame, float(reward), dead, over and not dead, {"achievements": info["achievements"]}

    def render(self) -> NDArray[np.uint8]:
        """(64, 64, 3) uint8."""
        return self._game.render()

    def get_action_meanings(self) -> list[str]:
        """One word per action: "NOOP", "MOVE_LEFT" and so on."""
        return [name.upper() for name in self._crafter.constants.actions]

    def get_achievements(self) -> list[str]:
        """The names of the achievements: "collect_coal" and so on, in alphabetical order."""
        return sorted(self._crafter.constants.achievements)


class _Ordered(dict[Any, None]):
    """A set that keeps the order in which its items were added."""

    def add(self, item: Any) -> None:
        self[item] = None

    def remove(self, item: Any) -> None:
        del self[item]


def _order_creatures(game: Any) -> None:
    """Let the game keep the creatures of each part of its world in an order that follows from its draws.

    It keeps them in sets, whose order follows from where objects lie in memory, and draws from those by number: the
    same seed and actions would give another game in another process.
    """
    world = game._world
    forget = world.reset

    def reset(seed: int | None = None) -> None:
        forget(seed)
        world._chunks = defaultdict(_Ordered)

    world.reset = reset


def _package() -> ModuleType:
    """The package crafter.

    Raises:
        EnvironmentError_: if it is not installed.
    """
    try:
        import crafter  # here, as it is an extra
        import crafter.constants
    except ImportError as error:
        raise EnvironmentError_(
            f"Crafter cannot be imported ({error})", fix="Install it: pip install 'iris-wm[crafter]'"
        ) from None
    return crafter


gymnasium.register(id="Crafter", entry_point="iris_cli.envs.crafter:Crafter")
