"""What the dynamics of TWM looks at: latents, actions and rewards of the steps that it remembers (its figure 6)."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from iris_cli.agents.twm.dynamics import Dynamics
from iris_cli.agents.twm.learning import learned_rewards
from iris_cli.agents.twm.tokenizer import Tokenizer
from iris_cli.learn.attention import Attention, Stretch, Watch, attention_of, stretched
from iris_cli.learn.diagnosis import Episode
from iris_cli.learn.measuring import frames_on
from iris_cli.nn.categorical import most_probable

KINDS = ("latent", "action", "reward")
_ACTION = 1  # place in a step


@torch.no_grad()
def attention(
    tokenizer: Tokenizer, dynamics: Dynamics, episodes: Sequence[Episode], *, most: int, seed: int, watch: Watch
) -> Attention:
    """Attention of up to `most` predictions, each from the most probable latents of as many steps as it may look at.

    Args:
        tokenizer, dynamics: of one agent, in eval mode.
        episodes: of stacks; at least one, none empty.
        most, seed, watch: as in `attention_of`.
    """
    assert not dynamics.training
    device, span = dynamics.transformer.u_bias.device, dynamics.config.memory + 2
    latents = [most_probable(tokenizer.encode(frames_on(episode.frames, device))) for episode in episodes]
    actions, rewards = (
        [torch.from_numpy(getattr(episode, name)).to(device) for episode in episodes] for name in ("actions", "rewards")
    )
    kinds = KINDS[: dynamics.config.tokens_per_step]

    def weights_of(stretches: Sequence[Stretch]) -> Iterable[Tensor]:
        known = [stretched(values, stretches, span) for values in (latents, actions, rewards)]
        told, weights = learned_rewards(known[2][:, :-1]), list[Tensor]()
        dynamics(known[0], known[1], told, torch.zeros_like(told, dtype=torch.bool), weights=weights)
        return weights

    return attention_of(
        episodes, kinds=kinds, places=range(len(kinds)), action=_ACTION, span=span, most=most, seed=seed, batch=16,
        weights_of=weights_of, watch=watch,
    )  # fmt: skip
