"""The policy and value network against the published numbers, and what those do not pin."""

import pytest
import torch
from torch import Tensor

from iris_cli.agents.iris.actor_critic import ActorCritic, Memory
from iris_cli.agents.iris.agent import Agent
from iris_cli.agents.iris.config import ActorCriticConfig
from iris_cli.errors import ConfigError, ShapeError

CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture
def views(golden: dict[str, Tensor]) -> Tensor:
    """(3, 5, 3, 64, 64) in [0, 1]; raw frames, as the golden run fed them."""
    return golden["in.actor_critic.observations"].float() / 255


@pytest.mark.parity
@torch.no_grad()
def test_a_sequence_gives_the_published_outputs(agent: Agent, golden: dict[str, Tensor], views: Tensor) -> None:
    memory, logits, values = None, [], []
    for t in range(5):
        output = agent.actor_critic(views[:, t], memory)
        memory = output.memory
        logits.append(output.logits_actions)
        values.append(output.values)

    expected = {name: golden[f"out.actor_critic.seq.{name}"] for name in ("logits_actions", "values", "hx", "cx")}
    torch.testing.assert_close(torch.stack(logits, 1), expected["logits_actions"], **CLOSE)
    torch.testing.assert_close(torch.stack(values, 1), expected["values"], **CLOSE)
    torch.testing.assert_close(memory.hidden, expected["hx"], **CLOSE)
    torch.testing.assert_close(memory.cell, expected["cx"], **CLOSE)


@pytest.mark.parity
@torch.no_grad()
def test_burn_in_gives_the_published_memory(agent: Agent, golden: dict[str, Tensor], views: Tensor) -> None:
    memory = agent.actor_critic.burn_in(views[:, :3], golden["in.actor_critic.burnin_mask"])

    torch.testing.assert_close(memory.hidden, golden["out.actor_critic.burnin.hx"], **CLOSE)
    torch.testing.assert_close(memory.cell, golden["out.actor_critic.burnin.cx"], **CLOSE)
    for t in range(2):
        output = agent.actor_critic(views[:, 3 + t], memory)
        memory = output.memory
        expected = golden["out.actor_critic.burnin.logits_actions"][:, t]
        torch.testing.assert_close(output.logits_actions, expected, **CLOSE)
        torch.testing.assert_close(output.values, golden["out.actor_critic.burnin.values"][:, t], **CLOSE)


def test_a_row_of_padding_keeps_the_memory_of_a_start(agent: Agent, views: Tensor) -> None:
    mask = torch.tensor([[False] * 5, [False, False, True, True, True], [True] * 5])

    memory = agent.actor_critic.burn_in(views, mask)

    assert not memory.hidden[0].any()
    assert not memory.cell[0].any()
    shorter = agent.actor_critic.burn_in(views[1:2, 2:], mask[1:2, 2:])
    torch.testing.assert_close(memory.hidden[1:2], shorter.hidden)
    assert not memory.hidden.requires_grad


def test_no_memory_is_a_memory_of_zeros(agent: Agent, views: Tensor) -> None:
    zeros = Memory(torch.zeros(3, 512), torch.zeros(3, 512))

    assert torch.equal(agent.actor_critic(views[:, 0], None).values, agent.actor_critic(views[:, 0], zeros).values)


@pytest.mark.parametrize("kind", ["pooled", "strided"])
def test_gradient_flows_through_heads_memory_and_trunk(views: Tensor, kind: str) -> None:
    torch.manual_seed(0)
    network = ActorCritic(ActorCriticConfig(network=kind, channels=(4, 4, 8, 8), lstm_width=8), num_actions=3)
    views = views.clone().requires_grad_()
    memory = network(views[:, 0], None).memory

    output = network(views[:, 1], memory)
    (output.values.sum() + output.logits_actions.square().sum()).backward()

    assert all(parameter.grad.any() for parameter in network.parameters())
    assert views.grad[:, 0].any()


@torch.no_grad()
def test_a_strided_network_gives_what_a_pooled_one_does_from_maps_of_a_16th_of_the_pixels(views: Tensor) -> None:
    torch.manual_seed(0)
    networks = [
        ActorCritic(ActorCriticConfig(network=kind, channels=(4, 6, 8, 10), lstm_width=12), num_actions=3)
        for kind in ("pooled", "strided")
    ]

    outputs = [network(views[:, 1], network.burn_in(views[:, :1], torch.ones(3, 1) > 0)) for network in networks]

    assert [output.logits_actions.shape for output in outputs] == [(3, 3)] * 2
    assert [output.values.shape for output in outputs] == [(3,)] * 2
    assert all(part.shape == (3, 12) for output in outputs for part in output.memory)
    assert [network.conv1(views[:, 0]).shape[1:] for network in networks] == [(4, 64, 64), (4, 16, 16)]
    assert list(networks[0].state_dict()) == list(networks[1].state_dict())


@torch.no_grad()
def test_a_strided_network_sees_every_row_and_column() -> None:
    torch.manual_seed(0)
    first = ActorCritic(ActorCriticConfig(network="strided"), num_actions=3).conv1
    black = torch.zeros(64, 3, 64, 64)
    dotted = black.clone()
    dotted[range(64), :, range(64), range(63, -1, -1)] = 1.0  # a pixel each, in every row and column

    assert (first(dotted) != first(black)).flatten(1).any(1).all()


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(ConfigError, match="'stridded' is not one of pooled, strided") as caught:
        ActorCriticConfig(network="stridded")

    assert caught.value.where == "actor_critic.network"


@pytest.mark.parametrize("actions", [4, 18])
def test_the_published_size_has_the_published_number_of_parameters(actions: int) -> None:
    with torch.device("meta"):
        network = ActorCritic(ActorCriticConfig(), num_actions=actions)

    assert sum(parameter.numel() for parameter in network.parameters()) == 3_215_905 + 513 * actions


@pytest.mark.parametrize(
    ("frames", "memory", "message"),
    [
        (torch.zeros(2, 3, 32, 32), None, r"Got \(2, 3, 32, 32\)"),
        (torch.zeros(3, 64, 64), None, r"Got \(3, 64, 64\)"),
        (torch.zeros(2, 3, 64, 64, dtype=torch.uint8), None, "float32"),
        (torch.zeros(2, 3, 64, 64), Memory(torch.zeros(1, 512), torch.zeros(1, 512)), r"\(2, 512\). Got \(1, 512\)"),
    ],
)
def test_wrong_arguments_say_what_was_expected(
    agent: Agent, frames: Tensor, memory: Memory | None, message: str
) -> None:
    with pytest.raises(ShapeError, match=message):
        agent.actor_critic(frames, memory)


def test_burn_in_needs_a_mask_of_its_steps(agent: Agent, views: Tensor) -> None:
    with pytest.raises(ShapeError, match="mask"):
        agent.actor_critic.burn_in(views, torch.ones(3, 4, dtype=torch.bool))
