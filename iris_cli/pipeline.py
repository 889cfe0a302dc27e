"""Carry out a plan in one process, and resume it from its cursor. Models, replay and tokens stay warm in the `Run`."""

import hashlib
import json
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from iris_cli import console
from iris_cli.card import read_card
from iris_cli.config import to_mapping
from iris_cli.device import choose_device
from iris_cli.envs.vector import VectorEnv
from iris_cli.errors import Interrupted, IrisError, RunError
from iris_cli.history import Note, write_plan
from iris_cli.latest import latest_checkpoint, read_state
from iris_cli.object_store import Location
from iris_cli.open_run import logged
from iris_cli.plan import Plan, Planned, check_order
from iris_cli.replay.attributes import differences
from iris_cli.replay.dataset import Dataset
from iris_cli.report import Report
from iris_cli.run import COMPONENTS, Run
from iris_cli.stages.collect import collect
from iris_cli.stages.diagnose import diagnose
from iris_cli.stages.evaluate import evaluate
from iris_cli.stages.imagine import imagine
from iris_cli.stages.tokenize import tokenize
from iris_cli.stages.train_actor_critic import train_actor_critic
from iris_cli.stages.train_agent import train_agent
from iris_cli.stages.train_dynamics import train_dynamics
from iris_cli.stages.train_tokenizer import announce_loss, train_tokenizer
from iris_cli.working_copy import at_hand

# Defaults of an evaluation that have changed since a cursor was a digest of all settings; ... is one not yet there.
_EVALUATIONS_THEN: tuple[dict[str, Any], ...] = ({}, {"temperature": 0.5}, {"temperature": 0.5, "measured_steps": ...})


def show_plan(plan: Plan) -> None:
    """Print what a plan will do.

    Raises:
        ConfigError: if a stage of it will lack what it needs.
    """
    check(plan)
    console.table(
        f"{plan.source}",
        {
            "agent": f"{plan.agent} (preset {plan.config.preset})",
            "environment": plan.environment.name,
            "dataset": plan.dataset,
            "run": plan.run,
            "seed": plan.seed,
            "rounds": plan.rounds,
            **plan.totals(),
        },
    )
    rows: list[list[object]] = []
    for phase in ("first", "round", "then"):
        seen: dict[tuple[str, str], list[Planned]] = {}
        for planned in plan.stages:
            if planned.phase == phase:
                settings = ", ".join(f"{k} {v}" for k, v in _differences(planned.settings).items())
                seen.setdefault((planned.stage, settings), []).append(planned)
        for (stage, settings), group in seen.items():
            rounds = f"{group[0].round} to {group[-1].round}" if phase == "round" else ""
            rows.append([phase, stage, settings or "defaults", rounds, len(group)])
    console.grid("Stages", ["phase", "stage", "settings", "rounds", "times"], rows)


def execute(plan: Plan, *, device: str = "auto") -> Report:
    """Carry out a plan, from the start or from where its run stands.

    Raises:
        ConfigError: if a stage of it will lack what it needs; then nothing is done.
        RunError: if the run has done something that is not in the plan.
        Interrupted: after Ctrl-C, with the work saved.
    """
    check(plan)
    with closing(logged(_open(plan, device), plan.log)) as run:
        try:
            return _execute(plan, run)
        except IrisError:
            run.withdraw()
            raise


def _execute(plan: Plan, run: Run) -> Report:
    begun = time.monotonic()
    for sentence in run.change(plan.changes, where=lambda *keys: str(plan.source)):
        console.say(f"Changed {sentence}.")
    position = _resume(run, plan)
    write_plan(run.directory, _as_mapping(plan))
    words = f"{plan.source}: {plan.environment.name} on {run.device}, run {plan.run}"
    if position == len(plan.stages):
        console.say(f"{words}: everything is done already.")
        run.tell()  # loggers that are new
    else:
        run.listeners.append(Note(run.directory, run.device))
        console.say(f"{words}: {len(plan.stages) - position:,} of {len(plan.stages):,} stages to do.")
    if any(planned.stage == "train-tokenizer" for planned in plan.stages[position:]):
        announce_loss(run)
    if run.device.type == "cpu" and run.config.preset == "published":
        console.warn("this is the full-size network on a CPU; --preset small is many times faster")
    report, digests = Report(stage="run"), _digests([_as_written(planned) for planned in plan.stages])
    for index in range(position, len(plan.stages)):
        report = _step(run, plan, index, digests)
    if run.cursor is None or position < len(plan.stages):
        run.save()
    files = {"run": plan.run, **_outcomes(plan)}
    return Report(stage="run", figures={**report.figures, "seconds": time.monotonic() - begun}, files=files)


def _step(run: Run, plan: Plan, index: int, digests: list[str]) -> Report:
    planned, started = plan.stages[index], time.monotonic()
    run.cursor = {"position": index, "written": digests[index]}
    run.round = planned.round
    try:
        report = _perform(run, planned)
    except Interrupted:
        if run.progress is None:  # a stage that changes no weights
            run.save()
            raise Interrupted(
                f"Stopped in {planned.stage} ({planned.label}); the same command goes on, from the start of this stage."
            ) from None
        raise
    seconds = time.monotonic() - started
    run.cursor = {"position": index + 1, "written": digests[index + 1]}
    run.log(event="stage", stage=planned.stage, phase=planned.phase, seconds=round(seconds, 3), figures=report.figures)
    prefix = f"{planned.label}/{plan.rounds}" if planned.round is not None else planned.label
    console.line(report, prefix=prefix, seconds=seconds)
    for note in report.notes:
        console.warn(note)
    run.save_if_due()
    return report


def _perform(run: Run, planned: Planned) -> Report:
    settings, name = planned.settings, f"round-{planned.round:04d}" if planned.round is not None else planned.phase
    match planned.stage:
        case "collect":
            return collect(run, settings)
        case "train-tokenizer":
            return train_tokenizer(run, settings)
        case "tokenize":
            return tokenize(run, settings)
        case "train-dynamics":
            return train_dynamics(run, settings)
        case "train-actor-critic":
            return train_actor_critic(run, settings)
        case "train-agent":
            return train_agent(run, settings)
        case "evaluate":
            return evaluate(run, settings, name=name)
        case "diagnose":
            return diagnose(run, settings, name=name)
        case "imagine":
            return imagine(run, settings, path=run.directory / _media(planned))
    raise AssertionError(planned.stage)


def _media(planned: Planned) -> Path:
    """Where a film goes, in the run's directory."""
    render = planned.settings.render
    name = render.name if planned.round is None else f"{render.stem}-{planned.round:04d}{render.suffix}"
    return Path("media") / render.with_name(name)


def _outcomes(plan: Plan) -> dict[str, Location]:
    """The last video and the last evaluation report."""
    files: dict[str, Location] = {}
    for planned in plan.stages:
        if planned.stage == "imagine":
            files["video"] = plan.run / _media(planned)
        if planned.stage == "evaluate":
            name = f"round-{planned.round:04d}" if planned.round is not None else planned.phase
            files["report"] = plan.run / "reports" / f"evaluate-{name}.json"
    return {name: path for name, path in files.items() if path.exists()}


def check(plan: Plan) -> None:
    """Refuse a plan whose stages are in the wrong order, from where its run stands, if there is one.

    Raises:
        ConfigError: at the first stage that will lack what it needs.
        RunError: if the run that is there cannot be read.
    """
    position, trained = 0, set[str]()
    if (plan.run / "run.yaml").exists():
        directory = at_hand(plan.run)
        card, path = read_card(directory), latest_checkpoint(directory / "checkpoints")
        state = {} if path is None else read_state(path)
        try:
            position = state["cursor"]["position"] if state.get("cursor") else 0
            trained = {name for name, updates in state.get("updates", {}).items() if updates}
        except (AttributeError, KeyError, TypeError) as error:
            raise RunError(f"the checkpoint cannot be read ({error})", where=path or plan.run) from None
        trained |= set(COMPONENTS if "imported" in card else ())
    check_order(plan, position=position, trained=trained, has_steps=Dataset.exists(plan.dataset))


def _open(plan: Plan, device: str) -> Run:
    chosen = choose_device(device)
    if (plan.run / "run.yaml").exists():
        card = read_card(at_hand(plan.run))
        for key, value in (
            ("agent", plan.agent), ("preset", plan.config.preset), ("seed", plan.seed), ("dataset", str(plan.dataset)),
            ("environment", plan.environment.to_mapping()),
        ):  # fmt: skip
            there = (card["config"] if key == "preset" else card)[key]
            if there not in (value, "imported"):
                words = f"the run has {key} {there}, but the pipeline {value}"
                if key == "environment":
                    words = f"the run has another environment: {differences(there, plan.environment.to_mapping())}"
                raise RunError(
                    words, where=plan.run,
                    fix="Name another run (--set run=runs/NAME), and for another game another dataset.",
                )  # fmt: skip
        run = Run.open(plan.run, device=chosen, training=True)
        run.environment = plan.environment  # the same, but named by whoever typed the pipeline's name
        return run
    if Dataset.exists(plan.dataset):
        with Dataset.open(plan.dataset) as dataset:
            dataset.check_environment(plan.environment.to_mapping())
            num_actions = dataset.num_actions
    else:
        with VectorEnv(plan.environment, 1) as envs:
            num_actions = envs.num_actions
    return Run.create(
        plan.run, agent=plan.agent, config=plan.config, environment=plan.environment, num_actions=num_actions,
        dataset=plan.dataset, seed=plan.seed, device=chosen,
    )  # fmt: skip


def _resume(run: Run, plan: Plan) -> int:
    """The index of the next stage; puts the dataset back to what the checkpoint knows of it."""
    position = 0 if run.cursor is None else run.cursor["position"]
    if run.cursor is not None and not _has_begun(plan, run.cursor):
        raise RunError(
            f"the run has done {position:,} stages of a pipeline, and they are not those of {plan.source}",
            where=run.directory, fix="Name another run: --set run=runs/NAME.",
        )  # fmt: skip
    if any(planned.stage == "collect" for planned in plan.stages) and (
        Dataset.exists(run.dataset_path) or run.collected["steps"]
    ):
        with Dataset.open(run.dataset_path, writable=True) as dataset:
            if dataset.num_steps != run.collected["steps"]:
                dataset.rewind(
                    run.collected["steps"], writer=run.writer, attributes={"collector": run.collected["collector"]}
                )
    return position


def _has_begun(plan: Plan, cursor: dict[str, Any]) -> bool:
    """Whether what a cursor stands behind are the first stages of a plan."""
    stages = plan.stages[: cursor["position"]]
    if len(stages) < cursor["position"]:
        return False
    if "written" in cursor:
        return cursor["written"] == _digests([_as_written(planned) for planned in stages])[-1]
    return any(cursor["done"] == _digests([_in_full(p, then) for p in stages])[-1] for then in _EVALUATIONS_THEN)


def _as_written(planned: Planned) -> list[Any]:
    """A stage as the file and --set say it. A default may change while a run goes on; what was asked for may not."""
    settings = to_mapping(planned.settings)
    return [planned.phase, planned.round, planned.stage, {name: settings[name] for name in sorted(planned.written)}]


def _in_full(planned: Planned, then: dict[str, Any]) -> list[Any]:
    """A stage with its defaults, as cursors used to know it; `then` are those of an evaluation that have changed."""
    settings = to_mapping(planned.settings)
    if planned.stage == "evaluate":
        settings |= {name: value for name, value in then.items() if name not in planned.written}
    return [planned.phase, planned.round, planned.stage, {name: v for name, v in settings.items() if v is not ...}]


def _digests(stages: list[list[Any]]) -> list[str]:
    """Of the first 0, 1, 2 ... stages as a JSON list, in one pass: there may be ten thousand."""
    digests, begun = [hashlib.sha256(b"[]").hexdigest()[:16]], hashlib.sha256(b"[")
    for index, stage in enumerate(stages):
        begun.update((", " if index else "").encode() + json.dumps(stage).encode())
        whole = begun.copy()
        whole.update(b"]")
        digests.append(whole.hexdigest()[:16])
    return digests


def _as_mapping(plan: Plan) -> dict[str, Any]:
    """What those who follow the run should know of its plan: where it came from, and each stage with its amount."""
    return {
        "source": str(plan.source),
        "text": plan.source.read_text(encoding="utf-8"),
        "rounds": plan.rounds,
        "stages": [[planned.phase, planned.round, planned.stage, _amount(planned.settings)] for planned in plan.stages],
    }


def _amount(settings: Any) -> int | None:
    """How much a stage does, in its own unit: updates, steps or episodes."""
    amounts = (getattr(settings, name, None) for name in ("updates", "episodes", "steps"))
    return next((amount for amount in amounts if amount is not None), None)


def _differences(settings: Any) -> dict[str, Any]:
    """The settings that are not the stage's defaults."""
    default = to_mapping(type(settings)())
    return {name: value for name, value in to_mapping(settings).items() if value != default[name]}
