"""A GPT: pre-LayerNorm blocks over embeddings, learned absolute positions, optional KV cache. No tokens, no heads."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from iris_cli.nn.dropout import Dropout, dropout
from iris_cli.nn.kv_cache import KVCache


class Transformer(nn.Module):
    """Positions, dropout, blocks, a last LayerNorm.

    Args:
        layers, heads, width: sizes; width is a multiple of heads.
        max_tokens: how many positions there are.
        attention: "causal", or "block-causal" where a token also sees the rest of its own block.
        tokens_per_block: tokens of a block of "block-causal".
        embedding_dropout, attention_dropout, residual_dropout: probabilities, active in training mode only.
        gradient_checkpointing: recompute each block's activations in the backward pass.
    """

    def __init__(
        self,
        *,
        layers: int,
        heads: int,
        width: int,
        max_tokens: int,
        attention: str = "causal",
        tokens_per_block: int = 1,
        embedding_dropout: float = 0.0,
        attention_dropout: float = 0.0,
        residual_dropout: float = 0.0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.heads, self.width, self.max_tokens = heads, width, max_tokens
        self.block_causal = attention == "block-causal"
        self.gradient_checkpointing = gradient_checkpointing
        self.positions = nn.Embedding(max_tokens, width)
        self.dropout = Dropout(embedding_dropout)
        self.blocks = nn.ModuleList(Block(width, heads, attention_dropout, residual_dropout) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        mask = torch.ones(max_tokens, max_tokens, dtype=torch.bool).tril()
        if self.block_causal:
            block = torch.arange(max_tokens) // tokens_per_block
            mask |= block[:, None] == block[None, :]
        self.register_buffer("mask", mask, persistent=False)
        self.mask: Tensor  # (max_tokens, max_tokens), true where the row's token may look
        self.apply(init_gpt)

    def new_cache(self, batch: int) -> KVCache:
        """An empty cache for `batch` sequences, on the device of the weights."""
        weight = self.positions.weight
        return KVCache(
            layers=len(self.blocks),
            batch=batch,
            heads=self.heads,
            max_tokens=self.max_tokens,
            head_dim=self.width // self.heads,
            device=weight.device,
            dtype=weight.dtype,
        )

    def forward(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """Read embeddings, after those in the cache if there is one.

        Args:
            x: (B, n, E) embeddings without positions, n <= max_tokens - cache.length.
            cache: what was read before; extended in place. Reading in pieces equals reading all at once, with
                block-causal attention as long as no block is split.

        Returns:
            (B, n, E), normalised.
        """
        start, tokens = (cache.length if cache else 0), x.shape[1]
        if cache and tokens == 1 and not self.training and not torch.is_grad_enabled():
            return self._read_one(x[:, 0], cache)[:, None]
        stop = start + tokens
        x = self.dropout(x + self.positions.weight[start:stop])
        # One token sees all before it, and a whole causal sequence has a kernel of its own: neither needs a mask.
        causal = start == 0 and tokens > 1 and not self.block_causal
        mask = None if causal or tokens == 1 else self.mask[start:stop, :stop]
        for layer, block in enumerate(self.blocks):
            if self.gradient_checkpointing and cache is None and torch.is_grad_enabled():
                x = checkpoint(block, x, mask, causal, use_reentrant=False)
            else:
                x = block(x, mask, causal, cache, layer)
        if cache:
            cache.advance(tokens)
        return self.ln_f(x)

    def attention(self, x: Tensor) -> Iterator[Tensor]:
        """The attention (B, heads, n, n) of each layer over embeddings (B, n, E) without positions; no dropout.

        `forward` does not make it: its kernels never hold it whole.
        """
        x = x + self.positions.weight[: x.shape[1]]
        mask = self.mask[: x.shape[1], : x.shape[1]]
        for block in self.blocks:
            assert isinstance(block, Block)
            yield block.attn.weights(block.ln1(x), mask)
            x = block(x, mask, False)

    def _read_one(self, x: Tensor, cache: KVCache) -> Tensor:
        """As `forward`, for one token (B, E) of each sequence, (B, E): the hot path of dreams.

        Keys and values go to the cache in one copy, and what is idle there (dropout, masks) is not called.
        """
        shape, place = (len(x), 3, self.heads, -1), cache.length
        x = x + self.positions.weight[place]
        for block, memory in zip(self.blocks, cache.memory, strict=True):
            assert isinstance(block, Block)
            attn, first, last = block.attn, block.mlp[0], block.mlp[2]
            split = attn.qkv(block.ln1(x)).view(shape).transpose(0, 1)  # (3, B, heads, head_dim)
            memory[:, :, :, place] = split[1:]
            keys, values = memory[:, :, :, : place + 1].unbind(0)  # (B, heads, length, head_dim)
            y = _look_back(split[0, :, :, None], keys, values).flatten(1)  # (B, E)
            x = x + attn.proj(y)
            x = x + last(F.gelu(first(block.ln2(x))))
        cache.advance(1)
        return self.ln_f(x)


class Block(nn.Module):
    """x += attention(ln1(x)); x += mlp(ln2(x))."""

    def __init__(self, width: int, heads: int, attention_dropout: float, residual_dropout: float) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(width)
        self.ln2 = nn.LayerNorm(width)
        self.attn = _Attention(width, heads, attention_dropout, residual_dropout)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), Dropout(residual_dropout)
        )

    def forward(
        self, x: Tensor, mask: Tensor | None, causal: bool, cache: KVCache | None = None, layer: int = 0
    ) -> Tensor:
        x = x + self.attn(self.ln1(x), mask, causal, cache, layer)
        return x + self.mlp(self.ln2(x))


class _Attention(nn.Module):
    """Multi-head self-attention; query, key and value are one product."""

    def __init__(self, width: int, heads: int, attention_dropout: float, residual_dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.attention_dropout = attention_dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.dropout = Dropout(residual_dropout)

    def weights(self, x: Tensor, mask: Tensor) -> Tensor:
        """How much each token looks at each: (B, heads, n, n)."""
        queries, keys, _ = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = (queries * queries.shape[-1] ** -0.5) @ keys.mT
        return scores.masked_fill(~mask, -torch.inf).softmax(-1)

    def forward(self, x: Tensor, mask: Tensor | None, causal: bool, cache: KVCache | None, layer: int) -> Tensor:
        split = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # (B, n, 3, heads, head_dim)
        queries, keys, values = split.permute(2, 0, 3, 1, 4)  # each (B, heads, n, head_dim)
        if cache:
            keys, values = cache.write(layer, keys, values)
        y = _attend(queries, keys, values, mask, causal, self.attention_dropout if self.training else 0.0)
        return self.dropout(self.proj(y.transpose(1, 2).flatten(2)))  # (B, n, E)


def _attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool, dropped: float) -> Tensor:
    """Attention of (B, heads, n, head_dim) to (B, heads, m, head_dim), with some of it dropped."""
    if not dropped or queries.device.type != "cpu":
        return F.scaled_dot_product_attention(queries, keys, values, mask, dropout_p=dropped, is_causal=causal)
    # On a CPU, torch has no kernel of its own for dropout in attention either, and draws more slowly.
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.mT  # (B, heads, n, m)
    if causal:
        mask = scores.new_ones(scores.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return dropout(scores.softmax(-1), dropped) @ values


def _look_back(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of one token (B, heads, 1, head_dim) to all that is cached, (B, heads, length, head_dim)."""
    if queries.device.type != "cpu" or queries.dtype == torch.float32:
        return F.scaled_dot_product_attention(queries, keys, values)
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.mT  # the fused kernel takes up to five times as long
    return scores.softmax(-1) @ values


def init_gpt(module: nn.Module, std: float = 0.02) -> None:
    """Draw a Linear's or Embedding's weights from N(0, std) and zero its bias; for `Module.apply`."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
