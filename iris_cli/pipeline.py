"""A pipeline file becomes a plan, a list of stages; it is carried out in one process, and resumed from its cursor.

The format is in pipelines/README.md. Models, optimizers, replay and tokens stay warm in the `Run` between stages.
"""

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from iris_cli import console
from iris_cli.agents import presets_for, section_presets_for
from iris_cli.config import Document, convert, from_mapping, load_yaml, nearest, parse_assignments, to_mapping, updated
from iris_cli.envs.spec import EnvSpec, training_spec
from iris_cli.envs.vector import VectorEnv
from iris_cli.errors import ConfigError, Interrupted, IrisError, RunError
from iris_cli.replay.dataset import Dataset
from iris_cli.report import Report
from iris_cli.run import Run, choose_device, read_card
from iris_cli.stages.collect import Collect, collect
from iris_cli.stages.evaluate import Evaluate, evaluate
from iris_cli.stages.imagine import Imagine, imagine
from iris_cli.stages.tokenize import Tokenize, tokenize
from iris_cli.stages.train_actor_critic import TrainActorCritic, train_actor_critic
from iris_cli.stages.train_dynamics import TrainDynamics, train_dynamics
from iris_cli.stages.train_tokenizer import TrainTokenizer, train_tokenizer

SETTINGS: dict[str, type] = {
    "collect": Collect,
    "train-tokenizer": TrainTokenizer,
    "tokenize": Tokenize,
    "train-dynamics": TrainDynamics,
    "train-actor-critic": TrainActorCritic,
    "evaluate": Evaluate,
    "imagine": Imagine,
}
_COMPONENT_OF = {
    "train-tokenizer": "tokenizer",
    "train-dynamics": "dynamics",
    "train-actor-critic": "actor_critic",
}
_KEYS = ("agent", "preset", "game", "seed", "dataset", "run", "settings", "first", "rounds", "round", "then")
_ROUND_KEYS = ("every", "from", "until")


@dataclass(frozen=True)
class Planned:
    """One stage of a plan.

    Attributes:
        phase: first, round or then.
        round: 1-based, within `round`.
        stage: its name.
        settings: of the stage.
    """

    phase: str
    round: int | None
    stage: str
    settings: Any

    @property
    def label(self) -> str:
        """Where it stands, for screen and metrics."""
        return f"round {self.round}" if self.round is not None else self.phase


@dataclass(frozen=True)
class Plan:
    """Everything a pipeline file says, resolved.

    Attributes:
        source: the file.
        agent, config: the agent's name and its settings.
        environment: what is played.
        dataset, run: paths.
        seed: of weights, games and draws.
        rounds: how many.
        stages: in order.
    """

    source: Path
    agent: str
    config: Any
    environment: EnvSpec
    dataset: Path
    run: Path
    seed: int
    rounds: int
    stages: list[Planned]

    def totals(self) -> dict[str, int]:
        """Environment steps, and updates of each component, over the whole plan."""
        totals = {"environment steps": sum(p.settings.steps for p in self.stages if p.stage == "collect")}
        for stage, component in _COMPONENT_OF.items():
            updates = sum(p.settings.updates or 0 for p in self.stages if p.stage == stage)
            totals[f"{component.replace('_', '-')} updates"] = updates
        return totals


def make_plan(
    source: Path,
    *,
    game: str | None = None,
    seed: int | None = None,
    agent: str | None = None,
    preset: str | None = None,
    assignments: tuple[str, ...] = (),
) -> Plan:
    """Read a pipeline file.

    Args:
        source: YAML.
        game, seed, agent, preset: in place of the file's.
        assignments: `name=value` from --set: a key of the file (`rounds=2`), a stage's setting wherever it stands
            (`train-dynamics.updates=50`) or an agent's (`tokenizer.codes=256`).

    Raises:
        ConfigError: for anything unknown or of the wrong type, with file and line.
    """
    document = load_yaml(source)
    data = document.data
    if not isinstance(data, dict):
        raise ConfigError("a pipeline is a mapping of keys such as agent, rounds and round", where=source)
    for key in data:
        if key not in _KEYS:
            raise ConfigError(f"unknown key '{key}'", where=document.where(key), fix=nearest(key, _KEYS))
    changes = parse_assignments(assignments)
    given = {"game": game, "seed": seed, "agent": agent, "preset": preset}
    top = {**data, **{key: changes.pop(key) for key in list(changes) if key in _KEYS}}
    top |= {key: value for key, value in given.items() if value is not None}
    if top.get("game") is None:
        raise ConfigError("the pipeline names no game", where=source, fix="Add --game Pong.")

    def scalar(key: str, kind: type, default: Any) -> Any:
        return convert(top.get(key, default), kind, where=document.where(key), name=key)

    environment = training_spec(scalar("game", str, None))
    agent_name, seed_value = scalar("agent", str, "iris"), scalar("seed", int, 0)
    if not 0 <= seed_value < 2**32:
        raise ConfigError(f"seed is {seed_value}, but must lie in 0 to 2^32 - 1", where=document.where("seed"))
    variables = {"game": environment.stem, "agent": agent_name, "seed": seed_value}
    stage_changes = {name: changes.pop(name) for name in list(changes) if name in SETTINGS}
    stages = _stages(document, top, scalar("rounds", int, 1 if "round" in top else 0), stage_changes)
    for name in stage_changes:
        if all(planned.stage != name for planned in stages):
            raise ConfigError(f"the pipeline has no stage {name}", where="--set")
    return Plan(
        source=source,
        agent=agent_name,
        config=_agent_config(document, agent_name, scalar("preset", str, "published"), top.get("settings"), changes),
        environment=environment,
        dataset=Path(
            _filled(scalar("dataset", str, "data/{agent}-{game}-{seed}.zarr"), variables, document, "dataset")
        ),
        run=Path(_filled(scalar("run", str, "runs/{agent}-{game}-{seed}"), variables, document, "run")),
        seed=seed_value,
        rounds=max((planned.round or 0 for planned in stages), default=0),
        stages=stages,
    )


def show_plan(plan: Plan) -> None:
    """Print what a plan will do."""
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
        RunError: if the run has done something that is not in the plan.
        Interrupted: after Ctrl-C, with the work saved.
    """
    with closing(_open(plan, device)) as run:
        try:
            return _execute(plan, run)
        except IrisError:
            run.withdraw()
            raise


def _execute(plan: Plan, run: Run) -> Report:
    begun = time.monotonic()
    sections = {name: section for name, section in to_mapping(plan.config).items() if isinstance(section, dict)}
    for sentence in run.change(sections, where=lambda *keys: str(plan.source)):
        console.say(f"Changed {sentence}.")
    position = _resume(run, plan)
    words = f"{plan.source}: {plan.environment.name} on {run.device}, run {plan.run}"
    if position == len(plan.stages):
        console.say(f"{words}: everything is done already.")
    else:
        console.say(f"{words}: {len(plan.stages) - position:,} of {len(plan.stages):,} stages to do.")
    report = Report(stage="run")
    for index in range(position, len(plan.stages)):
        report = _step(run, plan, index)
    if run.cursor is None or position < len(plan.stages):
        run.save()
    files = {"run": plan.run, **_outcomes(plan)}
    return Report(stage="run", figures={**report.figures, "seconds": time.monotonic() - begun}, files=files)


def _step(run: Run, plan: Plan, index: int) -> Report:
    planned, started = plan.stages[index], time.monotonic()
    run.cursor = {"position": index, "done": _digest(plan.stages[:index])}
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
    run.cursor = {"position": index + 1, "done": _digest(plan.stages[: index + 1])}
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
        case "evaluate":
            return evaluate(run, settings, name=name)
        case "imagine":
            return imagine(run, settings, path=_media(run.directory, planned))
    raise AssertionError(planned.stage)


def _media(directory: Path, planned: Planned) -> Path:
    render = planned.settings.render
    name = render.name if planned.round is None else f"{render.stem}-{planned.round:04d}{render.suffix}"
    return directory / "media" / render.with_name(name)


def _outcomes(plan: Plan) -> dict[str, Path]:
    """The last video and the last evaluation report."""
    files = {}
    for planned in plan.stages:
        if planned.stage == "imagine":
            files["video"] = _media(plan.run, planned)
        if planned.stage == "evaluate":
            name = f"round-{planned.round:04d}" if planned.round is not None else planned.phase
            files["report"] = plan.run / "reports" / f"evaluate-{name}.json"
    return {name: path for name, path in files.items() if path.exists()}


def _open(plan: Plan, device: str) -> Run:
    chosen = choose_device(device)
    if (plan.run / "run.yaml").exists():
        card = read_card(plan.run)
        for key, value in (
            ("agent", plan.agent), ("seed", plan.seed), ("dataset", str(plan.dataset)),
            ("environment", plan.environment.to_mapping()),
        ):  # fmt: skip
            if card[key] != value:
                raise RunError(
                    f"the run has {key} {card[key]}, but the pipeline {value}", where=plan.run,
                    fix="Name another run: --set run=runs/NAME.",
                )  # fmt: skip
        return Run.open(plan.run, device=chosen, training=True)
    if plan.dataset.exists():
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
    cursor = run.cursor or {"position": 0, "done": _digest([])}
    position = cursor["position"]
    if position > len(plan.stages) or cursor["done"] != _digest(plan.stages[:position]):
        raise RunError(
            f"the run has done {position:,} stages of a pipeline, and they are not those of {plan.source}",
            where=run.directory, fix="Name another run: --set run=runs/NAME.",
        )  # fmt: skip
    if any(planned.stage == "collect" for planned in plan.stages) and (
        run.dataset_path.exists() or run.collected["steps"]
    ):
        with Dataset.open(run.dataset_path, writable=True) as dataset:
            if dataset.num_steps != run.collected["steps"]:
                dataset.rewind(
                    run.collected["steps"], writer=run.writer, attributes={"collector": run.collected["collector"]}
                )
    return position


def _digest(stages: list[Planned]) -> str:
    plain = [[p.phase, p.round, p.stage, to_mapping(p.settings)] for p in stages]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16]


def _stages(document: Document, top: dict[str, Any], rounds: int, changes: dict[str, Any]) -> list[Planned]:
    if rounds < 0:
        raise ConfigError(f"rounds is {rounds}, but cannot be negative", where=document.where("rounds"))
    stages = [Planned("first", None, name, s) for name, s, _ in _entries(document, top, "first", changes)]
    entries = _entries(document, top, "round", changes)
    for number in range(1, rounds + 1):
        stages += [Planned("round", number, name, s) for name, s, due in entries if due(number)]
    stages += [Planned("then", None, name, s) for name, s, _ in _entries(document, top, "then", changes)]
    if not stages:
        raise ConfigError(
            "the pipeline has no stages", where=document.path, fix="Give them under first, round or then."
        )
    return stages


def _entries(
    document: Document, top: dict[str, Any], phase: str, changes: dict[str, Any]
) -> list[tuple[str, Any, Callable[[int], bool]]]:
    """Name, settings and when it is due, of each stage of a phase."""
    entries = top.get(phase) or []
    if not isinstance(entries, list):
        raise ConfigError(
            f"{phase} is a list of stages, such as - collect: {{steps: 200}}", where=document.where(phase)
        )
    return [_entry(document, entry, phase, index, changes) for index, entry in enumerate(entries)]


def _entry(
    document: Document, entry: Any, phase: str, index: int, changes: dict[str, Any]
) -> tuple[str, Any, Callable[[int], bool]]:
    here = document.where(phase, index)
    if isinstance(entry, str):
        entry = {entry: None}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise ConfigError("a stage is one name with its settings, such as - collect: {steps: 200}", where=here)
    [(name, given)] = entry.items()
    if name not in SETTINGS:
        raise ConfigError(f"unknown stage '{name}'", where=here, fix=nearest(name, SETTINGS))

    def where(*keys: str) -> str:
        return document.where(phase, index, name, *keys)

    if not isinstance(given, dict | None):
        raise ConfigError(f"{name} takes settings like {{steps: 200}}, not {given!r}", where=here)
    overrides = changes.get(name, {})
    if not isinstance(overrides, dict):
        raise ConfigError(f"give a setting of {name}, as in train-dynamics.updates=50", where="--set")
    settings = {**(given or {}), **overrides}
    timing = {key: settings.pop(key) for key in _ROUND_KEYS if key in settings}
    if timing and phase != "round":
        raise ConfigError(f"'{next(iter(timing))}' is for the stages of a round", where=where(next(iter(timing))))
    every, first, last = (
        convert(timing[key], int, where=where(key), name=f"{name}.{key}") if key in timing else None
        for key in _ROUND_KEYS
    )
    if every is not None and every < 1:
        raise ConfigError(f"{name}.every is {every}, but must be at least 1", where=where("every"))
    stage: Any = from_mapping(
        SETTINGS[name], settings, where=lambda *k: "--set" if k and k[0] in overrides else where(*k), called=name
    )
    if name in _COMPONENT_OF and (stage.updates is None or stage.updates < 1):
        raise ConfigError(f"{name} needs updates, such as {{updates: 200}}", where=where("updates"))

    def due(number: int) -> bool:
        return number >= (first or 1) and (last is None or number <= last) and number % (every or 1) == 0

    return name, stage, due


def _agent_config(document: Document, agent: str, preset: str, settings: Any, changes: dict[str, Any]) -> Any:
    presets = presets_for(agent)
    if preset not in presets:
        raise ConfigError(f"unknown preset '{preset}'", where=document.where("preset"), fix=nearest(preset, presets))
    sections = section_presets_for(agent)
    config = updated(
        presets[preset], settings or {}, where=lambda *keys: document.where("settings", *keys), presets=sections
    )
    return updated(config, changes, where=lambda *keys: "--set " + ".".join(keys), presets=sections)


def _filled(template: str, variables: dict[str, Any], document: Document, key: str) -> str:
    try:
        return template.format_map(variables)
    except (KeyError, ValueError, IndexError, AttributeError):
        raise ConfigError(
            f"'{template}' names something unknown", where=document.where(key), fix="Known: {game}, {agent}, {seed}."
        ) from None


def _differences(settings: Any) -> dict[str, Any]:
    """The settings that are not the stage's defaults."""
    default = to_mapping(type(settings)())
    return {name: value for name, value in to_mapping(settings).items() if value != default[name]}
