"""Dreams in memory that never moves: what a CUDA graph needs, as far as a CPU can tell."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from iris_cli.agents.twm.agent import Agent
from iris_cli.agents.twm.config import PRESETS
from iris_cli.agents.twm.world import TwmDream, Workspace
from iris_cli.learn.imagination import imagine
from iris_cli.nn.categorical import most_probable
from iris_cli.replay.windows import Windows

BATCH, FRESH = 3, 5


@pytest.fixture(scope="module")
def tiny() -> Agent:
    torch.manual_seed(0)
    return Agent(PRESETS["tiny"], 4).eval()


def steps_of(agent: Agent) -> int:
    """Beyond what the memory of the tiny dynamics reaches."""
    return agent.config.dynamics.memory + 4


def windows() -> Windows:
    """Two of seven steps; who dreams from them brings the latents."""
    draws = torch.Generator().manual_seed(1)
    none = torch.zeros(2, 7, dtype=torch.bool)
    actions, rewards = torch.randint(4, (2, 7), generator=draws), torch.rand(2, 7, generator=draws)
    return Windows(stacks=None, actions=actions, rewards=rewards, terminations=none, truncations=none)


def drawn_latents(agent: Agent, *shape: int) -> Tensor:
    logits = torch.randn(*shape, *agent.dynamics.latent_shape, generator=torch.Generator().manual_seed(2))
    return most_probable(logits)


def dreamt(
    agent: Agent, work: Workspace | None, *, seed: int, context: int = 2, fresh: bool = True, steps: int | None = None
) -> list[Tensor]:
    """All that is imagined after some real steps, under the same actions; episodes end often."""
    steps = steps or steps_of(agent)
    draws = torch.Generator().manual_seed(seed)
    latents = drawn_latents(agent, BATCH, context)
    actions = torch.randint(4, (BATCH, context - 1 + steps), generator=draws)
    rewards, ends = torch.rand(BATCH, context - 1, generator=draws), torch.zeros(BATCH, context - 1).bool()
    dream = TwmDream(
        agent.dynamics, latents, actions[:, : context - 1], rewards, ends, restart_below=0.3, shows_hidden=True,
        fresh=drawn_latents(agent, FRESH) if fresh else None, generator=draws, workspace=work,
    )  # fmt: skip
    kept = [dream.view]
    for t in range(steps):
        outcome = dream.step(actions[:, context - 1 + t])
        assert outcome.discounts is not None
        kept += [outcome.rewards, outcome.ends, outcome.discounts, outcome.view, dream.latents, dream.hidden]
    return kept


def workspace(agent: Agent, *, context: int = 2, fresh: int = FRESH) -> Workspace:
    return Workspace(agent.dynamics, BATCH, context=context, fresh=fresh, restart_below=0.3)


@pytest.mark.parametrize(("context", "fresh"), [(1, True), (2, True), (2, False), (4, True)])
def test_replays_in_any_order_are_calls(
    tiny: Agent, recorded_graphs: Callable[[], Any], context: int, fresh: bool
) -> None:
    work = workspace(tiny, context=context, fresh=FRESH if fresh else 0)
    work._graphs = recorded_graphs()
    ended = 0

    for seed, steps in ((3, None), (4, None), (5, 3), (6, None)):
        mine = dreamt(tiny, work, seed=seed, context=context, fresh=fresh, steps=steps)
        theirs = dreamt(tiny, None, seed=seed, context=context, fresh=fresh, steps=steps)
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True)), seed
        ended += int(torch.stack(mine[2::6]).sum())

    assert work._graphs.said.count("replay") > work._graphs.captured > 4
    assert ended > 0


def test_no_tensor_that_a_step_works_on_ever_moves(tiny: Agent) -> None:
    work = workspace(tiny)

    def places() -> list[int]:
        kept = (*work.state(), work.actions, work.rewards, work.discounts, work.ends, work.fresh, work.past.episodes)
        return [work.past.cache.memory.data_ptr(), *(tensor.data_ptr() for tensor in kept)]

    before = places()
    given = dreamt(tiny, work, seed=1)

    assert places() == before
    assert not {tensor.data_ptr() for tensor in given} & set(before)  # what is handed out is not written over


def test_a_rollout_can_be_traced_where_no_value_is_known() -> None:
    """On a device of shapes only, whose branches are a GPU's, whatever asks for a value fails."""
    with torch.device("meta"):
        agent = Agent(PRESETS["published"], 4).eval()
        latents, actions = torch.zeros(4, 2, 1024), torch.zeros(4, 1, dtype=torch.int64)
        rewards, ends, fresh = torch.zeros(4, 1), torch.zeros(4, 1, dtype=torch.bool), torch.zeros(7, 1024)
    dream = TwmDream(agent.dynamics, latents, actions, rewards, ends, fresh=fresh)

    rollout = imagine(dream, agent.actor_critic, (), 3)

    assert rollout.rewards.is_meta
    assert dream.view.shape == (4, 1024)


def test_the_policy_learns_from_one_workspace_as_long_as_it_fits(tiny: Agent) -> None:
    agent = copy.deepcopy(tiny)

    def begin(fresh: int = FRESH) -> Workspace:
        latents = drawn_latents(agent, 2, 7)
        memory, dream = agent.actor_critic_start(windows(), latents, drawn_latents(agent, fresh))
        assert memory == ()
        return dream._work

    first = begin()
    with torch.no_grad():
        agent.dynamics.out_heads["r"][0].weight.add_(1)
    assert begin() is first  # learned in place
    assert copy.deepcopy(agent)._workspace is None
    assert begin(FRESH + 1) is not first


def test_a_dream_that_is_still_under_way_keeps_its_workspace(tiny: Agent) -> None:
    latents, fresh = drawn_latents(tiny, 2, 7), drawn_latents(tiny, FRESH)

    first = tiny.actor_critic_start(windows(), latents, fresh)[1]
    second = tiny.actor_critic_start(windows(), latents, fresh)[1]

    assert second._work is not first._work


def test_graphs_are_a_setting(tiny: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bool] = []

    def make(*of: Any, capture: bool, **options: Any) -> Workspace:
        made.append(capture)
        return Workspace(*of, **options)

    monkeypatch.setattr(f"{Agent.__module__}.Workspace", make)
    agent = copy.deepcopy(tiny)
    for wanted in (True, False):
        settings = dataclasses.replace(agent.config.actor_critic, cuda_graphs=wanted)
        agent.configure(dataclasses.replace(agent.config, actor_critic=settings))
        agent.eval().actor_critic_start(windows(), drawn_latents(agent, 2, 7), drawn_latents(agent, FRESH))

    assert made == [True, False]
