"""A game of one's own: a rock falls, and the player has to be elsewhere when it lands."""

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete


class Dodge(gymnasium.Env):
    observation_space, action_space = Box(0, 255, (32, 32, 3), np.uint8), Discrete(3)  # left, stay, right

    def reset(self, **settings):
        super().reset(**settings)
        self.player, self.rock, self.row = 16, int(self.np_random.integers(11, 22)), -1
        return self.step(1)[0], {}

    def step(self, action):
        self.player, self.row = int(np.clip(self.player + action - 1, 0, 31)), self.row + 1
        picture = np.zeros((32, 32, 3), np.uint8)  # of any size
        picture[self.row, self.rock - 1 : self.rock + 2], picture[31, self.player] = 255, (0, 255, 0)
        over = self.row == 31
        return picture, float(over and abs(self.player - self.rock) > 3), over, False, {}
