"""The training stages learn on real frames, touch nothing but their component, and stop and go on exactly."""

import copy
import dataclasses
import json
import os
import re
import signal
from collections.abc import Callable
from functools import partial
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch

from iris_cli import interrupts, load_agent
from iris_cli.agents import AGENTS
from iris_cli.agents.iris.tokenizer import Tokenizer
from iris_cli.errors import ConfigError, Interrupted, RunError, TrainingError
from iris_cli.failures import read_failure
from iris_cli.learn.fit import Part
from iris_cli.learn.losses import Losses
from iris_cli.learn.watch import Watch
from iris_cli.progress import Progress
from iris_cli.replay.segments import Segments
from iris_cli.run import Run
from iris_cli.stages import train_actor_critic as actor_critic_stage
from iris_cli.stages import train_dynamics as dynamics_stage
from iris_cli.stages import train_tokenizer as tokenizer_stage
from iris_cli.stages import training
from iris_cli.stages.train_actor_critic import TrainActorCritic, train_actor_critic
from iris_cli.stages.train_dynamics import TrainDynamics, train_dynamics
from iris_cli.stages.train_tokenizer import TrainTokenizer, train_tokenizer

NewRun = Callable[..., Run]
STAGES: dict[str, Any] = {
    "tokenizer": lambda run, updates: train_tokenizer(run, TrainTokenizer(updates=updates)),
    "dynamics": lambda run, updates: train_dynamics(run, TrainDynamics(updates=updates)),
    "actor_critic": lambda run, updates: train_actor_critic(run, TrainActorCritic(updates=updates)),
}
LOSSES: dict[str, Any] = {
    "tokenizer": partial(tokenizer_stage.losses, perceptual=None),
    "dynamics": dynamics_stage.losses,
    "actor_critic": actor_critic_stage.losses,
}


def metrics(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]


def weights(run: Run) -> dict[str, torch.Tensor]:
    return copy.deepcopy(run.agent.state_dict())


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    """The components whose weights differ."""
    return {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}


def trained(run: Run) -> Run:
    """As if it had seen every stage."""
    run.updates = dict.fromkeys(run.updates, 1)
    return run


def reopened(run: Run) -> Run:
    run.close()
    return Run.open(run.directory, device=run.device, training=True)


# Learning


def test_all_components_learn_in_bfloat16_and_say_so_once(
    pong: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    training._tell_precision.cache_clear()
    run = new_run(pong, **{name: {"precision": "auto"} for name in STAGES})

    for component, stage in STAGES.items():
        before = weights(run)
        stage(run, 2)
        stage(run, 2)
        assert changed(before, weights(run)) == {component}

    said = capsys.readouterr().out
    for component in STAGES:
        assert said.count(f"--set {component}.precision=float32") == 1
    assert {weight.dtype for weight in weights(run).values() if weight.is_floating_point()} == {torch.float32}


def test_tokenizer_and_dynamics_learn_pong(pong: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "REPORT_EVERY", 20)
    run = new_run(pong, dynamics={"learning_rate": 3e-3})
    STAGES["tokenizer"](run, 80)
    STAGES["dynamics"](run, 100)

    lines = metrics(run)
    frames = [line["reconstruction_loss"] for line in lines if line["stage"] == "train-tokenizer"]
    assert frames[-1] < 0.5 * frames[0]
    tokens = [line["loss_tokens"] for line in lines if line["stage"] == "train-dynamics"]
    assert tokens[-1] < 0.95 * tokens[0]
    assert tokens[-1] < 0.85 * log(run.config.tokenizer.codes)  # log V is what guessing costs
    assert lines[-1]["update"] == 100


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("component", STAGES)
def test_a_stage_changes_its_own_component_alone(
    pong_for: Callable[[str], Path], new_run: NewRun, agent: str, component: str
) -> None:
    run = trained(new_run(pong_for(agent), agent=agent))
    before = weights(run)
    report = STAGES[component](run, 3)
    assert changed(before, weights(run)) == {component}
    assert run.updates == {**dict.fromkeys(STAGES, 1), component: 4}
    assert report.figures["updates"] == 4
    assert not any(module.training for module in run.agent.modules())


# Stopping and going on


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("component", STAGES)
def test_an_interrupt_stops_after_the_update_and_the_rest_makes_it_whole(
    pong_for: Callable[[str], Path], new_run: NewRun, monkeypatch: pytest.MonkeyPatch, agent: str, component: str
) -> None:
    dataset = pong_for(agent)
    whole, run = (trained(new_run(dataset, name=name, agent=agent)) for name in ("whole", "part"))
    STAGES[component](whole, 4)
    STAGES[component](whole, 1)
    with monkeypatch.context() as patch:
        patch.setattr(interrupts, "requested", lambda: run.progress is not None and run.progress.done >= 2)
        with pytest.raises(Interrupted, match="after update 2 of 4; the same command goes on"):
            STAGES[component](run, 4)

    again = reopened(run)
    STAGES[component](again, 4)
    STAGES[component](again, 1)

    assert again.updates[component] == 6
    assert changed(weights(whole), weights(again)) == set()
    states = [run.optimizer(component).state_dict()["state"] for run in (whole, again)]
    assert all(torch.equal(states[0][key][name], states[1][key][name]) for key in states[0] for name in states[0][key])
    assert torch.equal(whole.visits(component).counts, again.visits(component).counts)
    again.close()


def test_without_a_number_an_unfinished_training_is_finished(pong: Path, new_run: NewRun) -> None:
    run = new_run(pong)
    run.begin("train-tokenizer", 5).done = 2
    run.save()
    again = reopened(run)
    STAGES["tokenizer"](again, None)
    assert again.updates["tokenizer"] == 3
    again.close()


def test_without_a_number_the_updates_fit_the_time_and_are_announced(
    pong: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training, "CPU_SECONDS", 0.05)
    run = new_run(pong)
    before, state = weights(run), torch.get_rng_state()
    updates = training._plan(
        run,
        training.Lesson(
            "train-tokenizer", "tokenizer", lambda progress, count, visits: count,
            lambda agent, batch, progress: [[Part(_loss(agent.tokenizer), 1.0)]], batch_size=8, probe_size=4,
        ),
    )  # fmt: skip
    assert 1 <= updates < 300
    assert "The published ratio, 300 updates, would take" in " ".join(capsys.readouterr().out.split())
    assert changed(before, weights(run)) == set()
    assert torch.equal(state, torch.get_rng_state())


def _loss(module: torch.nn.Module) -> Losses:
    for parameter in module.parameters():
        parameter.data.add_(1)  # what a probe does to its copy
    return Losses(sum(parameter.square().sum() for parameter in module.parameters()), {})


def test_encoding_before_a_training_can_be_interrupted(
    pong: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(new_run(pong))
    monkeypatch.setattr(interrupts, "requested", lambda: True)
    with pytest.raises(Interrupted, match="while frames became tokens; the same command goes on"):
        STAGES["dynamics"](run, 3)
    assert run.updates["dynamics"] == 1


def test_a_second_interrupt_stops_at_once_and_the_checkpoint_stands(pong: Path, new_run: NewRun) -> None:
    run = trained(new_run(pong))
    run.save()
    number, said = run.checkpoint_number, []

    def draw_and_press_twice(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)

    replay = run.replay()
    replay.random_frames = draw_and_press_twice  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt), interrupts.graceful(said.append):
        STAGES["tokenizer"](run, 3)
    assert said == ["Stopping. Press Ctrl-C again to stop at once (what is not saved is then lost)."]
    assert not interrupts.requested()
    again = reopened(run)
    assert again.checkpoint_number == number
    assert again.updates["tokenizer"] == 1
    again.close()


def test_an_interrupt_in_the_middle_of_a_print_is_still_a_request(pong: Path) -> None:
    def reentrant(_: str) -> None:
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stdout>'>")

    with interrupts.graceful(reentrant):
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.requested()


# Numbers that go wrong

# Agent and component -> a parameter, the part of the loss it spoils, and metrics it leaves alone.
PLANTED = {
    ("iris", "tokenizer"): ("decoder.layers.0.bias", "reconstruction_loss", ("commitment_loss", "perplexity")),
    ("iris", "dynamics"): ("head_ends.2.bias", "loss_ends", ("loss_tokens", "loss_rewards")),
    ("iris", "actor_critic"): ("critic_linear.bias", "loss_actions", ("loss_entropy", "rewards", "ends")),
    ("delta-iris", "tokenizer"): ("decoder.decoder.6.bias", "l1_loss", ("commitment_loss", "perplexity")),
    ("delta-iris", "dynamics"): ("head_ends.2.bias", "loss_ends", ("loss_tokens", "loss_rewards")),
    ("delta-iris", "actor_critic"): ("model.critic_linear.bias", "loss_values", ("loss_entropy", "rewards", "ends")),
}


@pytest.mark.parametrize(("agent", "component"), PLANTED)
def test_a_step_that_is_not_finite_stops_at_its_update_and_its_file_gives_it_again(
    pong: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch, agent: str, component: str
) -> None:
    run = trained(new_run(pong, agent=agent))
    run.save()
    number, (parameter, part, others) = run.checkpoint_number, PLANTED[agent, component]

    def plant_after_two(*_: object, **__: object) -> None:
        if run.progress.done == 2:
            getattr(run.agent, component).get_parameter(parameter).data.fill_(torch.nan)

    monkeypatch.setattr(run, "save_if_due", plant_after_two)
    stage = f"train-{component.replace('_', '-')}"
    path = run.directory / "failures" / f"{stage}-000004.safetensors"  # one update before, two here
    with pytest.raises(TrainingError, match=rf"{part} of the [a-z-]+ became nan in update 4.*{path.name}.*goes on"):
        STAGES[component](run, 9)
    assert run.checkpoint_number == number
    assert not getattr(run.agent, component).training

    failure, again = read_failure(path), reopened(run)
    again.agent.load_state_dict(failure.weights)
    getattr(again.agent, component).train()
    batch = segments_of(failure.batch) if "actions" in failure.batch else failure.batch["frames"]
    torch.manual_seed(99)  # what the file says is all that counts
    steps = LOSSES[component](again.agent, batch, Progress.restored(failure.state, again.device))
    parts = next(iter(next(iter(steps)))).losses.parts
    assert parts[part].isnan()
    assert [parts[name].item() for name in others] == [failure.metrics[name] for name in others]

    again = reopened(again)  # at the last good checkpoint
    assert again.updates[component] == 1
    STAGES[component](again, 3)
    assert again.updates[component] == 4
    again.close()


def segments_of(batch: dict[str, torch.Tensor]) -> Segments:
    return Segments(**{field.name: batch.get(field.name) for field in dataclasses.fields(Segments)})


def test_a_run_that_diverges_ends_the_command_with_one_line_and_goes_on_again(
    workplace: Path, command: Callable[..., Any]
) -> None:
    train = ("train-dynamics", "data/pong.zarr", "--updates", "6")

    failed = command(*train, "--set", "dynamics.learning_rate=1e30")

    assert failed.exit_code == 1
    last = failed.stderr.strip().splitlines()[-1]
    assert re.match(
        r"Error: loss_tokens of the dynamics became (nan|inf) in update \d+, whose batch was kept. "
        r"In runs/pong/failures/train-dynamics-00000\d.safetensors. The last checkpoint is untouched", last
    )  # fmt: skip
    assert "Traceback" not in failed.output
    again = command(*train, "--set", "dynamics.learning_rate=1e-4")
    assert again.exit_code == 0, again.output
    assert all(weight.isfinite().all() for weight in load_agent("runs/pong", device="cpu").state_dict().values())


def test_the_failure_of_a_first_update_is_not_swept_away_with_its_run(
    workplace: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    nan = torch.full((), torch.nan, requires_grad=True)
    monkeypatch.setattr(Tokenizer, "loss", lambda *_, **__: Losses(nan * 1, {}))

    command("train-tokenizer", "data/pong.zarr", "--preset", "tiny", "--run", "runs/new", "--updates", "2")

    assert Path("runs/new/failures/train-tokenizer-000001.safetensors").exists()


def test_nothing_is_saved_that_was_not_judged(pong: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "Watch", partial(lagging_watch, training.Watch))
    monkeypatch.setattr("iris_cli.run.SAVE_SECONDS", 0.0)
    run = trained(new_run(pong))
    fused = torch.optim.AdamW(run.agent.dynamics.parameters(), fused=True)  # as on CUDA
    monkeypatch.setattr(run, "optimizer", lambda component: fused)
    loss = run.agent.dynamics.loss
    calls = iter(range(10))

    def infinite_third(segments: Segments) -> Losses:  # with a gradient as good as any
        losses = loss(segments)
        return Losses(losses.total + (torch.inf if next(calls) == 2 else 0.0), losses.parts)

    monkeypatch.setattr(run.agent.dynamics, "loss", infinite_third)
    with pytest.raises(TrainingError, match="total_loss of the dynamics became inf in update 4"):
        STAGES["dynamics"](run, 6)

    monkeypatch.undo()
    again = reopened(run)
    assert (again.updates["dynamics"], again.unfinished["done"]) == (3, 2)  # the last two that were good
    STAGES["dynamics"](again, 6)
    assert again.updates["dynamics"] == 7
    again.close()


def lagging_watch(watch: type[Watch], *, lagging: bool, on_growth: Callable[..., None]) -> Watch:
    """A watch as on CUDA."""
    assert not lagging
    return watch(lagging=True, on_growth=on_growth)


def test_growth_is_said_and_logged_once(
    pong: Path, new_run: NewRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, calls = trained(new_run(pong)), iter(range(1000))
    weight = run.agent.dynamics.head_ends[2].bias
    monkeypatch.setattr(
        run.agent.dynamics, "loss", lambda _: Losses(weight.sum() * 0 + (1e7 if next(calls) >= 60 else 1.0), {})
    )

    STAGES["dynamics"](run, 90)

    assert capsys.readouterr().err.count("train-dynamics: the total loss has grown from 1 to 1e+07") == 1
    [line] = [line for line in metrics(run) if line.get("event") == "growth"]
    assert (line["name"], line["update"], line["usual"], line["now"]) == ("total_loss", 71, 1.0, 1e7)


# What is missing


def test_a_stage_names_the_one_it_needs_first(pong: Path, new_run: NewRun) -> None:
    run = new_run(pong)
    with pytest.raises(RunError, match=r"tokenizer has not been trained yet.*iris train-tokenizer"):
        STAGES["dynamics"](run, 1)
    run.updates["tokenizer"] = 1
    with pytest.raises(RunError, match=r"dynamics has not been trained yet.*iris train-dynamics"):
        STAGES["actor_critic"](run, 1)


def test_no_updates_are_refused(pong: Path, new_run: NewRun) -> None:
    with pytest.raises(ConfigError, match="updates is 0"):
        STAGES["tokenizer"](new_run(pong), 0)


def test_the_weights_free_loss_is_said_recorded_and_reported(
    pong: Path, new_run: NewRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run(pong)
    report = STAGES["tokenizer"](run, 1)
    assert "for want of perceptual weights" in capsys.readouterr().out
    assert report.figures["loss"] == run.tokenizer_loss == "weights-free"
    run.save()
    assert Run.open(run.directory, device=run.device).tokenizer_loss == "weights-free"
