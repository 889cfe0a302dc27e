"""The GPT and its cache."""

import pytest
import torch
from torch import Tensor

from iris_cli.nn.transformer import Transformer

BLOCK = 3


def make(attention: str = "causal", **settings: object) -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        layers=2, heads=2, width=8, max_tokens=12, attention=attention, tokens_per_block=BLOCK, **settings
    ).eval()


def read_in_pieces(transformer: Transformer, x: Tensor, sizes: list[int]) -> Tensor:
    cache = transformer.new_cache(len(x))
    return torch.cat([transformer(piece, cache) for piece in x.split(sizes, 1)], 1)


@pytest.mark.parametrize("sizes", [[1] * 12, [5, 1, 4, 2], [12]])
@torch.no_grad()
def test_cached_reading_equals_the_full_pass(sizes: list[int]) -> None:
    transformer, x = make(), torch.randn(2, 12, 8)

    pieces = read_in_pieces(transformer, x, sizes)

    torch.testing.assert_close(pieces, transformer(x), atol=2e-6, rtol=0)


@torch.no_grad()
def test_cached_reading_of_whole_blocks_equals_the_full_block_causal_pass() -> None:
    transformer, x = make("block-causal"), torch.randn(2, 12, 8)

    pieces = read_in_pieces(transformer, x, [BLOCK, 2 * BLOCK, BLOCK])

    torch.testing.assert_close(pieces, transformer(x), atol=2e-6, rtol=0)


def make_random(attention: str = "causal", **dropout: float) -> Transformer:
    """With weights, biases and gains that all show in the outputs; in float64, so that any difference does."""
    transformer = make(attention, **dropout).double()
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return transformer


@pytest.mark.parametrize("attention", ["causal", "block-causal"])
@pytest.mark.parametrize("before", [0, 1, BLOCK, 3 * BLOCK + 2])
def test_one_token_is_read_in_dreams_as_anywhere_else(attention: str, before: int) -> None:
    transformer = make_random(attention).requires_grad_(False)
    context, x = torch.randn(3, before, 8).double(), torch.randn(3, 1, 8).double()
    outputs, caches = [], []

    for gradients, training in ((False, False), (True, False), (False, True)):  # only the first is a dream
        cache = transformer.eval().new_cache(3)
        if before:
            transformer(context, cache)
        with torch.set_grad_enabled(gradients):
            outputs.append(transformer.train(training)(x, cache))
        caches.append(cache)

    for output, cache in zip(outputs[1:], caches[1:], strict=True):
        torch.testing.assert_close(outputs[0], output, atol=1e-12, rtol=0)
        torch.testing.assert_close(caches[0].memory, cache.memory, atol=1e-12, rtol=0)
    assert caches[0].memory[:, :, :, :, before].all()
    assert not caches[0].memory[:, :, :, :, before + 1 :].any()
    assert [cache.length for cache in caches] == [before + 1] * 3


@pytest.mark.parametrize("attention", ["causal", "block-causal"])
@torch.no_grad()
def test_tokens_read_one_by_one_equal_a_whole_causal_sequence(attention: str) -> None:
    transformer, whole, x = make_random(attention), make_random("causal"), torch.randn(2, 12, 8).double()
    whole.load_state_dict(transformer.state_dict())
    one_by_one, at_once = transformer.new_cache(2), whole.new_cache(2)

    pieces = torch.cat([transformer(token, one_by_one) for token in x.split(1, 1)], 1)

    torch.testing.assert_close(pieces, whole(x), atol=1e-12, rtol=0)
    torch.testing.assert_close(pieces, whole(x, at_once), atol=1e-12, rtol=0)
    torch.testing.assert_close(one_by_one.memory, at_once.memory, atol=1e-12, rtol=0)
    assert one_by_one.length == at_once.length == 12


@torch.no_grad()
def test_whole_blocks_and_then_single_tokens_are_read_as_in_pieces_of_any_size() -> None:
    transformer, x = make_random("block-causal"), torch.randn(2, 2 * BLOCK + 1, 8).double()

    pieces = read_in_pieces(transformer, x, [BLOCK, BLOCK, 1])

    torch.testing.assert_close(pieces, transformer(x), atol=1e-12, rtol=0)


@pytest.mark.parametrize("dropout", ["embedding_dropout", "attention_dropout", "residual_dropout"])
@torch.no_grad()
def test_one_token_in_training_mode_is_dropped_from_as_any_other(dropout: str) -> None:
    transformer, x = make_random(**{dropout: 0.5}), torch.randn(2, 1, 8).double()

    still, *again = (transformer(x, transformer.new_cache(2)) for _ in range(3))
    noisy = [transformer.train()(x, transformer.new_cache(2)) for _ in range(3)]

    assert all(torch.equal(still, other) for other in again)
    assert any(not torch.equal(still, other) for other in noisy)


@pytest.mark.parametrize(("attention", "reach"), [("causal", 4), ("block-causal", 3)])
@torch.no_grad()
def test_a_token_changes_only_what_may_see_it(attention: str, reach: int) -> None:
    transformer, x = make(attention), torch.randn(1, 12, 8)
    changed = x.clone()
    changed[:, 4] *= -1

    differs = (transformer(x) != transformer(changed)).any(-1)[0]

    assert differs.tolist() == [position >= reach for position in range(12)]


@torch.no_grad()
def test_a_reset_cache_forgets() -> None:
    transformer, x = make(), torch.randn(2, 4, 8)
    cache = transformer.new_cache(2)
    transformer(torch.randn(2, 7, 8), cache)

    cache.reset()

    torch.testing.assert_close(transformer(x, cache), transformer(x), atol=2e-6, rtol=0)
    assert cache.length == 4


def test_gradient_checkpointing_changes_no_gradient() -> None:
    x, gradients = torch.randn(2, 12, 8), []
    for checkpointing in (False, True):
        transformer = make(gradient_checkpointing=checkpointing, residual_dropout=0.5).train()
        torch.manual_seed(1)
        transformer(x).square().sum().backward()
        gradients.append([parameter.grad for parameter in transformer.parameters()])

    torch.testing.assert_close(*gradients)


def test_dropout_of_every_kind_is_off_in_eval_mode() -> None:
    transformer = make(embedding_dropout=0.5, attention_dropout=0.5, residual_dropout=0.5)
    x = torch.randn(2, 12, 8)

    assert torch.equal(transformer(x), transformer(x))
    assert not torch.equal(transformer.train()(x), transformer(x))


def test_weights_are_drawn_as_in_gpt() -> None:
    transformer = Transformer(layers=1, heads=2, width=64, max_tokens=64)

    for name, parameter in transformer.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif "ln" in name:
            assert (parameter == 1).all()
        else:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("attention", ["causal", "block-causal"])
def test_attention_is_that_of_the_forward_pass(attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    transformer, x = make_random(attention).requires_grad_(False), torch.randn(2, 7, 8).double()
    used: list[Tensor] = []

    def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool, _: float) -> Tensor:
        every = torch.eye(7).double().expand(2, 2, 7, 7)  # instead of values: what comes out is the attention itself
        used.append(torch.nn.functional.scaled_dot_product_attention(queries, keys, every, mask, is_causal=causal))
        return torch.nn.functional.scaled_dot_product_attention(queries, keys, values, mask, is_causal=causal)

    monkeypatch.setattr("iris_cli.nn.transformer._attend", attend)
    transformer(x)
    expected = used[:2]

    found = list(transformer.attention(x))

    assert len(found) == 2
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
