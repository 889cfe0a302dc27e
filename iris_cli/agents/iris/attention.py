"""What the dynamics of IRIS looks at when it predicts from an action: frames, 16 tokens each, and actions."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from iris_cli.agents.iris.config import TOKENS_PER_FRAME
from iris_cli.agents.iris.dynamics import Dynamics
from iris_cli.agents.iris.tokenizer import Tokenizer
from iris_cli.learn.attention import Attention, Stretch, Watch, attention_of, stretched
from iris_cli.learn.diagnosis import Episode
from iris_cli.learn.measuring import frames_on

KINDS = ("frame", "action")
_PLACES = (0,) * TOKENS_PER_FRAME + (1,)


@torch.no_grad()
def attention(
    tokenizer: Tokenizer, dynamics: Dynamics, episodes: Sequence[Episode], *, most: int, seed: int, watch: Watch
) -> Attention:
    """Attention of up to `most` predictions, each from as many blocks as there are positions.

    Args:
        tokenizer, dynamics: of one agent, in eval mode.
        episodes: at least one, none empty.
        most, seed, watch: as in `attention_of`.
    """
    assert not dynamics.training
    device, span = dynamics.embed_tokens.weight.device, dynamics.config.max_blocks
    tokens = [tokenizer.encode(frames_on(episode.frames, device)) for episode in episodes]
    actions = [torch.from_numpy(episode.actions).to(device) for episode in episodes]

    def weights_of(stretches: Sequence[Stretch]) -> Iterable[Tensor]:
        return attention_weights(dynamics, stretched(tokens, stretches, span), stretched(actions, stretches, span))

    return attention_of(
        episodes, kinds=KINDS, places=_PLACES, action=TOKENS_PER_FRAME, span=span, most=most, seed=seed, batch=8,
        weights_of=weights_of, watch=watch,
    )  # fmt: skip


def attention_weights(dynamics: Dynamics, tokens: Tensor, actions: Tensor) -> Iterable[Tensor]:
    """Layer by layer the attention (B, heads, T*17, T*17) over tokens (B, T, 16) and actions (B, T)."""
    return dynamics.transformer.attention(dynamics.embed(tokens, actions))
