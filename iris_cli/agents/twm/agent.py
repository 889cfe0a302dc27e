"""The TWM agent: observation model, dynamics and actor-critic, and how they meet."""

import torch
from torch import Tensor, nn

from iris_cli.agents.twm.actor_critic import ActorCritic
from iris_cli.agents.twm.config import TwmConfig
from iris_cli.agents.twm.dynamics import Dynamics
from iris_cli.agents.twm.tokenizer import Tokenizer
from iris_cli.nn.categorical import most_probable


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
