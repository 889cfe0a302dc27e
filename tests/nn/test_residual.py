"""Residual encoder and decoder. Their numbers are held by the golden tensors of the agents that use them."""

import pytest
import torch

from iris_cli.nn.residual import FrameDecoder, FrameEncoder

PUBLISHED = {"base": 64, "multipliers": (1, 1, 2, 2, 4), "halvings": (1, 0, 1, 1, 0)}


@pytest.mark.parametrize(
    ("network", "parameters"),
    [(FrameEncoder(7, 64, **PUBLISHED), 1_892_992), (FrameDecoder(76, 3, **PUBLISHED), 1_548_867)],
)
def test_published_sizes_have_the_published_number_of_parameters(network: torch.nn.Module, parameters: int) -> None:
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_the_decoder_undoes_the_sizes_of_the_encoder() -> None:
    levels = {"base": 32, "multipliers": (1, 2, 1), "halvings": (1, 1, 0)}
    images = torch.rand(2, 3, 16, 16)

    latents = FrameEncoder(3, 5, **levels)(images)
    frames = FrameDecoder(5, 3, **levels)(latents)

    assert latents.shape == (2, 5, 4, 4)
    assert frames.shape == images.shape
