"""The plain reference against the published numbers, and the fast path against the plain one."""

import pytest
import torch
from torch import Tensor

from iris_cli.agents.iris.agent import Agent
from iris_cli.agents.iris.plain import plain_decode, plain_dynamics_loss, plain_encode, plain_start
from iris_cli.learn.imagination import imagine
from iris_cli.replay.segments import Segments


@pytest.fixture(scope="module")
def frames(golden: dict[str, Tensor]) -> Tensor:
    return golden["in.imagine.observations"]  # (2, 4, 3, 64, 64) uint8


@pytest.fixture(scope="module")
def segments(agent: Agent, golden: dict[str, Tensor], frames: Tensor) -> Segments:
    shape = frames.shape[:2]
    return Segments(
        None,
        torch.zeros(shape, dtype=torch.int64),
        torch.zeros(shape),
        torch.zeros(shape, dtype=torch.bool),
        golden["in.imagine.mask_padding"],
        plain_encode(agent, frames.flatten(0, 1)).unflatten(0, shape),
    )


@pytest.mark.parity
def test_the_plain_path_imagines_what_was_published(
    agent: Agent, golden: dict[str, Tensor], golden_config: dict, segments: Segments, frames: Tensor
) -> None:
    generator = torch.Generator().manual_seed(golden_config["sampled_imagination_seed"])
    memory, dream = plain_start(agent, frames, segments.mask, generator)

    rollout = imagine(dream, agent.actor_critic, memory, 6, generator)

    for name, mine in (("actions", rollout.actions), ("rewards", rollout.rewards), ("ends", rollout.ends)):
        assert torch.equal(mine, golden[f"out.imagine_sampled.{name}"][:, :5]), name
    logits = golden["out.imagine_sampled.logits_actions"][:, :5]
    torch.testing.assert_close(rollout.logits_actions.detach(), logits, atol=3e-4, rtol=0)


def test_the_fast_path_draws_the_same_tokens_as_the_plain_one(agent: Agent, segments: Segments, frames: Tensor) -> None:
    plainly, fast = torch.Generator().manual_seed(7), torch.Generator().manual_seed(7)
    plain_memory, plain_dream = plain_start(agent, frames, segments.mask, plainly)
    memory, dream = agent.actor_critic_start(segments, fast)
    torch.testing.assert_close(memory.hidden, plain_memory.hidden, atol=5e-5, rtol=0)

    for step in range(8):  # past the positions, where both begin anew
        actions = torch.tensor([step % 4, (step + 1) % 4])
        expected, outcome = plain_dream.step(actions), dream.step(actions)

        assert torch.equal(dream.tokens, plain_dream.tokens), step
        assert torch.equal(outcome.rewards, expected.rewards)
        assert torch.equal(outcome.ends, expected.ends)
        torch.testing.assert_close(dream.view, plain_dream.view, atol=5e-5, rtol=0)


def test_the_tokenizer_is_the_plain_one(agent: Agent, frames: Tensor) -> None:
    tokens = plain_encode(agent, frames.flatten(0, 1))

    assert torch.equal(agent.tokenizer.encode(frames.flatten(0, 1)), tokens)
    torch.testing.assert_close(agent.tokenizer.decode(tokens), plain_decode(agent, tokens), atol=5e-5, rtol=0)


def test_the_dynamics_learns_by_the_plain_loss(agent: Agent, segments: Segments) -> None:
    segments = Segments(
        None, segments.actions, segments.rewards, segments.ends, segments.mask.sort(1, True)[0], segments.tokens
    )

    fast, plain = agent.dynamics.loss(segments), plain_dynamics_loss(agent.dynamics, segments)

    torch.testing.assert_close(fast.total, plain.total, rtol=1e-6, atol=0)
    parameters = list(agent.dynamics.parameters())
    mine = torch.autograd.grad(fast.total, parameters)
    theirs = torch.autograd.grad(plain.total, parameters)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
