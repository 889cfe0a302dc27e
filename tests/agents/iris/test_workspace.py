"""Dreams in memory that never moves: what a CUDA graph needs, as far as a CPU can tell."""

import copy
import dataclasses
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from iris_cli.agents.iris.agent import Agent
from iris_cli.agents.iris.config import PRESETS
from iris_cli.agents.iris.world import IrisDream, Workspace, imagine_step
from iris_cli.learn.imagination import imagine
from iris_cli.nn.sampling import sample
from iris_cli.replay.segments import Segments

STEPS = 9  # past the positions of the golden network, where a dream reads its last frames anew


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(32, (2, 2, 16), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def actions() -> Tensor:
    return torch.randint(4, (2, STEPS), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def segments(tokens: Tensor) -> Segments:
    shape = tokens.shape[:2]
    return Segments(
        None, torch.zeros(shape, dtype=torch.int64), torch.zeros(shape), torch.zeros(shape, dtype=torch.bool),
        torch.ones(shape, dtype=torch.bool), tokens,
    )  # fmt: skip


def played(dream: IrisDream, actions: Tensor) -> list[Tensor]:
    """All that a dream imagines under actions (B, STEPS)."""
    kept = [dream.view]
    for t in range(actions.shape[1]):
        outcome = dream.step(actions[:, t])
        kept += [outcome.rewards, outcome.ends, dream.tokens, outcome.view]
    return kept


def as_before(agent: Agent, tokens: Tensor, actions: Tensor, keep: int, seed: int) -> list[Tensor]:
    """The same, without a workspace: a cache and tensors made as they are needed."""
    tokenizer, dynamics, generator = agent.tokenizer, agent.dynamics, torch.Generator().manual_seed(seed)
    frames, between = list(tokens.unbind(1)), list(actions[:, :1].unbind(1))
    cache, kept = dynamics.transformer.new_cache(2), [tokenizer.decode(frames[-1])]
    with torch.no_grad():
        dynamics.read_context(tokens, actions[:, :1], cache)
        for action in actions[:, 1:].unbind(1):
            if cache.length + 17 > cache.max_tokens:
                past = torch.stack(frames[-keep:], 1)
                led = torch.stack(between, 1)[:, len(between) - past.shape[1] + 1 :]
                dynamics.read_context(past, led, cache)
            drawn = torch.zeros(2, 16, dtype=torch.int64)
            rewards, ends = imagine_step(dynamics, cache, action, lambda logits: sample(logits, generator), drawn)
            frames.append(drawn)
            between.append(action)
            kept += [rewards, ends, drawn, tokenizer.decode(drawn)]
    return kept


@pytest.mark.parametrize("keep", [1, 2])
def test_one_workspace_dreams_again_and_again_what_new_memory_would(
    agent: Agent, tokens: Tensor, actions: Tensor, keep: int
) -> None:
    work = Workspace(agent.tokenizer, agent.dynamics, 2)

    for seed in (3, 4):
        mine = played(
            IrisDream(
                agent.tokenizer, agent.dynamics, tokens, actions[:, :1], keep=keep, workspace=work,
                generator=torch.Generator().manual_seed(seed),
            ),
            actions[:, 1:],
        )  # fmt: skip
        theirs = as_before(agent, tokens, actions, keep, seed)
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_replays_in_any_order_are_calls(
    agent: Agent, tokens: Tensor, actions: Tensor, recorded_graphs: Callable[[], Any]
) -> None:
    """With records in place of graphs: each length is captured by its first steps, and replayed by others."""
    work = Workspace(agent.tokenizer, agent.dynamics, 2)
    work._graphs = recorded_graphs()
    lengths = []
    for seed, steps in ((3, STEPS), (4, STEPS), (5, 3), (6, STEPS)):
        dream = IrisDream(
            agent.tokenizer, agent.dynamics, tokens, actions[:, :1], workspace=work,
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        mine = played(dream, actions[:, 1:steps])
        lengths.append(dream.cache.length)
        theirs = as_before(agent, tokens, actions[:, :steps], 1, seed)
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True)), seed
    assert lengths == [67, 67, 67, 67]  # 33 + 17n, or 16 + 17n after a refresh
    assert work._graphs.captured == 6  # reading 2 frames and 1, looking, and steps behind 16, 33 and 50 tokens


def test_no_tensor_that_a_step_works_on_ever_moves(agent: Agent, tokens: Tensor, actions: Tensor) -> None:
    work = Workspace(agent.tokenizer, agent.dynamics, 2)
    dream = IrisDream(agent.tokenizer, agent.dynamics, tokens, actions[:, :1], workspace=work)

    def places() -> list[int]:
        static = (work.cache.memory, work.past, work.between, work.actions, work.rewards, work.ends)
        return [tensor.data_ptr() for tensor in (*static, work.tokens, work.view)]

    before, given = places(), []
    for t in range(1, STEPS):
        outcome = dream.step(actions[:, t])
        given += [outcome.rewards, outcome.ends, outcome.view, dream.tokens]
        assert places() == before
    assert len({tensor.data_ptr() for tensor in given} | set(before)) == len(given) + len(before)  # none is shared


class _Waiting(TorchDispatchMode):
    """Fails where a GPU would be waited for, or a shape depends on data."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.nonzero.default,
            torch.ops.aten.masked_select.default,
            torch.ops.aten._unique2.default,
            torch.ops.aten.equal.default,
        ), func
        return func(*args, **(kwargs or {}))


def test_nothing_in_a_rollout_waits_for_the_device(agent: Agent, segments: Segments) -> None:
    memory, dream = agent.actor_critic_start(segments)

    with _Waiting():
        imagine(dream, agent.actor_critic, memory, STEPS)
        with pytest.raises(AssertionError, match="_local_scalar_dense"):
            dream.tokens[0, 0].item()


@pytest.mark.parametrize("preset", ["tiny", "published"])
def test_a_rollout_can_be_traced_where_no_value_is_known(preset: str) -> None:
    """On a device of shapes only, whose branches are a GPU's, whatever asks for a value fails."""
    with torch.device("meta"):
        agent = Agent(PRESETS[preset], num_actions=6).eval()
        tokens, actions = torch.zeros(64, 1, 16, dtype=torch.int64), torch.zeros(64, 0, dtype=torch.int64)
    dream = IrisDream(agent.tokenizer, agent.dynamics, tokens, actions)

    rollout = imagine(dream, agent.actor_critic, None, 3)

    assert rollout.rewards.is_meta
    assert dream.view.is_meta
    assert dream.view.shape == (64, 3, 64, 64)


def test_the_policy_learns_from_one_workspace_as_long_as_it_fits(agent: Agent, segments: Segments) -> None:
    agent = copy.deepcopy(agent)
    begun = [agent.actor_critic_start(segments)[1]._work for _ in range(2)]
    assert begun[0] is begun[1]

    with torch.no_grad():
        agent.dynamics.head_ends[0].weight.add_(1)
    assert agent.actor_critic_start(segments)[1]._work is begun[0]  # learned in place

    assert agent.actor_critic_start(segments.repeated(2))[1]._work is not begun[0]  # another batch
    agent.configure(agent.config)
    agent.eval()
    assert agent.actor_critic_start(segments)[1]._work is not begun[0]  # new weights


def test_a_dream_that_is_still_under_way_keeps_its_workspace(agent: Agent, segments: Segments) -> None:
    actions = torch.zeros(2, dtype=torch.int64)
    alone = agent.actor_critic_start(segments, torch.Generator().manual_seed(1))[1]
    expected = [alone.step(actions).view for _ in range(2)]
    del alone
    gc.collect()
    first = agent.actor_critic_start(segments, torch.Generator().manual_seed(1))[1]
    views = [first.step(actions).view]

    second = agent.actor_critic_start(segments, torch.Generator().manual_seed(2))[1]
    second.step(actions)
    views.append(first.step(actions).view)

    assert second._work is not first._work
    assert all(torch.equal(a, b) for a, b in zip(views, expected, strict=True))


def test_a_copy_of_an_agent_has_no_part_in_its_workspace(agent: Agent, segments: Segments) -> None:
    mine = agent.actor_critic_start(segments)[1]._work

    assert copy.deepcopy(agent).actor_critic_start(segments)[1]._work is not mine
    assert agent.actor_critic_start(segments)[1]._work is mine


def test_copies_in_bfloat16_are_refreshed_where_they_are(
    agent: Agent, segments: Segments, in_precision: Callable[..., Any]
) -> None:
    half = Agent(in_precision(agent.config, "bfloat16"), num_actions=4).eval()
    half.load_state_dict(agent.state_dict())
    work = half.actor_critic_start(segments)[1]._work

    with torch.no_grad():
        half.dynamics.head_tokens[2].bias[3] += 100.0
    dream = half.actor_critic_start(segments)[1]
    dream.step(torch.zeros(2, dtype=torch.int64))

    assert dream._work is work
    assert (dream.tokens == 3).all()


def test_graphs_are_a_setting(agent: Agent, segments: Segments, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bool] = []
    monkeypatch.setattr(f"{Agent.__module__}.Workspace", lambda *of, capture: made.append(capture) or Workspace(*of))
    agent = copy.deepcopy(agent)
    for wanted in (True, False):
        settings = dataclasses.replace(agent.config.actor_critic, cuda_graphs=wanted)
        agent.configure(dataclasses.replace(agent.config, actor_critic=settings))
        agent.eval().actor_critic_start(segments)

    assert made == [True, False]
