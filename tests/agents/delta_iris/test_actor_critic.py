"""Policy, value and their slow copy against the published numbers, and their surface."""

import pytest
import torch

from iris_cli.agents.delta_iris.actor_critic import ActorCritic, Memory
from iris_cli.agents.delta_iris.agent import Agent
from iris_cli.agents.delta_iris.config import PRESETS
from iris_cli.errors import ShapeError
from iris_cli.learn.actor_critic import lambda_returns

from .conftest import Golden, assert_close


@pytest.mark.parametrize(
    ("preset", "actions", "parameters"), [("crafter", 17, 7_490_432), ("atari", 18, 7_230_854), ("atari", 4, 7_216_490)]
)
def test_the_published_networks_have_as_many_parameters_as_published(
    preset: str, actions: int, parameters: int
) -> None:
    actor_critic = ActorCritic(PRESETS[preset].actor_critic, num_actions=actions)

    assert sum(p.numel() for p in actor_critic.parameters()) == parameters


@pytest.mark.parity
@pytest.mark.parametrize("name", ["model", "target_model"])
@torch.no_grad()
def test_both_networks_say_what_the_published_ones_say(agent: Agent, golden: Golden, name: str) -> None:
    network, expected = agent.actor_critic.get_submodule(name), golden.below(f"out.actor_critic.{name}.")
    frames = golden["in.actor_critic.frames_u8"]  # (2, 6, 3, S, S)

    assert_close(network.features(agent.see(frames[:, 0])), expected["cnn_features_t0"])
    memory = None
    for t in range(6):
        output = network(agent.see(frames[:, t]), memory)
        memory = output.memory
        assert_close(output.logits_actions, expected["logits_actions"][:, t])
        assert_close(output.values, expected["values"][:, t], rtol=1e-4)
        if golden.is_symlog:
            assert_close(output.logits_values, expected["logits_values"][:, t])
        else:
            assert output.logits_values is None
    assert_close(memory.hidden, expected["hx"])
    assert_close(memory.cell, expected["cx"])


@pytest.mark.parity
@pytest.mark.parametrize(
    ("name", "gamma", "lam"),
    [("g0995_l095", 0.995, 0.95), ("g0997_l095", 0.997, 0.95), ("g09_l0", 0.9, 0.0), ("g09_l1", 0.9, 1.0)],
)
def test_lambda_returns_are_the_published_ones(golden: Golden, name: str, gamma: float, lam: float) -> None:
    given = golden.below("in.lambda.")

    returns = lambda_returns(
        given["rewards"], gamma * (1 - given["ends"].float()), given["values"], given["bootstrap"], lam=lam
    )

    assert_close(returns, golden[f"out.lambda.{name}"])


@pytest.mark.parity
def test_burning_in_reads_padding_as_black_frames(agent: Agent, golden: Golden) -> None:
    frames = agent.see(golden["in.actor_critic.frames_u8"][:, 0])[:, None].repeat(1, 3, 1, 1, 1)
    mask = torch.tensor([[True, True, True], [False, True, True]])

    memory = agent.actor_critic.burn_in(frames, mask)

    frames[1, 0] = 0
    step = None
    for t in range(3):
        with torch.no_grad():
            step = agent.actor_critic(frames[:, t], step).memory
    assert_close(memory.hidden, step.hidden)
    assert_close(memory.cell, step.cell)


def test_first_values_are_zero_and_the_slow_copy_starts_as_a_copy() -> None:
    frames = torch.rand(2, 3, 64, 64)
    for preset in ("tiny", "small"):
        actor_critic = ActorCritic(PRESETS[preset].actor_critic, num_actions=4)

        output = actor_critic(frames, None)

        assert output.values.abs().max() < 1e-6
        assert torch.equal(output.logits_actions, actor_critic.target_model(frames, None).logits_actions)


def test_only_the_network_that_acts_learns_and_the_slow_copy_follows_it() -> None:
    actor_critic = ActorCritic(PRESETS["tiny"].actor_critic, num_actions=4)
    slow, fast = actor_critic.target_model.lstm.weight_hh, actor_critic.model.lstm.weight_hh
    assert not any(p.requires_grad for p in actor_critic.target_model.parameters())
    before = slow.clone()

    with torch.no_grad():
        fast.add_(1.0)
    actor_critic.update_target()

    assert_close(slow, before + 0.005, atol=1e-6)


def test_wrong_arguments_say_what_was_expected() -> None:
    actor_critic = ActorCritic(PRESETS["tiny"].actor_critic, num_actions=4)
    frames = torch.rand(2, 3, 64, 64)

    with pytest.raises(ShapeError, match=r"float32 in \[0, 1\]. Got \(2, 3, 64, 64\) torch.uint8"):
        actor_critic(frames.byte(), None)
    with pytest.raises(ShapeError, match=r"\(2, 32\). Got \(3, 32\)"):
        actor_critic(frames, Memory(torch.zeros(3, 32), torch.zeros(3, 32)))
    with pytest.raises(ShapeError, match="mask"):
        actor_critic.burn_in(frames[None], torch.ones(2, 2, dtype=torch.bool))
