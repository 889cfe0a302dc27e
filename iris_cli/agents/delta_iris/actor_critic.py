"""The policy and value of Δ-IRIS: a residual CNN, an LSTM cell, two linear heads, and a slow copy of all that.

It looks at frames as they are, in [0, 1]. The slow copy gives the values that returns and advantages are made of.

Source: fact sheet of Δ-IRIS, section 6. Members are named as in the published state dict.
"""

import copy

import torch
from torch import Tensor, nn

from iris_cli.agents.delta_iris.config import IMAGE_SIZE, ActorCriticConfig, map_size
from iris_cli.learn.recurrent import ActorCriticOutput, Memory, check_burn_in, check_frames
from iris_cli.nn.residual import FrameEncoder
from iris_cli.nn.two_hot import TwoHotSymlog

VALUE_BUCKETS = 255  # of two-hot values


class ActorCritic(nn.Module):
    """Maps frames and memory to action logits and values.

    Args:
        config: sizes.
        num_actions: A.
        image_size: pixels, height and width of a frame.

    Attributes:
        model: what acts and learns.
        target_model: its moving average; `update_target` moves it.
    """

    def __init__(self, config: ActorCriticConfig, *, num_actions: int, image_size: int = IMAGE_SIZE) -> None:
        super().__init__()
        self.config = config
        self.model = Network(config, num_actions=num_actions, image_size=image_size)
        self.target_model = copy.deepcopy(self.model).requires_grad_(False)

    def forward(self, frames: Tensor, memory: Memory | None) -> ActorCriticOutput:
        """Look at one frame of each of B episodes.

        Args:
            frames: (B, 3, 64, 64) float32 in [0, 1].
            memory: of the frames before; None at an episode's start.

        Raises:
            ShapeError: for frames or memory of another shape or dtype.
        """
        return self.model(frames, memory)

    def burn_in(self, frames: Tensor, mask: Tensor) -> Memory:
        """The memory after T frames. Those that are not real are read as black ones, as published.

        Args:
            frames: (B, T, 3, 64, 64) float32 in [0, 1].
            mask: (B, T) bool, true where real.

        Raises:
            ShapeError: for other shapes or dtypes.
        """
        return self.model.burn_in(frames, mask)

    @torch.no_grad()
    def update_target(self) -> None:
        """Move the slow copy towards what acts. Once per update, after the loss and before the optimizer's step."""
        decay = self.config.target_decay
        for slow, fast in zip(self.target_model.parameters(), self.model.parameters(), strict=True):
            slow.mul_(decay).add_(fast, alpha=1 - decay)


class Network(nn.Module):
    """One of the two networks; it is called as the whole is."""

    def __init__(self, config: ActorCriticConfig, *, num_actions: int, image_size: int) -> None:
        super().__init__()
        self.image_size, self.lstm_width = image_size, config.lstm_width
        encoder = FrameEncoder(
            3,
            config.latent_channels,
            base=config.base_channels,
            multipliers=config.channel_multipliers,
            halvings=config.halvings,
            patch=config.patch,
        )
        features = config.latent_channels * map_size(config, image_size) ** 2
        self.cnn = nn.Sequential(encoder)
        self.lstm = nn.LSTMCell(features, config.lstm_width)
        self.actor_linear = nn.Linear(config.lstm_width, num_actions)
        self.two_hot = TwoHotSymlog(VALUE_BUCKETS) if config.values == "symlog" else None
        self.critic_linear = nn.Linear(config.lstm_width, 1 if self.two_hot is None else VALUE_BUCKETS)
        nn.init.zeros_(self.critic_linear.weight)
        nn.init.zeros_(self.critic_linear.bias)

    def forward(self, frames: Tensor, memory: Memory | None) -> ActorCriticOutput:
        """See `ActorCritic.forward`."""
        self._check(frames, memory)
        hidden, cell = self.lstm(self.features(frames), memory)
        critic = self.critic_linear(hidden)
        return ActorCriticOutput(
            logits_actions=self.actor_linear(hidden),
            values=critic.squeeze(-1) if self.two_hot is None else self.two_hot.expectation(critic),
            memory=Memory(hidden, cell),
            logits_values=None if self.two_hot is None else critic,
        )

    @torch.no_grad()
    def burn_in(self, frames: Tensor, mask: Tensor) -> Memory:
        """See `ActorCritic.burn_in`."""
        check_burn_in(frames, mask)
        frames = frames * mask[:, :, None, None, None]
        memory = Memory(*torch.zeros(2, len(frames), self.lstm_width, device=frames.device))
        for t in range(frames.shape[1]):  # one step at a time: the features of all at once would fill gigabytes
            self._check(frames[:, t], None)
            memory = Memory(*self.lstm(self.features(frames[:, t]), memory))
        return memory

    def features(self, frames: Tensor) -> Tensor:
        """(B, 3, S, S) -> (B, s * s * C), the channel fastest."""
        return self.cnn(frames.contiguous()).permute(0, 2, 3, 1).flatten(1)

    def _check(self, frames: Tensor, memory: Memory | None) -> None:
        check_frames(frames, memory, image_size=self.image_size, width=self.lstm_width)
