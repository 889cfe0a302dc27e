"""What the dynamics of Δ-IRIS looks at when it predicts from an action: frames, actions and tokens of transitions."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from iris_cli.agents.delta_iris.config import TOKENS_PER_TRANSITION
from iris_cli.agents.delta_iris.dynamics import ACTION, Dynamics
from iris_cli.agents.delta_iris.transition_tokenizer import TransitionTokenizer
from iris_cli.learn.attention import Attention, Stretch, Watch, attention_of, stretched
from iris_cli.learn.diagnosis import Episode
from iris_cli.learn.measuring import frames_on

KINDS = ("frame", "action", "transition")
_PLACES = (0, 1) + (2,) * TOKENS_PER_TRANSITION


@torch.no_grad()
def attention(
    tokenizer: TransitionTokenizer,
    dynamics: Dynamics,
    episodes: Sequence[Episode],
    *,
    most: int,
    seed: int,
    watch: Watch,
) -> Attention:
    """Attention of up to `most` predictions, each from as many blocks as there are positions.

    Args:
        tokenizer, dynamics: of one agent, in eval mode.
        episodes: at least one, none empty.
        most, seed, watch: as in `attention_of`.
    """
    assert not dynamics.training
    device, span = dynamics.embed_tokens.weight.device, dynamics.config.max_blocks
    frames = [frames_on(episode.frames, device) for episode in episodes]
    actions = [torch.from_numpy(episode.actions).to(device) for episode in episodes]

    def weights_of(stretches: Sequence[Stretch]) -> Iterable[Tensor]:
        seen, chosen = stretched(frames, stretches, span), stretched(actions, stretches, span)
        tokens = tokenizer.encode_rows(seen, chosen[:, :-1])
        tokens = torch.cat([tokens, torch.zeros_like(tokens[:, :1])], 1)  # those of the last step are not looked at
        return dynamics.transformer.attention(dynamics.embed(seen, chosen, tokens))

    return attention_of(
        episodes, kinds=KINDS, places=_PLACES, action=ACTION, span=span, most=most, seed=seed, batch=8,
        weights_of=weights_of, watch=watch,
    )  # fmt: skip
