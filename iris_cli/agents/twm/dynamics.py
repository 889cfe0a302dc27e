"""The dynamics of TWM: a Transformer-XL over latent, action and reward of each step, with heads for what comes next.

A sequence of S past steps and the present one is z_0 a_0 r_0 ... z_S a_S: 3S + 2 tokens. What was read is kept in a
windowed cache (`Past`), behind which each further step brings r_(t-1) z_t a_t.

Source: fact sheet of TWM, section 2. What is easy to miss: a step is read off the output at its action token; every
head begins with an activation; z and r are activated after their embedding, a is not.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iris_cli.agents.twm.config import DynamicsConfig
from iris_cli.agents.twm.tokenizer import HALF_LOG_TWO_PI
from iris_cli.errors import ShapeError
from iris_cli.learn.losses import Losses, share_of_mean
from iris_cli.nn.categorical import cross_entropies, entropies
from iris_cli.nn.kv_cache import KVCache
from iris_cli.nn.mlp import MLP
from iris_cli.nn.transformer_xl import TransformerXL, keep_last

_DISCOUNT_BIAS = 0.99  # of the discount head's logit at first; that it equals gamma is the released program's slip


@dataclass(frozen=True)
class DynamicsOutput:
    """What is predicted after each of T steps.

    Attributes:
        hidden: (B, T, E)
        logits_latents: (B, T, K, C) of the next latent, normalised over C.
        rewards: (B, T) expected, as learned (tanh of the raw ones).
        logits_discounts: (B, T); their sigmoid is the discount after the step.
    """

    hidden: Tensor
    logits_latents: Tensor
    rewards: Tensor
    logits_discounts: Tensor

    def at(self, steps: slice) -> "DynamicsOutput":
        """The predictions after some of the steps."""
        return DynamicsOutput(
            self.hidden[:, steps],
            self.logits_latents[:, steps],
            self.rewards[:, steps],
            self.logits_discounts[:, steps],
        )


class Past:
    """What the dynamics has read, as far as it can still look back. Made by `Dynamics.new_past`.

    Attributes:
        cache: keys and values of the last tokens, a latent first.
        episodes: (B, max_tokens) int64, which of the row's episodes each of them belongs to.
    """

    def __init__(self, cache: KVCache, episodes: Tensor) -> None:
        self.cache, self.episodes = cache, episodes

    def save(self) -> tuple[Tensor, Tensor]:
        """A copy of what was read, for `restore`."""
        return self.cache.save(), self.episodes[:, : self.cache.length].clone()

    def restore(self, saved: tuple[Tensor, Tensor]) -> None:
        """Hold just what `save` of this past gave."""
        self.cache.restore(saved[0])
        self.episodes[:, : self.cache.length] = saved[1]


class Dynamics(nn.Module):
    """Predicts latents, rewards and discounts.

    Args:
        config: sizes, dropout, and how it learns.
        categoricals, categories: K and C of a latent.
        num_actions: A.
    """

    def __init__(self, config: DynamicsConfig, *, categoricals: int, categories: int, num_actions: int) -> None:
        super().__init__()
        self.config = config
        self.latent_shape = (categoricals, categories)
        self.latent_width = categoricals * categories  # Z
        self.embeds = nn.ModuleDict(
            {
                "z": MLP([self.latent_width, config.width], activates_output=True),
                "a": nn.Embedding(num_actions, config.width),
            }
        )
        if config.reads_rewards:
            self.embeds["r"] = MLP([1, config.width], activates_output=True)
        self.transformer = TransformerXL(
            layers=config.layers, heads=config.heads, head_width=config.head_width, width=config.width,
            feedforward=config.feedforward, dropout=config.dropout,
        )  # fmt: skip
        self.out_heads = nn.ModuleDict(
            {
                "z": MLP([config.width, *config.latent_widths, self.latent_width], dropout=config.dropout),
                "r": MLP([config.width, *config.reward_widths, 1], dropout=config.dropout),
                "g": MLP([config.width, *config.discount_widths, 1], dropout=config.dropout),
            }
        )
        last_of_discounts = [layer for layer in self.out_heads["g"].modules() if isinstance(layer, nn.Linear)][-1]
        nn.init.constant_(last_of_discounts.bias, _DISCOUNT_BIAS)

    def forward(
        self, latents: Tensor, actions: Tensor, rewards: Tensor, ends: Tensor, *, weights: list[Tensor] | None = None
    ) -> DynamicsOutput:
        """Predict what follows each of S + 1 steps.

        Args:
            latents: (B, S+1, Z) float32.
            actions: (B, S+1) int64 in [0, A), chosen on them.
            rewards: (B, S) float32 after the first S actions, as learned. Ignored if rewards are not read.
            ends: (B, S) bool, whether an episode ended with them: nothing after an end looks at what came before.
            weights: a list that gets the attention weights (B, heads, n, n) of each layer.

        Raises:
            ShapeError: for other shapes or dtypes.
        """
        self._check(latents, actions, rewards, ends, missing=1)
        episodes = F.pad(ends.long().cumsum(1), (1, 0))  # (B, S+1)
        owners = self._interleave(F.pad(episodes[:, :-1], (1, 0)), episodes, episodes)[:, self._skipped :]
        tokens = self._embed(latents, actions, F.pad(rewards, (1, 0)))[:, self._skipped :]
        visible = reach(tokens.shape[1], self.config.memory, self.config.tokens_per_step, tokens.device)
        visible = visible & (owners[:, :, None] == owners[:, None, :])
        hidden = self.transformer(tokens, visible, weights=weights)
        return self.predict(hidden[:, 1 :: self.config.tokens_per_step])

    def new_past(self, batch: int, *, chunk: int = 1) -> Past:
        """An empty past for `batch` rows, of which up to `chunk` steps will be read at once."""
        tokens = self._memory_tokens + self.config.tokens_per_step * chunk
        cache = self.transformer.new_cache(batch, tokens)
        return Past(cache, torch.zeros(batch, tokens, dtype=torch.int64, device=cache.memory.device))

    def extend(self, past: Past, latents: Tensor, actions: Tensor, rewards: Tensor, ends: Tensor) -> Tensor:
        """Read C more steps behind a past, and say what was thought after each; the past is extended in place.

        Reading in pieces equals reading all at once.

        Args:
            past: from `new_past`, with room for C steps.
            latents: (B, C, Z).
            actions: (B, C) int64.
            rewards: (B, C) after the step before each, or (B, C - 1) where the past is empty.
            ends: bool, as the rewards.

        Returns:
            (B, C, E), for `predict`.

        Raises:
            ShapeError: for other shapes or dtypes.
        """
        cache, empty = past.cache, past.cache.length == 0
        self._check(latents, actions, rewards, ends, missing=int(empty))
        skipped = self._skipped if empty else 0
        tokens = self._embed(latents, actions, F.pad(rewards, (1, 0)) if empty else rewards)[:, skipped:]
        if cache.length + tokens.shape[1] > cache.max_tokens:
            dropped = cache.length - self._memory_tokens
            past.episodes[:, : self._memory_tokens] = past.episodes[:, dropped : cache.length].clone()
            keep_last(cache, self._memory_tokens)
        start, stop = cache.length, cache.length + tokens.shape[1]
        before = torch.zeros_like(actions[:, :1]) if empty else past.episodes[:, start - 1 : start]
        now = before + (F.pad(ends, (1, 0)) if empty else ends).long().cumsum(1)  # (B, C)
        earlier = torch.cat([before, now[:, :-1]], 1)
        past.episodes[:, start:stop] = self._interleave(earlier, now, now)[:, skipped:]
        visible = reach(stop, self.config.memory, self.config.tokens_per_step, tokens.device)[start:]
        visible = visible & (past.episodes[:, start:stop, None] == past.episodes[:, None, :stop])
        hidden = self.transformer(tokens, visible, cache)
        return hidden[:, self.config.tokens_per_step - 1 - skipped :: self.config.tokens_per_step]

    def glance(self, past: Past, latents: Tensor, actions: Tensor, rewards: Tensor, ends: Tensor) -> Tensor:
        """What would be thought after further steps: as `extend`, but they do not count as read."""
        empty = past.cache.length == 0
        thoughts = self.extend(past, latents, actions, rewards, ends)
        read = self.config.tokens_per_step * latents.shape[1] - (self._skipped if empty else 0)
        past.cache.length -= read  # what is read next is written over them
        return thoughts

    def predict(self, hidden: Tensor) -> DynamicsOutput:
        """What the heads make of hidden (B, T, E)."""
        active = F.silu(hidden)
        logits = self.out_heads["z"](active).unflatten(-1, self.latent_shape)
        return DynamicsOutput(
            hidden=hidden,
            logits_latents=logits.log_softmax(-1),
            rewards=self.out_heads["r"](active).squeeze(-1),
            logits_discounts=self.out_heads["g"](active).squeeze(-1),
        )

    def loss(
        self,
        output: DynamicsOutput,
        *,
        targets: Tensor,
        rewards: Tensor,
        terminations: Tensor,
        ends: Tensor,
        among: Tensor | None = None,
    ) -> Losses:
        """How far predictions after T steps are from what followed.

        Latents are learned from the encoder's probabilities, not from draws, and not where an episode ended, since the
        next observation is then of another one. The other two terms are not masked.

        Args:
            output: of T steps.
            targets: (B, T, K, C) normalised logits of the next latents. Not differentiated.
            rewards: (B, T) as learned.
            terminations: (B, T) bool: no return follows. A time limit is none.
            ends: (B, T) bool, terminated or truncated.
            among: ends of the batch that these are a share of (`share_of_mean`); None: they are all of it.

        Returns:
            Parts loss_latents, loss_rewards, loss_discounts (they sum up to the total), cross_entropy
            and predicted_entropy of the latents in nats, reward_error and discount_error.
        """
        config = self.config
        real = (~ends).float()  # (B, T)
        cross_entropy = (real * cross_entropies(targets, output.logits_latents)).sum() / real.sum().clamp(min=1)
        cross_entropy = share_of_mean(cross_entropy, ~ends, None if among is None else ~among)
        gammas = config.gamma * (~terminations).float()
        errors = output.rewards - rewards
        discount_loss = F.binary_cross_entropy_with_logits(output.logits_discounts, gammas)
        parts = {
            "loss_latents": config.latent_weight * cross_entropy,
            "loss_rewards": config.reward_weight * (0.5 * errors.square() + HALF_LOG_TWO_PI).mean(),
            "loss_discounts": config.discount_weight * discount_loss,
        }
        total = torch.stack(list(parts.values())).sum()
        parts |= {
            "cross_entropy": cross_entropy,
            "predicted_entropy": entropies(output.logits_latents).sum(-1).mean(),
            "reward_error": errors.abs().mean(),
            "discount_error": (output.logits_discounts.sigmoid() - gammas).abs().mean(),
        }
        return Losses(total, {name: part.detach() for name, part in parts.items()})

    @property
    def _skipped(self) -> int:
        """Tokens that the first step of a sequence lacks: the reward before it."""
        return int(self.config.reads_rewards)

    @property
    def _memory_tokens(self) -> int:
        """Tokens that the next step may look at."""
        return self.config.tokens_per_step * self.config.memory + 2

    def _embed(self, latents: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
        """(B, C, Z), (B, C) and the rewards before them (B, C) -> (B, C * tokens per step, E)."""
        embedded = [self.embeds["z"](latents), self.embeds["a"](actions)]
        if self.config.reads_rewards:
            embedded.insert(0, self.embeds["r"](rewards[..., None]))
        return torch.stack(embedded, 2).flatten(1, 2)

    def _interleave(self, reward: Tensor, latent: Tensor, action: Tensor) -> Tensor:
        """One value (B, C) for each kind of token -> (B, C * tokens per step), in their order."""
        values = [reward, latent, action] if self.config.reads_rewards else [latent, action]
        return torch.stack(values, 2).flatten(1)

    def _check(self, latents: Tensor, actions: Tensor, rewards: Tensor, ends: Tensor, *, missing: int) -> None:
        if latents.dim() != 3 or latents.shape[2] != self.latent_width or latents.shape[1] < 1:
            raise ShapeError(f"latents must have shape (B, S+1, {self.latent_width}). Got {tuple(latents.shape)}")
        if actions.shape != latents.shape[:2] or actions.dtype != torch.int64:
            raise ShapeError(
                f"actions must be int64 of shape (B, S+1)={tuple(latents.shape[:2])}. "
                f"Got {tuple(actions.shape)} {actions.dtype}"
            )
        before = (latents.shape[0], latents.shape[1] - missing)
        for name, values in (("rewards", rewards), ("ends", ends)):
            if values.shape != before:
                raise ShapeError(f"{name} must have shape (B, S)={before}. Got {tuple(values.shape)}")
        if ends.dtype != torch.bool or not rewards.is_floating_point():
            raise ShapeError(f"rewards must be floats and ends bool. Got {rewards.dtype} and {ends.dtype}")


def reach(tokens: int, memory: int, tokens_per_step: int, device: torch.device | None = None) -> Tensor:
    """Which tokens each may look at by time alone: (tokens, tokens) bool.

    None ahead. A latent and an action reach as many tokens back as lie between themselves and their like `memory` + 1
    steps ago, that one included; a reward reaches the latent of `memory` steps ago.

    Args:
        tokens: of a sequence that begins with a latent.
        memory: M, steps.
        tokens_per_step: 3, or 2 without rewards.
        device: of the result.
    """
    index = torch.arange(tokens, device=device)
    oldest = index - tokens_per_step * (memory + 1)
    if tokens_per_step == 3:
        oldest = torch.where(index % 3 == 2, index - 2 - 3 * memory, oldest)
    return (index[None, :] <= index[:, None]) & (index[None, :] >= oldest[:, None])
