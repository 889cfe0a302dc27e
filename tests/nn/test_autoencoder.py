import pytest
import torch
from torch import nn

from iris_cli.nn.autoencoder import Decoder, Encoder

SIZES = {"widths": [32, 32, 64], "res_blocks": 1, "attention_resolutions": [8], "image_size": 16}


def test_the_image_is_halved_by_every_level_but_the_last_and_back() -> None:
    images = torch.randn(2, 3, 16, 16)

    latents = Encoder(3, 5, **SIZES)(images)

    assert latents.shape == (2, 5, 4, 4)
    assert Decoder(5, 3, **SIZES)(latents).shape == images.shape


def test_downsampling_pads_right_and_bottom_only() -> None:
    down = Encoder(3, 5, **SIZES).down[0].downsample
    nn.init.zeros_(down.conv.weight)
    nn.init.zeros_(down.conv.bias)
    with torch.no_grad():
        down.conv.weight[0, 0, 0, 0] = 1.0  # picks the top left pixel of each window

    image = torch.arange(16.0).view(1, 1, 4, 4).repeat(1, 32, 1, 1)

    assert down(image)[0, 0].tolist() == [[0, 2], [8, 10]]


def test_attention_follows_each_block_of_its_levels_and_sits_in_the_middle() -> None:
    encoder, decoder = Encoder(3, 5, **SIZES), Decoder(5, 3, **SIZES)

    assert [len(level.attn) for level in encoder.down] == [0, 1, 0]
    assert [len(level.attn) for level in decoder.up] == [0, 2, 0]
    assert encoder.mid.attn_1 is not None


def test_norms_have_the_published_eps() -> None:
    norms = [module for module in Encoder(3, 5, **SIZES).modules() if isinstance(module, nn.GroupNorm)]

    assert {(norm.num_groups, norm.eps) for norm in norms} == {(32, 1e-6)}


@pytest.mark.parametrize("network", [Encoder, Decoder])
def test_a_block_that_changes_width_has_a_shortcut(network: type) -> None:
    names = [name for name in network(3, 3, **SIZES).state_dict() if "nin_shortcut.weight" in name]

    assert names == ["down.2.block.0.nin_shortcut.weight" if network is Encoder else "up.1.block.0.nin_shortcut.weight"]
