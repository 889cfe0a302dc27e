"""Networks' parts on any numbers: two-hot buckets, key-value caches, codebooks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from iris_cli.nn.transformer import Transformer
from iris_cli.nn.two_hot import TwoHotSymlog, symexp, symlog
from iris_cli.nn.vector_quantizer import VectorQuantizer

seeds = st.integers(0, 2**31)


@given(st.lists(st.floats(-1e8, 1e8), min_size=1, max_size=20))
def test_two_hot_weights_stand_for_their_number(values: list[float]) -> None:
    codec, x = TwoHotSymlog(), torch.tensor(values, dtype=torch.float64)
    codec = codec.double()

    weights = codec.probabilities(x)
    back = codec.expectation((weights + 1e-300).log())

    assert torch.all((weights >= 0) & (weights <= 1))
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(x))
    assert torch.all((weights > 0).sum(-1) <= 2)
    positions = torch.arange(len(codec.buckets))
    for row in weights:
        hot = positions[row > 0]
        assert len(hot) == 1 or hot[1] - hot[0] == 1  # neighbours
    torch.testing.assert_close(back, x, rtol=1e-5, atol=1e-6)  # the buckets are linspace'd in float32


@given(st.floats(-1e30, 1e30))
def test_symexp_undoes_symlog(value: float) -> None:
    x = torch.tensor(value, dtype=torch.float64)

    torch.testing.assert_close(symexp(symlog(x)), x, rtol=1e-9, atol=1e-12)
    assert symlog(-x) == -symlog(x)


@st.composite
def reads(draw: st.DrawFn) -> tuple[int, list[int], int, bool]:
    """Blocks of a sequence, how they are split into reads, a seed, and whether attention is block-causal."""
    pieces = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    return sum(pieces), pieces, draw(seeds), draw(st.booleans())


@given(reads())
def test_any_split_of_a_sequence_into_reads_equals_one_read(case: tuple[int, list[int], int, bool]) -> None:
    """In causal attention blocks have one token, so that they split anywhere."""
    blocks, pieces, seed, block_causal = case
    torch.manual_seed(seed)
    size = 3 if block_causal else 1
    network = Transformer(
        layers=2, heads=2, width=8, max_tokens=blocks * size, tokens_per_block=size,
        attention="block-causal" if block_causal else "causal",
    ).eval()  # fmt: skip
    x = torch.randn(2, blocks * size, 8)
    cache, found = network.new_cache(2), []

    with torch.no_grad():
        for part in x.split([piece * size for piece in pieces], 1):
            found.append(network(part, cache))
        whole = network(x)

    assert cache.length == blocks * size
    torch.testing.assert_close(torch.cat(found, 1), whole, rtol=1e-4, atol=1e-5)


@given(st.integers(0, 5), st.integers(1, 5), seeds)
def test_a_cache_that_is_restored_goes_on_as_if_nothing_had_come_between(before: int, after: int, seed: int) -> None:
    torch.manual_seed(seed)
    network = Transformer(layers=1, heads=2, width=8, max_tokens=16).eval()
    x, other = torch.randn(2, 1, before + after, 8), torch.randn(1, 4, 8)
    cache = network.new_cache(1)

    with torch.no_grad():
        if before:
            network(x[0][:, :before], cache)
        saved = cache.save()
        network(other, cache)
        cache.restore(saved)
        assert cache.length == before
        found = network(x[0][:, before:], cache)

    torch.testing.assert_close(found, network(x[0])[:, before:].detach(), rtol=1e-4, atol=1e-5)


@st.composite
def quantized(draw: st.DrawFn) -> tuple[VectorQuantizer, Tensor]:
    torch.manual_seed(draw(seeds))
    codes, width = draw(st.integers(1, 9)), draw(st.integers(1, 5))
    quantizer = VectorQuantizer(codes, width)
    with torch.no_grad():
        quantizer.weight.normal_()
    return quantizer, torch.randn(draw(st.integers(1, 3)), width, 2, 3)


@given(quantized())
def test_a_token_is_the_nearest_code(case: tuple[VectorQuantizer, Tensor]) -> None:
    quantizer, latents = case

    tokens = quantizer.tokens(latents)

    flat = latents.permute(0, 2, 3, 1).flatten(0, 2)
    distances = torch.cdist(flat.double(), quantizer.weight.detach().double())
    chosen = distances.gather(1, tokens.flatten()[:, None])[:, 0]
    torch.testing.assert_close(chosen, distances.min(1).values, rtol=1e-4, atol=1e-4)
    assert tokens.shape == (len(latents), 2, 3)


@given(quantized())
def test_a_code_is_its_own_token_and_gradients_pass_straight_through(case: tuple[VectorQuantizer, Tensor]) -> None:
    quantizer, latents = case
    tokens = quantizer.tokens(latents)

    assert torch.equal(quantizer.tokens(quantizer.lookup(tokens).detach()), tokens)

    latents.requires_grad_()
    found = quantizer(latents)
    torch.testing.assert_close(found.latents, quantizer.lookup(found.tokens), rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(found.latents.sum(), latents)
    assert torch.equal(gradient, torch.ones_like(latents))
    assert found.loss >= 0


@given(st.integers(1, 4), seeds)
def test_a_codebook_that_adapts_stays_finite(steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    quantizer = VectorQuantizer(6, 3, ema_decay=0.9, revive_after=2).train()
    for _ in range(steps):
        quantizer(torch.randn(2, 3, 2, 2) * 10.0 ** torch.randint(-3, 3, ()))
        quantizer.update_codebook()

    assert torch.isfinite(quantizer.weight).all()
    assert quantizer.tokens(torch.randn(1, 3, 2, 2)).max() < 6
    assert not quantizer.parked.all() or pytest.fail("every code is parked")
