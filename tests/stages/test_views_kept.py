"""What the policy burns in on is decoded once for every step, where that is less work, and is the same as ever."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from iris_cli import interrupts
from iris_cli.agents.iris.agent import Agent
from iris_cli.errors import Interrupted
from iris_cli.run import Run
from iris_cli.stages import train_actor_critic as stage
from iris_cli.stages.train_actor_critic import TrainActorCritic, train_actor_critic
from iris_cli.stages.train_dynamics import TrainDynamics, train_dynamics
from iris_cli.stages.train_tokenizer import TrainTokenizer, train_tokenizer

ENOUGH = 40  # updates that burn in on more frames than the dataset has: 40 of 4 segments of 3, for 300 steps

NewRun = Callable[..., Run]


@pytest.fixture(params=["float32", "bfloat16"])
def run(pong: Path, new_run: NewRun, request: pytest.FixtureRequest) -> Run:
    run = new_run(pong, actor_critic={"precision": request.param})
    train_tokenizer(run, TrainTokenizer(updates=3))
    train_dynamics(run, TrainDynamics(updates=3))
    return run


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many frames were decoded at a time, to be kept."""
    calls, views_of = [], Agent.views_of

    def spy(agent: Agent, tokens: torch.Tensor) -> torch.Tensor:
        calls.append(len(tokens))
        return views_of(agent, tokens)

    monkeypatch.setattr(Agent, "views_of", spy)
    return calls


def test_burning_in_is_the_same(run: Run, decoded: list[int]) -> None:
    segments = run.agent.actor_critic_batch(run.tokenized_replay(), torch.Generator().manual_seed(0), 4, visits=None)
    fresh, _ = run.agent.actor_critic_start(segments)
    with stage._views_kept(run, run.tokenized_replay(), 1000):
        kept_segments = run.agent.actor_critic_batch(
            run.tokenized_replay(), torch.Generator().manual_seed(0), 4, visits=None
        )
        assert kept_segments.views.dtype == run.agent.dream_dtype
        assert torch.all(kept_segments.views[~kept_segments.mask] == 0)
        kept, _ = run.agent.actor_critic_start(kept_segments)
    assert decoded == [300]
    torch.testing.assert_close(kept.hidden, fresh.hidden, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(kept.cell, fresh.cell, rtol=1e-5, atol=1e-6)


def test_a_stage_decodes_once_where_that_is_less(run: Run, decoded: list[int]) -> None:
    train_actor_critic(run, TrainActorCritic(updates=ENOUGH))
    assert decoded == [300]
    decoded.clear()
    train_actor_critic(run, TrainActorCritic(updates=2))
    assert decoded == []
    assert run.replay()._views is None  # the memory is given back


def test_without_room_nothing_is_kept(run: Run, decoded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "has_room", lambda needed, device: needed < 300 * 3 * 64 * 64)
    train_actor_critic(run, TrainActorCritic(updates=ENOUGH))
    assert decoded == []


def test_ctrl_c_while_decoding_loses_nothing(run: Run, decoded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "TOKENIZE_BLOCK", 100)
    with monkeypatch.context() as patch:
        patch.setattr(interrupts, "requested", lambda: True)
        with pytest.raises(Interrupted, match="decoded; the same command goes on"):
            train_actor_critic(run, TrainActorCritic(updates=ENOUGH))
    assert decoded == [100]
    train_actor_critic(run, TrainActorCritic(updates=ENOUGH))
    assert run.updates["actor_critic"] == ENOUGH
