"""TWM measured on episodes whose truth is known, with heads whose answers are known."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iris_cli.agents.twm import diagnosis
from iris_cli.agents.twm.agent import Agent
from iris_cli.agents.twm.config import PRESETS, TwmConfig
from iris_cli.learn.diagnosis import Diagnosis, Episode
from iris_cli.learn.hints import hints
from iris_cli.learn.world import Outcome
from iris_cli.nn.categorical import cross_entropies, most_probable, one_hot

COMPONENTS = ("tokenizer", "dynamics", "actor_critic")
TINY: TwmConfig = PRESETS["tiny"]  # looks back on 4 steps, so stretches are of 5; latents are 4 x 5
ACTIONS = 3


@pytest.fixture
def agent() -> Agent:
    torch.manual_seed(0)
    made = Agent(TINY, ACTIONS).eval().requires_grad_(False)
    for parameter in made.tokenizer.encoder[-1].parameters():
        parameter.mul_(20)  # different stacks have different latents
    return made


def episode(length: int, *, seed: int = 0, ends: bool = True) -> Episode:
    """Stacks of a square in the newest frame, and earlier ones of some shade of grey; rewards of -1, 0 and 2."""
    draws = np.random.default_rng(seed)
    stacks = np.full((length, 64, 64, 4), 60, np.uint8)
    for step in range(length):
        row, column = draws.integers(0, 40, 2)
        stacks[step, :, :, :-1] = draws.integers(256, size=3)
        stacks[step, row : row + 24, column : column + 24, -1] = 250
    over = np.zeros(length, bool)
    over[-1] = ends
    rewards = draws.choice([-1, 0, 2], length).astype(np.float32)
    return Episode(frames=stacks, actions=draws.integers(0, ACTIONS, length), rewards=rewards, ends=over)


def measure(agent: Agent, episodes: Sequence[Episode], **changes: Any) -> Diagnosis:
    return agent.diagnose(episodes, **{"trained": COMPONENTS, "horizon": 3, "seed": 0, **changes})


def stacks_of(one: Episode) -> Tensor:
    return torch.from_numpy(one.frames).permute(0, 3, 1, 2)


def always(head: nn.Sequential, says: float | Tensor) -> None:
    """Let a head answer the same, whatever it is asked."""
    last = list(head.modules())[-1]
    assert isinstance(last, nn.Linear)
    last.weight.zero_()
    last.bias.copy_(torch.as_tensor(says))


def test_teacher_forced_figures_are_the_loss_on_the_same_stretches(agent: Agent) -> None:
    one = episode(10)  # two stretches of 5 steps

    found = measure(agent, [one])

    logits = agent.tokenizer.encode(stacks_of(one))
    costs, errors = [], []
    for stretch in (slice(0, 5), slice(5, 10)):
        actions, rewards = torch.from_numpy(one.actions[stretch]), torch.from_numpy(one.rewards[stretch]).tanh()
        output = agent.dynamics(
            most_probable(logits[stretch])[None], actions[None], rewards[None, :-1], torch.zeros(1, 4).bool()
        )
        following = logits[stretch.start + 1 : stretch.stop + 1]
        costs.append(cross_entropies(following, output.logits_latents[0, : len(following)]))
        errors.append(output.rewards[0])
    assert found.dynamics is not None
    assert found.rewards is not None
    assert (found.dynamics.tokens_of, found.dynamics.tokens) == ("latents", 9 * 4)
    assert found.dynamics.cross_entropy == pytest.approx(float(torch.cat(costs).mean()) / 4, rel=1e-5)
    assert found.dynamics.cross_entropy_share == pytest.approx(found.dynamics.cross_entropy / math.log(5))
    chance = float((torch.cat(errors) / math.tanh(1)).clamp(1e-4, 1).mean())
    assert found.rewards.classes["+1"].mean_probability == pytest.approx(chance, rel=0.01, abs=1e-3)


def test_padding_changes_no_figure(agent: Agent) -> None:
    parts = [episode(5, ends=False), episode(3, seed=1)]

    together, *alone = (measure(agent, some).dynamics for some in (parts, parts[:1], parts[1:]))

    assert together is not None
    assert [one is not None and one.tokens for one in alone] == [16, 8]
    costs = sum(one.cross_entropy * one.tokens for one in alone if one is not None)
    assert together.cross_entropy == pytest.approx(costs / 24, rel=1e-5)


def test_a_dynamics_of_known_answers_has_known_figures(agent: Agent) -> None:
    one = episode(5)
    classes = agent.tokenizer.encode(stacks_of(one)).argmax(-1)  # (5, 4)
    assert (classes[1:] != classes[:-1]).any()
    favourites = torch.tensor([0, 1, 2, 3])
    always(agent.dynamics.out_heads["z"], 3 * one_hot(favourites, 5))
    always(agent.dynamics.out_heads["r"], 0.75 * math.tanh(1))
    always(agent.dynamics.out_heads["g"], math.log(0.7 * 0.99 / (1 - 0.7 * 0.99)))

    found = measure(agent, [one])

    assert found.dynamics is not None
    assert found.rewards is not None
    assert found.ends is not None
    right = (classes[1:] == favourites).double()
    assert found.dynamics.accuracy == pytest.approx(float(right.mean()))
    assert found.dynamics.position_accuracy == pytest.approx(right.mean(0).tolist())
    changed = classes[1:] != classes[:-1]
    assert found.dynamics.changed == int(changed.sum())
    assert found.dynamics.copy_accuracy == pytest.approx(1 - float(changed.double().mean()))
    plus, end = found.rewards.classes["+1"], found.ends.classes["ends"]
    assert (plus.count, plus.predicted, plus.mean_probability) == (
        (one.rewards > 0).sum(), 5, pytest.approx(0.75, abs=1e-3)
    )  # fmt: skip
    assert (end.count, end.predicted, end.mean_probability) == (1, 0, pytest.approx(0.3, abs=1e-5))


def test_pictures_are_judged_by_the_newest_frame(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_BLOCK", 4)
    episodes = [episode(9), episode(5, seed=1)]

    found = measure(agent, episodes).tokenizer

    stacks = torch.cat([stacks_of(one) for one in episodes])
    seen = agent.tokenizer.decode(agent.see(stacks))[:, -1].clamp(0, 1)
    assert found is not None
    assert found.reconstruction.absolute == pytest.approx(float((seen - stacks[:, -1] / 255).abs().mean()), rel=1e-5)
    newest = stacks[:, -1] / 255
    assert found.mean_image.absolute == pytest.approx(float((newest - newest.mean(0)).abs().mean()), rel=1e-4)
    assert found.moving_share > 0


def test_latents_are_told_by_the_use_and_the_entropy_of_each_categorical(agent: Agent) -> None:
    one = episode(12)
    logits = agent.tokenizer.encode(stacks_of(one))

    found = measure(agent, [one]).tokenizer

    entropy = torch.distributions.Categorical(logits=logits).entropy().mean() / math.log(5)
    assert found is not None
    assert (found.categoricals, found.codes) == (4, 20)
    assert found.latent_entropy == pytest.approx(float(entropy), rel=1e-5)
    used = [column.bincount(minlength=5) for column in logits.argmax(-1).unbind(1)]
    assert found.codes_used == sum(int((counts > 0).sum()) for counts in used)
    each = [float(torch.special.entr(counts / 12).sum()) for counts in used]
    assert found.perplexity == pytest.approx(math.exp(sum(each) / 4), rel=1e-5)


@pytest.mark.parametrize(("answer", "said"), [(0.0, "Latents are mostly noise"), (50.0, "Collapsed latents")])
def test_latents_that_say_nothing_are_told(agent: Agent, answer: float, said: str) -> None:
    always(agent.tokenizer.encoder[-1], answer * F.one_hot(torch.arange(4), 5).flatten())

    found = hints(measure(agent, [episode(12)]))

    assert any(hint.part == "tokenizer" and said in hint.text for hint in found)


def test_dreams_of_the_true_latents_reach_the_floor(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    one = episode(4 + 5 - 1)  # one start
    latents = agent.see(stacks_of(one))

    class Foreseen:
        def __init__(self, dynamics: object, known: Tensor, actions: Tensor, rewards: Tensor, *rest: Any, **more: Any):
            assert torch.equal(known[0], latents[:4])
            assert torch.equal(rewards[0], torch.from_numpy(one.rewards[:3]).tanh())
            self.step_number = 3

        @property
        def view(self) -> Tensor:
            return latents[None, self.step_number]

        def step(self, actions: Tensor) -> Outcome:
            assert actions.tolist() == [one.actions[self.step_number]]
            self.step_number += 1
            discounts = torch.tensor([0.4 if self.step_number == 7 else 0.9])
            return Outcome(torch.ones(1), torch.ones(1, dtype=torch.bool), self.view, discounts)

    shades = torch.rand(20, 4, generator=torch.Generator().manual_seed(0)) / 4

    def plain(given: Tensor) -> Tensor:
        return (given @ shades)[..., None, None].expand(-1, -1, 64, 64)

    monkeypatch.setattr(agent.tokenizer, "decode", plain)
    monkeypatch.setattr(diagnosis, "TwmDream", Foreseen)

    dream = measure(agent, [one], horizon=4).dream

    assert dream is not None
    assert (dream.starts, dream.context, dream.horizon) == (1, 4, 4)
    assert dream.sampled.error == pytest.approx(dream.reconstruction.error)
    assert dream.sampled == dream.greedy
    assert dream.copy_reconstruction.error != pytest.approx(dream.sampled.error)
    assert dream.copy_reconstruction.error != pytest.approx(dream.copy.error)
    assert (dream.dreamt_rewards, dream.dreamt_ends) == (4.0, 1.0)
    assert dream.real_rewards == np.count_nonzero(one.rewards[3:7])


def test_the_policy_sees_latents_and_values_squashed_rewards(agent: Agent) -> None:
    one = episode(12)

    policy = measure(agent, [one]).policy

    assert policy is not None
    rewards = np.tanh(one.rewards)
    returns = [sum(0.99**k * r for k, r in enumerate(rewards[t:])) for t in range(12)]
    assert policy.mean_return == pytest.approx(np.mean(returns), rel=1e-5)
    output = agent.actor_critic(agent.see(stacks_of(one)))
    entropies = torch.distributions.Categorical(logits=output.logits_actions).entropy()
    assert policy.entropy == pytest.approx(float(entropies.mean()), rel=1e-5)


def test_what_was_not_trained_or_cannot_be_is_not_measured(agent: Agent) -> None:
    short = measure(agent, [episode(1), episode(1)])
    untrained = measure(agent, [episode(9)], trained=["tokenizer"])

    assert (short.dynamics, short.dream) == (None, None)
    assert short.rewards is not None
    assert "two steps in a row" in short.skipped["dynamics"]
    assert untrained.tokenizer is not None
    assert untrained.dynamics is untrained.policy is None


def test_measuring_leaves_weights_and_the_global_stream_alone(agent: Agent) -> None:
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()

    first, again = (measure(agent, [replace(episode(12))]) for _ in range(2))

    assert first == again
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in agent.state_dict().items())
