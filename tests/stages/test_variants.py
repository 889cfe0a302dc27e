"""Variants of how the actor-critic learns: off they leave no trace, on they change what they should alone."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from iris_cli import interrupts
from iris_cli.agents import build, presets_for
from iris_cli.agents.iris import agent as iris_agent
from iris_cli.agents.iris.checkpoint import to_published
from iris_cli.agents.iris.config import IrisConfig
from iris_cli.config import updated
from iris_cli.errors import ConfigError, Interrupted
from iris_cli.learn.actor_critic import Rollout
from iris_cli.replay.segments import Replay
from iris_cli.run import Run
from iris_cli.stages.train_actor_critic import TrainActorCritic, train_actor_critic

NewRun = Callable[..., Run]
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "clipped": {"actor_critic": {"objective": "clipped", "passes": 3}},
    "rollouts": {"actor_critic": {"rollouts_per_start": 2}},
    "imagined": {"exploration": {"bonus": "imagined"}},
    "collected": {"exploration": {"bonus": "collected"}},
    "all": {
        "actor_critic": {"objective": "clipped", "passes": 2, "rollouts_per_start": 2},
        "exploration": {"bonus": "collected"},
    },
}


def trained(run: Run) -> Run:
    run.updates = dict.fromkeys(run.updates, 1)
    return run


def train(run: Run, updates: int) -> None:
    train_actor_critic(run, TrainActorCritic(updates=updates))


def weights(run: Run) -> dict[str, Tensor]:
    return copy.deepcopy(run.agent.state_dict())


def differing(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> set[str]:
    """The components that differ among the weights that both have."""
    return {name.partition(".")[0] for name in ours.keys() & theirs.keys() if not torch.equal(ours[name], theirs[name])}


@pytest.fixture
def imagined(monkeypatch: pytest.MonkeyPatch) -> list[Rollout]:
    """The rollouts that were learned from."""
    rollouts: list[Rollout] = []

    def recording(*arguments: Any, **settings: Any) -> Rollout:
        rollouts.append(imagine(*arguments, **{**settings, "keep_views": True}))
        return rollouts[-1]

    imagine = iris_agent.imagine
    monkeypatch.setattr(iris_agent, "imagine", recording)
    return rollouts


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_teaches_the_policy_otherwise_and_touches_no_other_component(
    pong: Path, new_run: NewRun, variant: str
) -> None:
    plain, run = trained(new_run(pong, name="plain")), trained(new_run(pong, **VARIANTS[variant]))
    before = weights(run)
    assert differing(weights(plain), before) == set()
    train(plain, 2)
    train(run, 2)

    assert differing(weights(plain), weights(run)) == {"actor_critic"}
    assert differing(before, weights(run)) == {"actor_critic"} | ({"exploration"} & set(VARIANTS[variant]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_that_was_stopped_goes_on_bit_for_bit(
    pong: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    whole, run = (trained(new_run(pong, name=name, **VARIANTS[variant])) for name in ("whole", "part"))
    train(whole, 4)
    with monkeypatch.context() as patch:
        patch.setattr(interrupts, "requested", lambda: run.progress is not None and run.progress.done >= 2)
        with pytest.raises(Interrupted):
            train(run, 4)
    run.close()
    again = Run.open(run.directory, device=run.device, training=True)
    train(again, 4)

    ours, theirs = weights(again), weights(whole)
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    for name in whole._optimizers:
        states = [run.optimizer(name).state_dict()["state"] for run in (again, whole)]
        assert all(torch.equal(states[0][i][key], states[1][i][key]) for i in states[1] for key in states[1][i])
    again.close()


def test_off_they_leave_no_trace(pong: Path, new_run: NewRun, imagined: list[Rollout]) -> None:
    run = trained(new_run(pong))
    train(run, 2)
    run.save()

    assert {name.partition(".")[0] for name in weights(run)} == {"tokenizer", "dynamics", "actor_critic"}
    assert set(run._optimizers) == {"actor_critic"}
    assert run.config.actor_critic.objective == "reinforce"
    assert {state["step"].item() for state in run.optimizer("actor_critic").state.values()} == {2}


# The clipped objective


def test_an_update_takes_as_many_steps_as_passes_over_one_batch_of_rollouts(
    pong: Path, new_run: NewRun, imagined: list[Rollout]
) -> None:
    run = trained(new_run(pong, actor_critic={"objective": "clipped", "passes": 3}))
    train(run, 2)

    assert len(imagined) == 2
    assert {state["step"].item() for state in run.optimizer("actor_critic").state.values()} == {6}
    assert run.updates["actor_critic"] == 3


def test_one_pass_of_it_is_reinforce(pong: Path, new_run: NewRun) -> None:
    plain = trained(new_run(pong, name="plain"))
    run = trained(new_run(pong, actor_critic={"objective": "clipped", "passes": 1}))
    train(plain, 1)
    train(run, 1)

    for ours, theirs in zip(run.agent.actor_critic.parameters(), plain.agent.actor_critic.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-7)


def test_its_settings_do_nothing_without_it(pong: Path, new_run: NewRun) -> None:
    plain = trained(new_run(pong, name="plain"))
    run = trained(new_run(pong, actor_critic={"clip_ratio": 0.9, "passes": 7}))
    train(plain, 2)
    train(run, 2)

    assert differing(weights(plain), weights(run)) == set()


# Several rollouts per start


def test_rollouts_of_one_start_begin_alike_and_go_their_own_ways(
    pong: Path, new_run: NewRun, imagined: list[Rollout], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, from_end = [], Replay.from_end
    monkeypatch.setattr(
        Replay,
        "from_end",
        lambda self, batch, *rest, **more: drawn.append(batch) or from_end(self, batch, *rest, **more),
    )
    run = trained(new_run(pong, actor_critic={"rollouts_per_start": 2, "batch_size": 8}))
    train(run, 1)

    views = imagined[0].views
    assert drawn == [4]
    assert len(views) == 8
    assert torch.equal(views[0::2, 0], views[1::2, 0])
    assert not torch.equal(views[0::2, 1:], views[1::2, 1:])


def test_the_rollouts_must_fit_the_batch() -> None:
    with pytest.raises(ConfigError, match="batch_size 4 is not a multiple of rollouts_per_start 3"):
        updated(
            presets_for("iris")["tiny"], {"actor_critic": {"rollouts_per_start": 3}}, where=lambda *_: "", presets={}
        )


# The bonus for novelty


@pytest.mark.parametrize("bonus", ["imagined", "collected"])
def test_a_bonus_of_no_weight_leaves_the_policy_bit_for_bit(pong: Path, new_run: NewRun, bonus: str) -> None:
    plain = trained(new_run(pong, name="plain"))
    run = trained(new_run(pong, exploration={"bonus": bonus, "weight": 1e-30}))
    train(plain, 3)
    train(run, 3)

    assert differing(weights(plain), weights(run)) == set()


def test_its_networks_and_statistics_are_part_of_the_checkpoint(pong: Path, new_run: NewRun) -> None:
    run = trained(new_run(pong, exploration={"bonus": "imagined"}))
    before = weights(run)
    train(run, 2)
    run.save()
    again = Run.open(run.directory, device=run.device)

    learned = [name for name, tensor in weights(again).items() if not torch.equal(tensor, before[name])]
    parts = {".".join(name.split(".")[:2]) for name in learned if name.startswith("exploration")}
    assert parts == {"exploration.predictor", "exploration.pixels", "exploration.sums"}
    assert again.agent.exploration.pixels.count == 2 * 4 * 4  # updates, rollouts, steps
    assert differing(weights(run), weights(again)) == set()
    assert again.fingerprint() == run.fingerprint()


def test_its_presence_is_settled_with_the_run_and_its_weight_is_not(pong: Path, new_run: NewRun) -> None:
    run = new_run(pong)
    with pytest.raises(ConfigError, match=r"exploration.bonus is none in this run's network"):
        run.change({"exploration": {"bonus": "imagined"}}, where=lambda *_: "--set")
    novel = new_run(pong, name="novel", exploration={"bonus": "imagined"})
    before = weights(novel)

    said = novel.change({"exploration": {"weight": 0.125}}, where=lambda *_: "--set")

    assert said == ["exploration.weight: 0.5 -> 0.125"]
    assert novel.agent.config.exploration.weight == 0.125
    assert differing(before, weights(novel)) == set()


def test_an_exported_checkpoint_knows_nothing_of_it() -> None:
    small = {
        "tokenizer": {"codes": 8, "code_width": 8, "latent_channels": 32, "base_channels": 32, "res_blocks": 1},
        "dynamics": {"layers": 1, "heads": 1, "width": 8, "max_blocks": 2, "segment_length": 2},
        "actor_critic": {"channels": (1, 1, 1, 1), "lstm_width": 4},
    }
    states = []
    for bonus in ("none", "collected"):
        settings = {**small, "exploration": {"bonus": bonus, "width": 16}}
        torch.manual_seed(0)
        agent = build("iris", updated(IrisConfig(), settings, where=lambda *_: "", presets={}), 3)
        states.append(to_published(agent))

    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
