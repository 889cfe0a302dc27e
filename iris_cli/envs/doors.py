"""Doors-v0: a prize lies behind one of two doors, and only past rewards tell which. The smallest game of memory.

It is a two-armed bandit with a fresh prize each game: where a dynamics or a policy cannot see past rewards, nothing can
be learned in it. Random play scores 0 on average.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

STEPS = 8  # of a game
BACKGROUND, WAITING, GONE = (16, 24, 48), (60, 72, 104), (255, 214, 64)  # RGB; of steps to come, and of those gone
_PIXELS = 64  # height and width of a frame
_BAR = slice(24, 40)  # rows of the bar of steps


class Doors(gymnasium.Env[NDArray[np.uint8], int]):
    """A game of 8 steps, each of which opens a door: the same one pays +1 all game long, and the other -1.

    Actions: 0 left, 1 right. Which door pays is drawn with each reset. A frame shows only how many steps are gone.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 - Gymnasium's name and type

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = Box(0, 255, (_PIXELS, _PIXELS, 3), np.uint8)
        self.action_space = Discrete(2)  # type: ignore[assignment]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        self._gone, self._prize = 0, int(self.np_random.integers(2))
        return self.render(), {}

    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        self._gone += 1
        reward = 1.0 if int(action) == self._prize else -1.0
        return self.render(), reward, self._gone == STEPS, False, {}

    def render(self) -> NDArray[np.uint8]:
        """(64, 64, 3) uint8: a bar of 8 cells, those of the steps that are gone lit."""
        frame = np.full((_PIXELS, _PIXELS, 3), BACKGROUND, np.uint8)
        cell = _PIXELS // STEPS
        frame[_BAR] = WAITING
        frame[_BAR, : self._gone * cell] = GONE
        return frame

    def get_action_meanings(self) -> list[str]:
        """One word per action."""
        return ["LEFT", "RIGHT"]


gymnasium.register(id="Doors-v0", entry_point="iris_cli.envs.doors:Doors")
