"""The IRIS agent: tokenizer, dynamics and actor-critic, and how they meet and learn."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from iris_cli.agents.iris.actor_critic import ActorCritic
from iris_cli.agents.iris.attention import attention
from iris_cli.agents.iris.config import IrisConfig
from iris_cli.agents.iris.diagnosis import diagnose
from iris_cli.agents.iris.dynamics import Dynamics
from iris_cli.agents.iris.tokenizer import Tokenizer
from iris_cli.agents.iris.world import IrisDream, Workspace
from iris_cli.errors import ShapeError
from iris_cli.learn.actor_critic import Rollout, actor_critic_loss, clipped_loss, targets_of
from iris_cli.learn.attention import Attention
from iris_cli.learn.diagnosis import Diagnosis, Episode
from iris_cli.learn.fit import Part, Steps
from iris_cli.learn.imagination import imagine, look_again
from iris_cli.learn.losses import Losses
from iris_cli.learn.novelty import Novelty
from iris_cli.learn.recurrent import Memory
from iris_cli.learn.visits import Visits
from iris_cli.nn import data_parallel
from iris_cli.nn.compiled import compile_in_place
from iris_cli.nn.lpips import LPIPS
from iris_cli.nn.precision import Copy, compute_dtype, mixed
from iris_cli.replay.segments import Replay, Segments


class Agent(nn.Module):
    """All of IRIS.

    Args:
        config: its settings.
        num_actions: A, of the environment.
    """

    frames_have_tokens = True  # of their own, so that a dataset's tokens can be stored
    tokens_of = "frame"  # what people are told that tokens stand for
    counts_first_round = True  # whether draws in a pipeline's first round make an episode or step less likely later

    def __init__(self, config: IrisConfig, num_actions: int) -> None:
        super().__init__()
        self.config, self.num_actions = config, num_actions
        self.tokenizer = Tokenizer(config.tokenizer)
        self.dynamics = Dynamics(config.dynamics, codes=config.tokenizer.codes, num_actions=num_actions)
        self.actor_critic = ActorCritic(config.actor_critic, num_actions=num_actions)
        self.exploration: Novelty | None = None  # made last, so that the other weights are the same with it and without
        if config.exploration.bonus != "none":
            self.exploration = Novelty(config.exploration.width, of=config.exploration.bonus)
        self._copies: tuple[Copy[Tokenizer], Copy[Dynamics]] | None = None
        self._workspace: Workspace | None = None  # of the dreams that the policy learns in

    def __getstate__(self) -> dict[str, Any]:
        """A copy of the agent dreams in a workspace of its own."""
        return {**super().__getstate__(), "_workspace": None}

    def configure(self, config: IrisConfig) -> None:
        """Adopt settings of how the components learn; the networks and their weights stay as they are.

        The parameters become new tensors, so optimizers have to be made anew.
        """
        with torch.random.fork_rng(devices=[]):  # the draws of initial weights, which are thrown away
            fresh = Agent(config, self.num_actions)
        fresh.to(self.device).train(self.training)
        fresh.load_state_dict(self.state_dict(), strict=False)  # the codebook counts idle codes only if it is to
        self.config = config
        self.tokenizer, self.dynamics, self.actor_critic = fresh.tokenizer, fresh.dynamics, fresh.actor_critic
        self.exploration = fresh.exploration
        self._workspace = None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.dynamics.embed_tokens.weight.device

    @property
    def dream_dtype(self) -> torch.dtype:
        """What the dreams are computed in that the policy learns in."""
        return compute_dtype(self.config.actor_critic.precision, self.device)

    def see(self, frames: Tensor) -> Tensor:
        """What the policy looks at: frames (N, 3, 64, 64) uint8 -> reconstructions (N, 3, 64, 64) float32 in [0, 1]."""
        return self.tokenizer.reconstruct(frames)

    def reconstruct(self, frames: Tensor, actions: Tensor) -> Tensor:
        """What the tokenizer makes of N frames in a row and the N - 1 actions between them: as `see`."""
        return self.see(frames)

    def picture(self, views: Tensor) -> Tensor:
        """Views of a dream (N, 3, 64, 64) in [0, 1] for people: they are pictures."""
        return views

    def tokens_shown(self, frames: Tensor) -> Tensor | None:
        """For people: tokens (N, 16) of frames (N, 3, 64, 64) uint8."""
        return self.tokenizer.glance(frames)

    def attended(self, tokens: Tensor, actions: Tensor) -> Tensor:
        """Where the dynamics looks when it has read a segment and is to say what comes next.

        Args:
            tokens: (T, 16) int64, T <= max_blocks.
            actions: (T,) int64.

        Returns:
            (layers, heads, T, 17): what the last action attends to, 16 tokens and the action of each step; sums to 1.
        """
        with torch.no_grad():
            layers = self.dynamics.transformer.attention(self.dynamics.embed(tokens[None], actions[None]))
            weights = torch.stack(list(layers))
        return weights[:, 0, :, -1].unflatten(-1, (len(actions), -1))

    def begin_dream(
        self,
        frames: Tensor | None,
        tokens: Tensor | None,
        actions: Tensor,
        generator: torch.Generator | None = None,
        *,
        rewards: Tensor | None = None,
        greedy: bool = False,
        keep: int = 1,
    ) -> IrisDream:
        """Begin to dream after C real frames, given as they are or as their tokens. C = 1 is the published start.

        Args:
            frames: (B, C, 3, 64, 64) uint8, read if there are no tokens.
            tokens: (B, C, 16) int64, or None.
            actions: (B, C - 1) int64 taken between them.
            generator: of all draws, on the agent's device; None is torch's global one.
            rewards: (B, C - 1) after those actions; this dynamics does not read them.
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
        """Burn the policy in on all but the last step, and dream from the last on, in the precision of its settings.

        Args:
            segments: with tokens (B, T, 16), padding on the left; those without views are decoded.
            generator: of the dream's draws.

        Raises:
            ShapeError: if the segments carry no tokens.
        """
        if segments.tokens is None:
            raise ShapeError("segments must carry tokens to dream from. Got none")
        tokenizer, dynamics = self.dreaming_networks()
        if segments.views is not None:
            views = segments.views[:, :-1]  # (B, T - 1, 3, 64, 64)
        else:
            before = segments.tokens[:, :-1]  # (B, T - 1, 16)
            views = tokenizer.decode(before.flatten(0, 1)).to(self.dream_dtype).unflatten(0, before.shape[:2])
        memory = self.actor_critic.burn_in(views.float(), segments.mask[:, :-1])
        workspace = self._workspace_of(tokenizer, dynamics, len(views))
        tokens, actions = segments.tokens[:, -1:], segments.actions[:, :0]
        return memory, IrisDream(tokenizer, dynamics, tokens, actions, generator=generator, workspace=workspace)

    def views_of(self, tokens: Tensor) -> Tensor:
        """What burning in sees of frames with tokens (N, 16): (N, 3, 64, 64) in [0, 1], in the dreams' precision."""
        tokenizer, _ = self.dreaming_networks()
        return tokenizer.decode(tokens).to(self.dream_dtype)

    def _workspace_of(self, tokenizer: Tokenizer, dynamics: Dynamics, batch: int) -> Workspace:
        """Where such dreams were worked out before, if that is free and still fits."""
        if self._workspace is None or not self._workspace.serves(tokenizer, dynamics, batch):
            self._workspace = None  # its memory goes first
            self._workspace = Workspace(tokenizer, dynamics, batch, capture=self.config.actor_critic.cuda_graphs)
        return self._workspace

    def dreaming_networks(self) -> tuple[Tokenizer, Dynamics]:
        """The networks that the policy learns in: these, or copies in its precision, with the weights of now."""
        dtype = self.dream_dtype
        if dtype == torch.float32:
            return self.tokenizer, self.dynamics
        copies = self._copies
        if copies is None or not (copies[0].is_of(self.tokenizer, dtype) and copies[1].is_of(self.dynamics, dtype)):
            self._copies = copies = Copy(self.tokenizer, dtype), Copy(self.dynamics, dtype)
        tokenizer, dynamics = copies[0].refreshed(), copies[1].refreshed()
        compile_in_place(tokenizer.decoder, wanted=self.config.actor_critic.compiled)
        return tokenizer, dynamics

    def tokenizer_batch(self, replay: Replay, draws: torch.Generator, batch: int, *, visits: Visits) -> Tensor:
        """Frames (B, 3, 64, 64) uint8 for `tokenizer_losses`, drawn uniformly over episodes; visits play no role."""
        return replay.random_frames(batch, draws)

    def tokenizer_losses(self, frames: Tensor, *, perceptual: LPIPS | None) -> Steps:
        """One optimizer step on a batch of frames, in shares. Dropout draws from torch's global stream."""
        config = self.config.tokenizer
        at_once = config.micro_batch or (16 if self.device.type == "cpu" else 64)
        if not config.revive_after:  # codes are revived from what passes last, which is to be what it is of one process
            at_once *= data_parallel.processes()
        yield self._tokenizer_parts(frames.split(at_once), perceptual)

    def _tokenizer_parts(self, passes: Sequence[Tensor], perceptual: LPIPS | None) -> Iterator[Part]:
        """The losses of what passes at once, or of this process's share of each."""
        frames = sum(map(len, passes))
        for each in passes:
            with data_parallel.share(len(each), self.device) as share:
                mine = each[share.rows]
                yield Part(self._tokenizer_loss(mine, perceptual), len(mine) / frames)

    def _tokenizer_loss(self, frames: Tensor, perceptual: LPIPS | None) -> Losses:
        with mixed(self.config.tokenizer.precision, self.device):
            return self.tokenizer.loss(frames, perceptual=perceptual)

    def dynamics_batch(self, replay: Replay, draws: torch.Generator, batch: int, *, visits: Visits) -> Segments:
        """Segments of stored tokens for `dynamics_losses`, padded on the right."""
        return replay.from_start(batch, self.config.dynamics.segment_length, draws, frames=False, tokens=True)

    def dynamics_losses(self, segments: Segments) -> Steps:
        """One optimizer step on a batch of segments. Dropout draws from torch's global stream."""
        compile_in_place(self.dynamics, wanted=self.config.dynamics.compiled)
        return [self._dynamics_parts(segments)]

    def _dynamics_parts(self, segments: Segments) -> Iterator[Part]:
        """The loss, or that of this process's share of the segments."""
        among = () if data_parallel.processes() == 1 else (segments.mask,)
        with data_parallel.share(len(segments.mask), self.device) as share:
            with mixed(self.config.dynamics.precision, self.device):
                losses = self.dynamics.loss(segments.rows(share.rows), *among)
            yield Part(losses, share.portion)

    def actor_critic_batch(self, replay: Replay, draws: torch.Generator, batch: int, *, visits: Visits) -> Segments:
        """Segments of stored tokens for `actor_critic_losses`, padded on the left."""
        return replay.from_end(batch, self.config.actor_critic.burn_in + 1, draws, frames=False, tokens=True)

    def actor_critic_losses(self, segments: Segments, dreams: torch.Generator) -> Steps:
        """Rollouts from the last steps of segments, and one optimizer step on them, or several if clipped.

        Burn-in frames are decoded from stored tokens, never encoded again. The clipped objective, several rollouts per
        start and the bonus for novelty are variants, not in the paper or released code.
        """
        config = self.config.actor_critic
        memory, dream = self.actor_critic_start(segments.repeated(config.rollouts_per_start), dreams)
        clipped, novelty = config.objective == "clipped", self.exploration
        keep_views = novelty is not None or (clipped and config.passes > 1)
        rollout = imagine(dream, self.actor_critic, memory, config.horizon, dreams, keep_views=keep_views)
        besides: list[Losses] = []
        if novelty is not None:
            bonuses, known = novelty(rollout, gamma=config.gamma)
            rollout = replace(rollout, rewards=rollout.rewards + self.config.exploration.weight * bonuses)
            besides.append(known)
        if clipped:
            return self._passes(rollout, memory, besides)
        losses = actor_critic_loss(rollout, gamma=config.gamma, lam=config.lam, entropy_weight=config.entropy_weight)
        return [[Part(loss, 1.0) for loss in (losses, *besides)]]

    def _passes(self, rollout: Rollout, memory: Memory, besides: list[Losses]) -> Iterator[list[Part]]:
        """The passes of the clipped objective; what is learned beside it, in the first."""
        config = self.config.actor_critic
        targets = targets_of(rollout, gamma=config.gamma, lam=config.lam)
        for number in range(config.passes):
            if number:
                rollout, besides = look_again(rollout, self.actor_critic, memory), []
            loss = clipped_loss(rollout, targets, clip_ratio=config.clip_ratio, entropy_weight=config.entropy_weight)
            yield [Part(each, 1.0) for each in (loss, *besides)]

    def attention(
        self, episodes: Sequence[Episode], *, most: int, seed: int, watch: Callable[[int], None] = lambda steps: None
    ) -> Attention:
        """What the dynamics looks at in up to `most` predictions on these episodes (agents/iris/attention.py)."""
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
        """Figures that say how good each part is on these episodes, as `agents/iris/diagnosis.py` makes them.

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
