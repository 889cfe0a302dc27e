"""What the three training stages share: how many updates, the loop, the progress bar, checkpoints and the report."""

import copy
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

from iris_cli import console, interrupts
from iris_cli.device import fast_matmul
from iris_cli.errors import ConfigError, DatasetError, Interrupted, RunError
from iris_cli.learn.fit import Part, fit
from iris_cli.progress import Progress
from iris_cli.replay.segments import Replay
from iris_cli.report import Report
from iris_cli.run import Run

UPDATES_PER_STEP = 1.0  # the published schedule: 200 updates of each component for 200 collected steps
CPU_SECONDS = 300.0  # of work that a training command without --updates takes upon itself on a CPU
REPORT_EVERY = 50  # updates between two lines of metrics.jsonl

Compute = Callable[[Any, Progress], Iterable[Part]]  # of the agent: draws a batch, yields the losses of its shares


def train(
    run: Run,
    stage: str,
    component: str,
    updates: int | None,
    compute: Compute,
    *,
    probe: Callable[[Any, Progress], tuple[Part, float]],
    after_update: Callable[[], None] = lambda: None,
) -> Report:
    """Train one component for a number of updates, from where a kill left it if it did.

    Args:
        run: opened for training.
        stage: the command's name.
        component: the part of the agent that learns.
        updates: how many; None takes the published ratio to the dataset's steps, on a CPU cut to `CPU_SECONDS`.
        compute: one update's losses.
        probe: a cheap share of an update on a copy of the agent, and its fraction of the update; for the estimate.
        after_update: called after each optimizer step.

    Raises:
        Interrupted: after Ctrl-C, with the work saved.
    """
    if updates is not None and updates < 1:
        raise ConfigError(f"updates is {updates}, but must be at least 1", where=stage)
    unfinished = run.resumable(stage)
    if updates is None:
        updates = unfinished["total"] if unfinished else _plan(run, stage, probe)
    module, config = getattr(run.agent, component), getattr(run.config, component)
    optimizer = run.optimizer(component)
    left = run.unfinished
    if left is not None and (left["stage"], left["total"]) != (stage, updates):
        console.warn(
            f"{left['stage']} stopped after {left['done']:,} of {left['total']:,} updates; its rest is dropped"
        )
    progress = run.begin(stage, updates)
    if progress.done:
        console.say(f"{stage}: going on after update {progress.done:,} of {progress.total:,}.")
    module.train()
    begun, first = time.monotonic(), progress.done
    last: dict[str, float] = {}
    with console.progress(stage, updates, "updates", done=progress.done) as bar:

        def on_report(done: int, means: dict[str, float]) -> None:
            last.update(means)
            total = run.updates[component] + done - progress.done
            run.log(stage=stage, update=total, **means)

        def keep_going(done: int) -> bool:
            run.updates[component] += done - progress.done
            progress.done = done
            bar.advance(1, f"loss {console.number(last['total_loss'])}" if last else None)
            run.save_if_due()
            return not interrupts.requested()

        try:
            with fast_matmul():
                fit(
                    lambda: compute(run.agent, progress), module.parameters(), optimizer,
                    start=progress.done, updates=updates, clip_norm=config.clip_norm, after_update=after_update,
                    report_every=REPORT_EVERY, on_report=on_report, keep_going=keep_going,
                )  # fmt: skip
        finally:
            module.eval()
    if progress.done < updates:
        run.save()
        raise Interrupted(f"{stage} stopped after update {progress.done:,} of {updates:,}; the same command goes on.")
    run.end(stage)
    seconds = time.monotonic() - begun
    figures: dict[str, float | int | str] = {
        "updates": run.updates[component],
        "updates_per_second": (updates - first) / max(seconds, 1e-9),
        **last,
    }
    return Report(stage=stage, figures=figures, files={"run": run.directory})


def needs_steps(replay: Replay, run: Run) -> Replay:
    """The replay, if there is anything in it.

    Raises:
        DatasetError: if it is empty.
    """
    if replay.num_steps == 0:
        raise DatasetError(
            "the dataset has no steps",
            where=run.dataset_path,
            fix=f"Collect: iris collect --env {run.environment.name}",
        )
    return replay


def needs_training(run: Run, component: str) -> None:
    """Go on only if a component has been trained.

    Raises:
        RunError: if it has not; names the command.
    """
    if not run.is_trained(component):
        raise RunError(
            f"the {component.replace('_', '-')} has not been trained yet", where=run.directory,
            fix=f"First run: {run.command('train-' + component.replace('_', '-'))}",
        )  # fmt: skip


def ready_to_draw(run: Run) -> Replay:
    """The replay, with the present tokenizer's tokens where frames have any; a progress bar tells of their encoding.

    Raises:
        Interrupted: after Ctrl-C.
    """
    replay = needs_steps(run.replay(), run)
    if not run.agent.frames_have_tokens:
        return replay
    with console.progress("tokenize", replay.num_steps, "frames") as bar:

        def on_block(frames: int) -> None:
            bar.advance(frames)
            if interrupts.requested():
                raise Interrupted("Stopped while frames became tokens; the same command goes on.")

        return run.tokenized_replay(on_block)


def _plan(run: Run, stage: str, probe: Callable[[Any, Progress], tuple[Part, float]]) -> int:
    """Choose and announce the number of updates."""
    steps = run.dataset().num_steps
    wanted = max(1, round(steps * UPDATES_PER_STEP))
    seconds = _seconds_per_update(run, stage, probe)
    why = f"one for each of the dataset's {steps:,} steps, as published"
    if run.device.type != "cpu" or wanted * seconds <= CPU_SECONDS:
        console.say(f"{stage}: {wanted:,} updates, {why}; about {console.duration(wanted * seconds)} here.")
        return wanted
    updates = max(1, round(CPU_SECONDS / seconds))
    console.say(
        f"{stage}: {updates:,} updates, about {console.duration(updates * seconds)} on this CPU. The published ratio, "
        f"{wanted:,} updates, would take {console.duration(wanted * seconds)} here; --updates N sets the number."
    )
    if run.config.preset in ("published", "atari", "crafter"):
        console.say("For a CPU there is a small network: --preset small --run runs/NAME.")
    return updates


def _seconds_per_update(run: Run, stage: str, probe: Callable[[Any, Progress], tuple[Part, float]]) -> float:
    """Time a share of an update on a copy of the agent, so that nothing of the run is touched."""
    agent, state = copy.deepcopy(run.agent), torch.get_rng_state()
    progress = Progress(stage, 0, 1, torch.Generator(), torch.Generator(device=run.device))
    for _ in range(2):  # the first warms up
        begun = time.monotonic()
        part, share = probe(agent, progress)
        part.losses.total.backward()
        if run.device.type == "cuda":
            torch.cuda.synchronize(run.device)
        seconds = (time.monotonic() - begun) / share
    torch.set_rng_state(state)
    return seconds
