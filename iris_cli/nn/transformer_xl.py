"""A Transformer-XL: relative positions, LayerNorm after each branch, a KV cache for its memory. No tokens, no heads.

Source: fact sheet of TWM, section 2.2. What is easy to miss: scores are divided by the root of the model's width, not
of a head's; u and v are shared by all layers; nothing is normalised after the last layer; all layers begin with the
same weights. Members are named as in the published state dict.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iris_cli.nn.dropout import SharedDropout
from iris_cli.nn.kv_cache import KVCache


class TransformerXL(nn.Module):
    """Layers of relative attention and two linear maps.

    Keys carry no positions, so a cache of keys and values may forget its oldest tokens and go on: it equals the
    published memories, which keep each layer's inputs and project them anew.

    Args:
        layers, heads, head_width, width, feedforward: sizes; heads * head_width need not be width.
        dropout: on positions, attention weights and both branches, in training mode only.
    """

    def __init__(
        self, *, layers: int, heads: int, head_width: int, width: int, feedforward: int, dropout: float
    ) -> None:
        super().__init__()
        self.heads, self.head_width, self.width = heads, head_width, width
        self.dropout = nn.Dropout(dropout)
        self.u_bias = nn.Parameter(nn.init.xavier_uniform_(torch.empty(heads, head_width)))
        self.v_bias = nn.Parameter(nn.init.xavier_uniform_(torch.empty(heads, head_width)))
        self.layers = nn.ModuleList(_Layer(heads, head_width, width, feedforward, dropout) for _ in range(layers))
        for layer in self.layers:
            layer.load_state_dict(self.layers[0].state_dict())

    def new_cache(self, batch: int, max_tokens: int) -> KVCache:
        """An empty cache for `batch` sequences, on the device of the weights."""
        return KVCache(
            layers=len(self.layers), batch=batch, heads=self.heads, max_tokens=max_tokens, head_dim=self.head_width,
            device=self.u_bias.device, dtype=self.u_bias.dtype,
        )  # fmt: skip

    def forward(
        self, x: Tensor, visible: Tensor, cache: KVCache | None = None, *, weights: list[Tensor] | None = None
    ) -> Tensor:
        """Read embeddings, after those in the cache if there is one.

        Args:
            x: (B, n, E) embeddings.
            visible: (B, n, all) bool, whether a token may look at each of the cached ones and the new ones. None may
                look ahead, and each must see itself.
            cache: what was read before; extended in place.
            weights: a list that gets the attention weights (B, heads, n, all) of each layer.

        Returns:
            (B, n, E).
        """
        distances = torch.arange(visible.shape[2] - 1, -1, -1, device=x.device)
        positions = self.dropout(sinusoids(distances, self.width))  # (all, E), the largest distance first
        for index, layer in enumerate(self.layers):
            x = layer(x, positions, visible, self.u_bias, self.v_bias, cache, index, weights)
        if cache:
            cache.advance(x.shape[1])
        return x


def sinusoids(distances: Tensor, width: int) -> Tensor:
    """Distances (n,) between key and query -> (n, width), sines in the even columns and cosines in the odd ones."""
    frequencies = torch.exp(torch.arange(0, width, 2, device=distances.device) * (-math.log(10000.0) / width))
    angles = distances[:, None] * frequencies  # (n, width / 2)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


def keep_last(cache: KVCache, tokens: int) -> None:
    """Forget all but the last tokens of a cache. What they were computed from stays in them."""
    if cache.length > tokens:
        cache.memory[..., :tokens, :] = cache.memory[..., cache.length - tokens : cache.length, :].clone()
        cache.length = tokens


class _Layer(nn.Module):
    """x = norm1(x + attention(x)); x = norm2(x + linear2(silu(linear1(x))))."""

    def __init__(self, heads: int, head_width: int, width: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = _RelativeAttention(heads, head_width, width, dropout)
        self.linear1 = nn.Linear(width, feedforward)
        self.linear2 = nn.Linear(feedforward, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = SharedDropout(dropout)

    def forward(
        self, x: Tensor, positions: Tensor, visible: Tensor, u: Tensor, v: Tensor, cache: KVCache | None, index: int,
        weights: list[Tensor] | None,
    ) -> Tensor:  # fmt: skip
        attended = self.self_attn(x, positions, visible, u, v, cache, index, weights)
        x = self.norm1(x + self.dropout(attended))
        hidden = self.dropout(F.silu(self.linear1(x)))
        return self.norm2(x + self.dropout(self.linear2(hidden)))


class _RelativeAttention(nn.Module):
    """score(i, j) = ((q_i + u) k_j + (q_i + v) p_(i - j)) / sqrt(E)."""

    def __init__(self, heads: int, head_width: int, width: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.scale = width**-0.5
        self.qkv_proj = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.pos_proj = nn.Linear(width, heads * head_width, bias=False)
        self.out_proj = nn.Linear(heads * head_width, width, bias=False)
        self.dropout = SharedDropout(dropout)

    def forward(
        self, x: Tensor, positions: Tensor, visible: Tensor, u: Tensor, v: Tensor, cache: KVCache | None, index: int,
        weights: list[Tensor] | None,
    ) -> Tensor:  # fmt: skip
        split = self.qkv_proj(x).unflatten(-1, (3, self.heads, -1))  # (B, n, 3, heads, head_width)
        queries, keys, values = split.permute(2, 0, 3, 1, 4)  # each (B, heads, n, head_width)
        if cache:
            keys, values = cache.write(index, keys, values)
        places = self.pos_proj(positions).unflatten(-1, (self.heads, -1)).transpose(0, 1)  # (heads, all, head_width)
        scores = (queries + u[:, None]) @ keys.mT  # (B, heads, n, all)
        scores = scores + _aligned((queries + v[:, None]) @ places.mT)
        attention = (scores * self.scale).masked_fill(~visible[:, None], -math.inf).softmax(-1)
        if weights is not None:
            weights.append(attention)
        return self.out_proj((self.dropout(attention) @ values).transpose(1, 2).flatten(2))  # (B, n, E)


def _aligned(scores: Tensor) -> Tensor:
    """From columns by distance, the largest first, to columns by key: row i moves n - 1 - i columns to the left.

    (B, heads, n, all) -> (B, heads, n, all); what comes in from the right belongs to keys ahead and means nothing.
    Source: Dai et al. 2019, appendix B; the moves come from reading the rows with one column more.
    """
    queries, keys = scores.shape[-2:]
    padded = F.pad(scores, (1, 0)).flatten(-2)[..., queries:]  # n * all of n * (all + 1)
    return padded.unflatten(-1, (queries, keys))
