"""The Transformer-XL against plain loops, its cache, and its initial weights. Published numbers: tests/agents/twm."""

import math

import pytest
import torch
from torch import Tensor

from iris_cli.nn.transformer_xl import TransformerXL, keep_last, sinusoids

SIZES = {"layers": 2, "heads": 2, "head_width": 3, "width": 8, "feedforward": 12, "dropout": 0.0}


@pytest.fixture
def network() -> TransformerXL:
    torch.manual_seed(0)
    network = TransformerXL(**SIZES).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return network


def causal(tokens: int) -> Tensor:
    return torch.ones(1, tokens, tokens, dtype=torch.bool).tril()


def read(network: TransformerXL, x: Tensor, pieces: list[int], room: int) -> Tensor:
    """Read x (B, n, E) through a cache, some tokens at a time."""
    cache, out, start = network.new_cache(len(x), room), [], 0
    for size in pieces:
        visible = causal(start + size)[:, start:].expand(len(x), -1, -1)
        out.append(network(x[:, start : start + size], visible, cache))
        start += size
    return torch.cat(out, 1)


@torch.no_grad()
def test_attention_is_the_formula_written_out(network: TransformerXL) -> None:
    x = torch.randn(1, 5, 8)
    weights: list[Tensor] = []
    network(x, causal(5), weights=weights)

    attention = network.layers[0].self_attn
    queries, keys, _ = attention.qkv_proj(x[0]).unflatten(-1, (3, 2, 3)).unbind(1)  # (5, heads, 3)
    places = attention.pos_proj(sinusoids(torch.arange(5), 8)).unflatten(-1, (2, 3))
    expected = torch.zeros(2, 5, 5)
    for h in range(2):
        for i in range(5):
            content = keys[: i + 1, h] @ (queries[i, h] + network.u_bias[h])
            place = places[: i + 1, h].flip(0) @ (queries[i, h] + network.v_bias[h])
            scores = content + place
            expected[h, i, : i + 1] = (scores / math.sqrt(8)).softmax(-1)

    torch.testing.assert_close(weights[0][0], expected)


@torch.no_grad()
def test_reading_in_pieces_equals_reading_at_once(network: TransformerXL) -> None:
    x = torch.randn(2, 7, 8)
    at_once = network(x, causal(7).expand(2, -1, -1))

    torch.testing.assert_close(read(network, x, [2, 3, 1, 1], 9), at_once)


@torch.no_grad()
def test_a_cache_that_forgets_goes_on_with_what_it_kept(network: TransformerXL) -> None:
    x = torch.randn(1, 7, 8)
    band = causal(7) & ~torch.ones(7, 7, dtype=torch.bool).tril(-3)  # each sees itself and two before it
    at_once = network(x, band)
    cache = network.new_cache(1, 4)

    pieces = []
    for i in range(7):
        keep_last(cache, 3)
        behind = cache.length
        visible = torch.ones(1, 1, behind + 1, dtype=torch.bool)
        visible[..., : max(behind - 2, 0)] = False
        pieces.append(network(x[:, i : i + 1], visible, cache))

    assert cache.length == 4
    torch.testing.assert_close(torch.cat(pieces, 1), at_once)


def test_all_layers_begin_alike_and_share_their_biases() -> None:
    network = TransformerXL(**SIZES)
    first, second = (layer.state_dict() for layer in network.layers)

    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [name for name, _ in network.named_parameters() if "_bias" in name] == ["u_bias", "v_bias"]


def test_a_layer_has_854272_parameters() -> None:
    network = TransformerXL(layers=10, heads=4, head_width=64, width=256, feedforward=1024, dropout=0.1)

    assert sum(p.numel() for p in network.layers[0].parameters()) == 854_272
    assert sum(p.numel() for p in network.parameters()) == 8_543_232
