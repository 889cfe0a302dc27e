"""The agent as a whole: what its surface promises, acting, new settings."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from iris_cli.agents.twm.agent import Agent
from iris_cli.agents.twm.config import PRESETS, TwmConfig
from iris_cli.agents.twm.learning import dynamics_loss, world_losses
from iris_cli.agents.twm.world import TwmDream
from iris_cli.errors import ShapeError
from iris_cli.learn.acting import Actor
from iris_cli.nn.categorical import most_probable
from iris_cli.replay.windows import Windows


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
    actions, rewards = torch.zeros(2, 2, dtype=torch.int64), torch.tensor([[0.0, 5.0], [0.0, 0.0]])
    latents = agent.see(stacks.flatten(0, 1)).unflatten(0, (2, 3))

    seen = agent.begin_dream(stacks, None, actions, rewards=rewards, greedy=True)
    told = agent.begin_dream(None, latents, actions, rewards=rewards, greedy=True)
    unpaid = agent.begin_dream(None, latents, actions, greedy=True)
    squashed = TwmDream(agent.dynamics, latents, actions, rewards.tanh(), torch.zeros(2, 2).bool(), greedy=True)

    assert torch.equal(seen.view, told.view)
    expected = [dream.step(actions[:, 0]).rewards for dream in (seen, told, squashed, unpaid)]
    assert torch.equal(expected[0], expected[1])
    assert torch.equal(expected[0], expected[2])
    assert [bool(same) for same in expected[0] == expected[3]] == [False, True]
    with pytest.raises(ShapeError, match="neither"):
        agent.begin_dream(None, None, actions)


def test_new_settings_leave_the_weights_as_they_are(agent: Agent) -> None:
    before = {name: weights.clone() for name, weights in agent.state_dict().items()}
    dynamics = dataclasses.replace(agent.config.dynamics, dropout=0.3)

    agent.configure(dataclasses.replace(agent.config, dynamics=dynamics))

    assert agent.dynamics.transformer.dropout.p == 0.3
    assert not agent.training
    assert all(torch.equal(before[name], weights) for name, weights in agent.state_dict().items())


def some_windows(steps: int, *, fresh: int = 3) -> Windows:
    """3 windows of so many steps and one before them, with random content."""
    draws = torch.Generator().manual_seed(1)
    return Windows(
        stacks=torch.randint(0, 256, (3, steps + 2, 4, 64, 64), generator=draws).to(torch.uint8),
        actions=torch.randint(3, (3, steps + 1), generator=draws),
        rewards=torch.rand(3, steps + 1, generator=draws),
        terminations=torch.rand(3, steps + 1, generator=draws) < 0.2,
        truncations=torch.rand(3, steps + 1, generator=draws) < 0.2,
        fresh=torch.zeros(fresh, 4, 64, 64, dtype=torch.uint8),
    )


def test_before_dreams_the_actor_critic_learns_the_returns_of_real_steps(agent: Agent) -> None:
    for parameter in agent.actor_critic.critic_model.parameters():
        torch.nn.init.zeros_(parameter)
    windows = some_windows(5)
    windows.rewards[:, 0] = 1e6  # of the step before, which is none of theirs

    [[part]] = agent.actor_critic_losses(windows, torch.Generator().manual_seed(0))

    returns, after = [], torch.zeros(3)
    for t in reversed(range(1, 6)):  # with values of 0, lambda only shortens the sight
        goes_on = ~(windows.terminations | windows.truncations)[:, t]
        after = windows.rewards[:, t] + 0.99 * 0.95 * goes_on * after
        returns.append(after)
    torch.testing.assert_close(part.losses.parts["returns"], torch.stack(returns).mean())
    uniform = part.losses.parts["loss_entropy"] / -agent.config.actor_critic.entropy_weight
    assert 0.5 < uniform <= 1


def test_alone_the_dynamics_learns_what_it_learns_jointly(agent: Agent) -> None:
    windows = some_windows(4)
    draw = most_probable  # the same latents for both
    alone = dynamics_loss(agent.tokenizer, agent.dynamics, windows, draw)
    jointly = world_losses(agent.tokenizer, agent.dynamics, windows, draw).dynamics

    torch.testing.assert_close(alone.total, jointly.total)
    assert {name: value.item() for name, value in alone.parts.items()} == pytest.approx(
        {name: value.item() for name, value in jointly.parts.items()}, rel=1e-5
    )


def test_the_tokenizer_alone_is_not_asked_to_be_consistent(agent: Agent) -> None:
    [[part]] = agent.tokenizer_losses(some_windows(2).stacks[:, 0], perceptual=None)

    assert {name for name in part.losses.parts if name.startswith("loss")} == {
        "loss_reconstruction", "loss_latent_entropy"
    }  # fmt: skip


def test_a_joint_update_dreams_of_the_world_as_it_is_after_its_step(agent: Agent) -> None:
    steps = iter(agent.train().agent_losses(some_windows(4), torch.Generator().manual_seed(0)))

    [world] = next(steps)
    assert agent.dynamics.training
    world.losses.total.backward()
    assert all(
        parameter.grad is not None for parameter in (*agent.tokenizer.parameters(), *agent.dynamics.parameters())
    )
    assert all(parameter.grad is None for parameter in agent.actor_critic.parameters())
    for parameter in agent.dynamics.out_heads["r"].parameters():
        torch.nn.init.constant_(parameter, 0.0)
    torch.nn.init.constant_(parameter, 5.0)  # the last bias: the reward of every step
    agent.zero_grad()
    [policy] = next(steps)
    policy.losses.total.backward()

    assert policy.losses.parts["rewards"] == 5
    assert not agent.dynamics.training
    assert all(parameter.grad is None for parameter in (*agent.tokenizer.parameters(), *agent.dynamics.parameters()))
    assert all(parameter.grad is not None for parameter in agent.actor_critic.parameters())
    assert next(steps, None) is None


def test_episodes_that_end_in_a_dream_begin_anew_with_the_fresh_stacks(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = iter(agent.agent_losses(some_windows(4, fresh=1), torch.Generator().manual_seed(0)))
    next(steps)
    torch.nn.init.constant_(list(agent.dynamics.out_heads["g"].parameters())[-1], -100.0)  # every step ends all
    seen = []
    monkeypatch.setattr(agent.actor_critic, "forward", lambda view, memory, see=agent.actor_critic.forward: (
        seen.append(view), see(view, memory))[1])  # fmt: skip
    [policy] = next(steps)

    assert policy.losses.parts["ends"] == 1
    assert all(torch.equal(view, seen[1][:1].expand_as(view)) for view in seen[1:])
    assert not torch.equal(seen[0], seen[1])
