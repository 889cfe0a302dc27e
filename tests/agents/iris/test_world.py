"""Dreams: the cache, the refresh, the context. The published numbers are in test_agent.py."""

import pytest
import torch
from torch import Tensor

from iris_cli.agents.iris.agent import Agent
from iris_cli.agents.iris.config import IrisConfig
from iris_cli.agents.iris.world import IrisDream
from iris_cli.errors import ShapeError


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(32, (2, 4, 16), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def actions() -> Tensor:
    return torch.randint(4, (2, 4), generator=torch.Generator().manual_seed(1))


def begin(agent: Agent, tokens: Tensor, actions: Tensor, **settings: object) -> IrisDream:
    return IrisDream(agent.tokenizer, agent.dynamics, tokens, actions, **settings)


def test_a_greedy_dream_is_what_the_full_pass_predicts(agent: Agent, tokens: Tensor, actions: Tensor) -> None:
    dream = begin(agent, tokens[:, :1], actions[:, :0], greedy=True)

    frames = [dream.tokens]
    outcomes = []
    for t in range(3):
        outcomes.append(dream.step(actions[:, t]))
        frames.append(dream.tokens)

    seen = torch.stack(frames, 1)  # (B, 4, 16)
    with torch.no_grad():
        output = agent.dynamics(seen, actions)
    assert torch.equal(output.logits_tokens.argmax(-1)[:, 15:-1], seen[:, 1:].flatten(1))
    for t, outcome in enumerate(outcomes):
        assert torch.equal(outcome.rewards, output.logits_rewards[:, t].argmax(-1) - 1.0)
        assert torch.equal(outcome.ends, output.logits_ends[:, t].argmax(-1).bool())


def test_a_dream_with_context_goes_on_as_if_it_had_dreamed_it(agent: Agent, tokens: Tensor, actions: Tensor) -> None:
    whole = begin(agent, tokens[:, :1], actions[:, :0], greedy=True)
    whole.step(actions[:, 0])
    context = torch.stack([tokens[:, 0], whole.tokens], 1)

    later = begin(agent, context, actions[:, :1], greedy=True)

    assert later.cache.length == whole.cache.length == 33
    assert torch.equal(later.view, whole.view)
    whole.step(actions[:, 1])
    later.step(actions[:, 1])
    assert torch.equal(later.tokens, whole.tokens)


def test_what_would_overrun_the_positions_makes_it_forget_all_but_the_present_frame(
    agent: Agent, tokens: Tensor, actions: Tensor
) -> None:
    dream = begin(agent, tokens, actions[:, :3], greedy=True)  # 67 of 68 positions

    dream.step(actions[:, 3])

    fresh = begin(agent, tokens[:, -1:], actions[:, :0], greedy=True)
    fresh.step(actions[:, 3])
    assert dream.cache.length == 33
    assert torch.equal(dream.tokens, fresh.tokens)


def test_a_dream_can_keep_its_last_frames_and_the_actions_between_them(
    agent: Agent, tokens: Tensor, actions: Tensor
) -> None:
    dream = begin(agent, tokens, actions[:, :3], greedy=True, keep=2)  # 67 of 68 positions

    dream.step(actions[:, 3])
    dream.step(actions[:, 0])

    fresh = begin(agent, tokens[:, -2:], actions[:, 2:3], greedy=True)
    fresh.step(actions[:, 3])
    fresh.step(actions[:, 0])
    assert dream.cache.length == 67
    assert torch.equal(dream.tokens, fresh.tokens)


def test_a_last_step_without_view_fits_into_one_position(agent: Agent, tokens: Tensor, actions: Tensor) -> None:
    dream = begin(agent, tokens, actions[:, :3])

    outcome = dream.step(actions[:, 3], next_view=False)

    assert dream.cache.length == 68
    assert outcome.view is None


def test_the_generator_determines_the_dream(agent: Agent, tokens: Tensor, actions: Tensor) -> None:
    dreams = [
        begin(agent, tokens[:, :1], actions[:, :0], generator=torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)
    ]
    for dream in dreams:
        dream.step(actions[:, 0])

    assert torch.equal(dreams[0].tokens, dreams[1].tokens)
    assert not torch.equal(dreams[0].tokens, dreams[2].tokens)


def test_a_dream_needs_no_gradient_and_allocates_no_second_cache(agent: Agent, tokens: Tensor, actions: Tensor) -> None:
    dream = begin(agent, tokens, actions[:, :3])
    memory = dream.cache.memory.data_ptr()

    outcome = dream.step(actions[:, 3])

    assert dream.cache.memory.data_ptr() == memory
    assert not outcome.view.requires_grad
    assert outcome.view.shape == (2, 3, 64, 64)
    assert outcome.view.dtype == torch.float32


def test_a_dream_refuses_networks_in_training_mode(
    agent: Agent, golden_agent_config: IrisConfig, tokens: Tensor, actions: Tensor
) -> None:
    training = Agent(golden_agent_config, num_actions=4)

    with pytest.raises(AssertionError):
        begin(training, tokens[:, :1], actions[:, :0])


def test_wrong_beginnings_say_what_was_expected(agent: Agent, tokens: Tensor, actions: Tensor) -> None:
    with pytest.raises(ShapeError, match=r"C <= 4"):
        begin(agent, torch.cat([tokens, tokens], 1), torch.cat([actions, actions], 1)[:, 1:])
    with pytest.raises(ShapeError, match=r"\(2, 3\). Got \(2, 4\)"):
        begin(agent, tokens, actions)
