"""IRIS as plainly as it can be computed: the readable reference that every faster path is held against.

float32 in the default layout, eager, whole batches, attention written out with its mask, one token at a time behind a
cache, burn-in frames through encoder and decoder. It uses the weights of an `Agent`. The tests ask both for the same
tokens under the same seed; `iris bench` gives its speed beside the other's.

Source: fact sheet of IRIS, sections 2 to 6.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from iris_cli.agents.iris.agent import Agent
from iris_cli.agents.iris.config import TOKENS_PER_BLOCK, TOKENS_PER_FRAME
from iris_cli.agents.iris.dynamics import Dynamics, DynamicsOutput
from iris_cli.learn.losses import Losses
from iris_cli.learn.recurrent import Memory
from iris_cli.learn.world import Outcome
from iris_cli.nn.sampling import sample
from iris_cli.nn.transformer import Block, Transformer
from iris_cli.replay.segments import Segments


class PlainDream:
    """B imagined episodes that begin at frames (B, 3, 64, 64) uint8. The protocol is `learn/world.py`'s."""

    def __init__(self, agent: Agent, frames: Tensor, generator: torch.Generator | None = None) -> None:
        self._agent, self._generator = agent, generator
        self._cache = PlainCache(agent.dynamics.transformer, len(frames))
        self.tokens = plain_encode(agent, frames)  # (B, 16)
        self.view = plain_decode(agent, self.tokens)
        self._begin()

    @torch.no_grad()
    def step(self, actions: Tensor, *, next_view: bool = True) -> Outcome:
        """Imagine what actions (B,) int64 lead to."""
        dynamics = self._agent.dynamics
        passes = TOKENS_PER_BLOCK if next_view else 1
        if self._cache.length + passes > self._cache.max_tokens:
            self._begin()
        hidden = plain_transformer(dynamics.transformer, dynamics.embed_actions(actions[:, None]), self._cache)
        rewards = self._draw(dynamics.head_rewards(hidden)).float() - 1
        ends = self._draw(dynamics.head_ends(hidden)).bool()
        if not next_view:
            return Outcome(rewards, ends, None)
        tokens = []
        for _ in range(TOKENS_PER_FRAME):
            tokens.append(self._draw(dynamics.head_tokens(hidden)))
            hidden = plain_transformer(dynamics.transformer, dynamics.embed_tokens(tokens[-1][:, None]), self._cache)
        self.tokens = torch.stack(tokens, 1)
        self.view = plain_decode(self._agent, self.tokens)
        return Outcome(rewards, ends, self.view)

    @torch.no_grad()
    def _begin(self) -> None:
        """Forget everything and read the present frame's tokens."""
        dynamics, self._cache.length = self._agent.dynamics, 0
        plain_transformer(dynamics.transformer, dynamics.embed_tokens(self.tokens), self._cache)

    def _draw(self, logits: Tensor) -> Tensor:
        return sample(logits[:, -1], self._generator)


class PlainCache:
    """Keys and values of each layer, (B, heads, max_tokens, head_dim), appended in place."""

    def __init__(self, transformer: Transformer, batch: int) -> None:
        self.max_tokens, self.length = transformer.max_tokens, 0
        weight = transformer.positions.weight
        shape = (batch, transformer.heads, transformer.max_tokens, transformer.width // transformer.heads)
        self.layers = [(weight.new_zeros(shape), weight.new_zeros(shape)) for _ in transformer.blocks]


def plain_start(
    agent: Agent, frames: Tensor, mask: Tensor, generator: torch.Generator | None = None
) -> tuple[Memory, PlainDream]:
    """The policy's memory after all but the last of frames (B, T, 3, 64, 64) uint8, and a dream that begins there.

    Args:
        agent: in eval mode.
        frames: padded on the left.
        mask: (B, T) bool, true where real.
        generator: of the dream's draws.
    """
    views = torch.stack([plain_see(agent, column) for column in frames[:, :-1].unbind(1)], 1)
    memory = agent.actor_critic.burn_in(views, mask[:, :-1])
    return memory, PlainDream(agent, frames[:, -1], generator)


@torch.no_grad()
def plain_encode(agent: Agent, frames: Tensor) -> Tensor:
    """(N, 3, 64, 64) uint8 -> (N, 16) int64: the nearest code of each latent by its squared distance."""
    tokenizer = agent.tokenizer
    latents = tokenizer.pre_quant_conv(tokenizer.encoder(frames.float().div(255).mul(2).sub(1)))
    flat, codes = latents.permute(0, 2, 3, 1).flatten(0, 2), tokenizer.embedding.weight  # (N * 16, E), (V, E)
    squares = flat.square().sum(1, keepdim=True) + codes.square().sum(1) - 2 * flat @ codes.T
    return squares.argmin(1).view(len(frames), TOKENS_PER_FRAME)


@torch.no_grad()
def plain_decode(agent: Agent, tokens: Tensor) -> Tensor:
    """(N, 16) int64 -> (N, 3, 64, 64) float32 in [0, 1]."""
    tokenizer = agent.tokenizer
    side = math.isqrt(TOKENS_PER_FRAME)
    codes = tokenizer.embedding.weight[tokens].unflatten(1, (side, side)).permute(0, 3, 1, 2).contiguous()
    return tokenizer.decoder(tokenizer.post_quant_conv(codes)).add(1).div(2).clamp(0, 1)


def plain_see(agent: Agent, frames: Tensor) -> Tensor:
    """What the policy looks at: (N, 3, 64, 64) uint8 -> reconstructions, float32 in [0, 1]."""
    return plain_decode(agent, plain_encode(agent, frames))


def plain_transformer(transformer: Transformer, x: Tensor, cache: PlainCache | None = None) -> Tensor:
    """Embeddings (B, n, E) without positions -> (B, n, E) normalised, behind what the cache holds."""
    start = 0 if cache is None else cache.length
    stop = start + x.shape[1]
    mask = transformer.mask[start:stop, :stop]
    x = _drop(transformer, x + transformer.positions.weight[start:stop], transformer.dropout.p)
    for layer, block in enumerate(transformer.blocks):
        assert isinstance(block, Block)
        attention, normed = block.attn, block.ln1(x)
        weights, biases = attention.qkv.weight.chunk(3), attention.qkv.bias.chunk(3)
        queries, keys, values = (
            F.linear(normed, weight, bias).unflatten(2, (transformer.heads, -1)).transpose(1, 2)
            for weight, bias in zip(weights, biases, strict=True)
        )  # each (B, heads, n, head_dim)
        if cache is not None:
            for memory, new in zip(cache.layers[layer], (keys, values), strict=True):
                memory[:, :, start:stop] = new
            keys, values = (memory[:, :, :stop] for memory in cache.layers[layer])
        scores = queries @ keys.mT / math.sqrt(keys.shape[-1])  # (B, heads, n, stop)
        shares = F.softmax(scores.masked_fill(~mask, -math.inf), dim=-1)
        read = _drop(transformer, shares, attention.attention_dropout) @ values
        x = x + _drop(transformer, attention.proj(read.transpose(1, 2).flatten(2)), attention.dropout.p)
        x = x + _drop(transformer, block.mlp[:3](block.ln2(x)), attention.dropout.p)
    if cache is not None:
        cache.length = stop
    return transformer.ln_f(x)


def plain_dynamics_loss(dynamics: Dynamics, segments: Segments) -> Losses:
    """As `Dynamics.loss`."""
    assert segments.tokens is not None
    hidden = plain_transformer(dynamics.transformer, dynamics.embed(segments.tokens, segments.actions))
    blocks = hidden.unflatten(1, (-1, TOKENS_PER_BLOCK))  # (B, T, 17, E)
    predicting = torch.cat([blocks[:, :, : TOKENS_PER_FRAME - 1], blocks[:, :, -1:]], 2)
    output = DynamicsOutput(
        logits_tokens=dynamics.head_tokens(predicting.flatten(1, 2)),
        logits_rewards=dynamics.head_rewards(blocks[:, :, -1]),
        logits_ends=dynamics.head_ends(blocks[:, :, -1]),
    )
    return dynamics.loss_of(output, segments)


def _drop(transformer: Transformer, x: Tensor, probability: float) -> Tensor:
    return F.dropout(x, probability, training=transformer.training)
