"""The published tokenizer of Δ-IRIS: four tokens for a transition, from its two frames and its action alone.

What is easy to miss: the past frame reaches the decoder only through an 8x8 map; a token's vector lists the pixels of
its patch with the channel fastest; padded transitions count in the commitment term and in the codebook's averages, but
not in the reconstruction.

Source: fact sheet of Δ-IRIS, section 2.
"""

from typing import Any

import torch
from torch import Tensor, nn

from iris_cli.agents.delta_iris.config import GRID, IMAGE_SIZE, TokenizerConfig, map_size
from iris_cli.agents.delta_iris.transition_tokenizer import (
    CHANNELS,
    Paint,
    Painter,
    TransitionTokenizer,
    as_images,
    padded,
)
from iris_cli.nn.cosine_quantizer import CosineQuantizer
from iris_cli.nn.residual import FrameDecoder, FrameEncoder
from iris_cli.nn.transformer import init_gpt


class Tokenizer(TransitionTokenizer):
    """The published autoencoder; members are named as in the published state dict, so that its keys are ours.

    Args:
        config: sizes.
        num_actions: A.
        image_size: pixels, height and width of a frame.
    """

    encoding_fields = (
        "latent_channels", "base_channels", "channel_multipliers", "halvings", "patch", "codes", "code_width",
    )  # fmt: skip
    encoding_weights = ("encoder.", "encoder_act_emb.", "quantizer.codebook", "quantizer.pre_quant_proj.")
    decodes_alone = True

    def __init__(self, config: TokenizerConfig, *, num_actions: int, image_size: int = IMAGE_SIZE) -> None:
        super().__init__(config, image_size=image_size)
        self.map_size = map_size(config, image_size)  # pixels of the encoder's output
        self._patch = self.map_size // GRID
        levels: dict[str, Any] = {
            "multipliers": config.channel_multipliers,
            "halvings": config.halvings,
            "patch": config.patch,
        }
        self.encoder = FrameEncoder(
            2 * CHANNELS + 1, config.latent_channels, base=config.base_channels, **levels
        )  # fmt: skip
        self.frame_cnn = FrameEncoder(CHANNELS, config.past_channels, base=config.past_base_channels, **levels)
        self.decoder = FrameDecoder(
            config.past_channels + config.action_channels + config.latent_channels, CHANNELS,
            base=config.base_channels, **levels,
        )  # fmt: skip
        self.encoder_act_emb = nn.Embedding(num_actions, image_size**2)
        self.decoder_act_emb = nn.Embedding(num_actions, config.action_channels * self.map_size**2)
        self.quantizer = CosineQuantizer(
            config.codes, config.code_width, width=config.latent_channels * self._patch**2
        )  # fmt: skip
        self.apply(init_gpt)

    @torch.no_grad()
    def encode(self, past_frames: Tensor, actions: Tensor, frames: Tensor) -> Tensor:
        """As in `TransitionTokenizer`.

        A transition's tokens do not depend on its company: all pass in blocks of one fixed size, the last one padded,
        so that every convolution does the same arithmetic however many there are.
        """
        self._check(past_frames, actions)
        self._check(frames, actions)
        size = self._block_size(frames.device)
        parts = zip(past_frames.split(size), actions.split(size), frames.split(size), strict=True)
        tokens = []
        for past, action, frame in parts:  # one empty block for N = 0
            vectors = self.vectors(as_images(padded(past, size)), padded(action, size), as_images(padded(frame, size)))
            tokens.append(self.quantizer.tokens(vectors)[: len(frame)])
        return torch.cat(tokens)

    @torch.no_grad()
    def decode(self, past_frames: Tensor, actions: Tensor, tokens: Tensor) -> Tensor:
        """As in `TransitionTokenizer`."""
        self._check_tokens(past_frames, actions, tokens)
        size = self._block_size(tokens.device)
        parts = zip(past_frames.split(size), actions.split(size), tokens.split(size), strict=True)
        frames = [
            self.images_of(as_images(past), action, self.quantizer.lookup(token)) for past, action, token in parts
        ]
        return torch.cat(frames).clamp_(0, 1)

    def encode_rows(self, frames: Tensor, actions: Tensor) -> Tensor:
        """As in `TransitionTokenizer`; what came before plays no role."""
        past, after = frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1)
        return self.encode(past, actions.flatten(), after).unflatten(0, actions.shape)

    def decode_rows(self, past_frames: Tensor, actions: Tensor, tokens: Tensor) -> Tensor:
        """As in `TransitionTokenizer`; what came before plays no role."""
        return self.decode(past_frames.flatten(0, 1), actions.flatten(), tokens.flatten(0, 1)).unflatten(
            0, actions.shape
        )

    def painter(self, frames: Tensor, actions: Tensor, tokens: Tensor, *, keep: int = 1) -> Painter:
        """`decode`, as what came before plays no role."""
        return _Alone(self.decode)

    def vectors_of_rows(self, images: Tensor, actions: Tensor) -> Tensor:
        """As in `TransitionTokenizer`."""
        return self.vectors(images[:, :-1].flatten(0, 1), actions.flatten(), images[:, 1:].flatten(0, 1))

    def images_of_rows(self, past: Tensor, actions: Tensor, vectors: Tensor) -> Tensor:
        """As in `TransitionTokenizer`."""
        return self.images_of(past.flatten(0, 1), actions.flatten(), vectors)

    def vectors(self, past: Tensor, actions: Tensor, images: Tensor) -> Tensor:
        """What is quantized: images (N, 3, S, S) in [0, 1] and actions (N,) -> (N, 4, D), D = (k, l, channel)."""
        planes = self.encoder_act_emb(actions).unflatten(1, (1, self.image_size, self.image_size))
        latents = self.encoder(torch.cat([past, planes, images], 1))  # (N, C, s, s)
        grid = latents.unflatten(3, (GRID, self._patch)).unflatten(2, (GRID, self._patch))  # (N, C, h, k, w, l)
        return grid.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # (N, h*w, k*l*C)

    def images_of(self, past: Tensor, actions: Tensor, vectors: Tensor) -> Tensor:
        """The inverse of `vectors`, with what the quantizer made of them: (N, 3, S, S), about [0, 1]."""
        planes = self.decoder_act_emb(actions).unflatten(1, (-1, self.map_size, self.map_size))
        grid = vectors.unflatten(2, (self._patch, self._patch, -1)).unflatten(1, (GRID, GRID))  # (N, h, w, k, l, C)
        latents = grid.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)  # (N, C, s, s)
        return self.decoder(torch.cat([self.frame_cnn(past), planes, latents], 1))

    def _block_size(self, device: torch.device) -> int:
        """Transitions that pass at once: few on a CPU, whose caches then hold the maps."""
        return 4 * self.config.patch**2 if device.type == "cpu" else 64


class _Alone:
    """Decodes each transition alone, and has nothing to remember."""

    def __init__(self, decode: Paint) -> None:
        self._decode = decode

    def __call__(self, frames: Tensor, actions: Tensor, tokens: Tensor, /) -> Tensor:
        return self._decode(frames, actions, tokens)

    def save(self) -> None:
        return None

    def restore(self, saved: None) -> None:
        pass
