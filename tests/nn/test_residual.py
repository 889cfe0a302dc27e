"""Residual encoder and decoder. Their numbers are held by the golden tensors of the agents that use them."""

import pytest
import torch
from torch.nn import functional as F

from iris_cli.nn.residual import FrameDecoder, FrameEncoder, _folded, _unfolded

PUBLISHED = {"base": 64, "multipliers": (1, 1, 2, 2, 4), "halvings": (1, 0, 1, 1, 0)}


@pytest.mark.parametrize(
    ("network", "parameters"),
    [(FrameEncoder(7, 64, **PUBLISHED), 1_892_992), (FrameDecoder(76, 3, **PUBLISHED), 1_548_867)],
)
def test_published_sizes_have_the_published_number_of_parameters(network: torch.nn.Module, parameters: int) -> None:
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("patch", [1, 4])
def test_the_decoder_undoes_the_sizes_of_the_encoder(patch: int) -> None:
    levels = {"base": 32, "multipliers": (1, 2, 1), "halvings": (patch == 1, patch == 1, 0), "patch": patch}
    images = torch.rand(2, 3, 16, 16)

    latents = FrameEncoder(3, 5, **levels)(images)
    frames = FrameDecoder(5, 3, **levels)(latents)

    assert latents.shape == (2, 5, 4, 4)
    assert frames.shape == images.shape


def test_folded_pixels_come_back_where_they_were_even_if_there_are_none() -> None:
    images = torch.rand(2, 3, 8, 8)

    assert torch.equal(_folded(images, 4), F.pixel_unshuffle(images, 4))
    assert torch.equal(_unfolded(_folded(images, 4), 4), images)
    assert _unfolded(_folded(images[:0], 4), 4).shape == (0, 3, 8, 8)
