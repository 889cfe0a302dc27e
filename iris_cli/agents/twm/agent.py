"""The TWM agent: observation model, dynamics and actor-critic, and how they meet."""

import torch
from torch import Tensor, nn

from iris_cli.agents.twm.actor_critic import ActorCritic
from iris_cli.agents.twm.config import TwmConfig
from iris_cli.agents.twm.dynamics import Dynamics
from iris_cli.agents.twm.tokenizer import Tokenizer
from iris_cli.agents.twm.world import TwmDream
from iris_cli.errors import ShapeError
from iris_cli.nn.categorical import draw_one_hot, most_probable
from iris_cli.replay.windows import Windows, adjoining_pairs


class Agent(nn.Module):
    """All of TWM.

    Args:
        config: its settings.
        num_actions: A, of the environment.
    """

    def __init__(self, config: TwmConfig, num_actions: int) -> None:
        super().__init__()
        self.config, self.num_actions = config, num_actions
        self.tokenizer = Tokenizer(config.tokenizer)
        self.dynamics = Dynamics(
            config.dynamics, categoricals=config.tokenizer.categoricals, categories=config.tokenizer.categories,
            num_actions=num_actions,
        )  # fmt: skip
        self.actor_critic = ActorCritic(
            config.actor_critic, latent_width=self.tokenizer.latent_width, num_actions=num_actions
        )

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

    def see(self, stacks: Tensor) -> Tensor:
        """What the policy looks at when it acts: stacks (N, 4, 64, 64) uint8 -> most probable latents (N, Z)."""
        return most_probable(self.tokenizer.encode(stacks))

    def begin_dream(
        self,
        stacks: Tensor | None,
        latents: Tensor | None,
        actions: Tensor,
        rewards: Tensor,
        ends: Tensor,
        generator: torch.Generator | None = None,
        *,
        greedy: bool = False,
    ) -> TwmDream:
        """Begin to dream after C real steps, given as stacks or as latents; an imagined end stops nothing.

        Args:
            stacks: (B, C, 4, 64, 64) uint8, read if there are no latents.
            latents: (B, C, Z), or None.
            actions: (B, C - 1) int64 taken between them.
            rewards: (B, C - 1) float32 after those, as learned.
            ends: (B, C - 1) bool, whether an episode ended with them.
            generator: of all draws, on the agent's device; None is torch's global one.
            greedy: take what is most probable instead of drawing.

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
        return TwmDream(
            self.dynamics, latents, actions, rewards, ends, restart_below=self.config.actor_critic.restart_below,
            generator=generator, greedy=greedy,
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
            self.dynamics, pairs[chosen], actions, rewards, ends, fresh=fresh,
            restart_below=self.config.actor_critic.restart_below, generator=generator,
        )  # fmt: skip
