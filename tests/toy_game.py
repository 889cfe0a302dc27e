"""`toy_game:Toy`, a game that starts in no time, for tests of what surrounds one. Everything follows from its seed."""

from typing import Any

import gymnasium
import numpy as np

ACTIONS = 6  # as many as Pong's, so that runs of Pong can play it


class Toy(gymnasium.Env[np.ndarray, int]):
    """A blinking square on grey, moved by the actions; pays for odd ones; over after 10 to 30 steps."""

    observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
    action_space = gymnasium.spaces.Discrete(ACTIONS)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self._left = int(self.np_random.integers(10, 31))
        self._place = int(self.np_random.integers(56))
        return self._frame(), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._left -= 1
        self._place = (self._place + int(action) + int(self.np_random.integers(2))) % 56
        return self._frame(), float(action % 2), self._left == 0, False, {}

    def _frame(self) -> np.ndarray:
        frame = np.full((64, 64, 3), 90, np.uint8)
        frame[self._place : self._place + 8, 20:28] = (255, 8 * self._left, 0)
        return frame


class Builder(Toy):
    """The toy game with two achievements: any odd action, and action 5 thrice."""

    def get_achievements(self) -> list[str]:
        return ["be_odd", "fifth_thrice"]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        self._counts = [0, 0]
        return super().reset(seed=seed)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self._counts = [self._counts[0] + int(action) % 2, self._counts[1] + (action == 5)]
        counts = {"be_odd": self._counts[0], "fifth_thrice": self._counts[1] // 3}
        return *super().step(action)[:4], {"achievements": counts}
