"""The TWM agent: observation model, dynamics and actor-critic, how they meet and learn.

Before the joint updates each component learns alone, from shuffled passes over all steps (fact sheet of TWM, section
6); what the release encodes once for that, is encoded when it is drawn here. A joint update is one step of tokenizer
and dynamics, and one of the actor-critic in dreams of the dynamics as it then is (sections 4 and 5).
"""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from iris_cli.agents.twm.actor_critic import ActorCritic, step_weights
from iris_cli.agents.twm.attention import attention
from iris_cli.agents.twm.config import TwmConfig
from iris_cli.agents.twm.diagnosis import diagnose
from iris_cli.agents.twm.dynamics import Dynamics
from iris_cli.agents.twm.learning import dynamics_loss, encoded, learned_rewards, stacks_of, world_losses
from iris_cli.agents.twm.schedule import planned_updates, stack_pass, start_pass
from iris_cli.agents.twm.thoughts import Thoughts
from iris_cli.agents.twm.tokenizer import Tokenizer
from iris_cli.agents.twm.world import TwmDream, Workspace
from iris_cli.errors import ShapeError
from iris_cli.learn.actor_critic import Rollout
from iris_cli.learn.attention import Attention
from iris_cli.learn.diagnosis import Diagnosis, Episode
from iris_cli.learn.fit import Part, Steps
from iris_cli.learn.imagination import imagine
from iris_cli.learn.visits import Visits
from iris_cli.nn import data_parallel
from iris_cli.nn.categorical import draw_one_hot, most_probable
from iris_cli.nn.lpips import LPIPS
from iris_cli.replay.segments import Replay
from iris_cli.replay.windows import Windows, adjoining_pairs, draw_starts


class Agent(nn.Module):
    """All of TWM.

    Args:
        config: its settings.
        num_actions: A, of the environment.
    """

    frames_have_tokens = False  # latents are drawn anew each time
    tokens_of = "latent"  # what people are told that tokens stand for
    counts_first_round = True  # whether draws in a pipeline's first round make an episode or step less likely later
    exploration: None = None  # a bonus for novelty is a variant of IRIS

    def __init__(self, config: TwmConfig, num_actions: int) -> None:
        super().__init__()
        self.config, self.num_actions = config, num_actions
        self.tokenizer = Tokenizer(config.tokenizer)
        self.dynamics = Dynamics(
            config.dynamics, categoricals=config.tokenizer.categoricals, categories=config.tokenizer.categories,
            num_actions=num_actions,
        )  # fmt: skip
        self.actor_critic = ActorCritic(
            config.actor_critic, latent_width=self.tokenizer.latent_width, hidden_width=config.dynamics.width,
            num_actions=num_actions,
        )  # fmt: skip
        self._workspace: Workspace | None = None  # of the dreams that the policy learns in

    def __getstate__(self) -> dict[str, Any]:
        """A copy of the agent dreams in a workspace of its own."""
        return {**super().__getstate__(), "_workspace": None}

    def configure(self, config: TwmConfig) -> None:
        """Adopt settings of how the components learn; the networks and their weights stay as they are.

        The parameters become new tensors, so optimizers have to be made anew.
        """
        with torch.random.fork_rng(devices=[]):  # the draws of initial weights, which are thrown away
            fresh = Agent(config, self.num_actions)
        fresh.to(self.dynamics.transformer.u_bias.device).train(self.training)
        fresh.load_state_dict(self.state_dict())
        self.config = config
        self.tokenizer, self.dynamics, self.actor_critic = fresh.tokenizer, fresh.dynamics, fresh.actor_critic
        self._workspace = None

    def see(self, stacks: Tensor) -> Tensor:
        """What the policy looks at when it acts: stacks (N, 4, 64, 64) uint8 -> most probable latents (N, Z)."""
        return most_probable(self.tokenizer.encode(stacks))

    def thoughts(self, num_envs: int) -> Thoughts | None:
        """What tells a policy in E environments what the dynamics thinks, if it wants to know."""
        return Thoughts(self.dynamics, num_envs) if self.config.actor_critic.reads_hidden else None

    def picture(self, views: Tensor) -> Tensor:
        """What views (N, Z) decode to, for people: (N, 3, 64, 64) float32 in [0, 1], the newest frame of each stack."""
        latents = views[:, : self.tokenizer.latent_width]
        return self.tokenizer.decode(latents)[:, -1:].clamp(0, 1).expand(-1, 3, -1, -1)

    def reconstruct(self, stacks: Tensor, actions: Tensor) -> Tensor:
        """What the tokenizer makes of stacks (N, 4, 64, 64) uint8, as a picture; the actions between play no role."""
        return self.picture(most_probable(self.tokenizer.encode(stacks)))

    def tokens_shown(self, stacks: Tensor) -> Tensor | None:
        """For people: the most probable class (N, K) int64 of each categorical of stacks (N, 4, 64, 64) uint8."""
        return self.tokenizer.encode(stacks).argmax(-1)

    def begin_dream(
        self,
        stacks: Tensor | None,
        latents: Tensor | None,
        actions: Tensor,
        generator: torch.Generator | None = None,
        *,
        rewards: Tensor | None = None,
        greedy: bool = False,
        keep: int = 1,
    ) -> TwmDream:
        """Begin to dream after C real steps of an episode, given as stacks or latents; an imagined end stops nothing.

        Args:
            stacks: (B, C, 4, 64, 64) uint8, read if there are no latents.
            latents: (B, C, Z), or None.
            actions: (B, C - 1) int64 taken between them.
            generator: of all draws, on the agent's device; None is torch's global one.
            rewards: (B, C - 1) float32 after those actions, raw; None: there were none.
            greedy: take what is most probable instead of drawing.
            keep: for agents whose positions are used up; this one looks back as far as its memory reaches.

        Raises:
            ShapeError: if there are neither, or shapes do not agree.
        """
        if latents is None:
            if stacks is None:
                raise ShapeError("a dream needs stacks or latents to begin with. Got neither")
            logits = self.tokenizer.encode(stacks.flatten(0, 1))  # (B * C, K, C)
            latents = (most_probable(logits) if greedy else draw_one_hot(logits, generator)).unflatten(
                0, stacks.shape[:2]
            )
        rewards = torch.zeros(actions.shape, device=actions.device) if rewards is None else learned_rewards(rewards)
        return TwmDream(
            self.dynamics, latents, actions, rewards, torch.zeros_like(actions, dtype=torch.bool),
            restart_below=self.config.actor_critic.restart_below, generator=generator, greedy=greedy,
            shows_hidden=self.config.actor_critic.reads_hidden,
        )  # fmt: skip

    def actor_critic_start(
        self, windows: Windows, latents: Tensor, fresh: Tensor, generator: torch.Generator | None = None
    ) -> tuple[tuple[()], TwmDream]:
        """The policy's empty memory, and a dream that begins at steps of windows, each after the one before it.

        Args:
            windows: B of T + 1 steps.
            latents: (B, T+1, Z) drawn when the world last learned from them; they are not drawn anew.
            fresh: (P, Z) latents of observations drawn from all that were seen, for imagined episodes that end.
            generator: of which steps, and of the dream's draws, on the latents' device.
        """
        pairs = adjoining_pairs(latents)  # (B * T, 2, Z)
        count = min(self.config.actor_critic.batch_size, len(pairs))
        chosen = torch.randperm(len(pairs), generator=generator, device=pairs.device)[:count]
        actions, rewards, ends = (
            values[:, :-1].flatten()[chosen, None] for values in (windows.actions, windows.rewards, windows.ends)
        )
        return (), TwmDream(
            self.dynamics, pairs[chosen], actions, rewards, ends, fresh=fresh, generator=generator,
            shows_hidden=self.config.actor_critic.reads_hidden, workspace=self._workspace_of(count, len(fresh)),
        )  # fmt: skip

    def _workspace_of(self, batch: int, fresh: int) -> Workspace:
        """The one of the dreams before where it fits and is free, else a new one."""
        if self._workspace is None or not self._workspace.serves(self.dynamics, batch, fresh):
            self._workspace = None  # its memory goes first
            config = self.config.actor_critic
            self._workspace = Workspace(
                self.dynamics, batch, fresh=fresh, restart_below=config.restart_below, capture=config.cuda_graphs
            )
        return self._workspace

    def planned_updates(self, stage: str, steps: int) -> int:
        """How many updates of a stage the settings' budget has for a dataset of so many steps."""
        return planned_updates(self.config, stage, steps)

    def tokenizer_batch(self, replay: Replay, draws: torch.Generator, batch: int, *, visits: Visits) -> Tensor:
        """Stacks (up to `batch`, 4, 64, 64) uint8 for `tokenizer_losses`, each once in a pass."""
        steps = replay.num_steps
        return replay.frames_at(visits.next_of_pass(batch, steps, lambda: stack_pass(steps, draws)))

    def tokenizer_losses(self, stacks: Tensor, *, perceptual: LPIPS | None) -> Steps:
        """One optimizer step on stacks, without a dynamics to be consistent with; perceptual weights play no role."""
        return [self._tokenizer_parts(stacks)]

    def _tokenizer_parts(self, stacks: Tensor) -> Iterator[Part]:
        """The loss of the stacks, or of this process's share of them; a pass may end with a few."""
        with data_parallel.share(len(stacks), stacks.device, repeats=True) as share:
            mine = stacks[share.rows]
            logits = self.tokenizer(mine)
            yield Part(self.tokenizer.loss(mine, logits, draw_one_hot(logits)), share.portion)

    def dynamics_batch(self, replay: Replay, draws: torch.Generator, batch: int, *, visits: Visits) -> Windows:
        """Up to `batch` windows for `dynamics_losses`, which do not overlap in a pass."""
        return self._next_windows(replay, draws, batch, self.config.dynamics.segment_length, visits)

    def dynamics_losses(self, windows: Windows) -> Steps:
        """One optimizer step of the dynamics alone."""
        return [self._dynamics_parts(windows)]

    def _dynamics_parts(self, windows: Windows) -> Iterator[Part]:
        """The loss of the windows, or of this process's share of them; as above."""
        among = None if data_parallel.processes() == 1 else windows
        with data_parallel.share(len(windows.actions), windows.actions.device, repeats=True) as share:
            mine = windows.rows(share.rows)
            yield Part(dynamics_loss(self.tokenizer, self.dynamics, mine, draw_one_hot, among), share.portion)

    def actor_critic_batch(self, replay: Replay, draws: torch.Generator, batch: int, *, visits: Visits) -> Windows:
        """Up to `batch` windows for `actor_critic_losses`, which do not overlap in a pass."""
        return self._next_windows(replay, draws, batch, self.config.actor_critic.horizon, visits)

    def actor_critic_losses(self, windows: Windows, dreams: torch.Generator) -> Steps:
        """One optimizer step on real steps, before any dream: their values, and a policy that stays uniform."""
        output, ends = self.actor_critic(self._real_views(windows, dreams)), windows.ends[:, 1:]
        rollout = Rollout(
            logits_actions=output.logits_actions[:, :-1], actions=windows.actions[:, 1:],
            values=output.values[:, :-1], rewards=windows.rewards[:, 1:], ends=ends, bootstrap=output.values[:, -1],
            discounts=self.config.dynamics.gamma * (~ends).float(),
        )  # fmt: skip
        return [[Part(self.actor_critic.pretraining_loss(rollout, output.logits_actions[:, -1]), 1.0)]]

    def _real_views(self, windows: Windows, draws: torch.Generator) -> Tensor:
        """What the policy sees of windows of H steps, but for the one before them: (B, H+1, Z), or (B, H+1, Z + E)."""
        stacks = stacks_of(windows)
        latents = draw_one_hot(encoded(self.tokenizer, stacks[:, 1:]), draws)
        if not self.config.actor_critic.reads_hidden:
            return latents
        before = draw_one_hot(encoded(self.tokenizer, stacks[:, :1]), draws)
        read = torch.cat([before, latents[:, :-1]], 1)  # (B, H+1, Z)
        with torch.no_grad():
            told = windows.rewards[:, :-1], windows.ends[:, :-1]
            hidden = self.dynamics(read, windows.actions, *told).hidden
        return torch.cat([latents, hidden * ~windows.ends[..., None]], 2)

    def agent_batch(self, replay: Replay, draws: torch.Generator, batch: int, *, visits: Visits) -> Windows:
        """Windows for `agent_losses`, which begin at steps that were drawn little, and fresh stacks for dreams."""
        config, steps = self.config.dynamics, replay.num_steps
        starts, visits.counts = draw_starts(
            visits.of(steps), steps=steps - 1, length=config.segment_length, batch=batch,
            temperature=math.inf if config.sampling_temperature is None else config.sampling_temperature,
            generator=draws,
        )  # fmt: skip
        fresh = torch.randperm(steps, generator=draws)[: self.config.actor_critic.batch_size]
        return replace(self._windows(replay, starts, config.segment_length), fresh=replay.frames_at(fresh))

    def agent_losses(self, windows: Windows, dreams: torch.Generator) -> Iterator[list[Part]]:
        """Two optimizer steps: of tokenizer and dynamics on windows, and of the actor-critic in dreams from them.

        Args:
            windows: with stacks and fresh ones.
            dreams: of all draws.
        """
        assert windows.fresh is not None
        self.dynamics.train()
        losses = world_losses(self.tokenizer, self.dynamics, windows, partial(draw_one_hot, generator=dreams))
        yield [Part(losses.both, 1.0)]
        self.dynamics.eval()  # no dropout in dreams
        fresh = draw_one_hot(self.tokenizer.encode(windows.fresh), dreams)
        memory, dream = self.actor_critic_start(windows, losses.latents, fresh, dreams)
        rollout = imagine(dream, self.actor_critic, memory, self.config.actor_critic.horizon + 1, dreams)
        assert rollout.discounts is not None
        yield [Part(self.actor_critic.loss(rollout, step_weights(rollout.discounts, rollout.ends)), 1.0)]

    def attention(
        self, episodes: Sequence[Episode], *, most: int, seed: int, watch: Callable[[int], None] = lambda steps: None
    ) -> Attention:
        """What the dynamics looks at in up to `most` predictions on these episodes (agents/twm/attention.py)."""
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
        """Figures that say how good each part is on these episodes, as `agents/twm/diagnosis.py` makes them.

        Args:
            episodes: held out, of stacks; at least one, none empty.
            trained: names of the components that were trained; others are not measured.
            horizon: steps of each dream that is compared with what really came.
            seed: of the dreams.
            watch: told now and then how many more frames were looked at; may raise to stop.
        """
        return diagnose(
            self.tokenizer, self.dynamics, self.actor_critic, episodes, trained=trained, horizon=horizon, seed=seed,
            watch=watch,
        )  # fmt: skip

    def _next_windows(self, replay: Replay, draws: torch.Generator, batch: int, length: int, visits: Visits) -> Windows:
        """The next ones of a pass; the last step has no frame behind it, so no window holds it."""
        steps = replay.num_steps - 1
        starts = visits.next_of_pass(batch, steps - length + 1, lambda: start_pass(steps, length, draws))
        return self._windows(replay, starts, length)

    def _windows(self, replay: Replay, starts: Tensor, length: int) -> Windows:
        windows = replay.windows(starts, length)
        return replace(windows, rewards=learned_rewards(windows.rewards))
