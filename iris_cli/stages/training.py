"""What the training stages share: how many updates, the loop, the progress bar, checkpoints and the report."""

import copy
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from iris_cli import console, interrupts
from iris_cli.device import fast_matmul
from iris_cli.errors import ConfigError, DatasetError, Interrupted, RunError, TrainingError
from iris_cli.failures import Failure, write_failure
from iris_cli.learn.fit import Learner, Steps, fit, learners_of
from iris_cli.learn.visits import Visits
from iris_cli.learn.watch import Growth, NotFinite, Watch
from iris_cli.nn.precision import compute_dtype
from iris_cli.progress import Progress
from iris_cli.replay.segments import Replay, Segments
from iris_cli.replay.windows import Windows
from iris_cli.report import Report
from iris_cli.run import FRAMES, Run

CPU_SECONDS = 300.0  # of work that a training command without --updates takes upon itself on a CPU
REPORT_EVERY = 50  # updates between two lines of metrics.jsonl

Batch = Segments | Windows | Tensor  # segments, windows, or frames (B, 3 or 4, 64, 64) uint8


class Lesson(NamedTuple):
    """What a component learns.

    Attributes:
        stage: the command's name.
        component: the part of the agent that learns.
        draw: a batch of so many frames or segments; notes the episodes that it draws where the agent counts visits.
        losses: the optimizer steps of an update, from the agent and a batch; draws from the progress's streams only.
        batch_size: of an update.
        probe_size: of the batch that is timed for the estimate.
        also: parts of the agent that learn beside it, each with an optimizer and settings of its own.
        around: opened around so many updates.
    """

    stage: str
    component: str
    draw: Callable[[Progress, int, Visits], Batch]
    losses: Callable[[Any, Any, Progress], Steps]
    batch_size: int
    probe_size: int
    also: tuple[str, ...] = ()
    around: Callable[[int], AbstractContextManager[None]] = lambda updates: nullcontext()

    def learners(self, run: Run) -> list[Learner]:
        """What the optimizers work on."""
        metrics = {self.component: "gradient_norm"} | {name: f"gradient_norm_{name}" for name in self.also}
        return [
            learner
            for name, metric in metrics.items()
            for learner in learners_of(
                getattr(run.agent, name), run.optimizer(name), getattr(run.config, name).clip_norm, metric
            )
        ]


class _Drawn(NamedTuple):
    """A batch, and the random streams when it had been drawn."""

    batch: Batch
    state: dict[str, Any]


def train(run: Run, lesson: Lesson, updates: int | None, *, after_update: Callable[[], None] = lambda: None) -> Report:
    """Train a component, or several at once, for a number of updates, from where a kill left it if it did.

    Args:
        run: opened for training.
        lesson: what to learn.
        updates: how many; None takes as many as published for the dataset's steps, on a CPU cut to `CPU_SECONDS`.
        after_update: called after each update.

    Raises:
        Interrupted: after Ctrl-C, with the work saved.
        TrainingError: at an update that is not finite, with its batch kept and the last checkpoint as it was.
    """
    stage, component = lesson.stage, lesson.component
    if updates is not None and updates < 1:
        raise ConfigError(f"updates is {updates}, but must be at least 1", where=stage)
    unfinished = run.resumable(stage)
    if updates is None:
        updates = unfinished["total"] if unfinished else _plan(run, lesson)
    modules, learners = [getattr(run.agent, name) for name in (component, *lesson.also)], lesson.learners(run)
    progress = _begin(run, stage, updates)
    if getattr(getattr(run.config, component), "precision", None) == "auto":
        _tell_precision(component, compute_dtype("auto", run.device))
    for module in modules:
        module.train()
    begun, first = time.monotonic(), progress.done
    last: dict[str, float] = {}

    def total(update: int) -> int:
        """Updates of the component in all its training, from those of this stage."""
        return run.updates[component] + update - progress.done

    watch = Watch(
        lagging=run.device.type == "cuda", on_growth=lambda growth: _tell(run, stage, growth, total(growth.update))
    )
    with console.progress(stage, updates, "updates", done=progress.done) as bar:

        def on_report(done: int, means: dict[str, float]) -> None:
            last.update(means)
            run.log(stage=stage, update=total(done), **means)

        def keep_going(done: int) -> bool:
            for name in run.updates.keys() & {component, *lesson.also}:
                run.updates[name] += done - progress.done
            progress.done = done
            bar.advance(1, f"loss {console.number(last['total_loss'])}" if last else None)
            run.save_if_due(before=watch.settle)
            return not interrupts.requested()

        def draw() -> _Drawn:
            visits = run.visits(component)
            if run.round == 1 and not run.agent.counts_first_round:
                visits = visits.copy()
            batch = lesson.draw(progress, lesson.batch_size, visits)
            return _Drawn(batch, progress.state())

        try:
            with fast_matmul(), lesson.around(updates):
                fit(
                    draw, lambda drawn: lesson.losses(run.agent, drawn.batch, progress), learners, watch=watch,
                    start=progress.done, updates=updates, after_update=after_update, report_every=REPORT_EVERY,
                    on_report=on_report, keep_going=keep_going,
                )  # fmt: skip
        except NotFinite as error:
            raise _kept(run, lesson, error, total(error.update)) from None
        finally:
            for module in modules:
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
    """The replay, if there is anything in it; says where its frames are, unless on the device. The run notes its steps.

    Raises:
        DatasetError: if it is empty.
    """
    if replay.num_steps == 0:
        raise DatasetError(
            "the dataset has no steps",
            where=run.dataset_path,
            fix=f"Collect: iris collect --env {run.environment.name}",
        )
    run.steps_seen = replay.num_steps
    if FRAMES is None and replay.place != "device":
        _tell_place(replay.place, run.device.type)
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


def _begin(run: Run, stage: str, updates: int) -> Progress:
    """The stage's progress, fresh or from where it was stopped, and what a user should know of that."""
    left = run.unfinished
    if left is not None and (left["stage"], left["total"]) != (stage, updates):
        console.warn(
            f"{left['stage']} stopped after {left['done']:,} of {left['total']:,} updates; its rest is dropped"
        )
    progress = run.begin(stage, updates)
    if progress.done:
        console.say(f"{stage}: going on after update {progress.done:,} of {progress.total:,}.")
    return progress


@lru_cache  # once in a process, however many rounds there are
def _tell_precision(component: str, dtype: torch.dtype) -> None:
    if dtype == torch.bfloat16:
        setting = f"{component}.precision"
        console.say(
            f"{setting}: products in bfloat16, which this processor knows. --set {setting}=float32 for float32."
        )


@lru_cache  # as above
def _tell_place(place: str, device: str) -> None:
    where = {"memory": "in the host's memory", "disk": "on disk, read as they are drawn"}[place]
    console.say(
        f"Frames stay {where}: on {device} they would leave too little room. Draws are the same; "
        "IRIS_FRAMES=device, memory or disk chooses."
    )


def _tell(run: Run, stage: str, growth: Growth, update: int) -> None:
    """Say and log that a metric has grown beyond all measure. Training goes on: it may come back."""
    run.log(event="growth", stage=stage, update=update, name=growth.name, usual=growth.usual, now=growth.now)
    console.warn(
        f"{stage}: the {growth.name.replace('_', ' ')} has grown from {console.number(growth.usual)} to "
        f"{console.number(growth.now)} (medians) by update {update:,}; if it does not come back, start again with a "
        "smaller learning rate"
    )


def _kept(run: Run, lesson: Lesson, error: NotFinite, update: int) -> TrainingError:
    """Write the update that was not finite to a file; the error that names it."""
    batch = error.batch.batch
    tensors = (
        {"frames": batch}
        if isinstance(batch, Tensor)
        else {field.name: getattr(batch, field.name) for field in fields(batch)}
    )
    failure = Failure(
        stage=lesson.stage, component=lesson.component, update=update, metrics=error.metrics, state=error.batch.state,
        batch={name: tensor for name, tensor in tensors.items() if tensor is not None},
        weights=run.agent.state_dict(),
    )  # fmt: skip
    names = " and ".join(name.replace("_", "-") for name in (lesson.component, *lesson.also))
    what = f"{error.cause} of the {names} became {error.metrics[error.cause]} in update"
    rate = getattr(run.config, lesson.component).learning_rate
    fix = (
        "The last checkpoint is untouched, and the same command goes on from it; "
        f"a smaller learning rate may help: --set {lesson.component}.learning_rate={rate / 10:g}."
    )
    try:
        path = write_failure(run.directory / "failures", failure)
    except RunError as problem:
        return TrainingError(f"{what} {update:,}; {problem.what}", where=problem.where, fix=fix)
    return TrainingError(f"{what} {update:,}, whose batch was kept", where=path, fix=fix)


def _plan(run: Run, lesson: Lesson) -> int:
    """Choose and announce the number of updates."""
    steps = run.dataset().num_steps
    wanted, why = _published(run, lesson.stage, steps)
    stage, seconds = lesson.stage, _seconds_per_update(run, lesson)
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


def _published(run: Run, stage: str, steps: int) -> tuple[int, str]:
    """How many updates are published for so many steps, and why."""
    if hasattr(run.agent, "planned_updates"):
        return run.agent.planned_updates(stage, steps), f"as the settings of the schedule say for {steps:,} steps"
    return steps, f"one for each of the dataset's {steps:,} steps, as published"


def _seconds_per_update(run: Run, lesson: Lesson) -> float:
    """Time an update on a small batch and a copy of the agent, so that nothing of the run is touched."""
    agent, state = copy.deepcopy(run.agent), torch.get_rng_state()
    progress = Progress(lesson.stage, 0, 1, torch.Generator(), torch.Generator(device=run.device))
    count, visits = min(lesson.probe_size, lesson.batch_size), Visits([])
    for name in (lesson.component, *lesson.also):
        getattr(agent, name).train()
    for _ in range(2):  # the first warms up
        begun = time.monotonic()
        for parts in lesson.losses(agent, lesson.draw(progress, count, visits), progress):
            for part in parts:
                part.losses.total.backward()
        if run.device.type == "cuda":
            torch.cuda.synchronize(run.device)
        seconds = (time.monotonic() - begun) * lesson.batch_size / count
    torch.set_rng_state(state)
    return seconds
