"""The IRIS agent: tokenizer, dynamics and actor-critic, and how they meet and learn."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from iris_cli.agents.iris.actor_critic import ActorCritic, Memory
from iris_cli.agents.iris.config import IrisConfig
from iris_cli.agents.iris.dynamics import Dynamics
from iris_cli.agents.iris.tokenizer import Tokenizer
from iris_cli.agents.iris.world import IrisDream
from iris_cli.errors import ShapeError
from iris_cli.learn.actor_critic import actor_critic_loss
from iris_cli.learn.fit import Part
from iris_cli.learn.imagination import imagine
from iris_cli.learn.visits import Visits
from iris_cli.nn.lpips import LPIPS
from iris_cli.replay.segments import Replay, Segments


class Agent(nn.Module):
    """All of IRIS.

    Args:
        config: its settings.
        num_actions: A, of the environment.
    """

    frames_have_tokens = True  # of their own, so that a dataset's tokens can be stored

    def __init__(self, config: IrisConfig, num_actions: int) -> None:
        super().__init__()
        self.config, self.num_actions = config, num_actions
        self.tokenizer = Tokenizer(config.tokenizer)
        self.dynamics = Dynamics(config.dynamics, codes=config.tokenizer.codes, num_actions=num_actions)
        self.actor_critic = ActorCritic(config.actor_critic, num_actions=num_actions)

    def configure(self, config: IrisConfig) -> None:
        """Adopt settings of how the components learn; the networks and their weights stay as they are.

        The parameters become new tensors, so optimizers have to be made anew.
        """
        with torch.random.fork_rng(devices=[]):  # the draws of initial weights, which are thrown away
            fresh = Agent(config, self.num_actions)
        fresh.to(self.dynamics.embed_tokens.weight.device).train(self.training)
        fresh.load_state_dict(self.state_dict(), strict=False)  # the codebook counts idle codes only if it is to
        self.config = config
        self.tokenizer, self.dynamics, self.actor_critic = fresh.tokenizer, fresh.dynamics, fresh.actor_critic

    def see(self, frames: Tensor) -> Tensor:
        """What the policy looks at: frames (N, 3, 64, 64) uint8 -> reconstructions (N, 3, 64, 64) float32 in [0, 1]."""
        return self.tokenizer.reconstruct(frames)

    def reconstruct(self, frames: Tensor, actions: Tensor) -> Tensor:
        """What the tokenizer makes of N frames in a row and the N - 1 actions between them: as `see`."""
        return self.see(frames)

    def begin_dream(
        self,
        frames: Tensor | None,
        tokens: Tensor | None,
        actions: Tensor,
        generator: torch.Generator | None = None,
        *,
        greedy: bool = False,
        keep: int = 1,
    ) -> IrisDream:
        """Begin to dream after C real frames, given as they are or as their tokens. C = 1 is the published start.

        Args:
            frames: (B, C, 3, 64, 64) uint8, read if there are no tokens.
            tokens: (B, C, 16) int64, or None.
            actions: (B, C - 1) int64 taken between them.
            generator: of all draws, on the agent's device; None is torch's global one.
            greedy: take what is most probable instead of drawing.
            keep: frames that the dream goes on from where its positions are used up; 1 is published.

        Raises:
            ShapeError: if there are neither, or shapes do not agree, or C exceeds the positions.
        """
        if tokens is None:
            if frames is None:
                raise ShapeError("a dream needs frames or tokens to begin with. Got neither")
            tokens = self.tokenizer.encode(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        return IrisDream(self.tokenizer, self.dynamics, tokens, actions, generator=generator, greedy=greedy, keep=keep)

    def actor_critic_start(
        self, segments: Segments, generator: torch.Generator | None = None
    ) -> tuple[Memory, IrisDream]:
        """Burn the policy in on all but the last step, and begin to dream at the last.

        Args:
            segments: with tokens (B, T, 16), padding on the left.
            generator: of the dream's draws.

        Raises:
            ShapeError: if the segments carry no tokens.
        """
        if segments.tokens is None:
            raise ShapeError("segments must carry tokens to dream from. Got none")
        before = segments.tokens[:, :-1]  # (B, T - 1, 16)
        views = self.tokenizer.decode(before.flatten(0, 1)).unflatten(0, before.shape[:2])
        memory = self.actor_critic.burn_in(views, segments.mask[:, :-1])
        return memory, self.begin_dream(None, segments.tokens[:, -1:], segments.actions[:, :0], generator)

    def tokenizer_parts(
        self, replay: Replay, draws: torch.Generator, batch: int, *, visits: Visits, perceptual: LPIPS | None
    ) -> Iterator[Part]:
        """The tokenizer's loss for single frames, drawn uniformly over episodes, by shares of the batch."""
        frames = replay.random_frames(batch, draws)
        for share in frames.split(self.config.tokenizer.micro_batch):
            yield Part(self.tokenizer.loss(share, perceptual=perceptual), len(share) / len(frames))

    def dynamics_parts(self, replay: Replay, draws: torch.Generator, batch: int, *, visits: Visits) -> Iterator[Part]:
        """The dynamics' loss for segments of stored tokens, padded on the right."""
        length = self.config.dynamics.segment_length
        segments = replay.from_start(batch, length, draws, frames=False, tokens=True)
        yield Part(self.dynamics.loss(segments), 1.0)

    def actor_critic_parts(
        self, replay: Replay, draws: torch.Generator, dreams: torch.Generator, batch: int, *, visits: Visits
    ) -> Iterator[Part]:
        """The loss of policy and values in dreams; burn-in frames are decoded from stored tokens."""
        config = self.config.actor_critic
        segments = replay.from_end(batch, config.burn_in + 1, draws, frames=False, tokens=True)
        memory, dream = self.actor_critic_start(segments, dreams)
        rollout = imagine(dream, self.actor_critic, memory, config.horizon, dreams)
        losses = actor_critic_loss(rollout, gamma=config.gamma, lam=config.lam, entropy_weight=config.entropy_weight)
        yield Part(losses, 1.0)
