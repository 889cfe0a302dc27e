"""The tokenizer of Δ-IRIS's workshop paper: a Transformer over all that came before. A variant, not the released code.

The encoder reads a trajectory as patches of each frame behind the embedding of the action that led to it. Blocks of
layers alternate with means over two by two patches, until four are left of each frame: what is quantized. The decoder
reads, for each transition, its frame as a single vector (of a CNN), its action, and its four tokens, which are doubled
in both directions between blocks of layers, each copy with a position of its own, until there is one for each patch of
the next frame. Losses, codebook, and what is done with padding are those of the published tokenizer.

Where the fact sheet is silent, the plainest was chosen: a frame's patches see each other and all that came before (so
attention is causal from frame to frame, not within one); actions are carried along beside what is pooled or doubled;
tokens enter the decoder as their codes projected (a table of its own would pass the encoder no gradient). A trajectory
is what a segment holds, up to `max_transitions`; longer ones are read in parts that know nothing of each other. In
dreams, where the positions are used up, all but the last `keep` frames are forgotten, as the dynamics does it.

Source: fact sheet of Δ-IRIS, section 12.
"""

from collections import deque

import torch
from torch import Tensor, nn

from iris_cli.agents.delta_iris.config import (
    GRID,
    IMAGE_SIZE,
    TOKENS_PER_TRANSITION,
    TokenizerConfig,
    map_size,
)
from iris_cli.agents.delta_iris.transition_tokenizer import CHANNELS, Painter, TransitionTokenizer, as_images, padded
from iris_cli.nn.cosine_quantizer import CosineQuantizer
from iris_cli.nn.kv_cache import KVCache
from iris_cli.nn.patches import doubled, pooled, to_images, to_patches
from iris_cli.nn.residual import FrameEncoder
from iris_cli.nn.transformer import Transformer, init_gpt


class TransformerTokenizer(TransitionTokenizer):
    """The autoencoder of the workshop paper.

    Args:
        config: sizes.
        num_actions: A.
        image_size: pixels, height and width of a frame.
    """

    encoding_fields = ("variant", "patch_pixels", "layers", "heads", "width", "max_transitions", "codes", "code_width")
    encoding_weights = ("encoder.", "encoder_act_emb.", "quantizer.codebook", "quantizer.pre_quant_proj.")
    decodes_alone = False

    def __init__(self, config: TokenizerConfig, *, num_actions: int, image_size: int = IMAGE_SIZE) -> None:
        super().__init__(config, image_size=image_size)
        self.num_actions = num_actions
        self.encoder = _Encoder(config, image_size)
        self.decoder = _Decoder(config, image_size)
        self.encoder_act_emb = nn.Embedding(num_actions + 1, config.width)  # the last: none, before the first frame
        self.decoder_act_emb = nn.Embedding(num_actions, config.width)
        self.quantizer = CosineQuantizer(config.codes, config.code_width, width=config.width)
        self.apply(init_gpt)

    def encode(self, past_frames: Tensor, actions: Tensor, frames: Tensor) -> Tensor:
        """As in `TransitionTokenizer`: each is a trajectory of two frames."""
        self._check(past_frames, actions)
        self._check(frames, actions)
        return self.encode_rows(torch.stack([past_frames, frames], 1), actions[:, None])[:, 0]

    def decode(self, past_frames: Tensor, actions: Tensor, tokens: Tensor) -> Tensor:
        """As in `TransitionTokenizer`: each is a trajectory of one transition."""
        self._check_tokens(past_frames, actions, tokens)
        return self.decode_rows(past_frames[:, None], actions[:, None], tokens[:, None])[:, 0]

    @torch.no_grad()
    def encode_rows(self, frames: Tensor, actions: Tensor) -> Tensor:
        """As in `TransitionTokenizer`, in parts of `max_transitions`."""
        most, parts = self.config.max_transitions, [_no_tokens(actions)]
        for start in range(0, actions.shape[1], most):
            stop = min(start + most, actions.shape[1])
            parts.append(self._encode_part(frames[:, start : stop + 1], actions[:, start:stop]))
        return torch.cat(parts, 1)

    @torch.no_grad()
    def decode_rows(self, past_frames: Tensor, actions: Tensor, tokens: Tensor) -> Tensor:
        """As in `TransitionTokenizer`, in parts of `max_transitions`."""
        rows, most = _rows(actions.device), self.config.max_transitions
        images = torch.zeros(*past_frames.shape, device=actions.device)
        for start in range(0, actions.shape[1], most):
            part = slice(start, start + most)
            for row in range(0, len(actions), rows):
                some = slice(row, row + rows)
                images[some, part] = self.next_images(past_frames[some, part], actions[some, part], tokens[some, part])
        return images

    def painter(self, frames: Tensor, actions: Tensor, tokens: Tensor, *, keep: int = 1) -> Painter:
        """As in `TransitionTokenizer`."""
        return _Painting(self, frames, actions, tokens, keep)

    def vectors_of_rows(self, images: Tensor, actions: Tensor) -> Tensor:
        """As in `TransitionTokenizer`; T - 1 <= max_transitions."""
        none = actions.new_full((len(actions), 1), self.num_actions)
        return self.encoder(images, self.encoder_act_emb(torch.cat([none, actions], 1)))[:, 1:].flatten(0, 1)

    def images_of_rows(self, past: Tensor, actions: Tensor, vectors: Tensor) -> Tensor:
        """As in `TransitionTokenizer`; T <= max_transitions."""
        return self.decoder(past, self.decoder_act_emb(actions), vectors.unflatten(0, actions.shape)).flatten(0, 1)

    def next_images(
        self, past_frames: Tensor, actions: Tensor, tokens: Tensor, caches: list[KVCache] | None = None
    ) -> Tensor:
        """(B, T, 3, S, S) in [0, 1], as `decode_rows`, behind what the caches hold; these are written to."""
        past = as_images(past_frames)
        return self.decoder(past, self.decoder_act_emb(actions), self.quantizer.lookup(tokens), caches).clamp(0, 1)

    def _encode_part(self, frames: Tensor, actions: Tensor) -> Tensor:
        """As `encode_rows`, in blocks of rows of one fixed size, so that tokens do not depend on the company."""
        size, tokens = _rows(actions.device), []
        for part, between in zip(frames.split(size), actions.split(size), strict=True):  # an empty one for B = 0
            vectors = self.vectors_of_rows(as_images(padded(part, size)), padded(between, size))
            tokens.append(self.quantizer.tokens(vectors).unflatten(0, (size, -1))[: len(part)])
        return torch.cat(tokens)


class _Encoder(nn.Module):
    """Images (B, T, 3, S, S) and actions before them (B, T, E) -> (B, T, 4, E)."""

    def __init__(self, config: TokenizerConfig, image_size: int) -> None:
        super().__init__()
        self.patch_pixels = config.patch_pixels
        self.embed = nn.Linear(CHANNELS * config.patch_pixels**2, config.width)
        self.stages = nn.ModuleList(
            _stage(config, blocks=config.max_transitions + 1, tokens_per_block=1 + side**2)
            for side in reversed(_sides(config, image_size))
        )

    def forward(self, images: Tensor, actions: Tensor) -> Tensor:
        patches = self.embed(to_patches(images.flatten(0, 1), self.patch_pixels)).unflatten(0, images.shape[:2])
        actions = actions[:, :, None]  # (B, T, 1, E)
        for number, stage in enumerate(self.stages):
            patches = pooled(patches) if number else patches  # (B, T, g*g, E)
            read = torch.cat([actions, patches], 2)
            actions, patches = stage(read.flatten(1, 2)).unflatten(1, read.shape[1:3]).tensor_split([1], 2)
        return patches


class _Decoder(nn.Module):
    """Images (B, T, 3, S, S), actions (B, T, E) and tokens (B, T, 4, E) -> the next images (B, T, 3, S, S)."""

    def __init__(self, config: TokenizerConfig, image_size: int) -> None:
        super().__init__()
        self.patch_pixels = config.patch_pixels
        self.frame_cnn = FrameEncoder(
            CHANNELS, config.past_channels, base=config.past_base_channels, multipliers=config.channel_multipliers,
            halvings=config.halvings, patch=config.patch,
        )  # fmt: skip
        self.embed = nn.Linear(config.past_channels * map_size(config, image_size) ** 2, config.width)
        self.stages = nn.ModuleList(
            _stage(config, blocks=config.max_transitions, tokens_per_block=2 + side**2)
            for side in _sides(config, image_size)
        )
        self.head = nn.Linear(config.width, CHANNELS * config.patch_pixels**2)

    def new_caches(self, batch: int) -> list[KVCache]:
        """Empty ones for B trajectories, of each block of layers."""
        return [stage.new_cache(batch) for stage in self.stages if isinstance(stage, Transformer)]

    def forward(self, past: Tensor, actions: Tensor, tokens: Tensor, caches: list[KVCache] | None = None) -> Tensor:
        frames = self.embed(self.frame_cnn(past.flatten(0, 1)).flatten(1)).unflatten(0, past.shape[:2])  # (B, T, E)
        given = torch.stack([frames, actions], 2)  # (B, T, 2, E)
        for number, stage in enumerate(self.stages):
            tokens = doubled(tokens) if number else tokens  # (B, T, g*g, E)
            read = torch.cat([given, tokens], 2)
            written = stage(read.flatten(1, 2), caches[number] if caches else None).unflatten(1, read.shape[1:3])
            given, tokens = written.tensor_split([2], 2)
        return to_images(self.head(tokens).flatten(0, 1), self.patch_pixels).unflatten(0, past.shape[:2])


class _Painting:
    """Of B dreams: the decoder's memory of what it painted, and what it goes on from when that is full."""

    def __init__(
        self, tokenizer: TransformerTokenizer, frames: Tensor, actions: Tensor, tokens: Tensor, keep: int
    ) -> None:
        most = tokenizer.config.max_transitions - 1  # one has to fit behind them
        self._tokenizer, self._caches = tokenizer, tokenizer.decoder.new_caches(len(frames))
        given = list(zip(frames.unbind(1)[:-1], actions.unbind(1), tokens.unbind(1), strict=True))
        self._kept = deque(given, maxlen=min(keep - 1, most))
        self._read(given[max(0, len(given) - most) :])

    @torch.no_grad()
    def __call__(self, frames: Tensor, actions: Tensor, tokens: Tensor, /) -> Tensor:
        last = self._caches[0]
        if last.length == last.max_tokens:
            for cache in self._caches:
                cache.reset()
            self._read(list(self._kept))
        self._kept.append((frames.clone(), actions.clone(), tokens.clone()))
        return self._read([(frames, actions, tokens)])[:, -1]

    def save(self) -> tuple[list[Tensor], tuple[tuple[Tensor, Tensor, Tensor], ...]]:
        return [cache.save() for cache in self._caches], tuple(self._kept)

    def restore(self, saved: tuple[list[Tensor], tuple[tuple[Tensor, Tensor, Tensor], ...]]) -> None:
        for cache, read in zip(self._caches, saved[0], strict=True):
            cache.restore(read)
        self._kept = deque(saved[1], self._kept.maxlen)

    @torch.no_grad()
    def _read(self, transitions: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """The images (B, T, 3, S, S) that transitions lead to, which are now remembered; T may be 0."""
        if not transitions:
            return torch.zeros(0)
        frames, actions, tokens = (torch.stack(parts, 1) for parts in zip(*transitions, strict=True))
        return self._tokenizer.next_images(frames, actions, tokens, self._caches)


def _sides(config: TokenizerConfig, image_size: int) -> list[int]:
    """Patches along each side of the grids, from the tokens' up to the image's: each is twice the one before."""
    sides = [GRID]
    while sides[-1] * config.patch_pixels < image_size:
        sides.append(2 * sides[-1])
    return sides


def _stage(config: TokenizerConfig, *, blocks: int, tokens_per_block: int) -> Transformer:
    return Transformer(
        layers=config.layers, heads=config.heads, width=config.width, max_tokens=blocks * tokens_per_block,
        attention="block-causal", tokens_per_block=tokens_per_block,
    )  # fmt: skip


def _rows(device: torch.device) -> int:
    """Trajectories that pass at once."""
    return 4 if device.type == "cpu" else 32


def _no_tokens(actions: Tensor) -> Tensor:
    return actions.new_zeros(len(actions), 0, TOKENS_PER_TRANSITION)
