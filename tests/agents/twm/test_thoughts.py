"""Policies that see what the dynamics thinks: the same thoughts while acting, in dreams and on real steps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from iris_cli.agents.twm.agent import Agent
from iris_cli.agents.twm.checkpoint import to_published
from iris_cli.agents.twm.config import PRESETS, TokenizerConfig
from iris_cli.agents.twm.thoughts import Thoughts, views_along
from iris_cli.errors import CheckpointError
from iris_cli.learn.acting import Actor
from iris_cli.replay.windows import Windows

CLOSE = {"atol": 1e-5, "rtol": 0}
TINY = PRESETS["tiny"]  # looks back on 4 steps; latents of 20, thoughts of 16


def made(*, reads_hidden: bool = True) -> Agent:
    torch.manual_seed(0)
    return Agent(replace(TINY, actor_critic=replace(TINY.actor_critic, reads_hidden=reads_hidden)), 3).eval()


@pytest.fixture
def agent() -> Agent:
    return made()


@pytest.fixture
def stacks() -> Tensor:
    return torch.randint(0, 256, (2, 5, 4, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


ACTIONS = torch.tensor([[0, 2, 1, 1, 0], [1, 0, 2, 0, 1]])
REWARDS = torch.tensor([[0.0, 3.0, -1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 2.0, -2.0]])


@torch.no_grad()
def read_at_once(agent: Agent, latents: Tensor) -> Tensor:
    """Thoughts (B, T, E) after each step of latents (B, T, Z)."""
    told = REWARDS[:, : latents.shape[1] - 1].tanh()
    actions = ACTIONS[:, : latents.shape[1]]
    return agent.dynamics(latents, actions, told, torch.zeros_like(told, dtype=torch.bool)).hidden


def test_what_acts_sees_the_thought_after_the_step_before(agent: Agent, stacks: Tensor) -> None:
    latents = agent.see(stacks.flatten(0, 1)).unflatten(0, (2, 5))
    thoughts, rows = Thoughts(agent.dynamics, 2), np.arange(2)
    views = []
    for step in range(5):
        views.append(thoughts.view(latents[:, step], rows))
        thoughts.took(ACTIONS[:, step].numpy(), REWARDS[:, step].numpy(), rows)

    seen = torch.stack(views, 1)
    torch.testing.assert_close(seen[..., :20], latents)
    assert (seen[:, 0, 20:] == 0).all()
    torch.testing.assert_close(seen[:, 1:, 20:], read_at_once(agent, latents)[:, :-1], **CLOSE)


def test_an_environment_that_starts_anew_or_is_not_active_has_its_own_past(agent: Agent, stacks: Tensor) -> None:
    latents = agent.see(stacks.flatten(0, 1)).unflatten(0, (2, 5))
    both, alone = Thoughts(agent.dynamics, 2), Thoughts(agent.dynamics, 2)
    second = np.array([1])
    both.view(latents[:, 0], np.arange(2))
    both.took(np.array([1, 2]), np.array([0.0, 1.0]), np.arange(2))
    both.view(latents[1:, 1], second)  # the first one waits
    both.took(np.array([0, 0]), np.array([9.0, 0.0]), second)
    alone.view(latents[:1, 0], np.array([0]))
    alone.took(np.array([1, 0]), np.array([0.0, 5.0]), np.array([0]))

    torch.testing.assert_close(both.view(latents[:, 2], np.arange(2))[0], alone.view(latents[:1, 2], np.array([0]))[0])
    both.forget(np.array([True, False]))
    views = both.view(latents[:, 3], np.arange(2))
    assert (views[0, 20:] == 0).all()
    assert (views[1, 20:] != 0).any()


def test_a_long_episode_is_remembered_as_far_as_the_dynamics_looks(agent: Agent, stacks: Tensor) -> None:
    latents = agent.see(stacks[0])
    kept, long = Thoughts(agent.dynamics, 1), Thoughts(agent.dynamics, 1)
    row = np.array([0])
    for step in range(5):
        for thoughts in (kept, long):
            if thoughts is long and step == 0:
                long.view(latents[4:], row)  # one more step before
                long.took(np.array([2]), np.array([7.0]), row)
            thoughts.view(latents[step : step + 1], row)
            thoughts.took(ACTIONS[0, step : step + 1].numpy(), REWARDS[0, step : step + 1].numpy(), row)

    assert kept.steps == 5
    torch.testing.assert_close(kept.view(latents[:1], row), long.view(latents[:1], row))


def test_dreams_show_the_same(agent: Agent, stacks: Tensor) -> None:
    latents = agent.see(stacks.flatten(0, 1)).unflatten(0, (2, 5))
    expected = read_at_once(agent, latents[:, :2])[:, -1]

    dream = agent.begin_dream(stacks[:, :3], None, ACTIONS[:, :2], rewards=REWARDS[:, :2], greedy=True)
    fresh = agent.begin_dream(stacks[:, :1], None, ACTIONS[:, :0], greedy=True)

    torch.testing.assert_close(dream.view, torch.cat([latents[:, 2], expected], 1), **CLOSE)
    assert (fresh.view[:, 20:] == 0).all()
    outcome = fresh.step(ACTIONS[:, 0])
    assert torch.equal(outcome.view, fresh.view)
    torch.testing.assert_close(fresh.view[:, 20:], read_at_once(agent, latents[:, :1])[:, 0], **CLOSE)


def test_where_an_imagined_episode_ends_the_next_begins_without_thoughts(agent: Agent, stacks: Tensor) -> None:
    with torch.no_grad():
        last = list(agent.dynamics.out_heads["g"].modules())[-1]
        last.weight.zero_()
        last.bias.fill_(-9.0)  # every step ends it
    windows = Windows(
        stacks=stacks, actions=ACTIONS[:, :4], rewards=REWARDS[:, :4], terminations=torch.zeros(2, 4).bool(),
        truncations=torch.zeros(2, 4).bool(),
    )  # fmt: skip
    latents = agent.see(stacks[:, :4].flatten(0, 1)).unflatten(0, (2, 4))

    _, dream = agent.actor_critic_start(windows, latents, latents[0], torch.Generator().manual_seed(0))

    assert (dream.view[:, 20:] != 0).any()
    dream.step(torch.zeros(4, dtype=torch.int64))
    assert (dream.view[:, 20:] == 0).all()
    assert dream.view[:, :20].sum() == 4 * 4


def test_on_real_steps_it_sees_the_thought_before_each_unless_an_episode_begins(agent: Agent, stacks: Tensor) -> None:
    ends = torch.tensor([[False, True, False, False], [False, False, False, True]])
    windows = Windows(
        stacks=stacks, actions=ACTIONS[:, :4], rewards=REWARDS[:, :4].tanh(), terminations=ends,
        truncations=torch.zeros_like(ends),
    )  # fmt: skip
    spiked = agent.tokenizer.encoder[-1]
    with torch.no_grad():
        for parameter in spiked.parameters():
            parameter.mul_(1000)  # draws are the most probable latents
    latents = agent.see(stacks.flatten(0, 1)).unflatten(0, (2, 5))

    views = agent._real_views(windows, torch.Generator().manual_seed(0))

    with torch.no_grad():
        hidden = agent.dynamics(latents[:, :4], ACTIONS[:, :4], REWARDS[:, :3].tanh(), ends[:, :3]).hidden
    torch.testing.assert_close(views[..., :20], latents[:, 1:])
    torch.testing.assert_close(views[..., 20:], hidden * ~ends[..., None], **CLOSE)


def test_along_an_episode_views_are_those_of_acting(agent: Agent, stacks: Tensor) -> None:
    latents = agent.see(stacks[0])

    views = views_along(agent.dynamics, latents, ACTIONS[0], REWARDS[0])

    torch.testing.assert_close(views[:, :20], latents)
    assert (views[0, 20:] == 0).all()
    torch.testing.assert_close(views[1:, 20:], read_at_once(agent, latents[None].expand(2, -1, -1))[0, :-1], **CLOSE)
    one = views_along(agent.dynamics, latents[:1], ACTIONS[0, :1], REWARDS[0, :1])
    assert one.shape == (1, 36)


def test_a_collection_that_goes_on_thinks_as_if_it_had_not_stopped(agent: Agent, stacks: Tensor) -> None:
    def actor() -> Actor:
        return Actor(agent, 2, temperature=1.0, epsilon=0.0, generators=[torch.Generator().manual_seed(0)])

    frames = stacks.permute(0, 1, 3, 4, 2).numpy()
    went_on, burnt_in = actor(), actor()
    for step in range(3):
        went_on.act(frames[:, step])
        went_on.took(ACTIONS[:, step].numpy(), REWARDS[:, step].numpy())
    assert burnt_in.burn_in_steps == 5
    padded = (np.concatenate([np.zeros_like(part[:, :2]), part[:, :3]], 1) for part in
              (frames, np.ones((2, 5), bool), ACTIONS.numpy(), REWARDS.numpy()))  # fmt: skip
    burnt_in.burn_in(*padded)

    views = [one._thoughts.view(agent.see(stacks[:, 3]), np.arange(2)) for one in (went_on, burnt_in)]

    torch.testing.assert_close(*views)


def test_without_it_nothing_is_thought_while_acting(stacks: Tensor) -> None:
    agent = made(reads_hidden=False)

    dream = agent.begin_dream(stacks[:, :3], None, ACTIONS[:, :2], greedy=True)

    assert agent.thoughts(2) is None
    assert torch.equal(dream.view, agent.see(stacks[:, 2]))


def test_it_is_not_exported() -> None:
    settings = replace(
        TINY, tokenizer=replace(TINY.tokenizer, hidden_widths=TokenizerConfig.hidden_widths),
        actor_critic=replace(TINY.actor_critic, reads_hidden=True),
    )  # fmt: skip

    with pytest.raises(CheckpointError, match="which order"):
        to_published(Agent(settings, 3))
