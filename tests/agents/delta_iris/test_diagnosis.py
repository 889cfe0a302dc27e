"""Δ-IRIS measured on episodes whose truth is known, with heads whose answers are known."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from iris_cli.agents.delta_iris import diagnosis
from iris_cli.agents.delta_iris.agent import Agent
from iris_cli.agents.delta_iris.config import PRESETS, DeltaIrisConfig
from iris_cli.learn.diagnosis import Diagnosis, Episode
from iris_cli.learn.hints import hints
from iris_cli.learn.measuring import differing
from iris_cli.replay.segments import Segments

COMPONENTS = ("tokenizer", "dynamics", "actor_critic")
TINY: DeltaIrisConfig = PRESETS["tiny"]
ACTIONS = 6
BLOCKS = 7  # of the preset tiny
SYMLOG = replace(TINY, dynamics=replace(TINY.dynamics, rewards="symlog"))


def made(config: DeltaIrisConfig = TINY) -> Agent:
    """With random weights."""
    torch.manual_seed(0)
    return Agent(config, ACTIONS).eval().requires_grad_(False)


@pytest.fixture
def agent() -> Agent:
    """Whose codes are apart enough that transitions differ in their tokens."""
    agent = made()
    agent.tokenizer.train()
    agent.tokenizer.loss(segments_of(agent, [episode(28)], tokens=False))
    agent.tokenizer.update_codebook()
    return agent.eval()


def frames_of(one: Episode) -> Tensor:
    return torch.from_numpy(one.frames).permute(0, 3, 1, 2)


def episode(length: int, *, seed: int = 0, ends: bool = True) -> Episode:
    """A square that wanders over grey, in the upper half only; rewards of -1, 0 and 2."""
    draws = np.random.default_rng(seed)
    frames = np.full((length, 64, 64, 3), 60 + 20 * seed, np.uint8)
    for step in range(length):
        row, column = draws.integers(0, 24), draws.integers(0, 56)
        frames[step, row : row + 8, column : column + 8] = (250, 120, 10)
    over = np.zeros(length, bool)
    over[-1] = ends
    rewards = draws.choice([-1, 0, 2], length).astype(np.float32)
    return Episode(frames=frames, actions=draws.integers(0, ACTIONS, length), rewards=rewards, ends=over)


def measure(agent: Agent, episodes: Sequence[Episode], **changes: Any) -> Diagnosis:
    return agent.diagnose(episodes, **{"trained": COMPONENTS, "horizon": 3, "seed": 0, **changes})


def always(head: torch.nn.Sequential, probabilities: Tensor) -> None:
    """Let a head answer the same, whatever it is asked."""
    head[-1].weight.zero_()
    head[-1].bias.copy_(probabilities.log())


def segments_of(agent: Agent, episodes: Sequence[Episode], *, tokens: bool = True) -> Segments:
    """Segments of `BLOCKS` steps through each episode, whose lengths are multiples of that."""

    def cut(values: Sequence[Tensor]) -> Tensor:
        return torch.cat([part.unflatten(0, (-1, BLOCKS)) for part in values])

    fields = {
        name: cut([torch.from_numpy(getattr(e, name)) for e in episodes]) for name in ("actions", "rewards", "ends")
    }
    mask = torch.ones_like(fields["ends"])
    segments = Segments(frames=cut([frames_of(e) for e in episodes]), mask=mask, tokens=None, **fields)
    return agent.with_tokens(segments) if tokens else segments


def tokens_of(agent: Agent, one: Episode) -> Tensor:
    """(T - 1, 4) of an episode's transitions."""
    frames = frames_of(one)
    return agent.tokenizer.encode(frames[:-1], torch.from_numpy(one.actions[:-1]), frames[1:])


@pytest.mark.parametrize("lengths", [[7], [14, 7]])
def test_teacher_forced_figures_are_the_loss_on_the_same_segments(agent: Agent, lengths: list[int]) -> None:
    episodes = [episode(length, seed=index) for index, length in enumerate(lengths)]

    found = measure(agent, episodes)
    losses, config = agent.dynamics.loss(segments_of(agent, episodes)).parts, agent.config.dynamics

    assert found.dynamics is not None
    assert found.rewards is not None
    assert found.ends is not None
    assert found.dynamics.tokens == 4 * sum(length * (BLOCKS - 1) // BLOCKS for length in lengths)
    assert config.tokens_weight * found.dynamics.cross_entropy == pytest.approx(losses["loss_tokens"].item(), rel=1e-5)
    assert found.dynamics.accuracy == pytest.approx(losses["token_accuracy"].item(), abs=1e-6)
    assert config.rewards_weight * found.rewards.cross_entropy == pytest.approx(losses["loss_rewards"].item(), rel=1e-5)
    assert config.ends_weight * found.ends.cross_entropy == pytest.approx(losses["loss_ends"].item(), rel=1e-5)


def test_padding_changes_no_figure(agent: Agent) -> None:
    whole = measure(agent, [episode(7)])
    first = episode(3)

    found = measure(agent, [replace(episode(7), ends=np.zeros(7, bool)), first], trained=COMPONENTS)

    assert whole.dynamics is not None
    assert found.dynamics is not None
    alone = measure(agent, [first]).dynamics
    assert alone is not None
    costs = 24 * whole.dynamics.cross_entropy + 8 * alone.cross_entropy
    assert found.dynamics.cross_entropy == pytest.approx(costs / 32, rel=1e-5)
    assert (found.dynamics.tokens, alone.tokens) == (32, 8)


def test_a_dynamics_of_known_answers_has_known_figures(agent: Agent) -> None:
    one = episode(5)
    tokens = tokens_of(agent, one)
    assert len(tokens.unique()) > 1
    codes = agent.config.tokenizer.codes
    probabilities = torch.arange(1.0, codes + 1) / sum(range(1, codes + 1))
    favourite = int(tokens.flatten().mode().values)
    probabilities = probabilities.roll(favourite + 1)  # the largest goes to the favourite
    always(agent.dynamics.head_tokens, probabilities)
    always(agent.dynamics.head_rewards, torch.tensor([0.2, 0.3, 0.5]))
    always(agent.dynamics.head_ends, torch.tensor([0.9, 0.1]))

    found = measure(agent, [one])

    assert found.dynamics is not None
    assert found.rewards is not None
    assert found.ends is not None
    assert found.dynamics.tokens_of == "transitions"
    costs = -probabilities.log()[tokens]
    assert found.dynamics.cross_entropy == pytest.approx(float(costs.mean()), rel=1e-5)
    assert found.dynamics.position_cross_entropy == pytest.approx(costs.mean(0).tolist(), rel=1e-5)
    assert found.dynamics.position_accuracy == pytest.approx((tokens == favourite).float().mean(0).tolist())
    usual = tokens.mode(0).values
    assert found.dynamics.copy_accuracy == pytest.approx(float((tokens == usual).float().mean()))
    assert (found.rewards.classes["+1"].count, found.rewards.classes["+1"].recall) == ((one.rewards > 0).sum(), 1.0)
    assert found.rewards.classes["-1"].mean_probability == pytest.approx(0.2)
    assert (found.ends.classes["ends"].count, found.ends.classes["ends"].mean_probability) == (1, pytest.approx(0.1))


def test_tokens_count_as_changed_where_their_patch_moves(agent: Agent) -> None:
    one = episode(7)  # moves in the upper half only

    found = measure(agent, [one]).dynamics

    frames = frames_of(one)
    upper = differing(frames[1:], frames[:-1])[:, :32].unflatten(2, (2, 32)).any(3).any(1)  # (6, 2)
    assert found is not None
    assert found.changed == int(upper.sum())
    assert 0 < found.changed <= 12


def test_rewards_in_buckets_are_told_by_their_sign() -> None:
    agent = made(SYMLOG)
    logits = agent.dynamics.two_hot.probabilities(torch.tensor([-1.0, 0.0, 2.0, 0.1])).clamp_min(1e-9).log()

    by_sign = diagnosis._by_sign(agent.dynamics, logits)

    assert by_sign.argmax(1).tolist() == [0, 1, 2, 2]
    assert torch.allclose(by_sign.exp().sum(1), torch.ones(4), atol=1e-5)
    assert by_sign[3].exp()[1] == pytest.approx(0.395, abs=1e-3)  # of 0.1, which lies between two buckets
    found = measure(agent, [episode(8)])
    assert found.rewards is not None
    assert found.rewards.steps == 8


@pytest.mark.parametrize("block", [256, 4])
def test_frames_are_compared_with_what_is_painted_behind_the_real_one_before(
    agent: Agent, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(diagnosis, "_BLOCK", block)
    episodes = [episode(9), episode(5, seed=1), episode(1, seed=2)]

    found = measure(agent, episodes).tokenizer

    errors, still, moving = [], [], []
    for one in episodes[:2]:
        frames, actions = frames_of(one), torch.from_numpy(one.actions)
        images = agent.reconstruct(frames, actions[:-1])[1:]
        real = frames.float() / 255
        errors.append((images - real[1:]).abs())
        still.append((real[:-1] - real[1:]).abs())
        moving.append(differing(frames[1:], frames[:-1]))
    apart, ignored, where = torch.cat(errors), torch.cat(still), torch.cat(moving)[:, None].expand(-1, 3, -1, -1)
    assert found is not None
    assert found.past_image is not None
    assert found.reconstruction.absolute == pytest.approx(float(apart.mean()), rel=1e-5)
    assert found.reconstruction.moving_absolute == pytest.approx(float(apart[where].mean()), rel=1e-5)
    assert found.past_image.moving_absolute == pytest.approx(float(ignored[where].mean()), rel=1e-5)
    assert found.kept == pytest.approx(1 - float(apart[where].sum() / ignored[where].sum()), rel=1e-4)
    assert found.moving_share == pytest.approx(float(torch.cat(moving).float().mean()))
    assert found.still_changed is None


def test_a_tokenizer_that_repeats_the_frame_before_keeps_nothing(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent.tokenizer, "decode", lambda past, actions, tokens: past.float() / 255)

    found = measure(agent, [episode(20)])

    assert found.tokenizer is not None
    assert found.dream is not None
    assert found.tokenizer.kept == pytest.approx(0)
    assert any(hint.part == "tokenizer" and "What moves is lost" in hint.text for hint in hints(found))
    assert found.dream.sampled == found.dream.copy == found.dream.reconstruction


def test_dreams_of_the_true_tokens_reach_the_floor(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    one = episode(4 + 5 - 1)  # one start
    tokens = tokens_of(agent, one)

    def foresee(*args: Any, **options: Any) -> tuple[Tensor, Tensor, Tensor]:
        step = next(steps)
        return torch.ones(1), torch.zeros(1, dtype=torch.bool), tokens[None, step]

    monkeypatch.setattr("iris_cli.agents.delta_iris.world.imagine_step", foresee)
    steps = iter([3, 4, 5, 6] * 2)

    dream = measure(agent, [one], horizon=4).dream

    assert dream is not None
    assert (dream.starts, dream.context, dream.horizon) == (1, 4, 4)
    assert dream.sampled == dream.greedy == dream.reconstruction
    assert dream.copy_reconstruction == dream.copy != dream.sampled
    assert (dream.dreamt_rewards, dream.dreamt_ends) == (4.0, 0.0)
    assert dream.real_rewards == np.count_nonzero(one.rewards[3:7])


@pytest.mark.parametrize(("config", "sizes"), [(TINY, False), (SYMLOG, True)])
def test_the_policy_sees_frames_and_values_rewards_as_its_dynamics_knows_them(
    config: DeltaIrisConfig, sizes: bool
) -> None:
    agent, one = made(config), episode(12)

    policy = measure(agent, [one]).policy

    assert policy is not None
    assert policy.actions == ACTIONS
    rewards = one.rewards if sizes else np.sign(one.rewards)
    returns = [sum(config.actor_critic.gamma**k * r for k, r in enumerate(rewards[t:])) for t in range(12)]
    assert policy.mean_return == pytest.approx(np.mean(returns), rel=1e-5)
    memory, entropies = None, []
    for frame in frames_of(one).split(1):
        output = agent.actor_critic(agent.see(frame), memory)
        memory = output.memory
        entropies.append(torch.distributions.Categorical(logits=output.logits_actions).entropy())
    assert policy.entropy == pytest.approx(float(torch.cat(entropies).mean()), rel=1e-5)


def test_what_was_not_trained_or_cannot_be_is_not_measured(agent: Agent) -> None:
    short = measure(agent, [episode(1), episode(1)])
    untrained = measure(agent, [episode(9)], trained=["tokenizer"])
    nothing = measure(agent, [episode(9)], trained=[])

    assert short.tokenizer is short.dynamics is short.policy is None
    assert "two frames" in short.skipped["tokenizer"]
    assert untrained.tokenizer is not None
    assert untrained.dynamics is untrained.policy is None
    assert untrained.skipped["policy"] == "the actor-critic was never trained"
    assert set(nothing.skipped) == {"tokenizer", "dynamics", "rewards", "ends", "dream", "policy"}
    assert next(hint.text for hint in hints(short)).startswith("Nothing was measured: no episode has two frames")


def test_measuring_moves_neither_the_codebook_nor_the_global_stream(agent: Agent) -> None:
    before = {name: value.clone() for name, value in agent.state_dict().items()}
    torch.manual_seed(3)
    state = torch.get_rng_state()

    first, again = (measure(agent, [episode(12)]) for _ in range(2))

    assert first == again
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], value) for name, value in agent.state_dict().items())
