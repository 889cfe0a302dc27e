"""The policy and value of IRIS: four convolutions, an LSTM cell, two linear heads. It looks at reconstructions.

Source: fact sheet of IRIS, section 5. Members are named as in the published state dict.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iris_cli.agents.iris.config import GRID, IMAGE_SIZE, ActorCriticConfig
from iris_cli.learn.recurrent import ActorCriticOutput, Memory, check_burn_in, check_frames


class ActorCritic(nn.Module):
    """Maps frames and memory to action logits and values.

    Args:
        config: sizes.
        num_actions: A.
    """

    def __init__(self, config: ActorCriticConfig, *, num_actions: int) -> None:
        super().__init__()
        self.config = config
        first, second, third, fourth = config.channels
        if config.network == "strided":
            self.conv1 = nn.Conv2d(3, first, 8, stride=4, padding=2)
            self.conv2 = nn.Conv2d(first, second, 4, stride=2, padding=1)
            self.conv3 = nn.Conv2d(second, third, 4, stride=2, padding=1)
        else:
            self.conv1 = nn.Conv2d(3, first, 3, padding=1)
            self.conv2 = nn.Conv2d(first, second, 3, padding=1)
            self.conv3 = nn.Conv2d(second, third, 3, padding=1)
        self.conv4 = nn.Conv2d(third, fourth, 3, padding=1)
        self.lstm = nn.LSTMCell(fourth * GRID * GRID, config.lstm_width)
        self.critic_linear = nn.Linear(config.lstm_width, 1)
        self.actor_linear = nn.Linear(config.lstm_width, num_actions)

    def forward(self, frames: Tensor, memory: Memory | None) -> ActorCriticOutput:
        """Look at one frame of each of B episodes.

        Args:
            frames: (B, 3, 64, 64) float32 in [0, 1], reconstructions.
            memory: of the frames before; None at an episode's start.

        Raises:
            ShapeError: for frames or memory of another shape or dtype.
        """
        self._check(frames, memory)
        hidden, cell = self.lstm(self._features(frames), memory)
        return ActorCriticOutput(
            logits_actions=self.actor_linear(hidden),
            values=self.critic_linear(hidden).squeeze(-1),
            memory=Memory(hidden, cell),
        )

    @torch.no_grad()
    def burn_in(self, frames: Tensor, mask: Tensor) -> Memory:
        """The memory after T frames, of which each row skips those that are not real.

        Args:
            frames: (B, T, 3, 64, 64) float32 in [0, 1].
            mask: (B, T) bool; a row that is false throughout keeps the memory of an episode's start.

        Raises:
            ShapeError: for other shapes or dtypes.
        """
        check_burn_in(frames, mask)
        hidden = cell = torch.zeros(len(frames), self.config.lstm_width, device=frames.device)
        for t in range(frames.shape[1]):  # one step at a time: the features of all at once would fill gigabytes
            self._check(frames[:, t], None)
            new_hidden, new_cell = self.lstm(self._features(frames[:, t]), (hidden, cell))
            real = mask[:, t, None]
            hidden, cell = torch.where(real, new_hidden, hidden), torch.where(real, new_cell, cell)
        return Memory(hidden, cell)

    def _features(self, frames: Tensor) -> Tensor:
        """(B, 3, 64, 64) in [0, 1] -> (B, C * 4 * 4)."""
        x = frames * 2 - 1
        for convolution in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = convolution(x)
            x = F.relu(x if self.config.network == "strided" else F.max_pool2d(x, 2))  # pooled: half the size
        return x.flatten(1)

    def _check(self, frames: Tensor, memory: Memory | None) -> None:
        check_frames(frames, memory, image_size=IMAGE_SIZE, width=self.config.lstm_width)
