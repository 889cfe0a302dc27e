"""The Δ-IRIS agent: tokenizer, dynamics and actor-critic, and how they meet and learn."""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from iris_cli.agents.delta_iris.actor_critic import ActorCritic
from iris_cli.agents.delta_iris.attention import attention
from iris_cli.agents.delta_iris.config import IMAGE_SIZE, DeltaIrisConfig
from iris_cli.agents.delta_iris.diagnosis import diagnose
from iris_cli.agents.delta_iris.dynamics import Dynamics
from iris_cli.agents.delta_iris.tokenizer import Tokenizer
from iris_cli.agents.delta_iris.transformer_tokenizer import TransformerTokenizer
from iris_cli.agents.delta_iris.transition_tokenizer import TransitionTokenizer
from iris_cli.agents.delta_iris.world import DeltaIrisDream, Workspace, view_of
from iris_cli.errors import ShapeError
from iris_cli.learn.actor_critic import actor_critic_loss
from iris_cli.learn.attention import Attention
from iris_cli.learn.diagnosis import Diagnosis, Episode
from iris_cli.learn.fit import Part, Steps
from iris_cli.learn.imagination import imagine
from iris_cli.learn.losses import Losses
from iris_cli.learn.recurrent import Memory
from iris_cli.learn.visits import Visits
from iris_cli.nn import data_parallel
from iris_cli.nn.lpips import LPIPS
from iris_cli.replay.segments import Replay, Segments


class Agent(nn.Module):
    """All of Δ-IRIS.

    Args:
        config: its settings.
        num_actions: A, of the environment.
        image_size: pixels, height and width of a frame; all environments of the toolkit have 64.
    """

    frames_have_tokens = False  # a token stands for a transition
    tokens_of = "transition"  # what people are told that tokens stand for
    counts_first_round = False  # as published: draws in a pipeline's first round leave all episodes alike
    exploration: None = None  # a bonus for novelty is a variant of IRIS

    def __init__(self, config: DeltaIrisConfig, num_actions: int, *, image_size: int = IMAGE_SIZE) -> None:
        super().__init__()
        self.config, self.num_actions, self.image_size = config, num_actions, image_size
        sizes = {"num_actions": num_actions, "image_size": image_size}
        kind = TransformerTokenizer if config.tokenizer.variant == "transformer" else Tokenizer
        self.tokenizer: TransitionTokenizer = kind(config.tokenizer, **sizes)
        self.dynamics = Dynamics(config.dynamics, codes=config.tokenizer.codes, **sizes)
        self.actor_critic = ActorCritic(config.actor_critic, **sizes)
        self._workspace: Workspace | None = None  # of the dreams that the policy learns in

    def __getstate__(self) -> dict[str, Any]:
        """A copy of the agent dreams in a workspace of its own."""
        return {**super().__getstate__(), "_workspace": None}

    def configure(self, config: DeltaIrisConfig) -> None:
        """Adopt settings of how the components learn; the networks and their weights stay as they are."""
        self.config = config
        self.tokenizer.config = config.tokenizer
        self.dynamics.config = config.dynamics
        self.actor_critic.config = config.actor_critic
        self._workspace = None

    def see(self, frames: Tensor) -> Tensor:
        """What the policy looks at: frames (N, 3, 64, 64) uint8 -> the same, float32 in [0, 1]."""
        return view_of(frames)

    def reconstruct(self, frames: Tensor, actions: Tensor) -> Tensor:
        """What the tokenizer makes of N frames (N, 3, 64, 64) in a row and the N - 1 actions between them.

        Returns:
            (N, 3, 64, 64) float32 in [0, 1]; each frame is decoded behind the real ones before it, the first is itself.
        """
        tokens = self.tokenizer.encode_rows(frames[None], actions[None])
        decoded = self.tokenizer.decode_rows(frames[None, :-1], actions[None], tokens)
        return torch.cat([self.see(frames[:1]), decoded[0]])

    def picture(self, views: Tensor) -> Tensor:
        """Views of a dream (N, 3, 64, 64) in [0, 1] for people: they are pictures."""
        return views

    def tokens_shown(self, frames: Tensor) -> Tensor | None:
        """For people: tokens of frames, and there are none."""
        return None

    def with_tokens(self, segments: Segments) -> Segments:
        """The segments with the tokens (B, T, 4) of each transition; those of the last step, which has none, are 0.

        As published, padding is encoded like anything else.

        Raises:
            ShapeError: if the segments carry no frames.
        """
        if segments.frames is None:
            raise ShapeError("segments must carry frames to be encoded. Got none")
        tokens = self.tokenizer.encode_rows(segments.frames, segments.actions[:, :-1])  # (B, T - 1, 4)
        return dataclasses.replace(segments, tokens=torch.cat([tokens, torch.zeros_like(tokens[:, :1])], 1))

    def begin_dream(
        self,
        frames: Tensor,
        tokens: Tensor | None,
        actions: Tensor,
        generator: torch.Generator | None = None,
        *,
        rewards: Tensor | None = None,
        greedy: bool = False,
        keep: int = 1,
        workspace: Workspace | None = None,
    ) -> DeltaIrisDream:
        """Begin to dream after C real frames.

        Args:
            frames: (B, C, 3, 64, 64) uint8.
            tokens: (B, C - 1, 4) int64 of the transitions between them, or None to have them encoded.
            actions: (B, C - 1) int64 taken between them.
            generator: of all draws, on the agent's device; None is torch's global one.
            rewards: (B, C - 1) after those actions; this dynamics does not read them.
            greedy: take what is most probable instead of drawing.
            keep: frames that the dream goes on from where its positions are used up; 1 is published.
            workspace: to work it out in, of the agent's networks and B, which no other dream uses; None is a new one.

        Raises:
            ShapeError: if shapes do not agree, or C exceeds the positions.
        """
        if tokens is None:
            tokens = self.tokenizer.encode_rows(frames, actions)
        return DeltaIrisDream(
            self.tokenizer, self.dynamics, frames, actions, tokens, generator=generator, greedy=greedy, keep=keep,
            workspace=workspace,
        )  # fmt: skip

    def actor_critic_start(
        self, segments: Segments, generator: torch.Generator | None = None
    ) -> tuple[Memory, DeltaIrisDream]:
        """Burn the policy in on all but the last step, and begin to dream at the last, with all as context.

        Args:
            segments: with frames, padding on the left.
            generator: of the dream's draws.

        Raises:
            ShapeError: if the segments carry no frames.
        """
        if segments.frames is None:
            raise ShapeError("segments must carry frames to dream from. Got none")
        memory = self.actor_critic.burn_in(*self._before(segments))
        workspace = self._workspace_of(len(segments.frames))
        actions = segments.actions[:, :-1]
        return memory, self.begin_dream(segments.frames, None, actions, generator, workspace=workspace)

    def _workspace_of(self, batch: int) -> Workspace:
        """Where such dreams were worked out before, if that is free and still fits."""
        if self._workspace is None or not self._workspace.serves(self.tokenizer, self.dynamics, batch):
            self._workspace = None  # its memory goes first
            capture = self.config.actor_critic.cuda_graphs
            self._workspace = Workspace(self.tokenizer, self.dynamics, batch, capture=capture)
        return self._workspace

    def actor_critic_loss(self, segments: Segments, generator: torch.Generator | None = None) -> Losses:
        """The loss of policy and values in dreams that begin at the segments' last steps; moves the slow copy.

        Args:
            segments: as in `actor_critic_start`.
            generator: of all draws.
        """
        memory, dream = self.actor_critic_start(segments, generator)
        config, slow = self.actor_critic.config, self.actor_critic.target_model
        target = slow, slow.burn_in(*self._before(segments))
        rollout = imagine(dream, self.actor_critic, memory, config.horizon + 1, generator, target=target)
        losses = actor_critic_loss(
            rollout, gamma=config.gamma, lam=config.lam, entropy_weight=config.entropy_weight, until_end=True,
            two_hot=self.actor_critic.model.two_hot,
        )  # fmt: skip
        self.actor_critic.update_target()
        return losses

    def tokenizer_batch(self, replay: Replay, draws: torch.Generator, batch: int, *, visits: Visits) -> Segments:
        """Segments for `tokenizer_losses`, padded on both sides, of episodes that were drawn little."""
        config = self.config.tokenizer
        chances = visits.chances(replay.num_episodes, config.priority)
        segments = replay.around(batch, config.segment_length, draws, weights=chances, frames=True)
        visits.note(segments.episodes)
        return segments

    def tokenizer_losses(self, segments: Segments, *, perceptual: LPIPS | None) -> Steps:
        """One optimizer step on a batch of segments; perceptual weights play no role."""
        return [self._parts(self.tokenizer.loss, segments)]

    def dynamics_batch(self, replay: Replay, draws: torch.Generator, batch: int, *, visits: Visits) -> Segments:
        """Segments for `dynamics_losses`, padded on both sides, of episodes that were drawn little."""
        config = self.config.dynamics
        chances = visits.chances(replay.num_episodes, config.priority)
        segments = replay.around(batch, config.segment_length, draws, weights=chances, frames=True)
        visits.note(segments.episodes)
        return segments

    def dynamics_losses(self, segments: Segments) -> Steps:
        """One optimizer step on a batch of segments, which are encoded now."""
        return [self._parts(lambda mine, *among: self.dynamics.loss(self.with_tokens(mine), *among), segments)]

    def _parts(self, loss: Callable[..., Losses], segments: Segments) -> Iterator[Part]:
        """The loss of the segments, or that of this process's share of them."""
        among = () if data_parallel.processes() == 1 else (segments.mask,)
        with data_parallel.share(len(segments.mask), segments.mask.device) as share:
            yield Part(loss(segments.rows(share.rows), *among), share.portion)

    def actor_critic_batch(self, replay: Replay, draws: torch.Generator, batch: int, *, visits: Visits) -> Segments:
        """Segments for `actor_critic_losses`, padded on the left, of episodes that were drawn little."""
        config = self.config.actor_critic
        chances = visits.chances(replay.num_episodes, config.priority)
        segments = replay.reaching(batch, config.burn_in + 1, draws, weights=chances, frames=True)
        visits.note(segments.episodes)
        return segments

    def actor_critic_losses(self, segments: Segments, dreams: torch.Generator) -> Steps:
        """One optimizer step on rollouts from the last steps of segments."""
        return [[Part(self.actor_critic_loss(segments, dreams), 1.0)]]

    def attention(
        self, episodes: Sequence[Episode], *, most: int, seed: int, watch: Callable[[int], None] = lambda steps: None
    ) -> Attention:
        """What the dynamics looks at in up to `most` predictions on these episodes (agents/delta_iris/attention.py)."""
        return attention(self.tokenizer, self.dynamics, episodes, most=most, seed=seed, watch=watch)

    def diagnose(
        self,
        episodes: Sequence[Episode],
        *,
        trained: Collection[str],
        horizon: int,
        seed: int,
        watch: Callable[[int], None] = lambda frames: None,
    ) -> Diagnosis:
        """Figures that say how good each part is on these episodes, as `agents/delta_iris/diagnosis.py` makes them.

        Args:
            episodes: held out; at least one, none empty.
            trained: names of the components that were trained; others are not measured.
            horizon: steps of each dream that is compared with what really came.
            seed: of the dreams.
            watch: told now and then how many more frames were looked at; may raise to stop.
        """
        return diagnose(
            self.tokenizer, self.dynamics, self.actor_critic, episodes, trained=trained, horizon=horizon, seed=seed,
            watch=watch,
        )  # fmt: skip

    def _before(self, segments: Segments) -> tuple[Tensor, Tensor]:
        """Views and mask of all but the segments' last steps."""
        assert segments.frames is not None
        before = segments.frames[:, :-1]
        return self.see(before.flatten(0, 1)).unflatten(0, before.shape[:2]), segments.mask[:, :-1]
