"""Dreams in memory that never moves: what a CUDA graph needs, as far as a CPU can tell."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from iris_cli.agents.delta_iris.agent import Agent
from iris_cli.agents.delta_iris.config import PRESETS
from iris_cli.agents.delta_iris.world import DeltaIrisDream, Workspace
from iris_cli.learn.imagination import imagine
from iris_cli.replay.segments import Segments

STEPS = 9  # past the 7 blocks of the tiny network


@pytest.fixture(scope="module")
def tiny() -> Agent:
    torch.manual_seed(0)
    return Agent(PRESETS["tiny"], 4).eval()


@pytest.fixture
def segments() -> Segments:
    draws = torch.Generator().manual_seed(3)
    frames = torch.randint(256, (2, 3, 3, 64, 64), generator=draws).to(torch.uint8)
    actions, real = torch.randint(4, (2, 3), generator=draws), torch.ones(2, 3, dtype=torch.bool)
    return Segments(frames, actions, torch.zeros(2, 3), ~real, real, None)


def dreamt(agent: Agent, work: Workspace | None, steps: int = STEPS, *, seed: int, **options: Any) -> list[Tensor]:
    """All that is imagined after two frames, under the same actions."""
    draws = torch.Generator().manual_seed(2)
    frames = torch.randint(256, (2, 2, 3, 64, 64), generator=draws).to(torch.uint8)
    actions = torch.randint(4, (2, 1 + STEPS), generator=draws)
    generator = torch.Generator().manual_seed(seed)
    dream = agent.begin_dream(frames, None, actions[:, :1], generator, workspace=work, **options)
    kept = []
    for t in range(steps):
        outcome = dream.step(actions[:, 1 + t])
        kept += [outcome.rewards, outcome.ends, outcome.view, dream.tokens, dream.frames]
    return kept


@pytest.mark.parametrize("keep", [1, 2])
def test_replays_in_any_order_are_calls(tiny: Agent, recorded_graphs: Callable[[], Any], keep: int) -> None:
    work = Workspace(tiny.tokenizer, tiny.dynamics, 2)
    work._graphs = recorded_graphs()

    for seed, steps in ((3, STEPS), (4, STEPS), (5, 3), (6, STEPS)):
        mine = dreamt(tiny, work, steps, seed=seed, keep=keep)
        theirs = dreamt(tiny, None, steps, seed=seed, keep=keep)
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True)), seed

    assert work._graphs.said.count("replay") > work._graphs.captured > 4


def test_no_tensor_that_a_step_works_on_ever_moves(tiny: Agent) -> None:
    work = Workspace(tiny.tokenizer, tiny.dynamics, 2)
    static = ("frames", "actions", "rewards", "ends", "tokens", "_embedded")

    def places() -> list[int]:
        return [work.cache.memory.data_ptr(), *(getattr(work, name).data_ptr() for name in static)]

    before = places()
    given = dreamt(tiny, work, seed=1)

    assert places() == before
    assert len({tensor.data_ptr() for tensor in given} | set(before)) == len(given) + len(before)  # none is shared


def test_a_rollout_can_be_traced_where_no_value_is_known() -> None:
    """On a device of shapes only, whose branches are a GPU's, whatever asks for a value fails."""
    with torch.device("meta"):
        agent = Agent(PRESETS["published"], 4).eval()
        frames = torch.zeros(4, 1, 3, 64, 64, dtype=torch.uint8)
        tokens, actions = torch.zeros(4, 0, 4, dtype=torch.int64), torch.zeros(4, 0, dtype=torch.int64)
    dream = DeltaIrisDream(agent.tokenizer, agent.dynamics, frames, actions, tokens)

    rollout = imagine(dream, agent.actor_critic.model, None, 3)

    assert rollout.rewards.is_meta
    assert dream.view.shape == (4, 3, 64, 64)


def test_the_policy_learns_from_one_workspace_as_long_as_it_fits(tiny: Agent, segments: Segments) -> None:
    agent = copy.deepcopy(tiny)
    agent.actor_critic_loss(segments)
    work = agent._workspace

    with torch.no_grad():
        agent.dynamics.head_ends[0].weight.add_(1)
    agent.actor_critic_loss(segments)
    assert agent._workspace is work  # learned in place

    assert copy.deepcopy(agent)._workspace is None
    agent.actor_critic_loss(segments.repeated(2))
    assert agent._workspace is not work  # another batch


def test_a_dream_that_is_still_under_way_keeps_its_workspace(tiny: Agent, segments: Segments) -> None:
    first = tiny.actor_critic_start(segments)[1]
    second = tiny.actor_critic_start(segments)[1]

    assert second._work is not first._work


def test_graphs_are_a_setting(tiny: Agent, segments: Segments, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bool] = []
    monkeypatch.setattr(f"{Agent.__module__}.Workspace", lambda *of, capture: made.append(capture) or Workspace(*of))
    agent = copy.deepcopy(tiny)
    for wanted in (True, False):
        settings = dataclasses.replace(agent.config.actor_critic, cuda_graphs=wanted)
        agent.configure(dataclasses.replace(agent.config, actor_critic=settings))
        agent.eval().actor_critic_start(segments)

    assert made == [True, False]
