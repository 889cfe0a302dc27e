"""Catch-v0: a ball falls, a paddle catches it or not. The smallest game that needs eyes and a plan.

Source: Mnih et al. 2014, "Recurrent models of visual attention" (its Catch); here 8x8 cells drawn as 64x64 RGB.
Random play scores about -0.75: a paddle of one cell is under the ball in one game of eight.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

CELLS = 8  # per side of the board
CELL_PIXELS = 8  # per side of a cell
BACKGROUND, BALL, PADDLE = (16, 24, 48), (255, 214, 64), (96, 200, 255)  # RGB


class Catch(gymnasium.Env[NDArray[np.uint8], int]):
    """A game of 7 steps: the ball starts in the top row and falls a row a step, the paddle stays in the bottom row.

    Actions: 0 left, 1 stay, 2 right; a wall stops the paddle. The columns of ball and paddle are uniform at the start.
    Reward: +1 where the ball lands on the paddle, -1 where it does not, 0 before.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012 - Gymnasium's name and type

    def __init__(self, render_mode: str | None = None) -> None:
        side = CELLS * CELL_PIXELS
        self.render_mode = render_mode
        self.observation_space = Box(0, 255, (side, side, 3), np.uint8)
        self.action_space = Discrete(3)  # type: ignore[assignment]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        super().reset(seed=seed)
        self._row = 0
        self._ball, self._paddle = (int(column) for column in self.np_random.integers(CELLS, size=2))
        return self.render(), {}

    def step(self, action: int) -> tuple[NDArray[np.uint8], float, bool, bool, dict[str, Any]]:
        self._paddle = min(max(self._paddle + int(action) - 1, 0), CELLS - 1)
        self._row += 1
        landed = self._row == CELLS - 1
        reward = (1.0 if self._ball == self._paddle else -1.0) if landed else 0.0
        return self.render(), reward, landed, False, {}

    def render(self) -> NDArray[np.uint8]:
        """(64, 64, 3) uint8; the paddle is drawn first, so that a caught ball stays visible."""
        board = np.full((CELLS, CELLS, 3), BACKGROUND, np.uint8)
        board[CELLS - 1, self._paddle] = PADDLE
        board[self._row, self._ball] = BALL
        return board.repeat(CELL_PIXELS, 0).repeat(CELL_PIXELS, 1)

    def get_action_meanings(self) -> list[str]:
        """One word per action."""
        return ["LEFT", "NOOP", "RIGHT"]


gymnasium.register(id="Catch-v0", entry_point="iris_cli.envs.catch:Catch")
