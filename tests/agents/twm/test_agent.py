"""The agent as a whole: what its surface promises, acting, new settings."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from iris_cli.agents.twm.agent import Agent
from iris_cli.agents.twm.config import PRESETS, TwmConfig
from iris_cli.errors import ShapeError
from iris_cli.learn.acting import Actor


@pytest.fixture
def agent() -> Agent:
    torch.manual_seed(0)
    return Agent(PRESETS["tiny"], 3).eval()


@pytest.fixture
def stacks() -> Tensor:
    return torch.randint(0, 256, (2, 3, 4, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


@pytest.mark.parametrize("actions", [4, 18])
def test_the_published_agent_has_21638439_parameters_and_769_per_action(actions: int) -> None:
    agent = Agent(TwmConfig(), actions)

    assert sum(p.numel() for p in agent.parameters()) == 21_638_439 + 769 * actions


@torch.no_grad()
def test_the_published_surface_has_its_shapes() -> None:
    agent = Agent(TwmConfig(), 6).eval()

    logits = agent.tokenizer.encode(torch.zeros(2, 4, 64, 64, dtype=torch.uint8))
    latents = agent.see(torch.zeros(2, 4, 64, 64, dtype=torch.uint8))
    images = agent.tokenizer.decode(latents)
    output = agent.dynamics(
        latents[None], torch.zeros(1, 2, dtype=torch.int64), torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.bool)
    )
    choice = agent.actor_critic(latents)

    assert (logits.shape, latents.shape, images.shape) == ((2, 32, 32), (2, 1024), (2, 4, 64, 64))
    assert (output.hidden.shape, output.logits_latents.shape) == ((1, 2, 256), (1, 2, 32, 32))
    assert (output.rewards.shape, output.logits_discounts.shape) == ((1, 2), (1, 2))
    assert (choice.logits_actions.shape, choice.values.shape) == ((2, 6), (2,))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_can_be_built(preset: str) -> None:
    assert Agent(PRESETS[preset], 4).config.preset == preset


def test_it_acts_on_the_most_probable_latents_through_the_actor_of_all_agents(agent: Agent, stacks: Tensor) -> None:
    actor = Actor(
        agent, 2, temperature=1.0, epsilon=0.0, generators=[torch.Generator().manual_seed(0) for _ in range(2)]
    )  # fmt: skip
    frames = stacks[:, 0].permute(0, 2, 3, 1).numpy()  # (E, 64, 64, 4)

    first = actor.act(frames)
    actor.forget(np.array([True, False]))
    second = actor.act(frames, np.array([False, True]))

    assert first.shape == second.shape == (2,)
    assert second[0] == 0
    probable = agent.tokenizer.encode(stacks[:, 0]).argmax(-1)
    assert torch.equal(agent.see(stacks[:, 0]).view(2, 4, 5).argmax(-1), probable)


def test_a_dream_begins_with_stacks_or_with_their_latents(agent: Agent, stacks: Tensor) -> None:
    actions, rewards, ends = torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, 2), torch.zeros(2, 2).bool()
    latents = agent.see(stacks.flatten(0, 1)).unflatten(0, (2, 3))

    seen = agent.begin_dream(stacks, None, actions, rewards, ends, greedy=True)
    told = agent.begin_dream(None, latents, actions, rewards, ends, greedy=True)

    assert torch.equal(seen.view, told.view)
    assert torch.equal(seen.step(actions[:, 0]).rewards, told.step(actions[:, 0]).rewards)
    with pytest.raises(ShapeError, match="neither"):
        agent.begin_dream(None, None, actions, rewards, ends)


def test_new_settings_leave_the_weights_as_they_are(agent: Agent) -> None:
    before = {name: weights.clone() for name, weights in agent.state_dict().items()}
    dynamics = dataclasses.replace(agent.config.dynamics, dropout=0.3)

    agent.configure(dataclasses.replace(agent.config, dynamics=dynamics))

    assert agent.dynamics.transformer.dropout.p == 0.3
    assert not agent.training
    assert all(torch.equal(before[name], weights) for name, weights in agent.state_dict().items())
