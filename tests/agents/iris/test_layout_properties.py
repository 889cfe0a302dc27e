"""Where tokens, actions and their predictions stand, for any numbers of steps and actions."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from iris_cli.agents.iris.config import TOKENS_PER_BLOCK, TOKENS_PER_FRAME, DynamicsConfig
from iris_cli.agents.iris.dynamics import IGNORED, Dynamics, labels_of

CODES, ACTIONS, MOST = 5, 3, 4


def network(attention: str) -> Dynamics:
    torch.manual_seed(0)
    config = DynamicsConfig(
        layers=1, heads=2, width=8, max_blocks=MOST, segment_length=MOST, precision="float32", attention=attention,
        embedding_dropout=0.0, attention_dropout=0.0, residual_dropout=0.0, init_std=0.5,
    )  # fmt: skip
    return Dynamics(config, codes=CODES, num_actions=ACTIONS).eval()


NETWORKS = {attention: network(attention) for attention in ("causal", "block-causal")}


@st.composite
def sequences(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    batch, steps = draw(st.integers(1, 3)), draw(st.integers(1, MOST))
    tokens = torch.randint(CODES, (batch, steps, TOKENS_PER_FRAME), generator=generator)
    return tokens, torch.randint(ACTIONS, (batch, steps), generator=generator)


@given(sequences())
def test_every_input_has_one_place_and_every_output_its_shape(case: tuple[Tensor, Tensor]) -> None:
    tokens, actions = case
    dynamics = NETWORKS["causal"]

    embedded = dynamics.embed(tokens, actions).unflatten(1, (-1, TOKENS_PER_BLOCK))
    output = dynamics(tokens, actions)

    assert torch.equal(embedded[:, :, :-1], dynamics.embed_tokens(tokens))
    assert torch.equal(embedded[:, :, -1], dynamics.embed_actions(actions))
    batch, steps = actions.shape
    assert output.logits_tokens.shape == (batch, steps * TOKENS_PER_FRAME, CODES)
    assert output.logits_rewards.shape == (batch, steps, 3)
    assert output.logits_ends.shape == (batch, steps, 2)


@given(sequences(), st.data())
def test_a_prediction_knows_nothing_of_what_comes_after_it(case: tuple[Tensor, Tensor], data: st.DataObject) -> None:
    """Row k predicts token k + 1: it may depend on tokens up to k, and behind a frame's last one on its action."""
    tokens, actions = case
    dynamics, steps = NETWORKS["causal"], actions.shape[1]
    changed = data.draw(st.integers(0, steps * TOKENS_PER_FRAME - 1))
    other = tokens.flatten(1).clone()
    other[:, changed] = (other[:, changed] + 1) % CODES

    before = dynamics(tokens, actions)
    after = dynamics(other.view_as(tokens), actions)

    differs = (before.logits_tokens != after.logits_tokens).flatten(2).any(-1).any(0)
    step, place = divmod(changed, TOKENS_PER_FRAME)
    # The frame's last token is read by the action behind it, whose row is the last of the frame.
    first = changed if place < TOKENS_PER_FRAME - 1 else (step + 1) * TOKENS_PER_FRAME - 1
    assert not differs[:first].any()
    assert differs[first]
    assert torch.equal(before.logits_ends[:, :step], after.logits_ends[:, :step])


@given(sequences(), st.integers(0, 2**31))
def test_labels_are_the_next_tokens_and_padding_is_ignored(case: tuple[Tensor, Tensor], seed: int) -> None:
    tokens, actions = case
    generator = torch.Generator().manual_seed(seed)
    (batch, steps), mask = actions.shape, torch.rand(actions.shape, generator=generator) > 0.3
    rewards, ends = torch.randn(batch, steps, generator=generator), torch.rand(batch, steps, generator=generator) > 0.5

    of_tokens, of_rewards, of_ends = labels_of(tokens, rewards, ends, mask)

    flat = of_tokens.view(batch, steps * TOKENS_PER_FRAME - 1)
    for b in range(batch):
        for k in range(flat.shape[1]):
            step, place = divmod(k + 1, TOKENS_PER_FRAME)
            assert flat[b, k] == (tokens[b, step, place] if mask[b, step] else IGNORED)
        for t in range(steps):
            assert of_rewards.view(batch, steps)[b, t] == (rewards[b, t].sign() + 1 if mask[b, t] else IGNORED)
            assert of_ends.view(batch, steps)[b, t] == (int(ends[b, t]) if mask[b, t] else IGNORED)


@pytest.mark.parametrize("attention", sorted(NETWORKS))
def test_the_mask_lets_a_token_see_the_past_and_with_it_its_own_block(attention: str) -> None:
    mask = NETWORKS[attention].transformer.mask.tolist()

    for row in range(len(mask)):
        for column in range(len(mask)):
            same_block = row // TOKENS_PER_BLOCK == column // TOKENS_PER_BLOCK
            assert mask[row][column] == (column <= row or (attention == "block-causal" and same_block))
