"""Dreams: the published imagination with its restarts, through the loop that all agents share; starts and draws."""

import dataclasses

import pytest
import torch
from torch import Tensor

from iris_cli.agents.twm.actor_critic import ActorCriticOutput, step_weights
from iris_cli.agents.twm.agent import Agent
from iris_cli.agents.twm.config import PRESETS, TwmConfig
from iris_cli.agents.twm.dynamics import Dynamics
from iris_cli.agents.twm.world import TwmDream
from iris_cli.errors import ShapeError
from iris_cli.learn.actor_critic import Rollout
from iris_cli.learn.imagination import imagine
from iris_cli.replay.windows import Windows

CLOSE = {"atol": 1e-5, "rtol": 0}


@pytest.fixture
def dynamics(weights_of, golden_config: TwmConfig) -> Dynamics:
    dynamics = Dynamics(golden_config.dynamics, categoricals=4, categories=5, num_actions=6).eval()
    weights = weights_of("wm.dyn_model.prediction_net.")
    del weights["transformer.pos_enc.encodings"]
    dynamics.load_state_dict(weights)
    return dynamics


@pytest.fixture
def start(golden: dict[str, Tensor]) -> tuple[Tensor, ...]:
    ends = golden["in.imag.start_terminated"] | golden["in.imag.start_truncated"]
    return golden["in.imag.start_z"], golden["in.imag.start_a"], golden["in.imag.start_r"], ends


class Scripted:
    """A policy that acts as it is told, and keeps what it saw and what the dynamics thought."""

    def __init__(self, actions: Tensor, dream: TwmDream) -> None:
        self.actions, self.dream = actions, dream
        self.views: list[Tensor] = []
        self.hidden: list[Tensor] = []

    def __call__(self, views: Tensor, memory: object) -> ActorCriticOutput:
        step = min(len(self.views), self.actions.shape[1] - 1)
        self.views.append(views)
        self.hidden.append(self.dream.hidden)
        logits = torch.nn.functional.one_hot(self.actions[:, step], 6).float()
        return ActorCriticOutput(logits, logits.sum(-1))


@pytest.mark.parity
def test_imagination_with_restarts_is_the_published_one(
    dynamics: Dynamics, start: tuple[Tensor, ...], golden: dict[str, Tensor]
) -> None:
    dream = TwmDream(dynamics, *start, fresh=golden["in.imag.fresh_z"], greedy=True)
    policy = Scripted(golden["in.imag.actions"], dream)

    rollout = imagine(dream, policy, (), 15, greedy=True)

    assert torch.equal(rollout.actions, golden["in.imag.actions"])
    assert torch.equal(torch.stack(policy.views, 1), golden["out.imag.z"])
    assert torch.equal(rollout.ends, golden["out.imag.d"])
    assert rollout.ends.sum() == 4
    torch.testing.assert_close(torch.stack(policy.hidden, 1), golden["out.imag.h"], **CLOSE)
    torch.testing.assert_close(rollout.rewards, golden["out.imag.r"], **CLOSE)
    torch.testing.assert_close(rollout.discounts, golden["out.imag.g"], **CLOSE)
    weights = step_weights(rollout.discounts, rollout.ends)
    torch.testing.assert_close(weights, golden["out.imag.weights"], **CLOSE)


def test_without_fresh_latents_an_end_stops_nothing(
    dynamics: Dynamics, start: tuple[Tensor, ...], golden: dict[str, Tensor]
) -> None:
    dream = TwmDream(dynamics, *start, greedy=True)
    latents, ends = [start[0]], []
    for t in range(14):
        outcome = dream.step(golden["in.imag.actions"][:, t])
        latents.append(outcome.view[:, None])
        ends.append(outcome.ends)

    ended = torch.stack(ends, 1)
    assert ended[:, -1].all()
    assert not (ended[:, :-1] & ~ended[:, 1:]).any()  # once over, over
    fresh = TwmDream(dynamics, *start, fresh=golden["in.imag.fresh_z"], greedy=True)
    for t in range(14):
        fresh.step(golden["in.imag.actions"][:, t])
    assert not torch.equal(dream.view, fresh.view)


@torch.no_grad()
def test_a_dream_is_what_the_whole_sequence_predicts(dynamics: Dynamics, start: tuple[Tensor, ...]) -> None:
    actions = torch.tensor([[0, 1, 2], [3, 4, 5], [1, 1, 1], [2, 0, 2]])
    dream = TwmDream(dynamics, *start, greedy=True)
    outcomes = [dream.step(actions[:, t]) for t in range(3)]

    latents = torch.cat([start[0], *(outcome.view[:, None] for outcome in outcomes)], 1)[:, :-1]  # (B, 4, Z)
    rewards = torch.cat([start[2], *(outcome.rewards[:, None] for outcome in outcomes)], 1)[:, :-1]
    ends = torch.cat([start[3], torch.zeros(4, 2, dtype=torch.bool)], 1)
    output = dynamics(latents, torch.cat([start[1], actions], 1), rewards, ends)

    for t, outcome in enumerate(outcomes):
        torch.testing.assert_close(outcome.rewards, output.rewards[:, t + 1], **CLOSE)
        torch.testing.assert_close(outcome.discounts, output.logits_discounts[:, t + 1].sigmoid(), **CLOSE)
        assert torch.equal(outcome.view.view(4, 4, 5).argmax(-1), output.logits_latents[:, t + 1].argmax(-1))


def test_a_dream_may_begin_without_or_with_a_longer_context(dynamics: Dynamics, start: tuple[Tensor, ...]) -> None:
    latents, actions, rewards, ends = start
    begun = TwmDream(dynamics, latents[:, :1], actions[:, :0], rewards[:, :0], ends[:, :0], greedy=True)
    begun.step(actions[:, 0])
    for tensor, real in zip(begun._work.state(), (latents[:, 1], begun.hidden, rewards, ends), strict=False):
        tensor.copy_(real)  # as if it had dreamed what was real
    given = TwmDream(dynamics, *start, greedy=True)
    torch.testing.assert_close(begun.hidden, given.hidden, **CLOSE)

    ours, theirs = begun.step(actions[:, 0]), given.step(actions[:, 0])

    torch.testing.assert_close(ours.rewards, theirs.rewards, **CLOSE)


def test_fresh_latents_are_taken_in_turn_and_then_again(dynamics: Dynamics, start: tuple[Tensor, ...]) -> None:
    fresh = torch.eye(20)[:3]
    dream = TwmDream(dynamics, *start, fresh=fresh, restart_below=1.0)  # every step ends

    assert torch.equal(dream.step(start[1][:, 0]).view, fresh[[0, 1, 2, 0]])
    assert torch.equal(dream.step(start[1][:, 0]).view, fresh[[1, 2, 0, 1]])


def test_the_generator_determines_the_dream(dynamics: Dynamics, start: tuple[Tensor, ...]) -> None:
    views = []
    for seed in (5, 5, 6):
        dream = TwmDream(dynamics, *start, generator=torch.Generator().manual_seed(seed))
        views.append(dream.step(start[1][:, 0]).view)

    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])


def test_a_dream_goes_back_exactly_restarts_and_all(dynamics: Dynamics, start: tuple[Tensor, ...]) -> None:
    draws = torch.Generator().manual_seed(5)
    dream = TwmDream(dynamics, *start, fresh=torch.eye(20), generator=draws)
    actions = torch.randint(6, (4, 24), generator=torch.Generator().manual_seed(1))  # more than its memory holds

    def dreamt(steps: range) -> list[Tensor]:
        outcomes = []
        for t in steps:
            expected, outcome = dream.foretell(actions[:, t]), dream.step(actions[:, t])
            assert torch.equal(expected.rewards, outcome.rewards)
            outcomes += [outcome.rewards, outcome.ends, outcome.view, outcome.discounts, dream.tokens]
        return outcomes

    dreamt(range(8))
    saved, state = dream.save(), draws.get_state()
    first = dreamt(range(8, 24))
    dream.restore(saved)
    draws.set_state(state)

    assert all(torch.equal(ours, theirs) for ours, theirs in zip(dreamt(range(8, 24)), first, strict=True))
    assert any(ends.any() for ends in first[1::5])


def test_what_is_foretold_leaves_no_trace(dynamics: Dynamics, start: tuple[Tensor, ...]) -> None:
    latents, actions, rewards, ends = start
    for kept in (1, 2):  # without and with a step before
        given = latents[:, :kept], actions[:, : kept - 1], rewards[:, : kept - 1], ends[:, : kept - 1]
        asked, silent = (TwmDream(dynamics, *given, greedy=True) for _ in range(2))
        for t in range(12):
            choice = torch.tensor([t % 6, 0, 5, 2])
            asked.foretell(5 - choice)
            ours, theirs = asked.step(choice), silent.step(choice)
            assert torch.equal(ours.rewards, theirs.rewards)
            assert torch.equal(ours.view, theirs.view)


def test_a_last_step_without_view_draws_nothing(dynamics: Dynamics, start: tuple[Tensor, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()

    outcome = TwmDream(dynamics, *start, generator=generator).step(start[1][:, 0], next_view=False)

    assert outcome.view is None
    assert torch.equal(generator.get_state(), before)


def test_a_dream_refuses_other_shapes_and_a_training_network(dynamics: Dynamics, start: tuple[Tensor, ...]) -> None:
    latents, actions, rewards, ends = start
    with pytest.raises(ShapeError, match=r"rewards must have shape \(B, C - 1\)=\(4, 1\). Got \(4, 0\)"):
        TwmDream(dynamics, latents, actions, rewards[:, 1:], ends)
    with pytest.raises(AssertionError):
        TwmDream(dynamics.train(), *start)


@pytest.fixture
def tiny() -> Agent:
    torch.manual_seed(0)
    return Agent(PRESETS["tiny"], 3).eval()


@pytest.fixture
def windows() -> Windows:
    draws = torch.Generator().manual_seed(1)
    return Windows(
        stacks=None,
        actions=torch.randint(3, (6, 5), generator=draws),
        rewards=torch.rand(6, 5, generator=draws),
        terminations=torch.zeros(6, 5, dtype=torch.bool),
        truncations=torch.rand(6, 5, generator=draws) < 0.3,
    )


def numbered_latents() -> Tensor:
    """(6, 5, 20), which name the step they are of."""
    return torch.arange(30).view(6, 5, 1) + torch.zeros(20)


def test_a_policy_s_dreams_begin_at_distinct_steps_of_the_windows(tiny: Agent, windows: Windows) -> None:
    whole = dataclasses.replace(
        tiny.config, actor_critic=dataclasses.replace(tiny.config.actor_critic, batch_size=1000)
    )  # fmt: skip
    tiny.configure(whole)

    memory, dream = tiny.actor_critic_start(windows, numbered_latents(), torch.zeros(1, 20))

    first = dream.view[:, 0].long() - 1  # the step before the one it begins at
    assert memory == ()
    assert sorted(first.tolist()) == [6 * 0 + i for i in range(30) if i % 5 != 4]
    assert torch.equal(dream._work.reward[:, 0], windows.rewards.flatten()[first])
    assert torch.equal(dream._work.end[:, 0], windows.ends.flatten()[first])


def test_a_policy_learns_from_its_dreams_and_nothing_else_does(tiny: Agent, windows: Windows) -> None:
    latents = torch.nn.functional.one_hot(torch.randint(5, (6, 5, 4)), 5).flatten(-2).float()
    memory, dream = tiny.actor_critic_start(windows, latents, latents[0], torch.Generator().manual_seed(2))

    rollout: Rollout = imagine(dream, tiny.actor_critic, memory, tiny.config.actor_critic.horizon + 1)
    losses = tiny.actor_critic.loss(rollout, step_weights(rollout.discounts, rollout.ends))
    losses.total.backward()

    assert rollout.rewards.shape == (4, 5)
    assert all(parameter.grad is not None for parameter in tiny.actor_critic.parameters())
    assert all(parameter.grad is None for parameter in (*tiny.tokenizer.parameters(), *tiny.dynamics.parameters()))
