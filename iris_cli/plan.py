"""A pipeline file becomes a plan: a list of stages with every setting resolved. The format: pipelines/README.md."""

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from iris_cli.agents import check_joint, config_for, presets_for, section_presets_for
from iris_cli.config import (
    Document,
    convert,
    from_mapping,
    load_yaml,
    nearest,
    parse_assignments,
    shown,
    updated,
)
from iris_cli.envs.spec import EnvSpec
from iris_cli.errors import ConfigError
from iris_cli.loggers.feed import check_names
from iris_cli.object_store import Location, located
from iris_cli.open_run import environment_for
from iris_cli.stages.collect import Collect
from iris_cli.stages.diagnose import Diagnose
from iris_cli.stages.evaluate import Evaluate
from iris_cli.stages.imagine import Imagine
from iris_cli.stages.tokenize import Tokenize
from iris_cli.stages.train_actor_critic import TrainActorCritic
from iris_cli.stages.train_agent import TrainAgent
from iris_cli.stages.train_dynamics import TrainDynamics
from iris_cli.stages.train_tokenizer import TrainTokenizer

SETTINGS: dict[str, type] = {
    "collect": Collect,
    "train-tokenizer": TrainTokenizer,
    "tokenize": Tokenize,
    "train-dynamics": TrainDynamics,
    "train-actor-critic": TrainActorCritic,
    "train-agent": TrainAgent,
    "evaluate": Evaluate,
    "diagnose": Diagnose,
    "imagine": Imagine,
}
_TRAINING = {  # what each stage trains
    "train-tokenizer": ("tokenizer",),
    "train-dynamics": ("dynamics",),
    "train-actor-critic": ("actor_critic",),
    "train-agent": ("tokenizer", "dynamics", "actor_critic"),
}
_NEEDS = {  # and what must have been trained before it
    "tokenize": ("tokenizer",),
    "train-dynamics": ("tokenizer",),
    "train-actor-critic": ("tokenizer", "dynamics"),
    "imagine": ("tokenizer",),
}
_KEYS = ("agent", "preset", "game", "seed", "dataset", "run", "settings", "log", "first", "rounds", "round", "then")
_ROUND_KEYS = ("every", "from", "until")
MAX_STAGES = 1_000_000  # of a plan, which is a list; the published schedules have some thousands
_VARIABLE = re.compile(r"\{(\w*)\}|[{}]")


@dataclass(frozen=True)
class Planned:
    """One stage of a plan.

    Attributes:
        phase: first, round or then.
        round: 1-based, within `round`.
        stage: its name.
        settings: of the stage.
        written: those of them that the file or --set names; the others are defaults.
        where: file and line.
    """

    phase: str
    round: int | None
    stage: str
    settings: Any
    written: frozenset[str] = frozenset()
    where: str = field(default="", compare=False)

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
        changes: the settings among these that differ from the preset because the file or --set says so.
        environment: what is played.
        dataset, run: paths or URLs.
        seed: of weights, games and draws.
        rounds: how many.
        stages: in order.
        log: names of loggers.
    """

    source: Path
    agent: str
    config: Any
    changes: dict[str, Any]
    environment: EnvSpec
    dataset: Location
    run: Location
    seed: int
    rounds: int
    stages: list[Planned]
    log: tuple[str, ...] = ()

    def totals(self) -> dict[str, int]:
        """Environment steps, and updates of each component (and jointly, if there are any), over the whole plan."""
        totals = {"environment steps": sum(p.settings.steps for p in self.stages if p.stage == "collect")}
        for stage in _TRAINING:
            updates = sum(p.settings.updates or 0 for p in self.stages if p.stage == stage)
            if updates or stage != "train-agent":
                totals[f"{stage.removeprefix('train-')} updates"] = updates
        return totals


def make_plan(
    source: Path,
    *,
    game: str | None = None,
    seed: int | None = None,
    agent: str | None = None,
    preset: str | None = None,
    assignments: tuple[str, ...] = (),
    log: tuple[str, ...] = (),
) -> Plan:
    """Read a pipeline file.

    Args:
        source: YAML.
        game, seed, agent, preset: in place of the file's.
        assignments: `name=value` from --set: a key of the file (`rounds=2`), a stage's setting wherever it stands
            (`train-dynamics.updates=50`) or an agent's (`tokenizer.codes=256`).
        log: names of loggers, besides the file's.

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

    agent_name, seed_value = scalar("agent", str, "iris"), scalar("seed", int, 0)
    environment = environment_for(agent_name, scalar("game", str, None))
    if not 0 <= seed_value < 2**32:
        raise ConfigError(f"seed is {seed_value}, but must lie in 0 to 2^32 - 1", where=document.where("seed"))
    variables = {"game": environment.stem, "agent": agent_name, "seed": seed_value}
    stage_changes = {name: changes.pop(name) for name in list(changes) if name in SETTINGS}
    stages = _stages(document, top, scalar("rounds", int, 1 if "round" in top else 0), stage_changes)
    if any(planned.stage == "train-agent" for planned in stages):
        check_joint(agent_name)
    sections = [field.name for field in fields(config_for(agent_name))]
    for name in changes:
        if name not in sections:
            raise ConfigError(
                f"unknown name '{name}'", where=f"--set {name}", fix=nearest(name, [*_KEYS, *SETTINGS, *sections])
            )
    for name in stage_changes:
        if all(planned.stage != name for planned in stages):
            raise ConfigError(f"the pipeline has no stage {name}", where="--set")
    return Plan(
        source=source,
        agent=agent_name,
        config=_agent_config(document, agent_name, scalar("preset", str, "published"), top.get("settings"), changes),
        changes=_merged(top.get("settings") or {}, changes),
        environment=environment,
        dataset=located(
            _filled(scalar("dataset", str, "data/{agent}-{game}-{seed}.zarr"), variables, document, "dataset")
        ),
        run=located(_filled(scalar("run", str, "runs/{agent}-{game}-{seed}"), variables, document, "run")),
        seed=seed_value,
        rounds=max((planned.round or 0 for planned in stages), default=0),
        stages=stages,
        log=_loggers(document, top.get("log"), log),
    )


def check_order(plan: Plan, *, position: int, trained: Collection[str], has_steps: bool) -> None:
    """Refuse a plan of which a stage will lack what it needs.

    Args:
        plan: to be carried out.
        position: the first of its stages that is still to come.
        trained: components that have been trained by then, here or where they were imported from.
        has_steps: whether there is a dataset by then.

    Raises:
        ConfigError: at the first stage that comes before what it needs.
    """
    trained = set(trained)
    for planned in plan.stages[position:]:
        has_steps |= planned.stage == "collect"
        if planned.stage in _TRAINING and not has_steps:
            raise ConfigError(
                f"{planned.stage} ({planned.label}) needs steps, but none are collected before it", where=planned.where,
                fix=f"Put collect before it, or name a dataset that is there: {plan.dataset} is not.",
            )  # fmt: skip
        missing = [component for component in _NEEDS.get(planned.stage, ()) if component not in trained]
        if missing:
            name = missing[0].replace("_", "-")
            raise ConfigError(
                f"{planned.stage} ({planned.label}) needs a trained {name}, but none is trained before it",
                where=planned.where,
                fix=f"Put train-{name} before it, or first run: iris train-{name} {plan.dataset} --run {plan.run}",
            )  # fmt: skip
        trained.update(_TRAINING.get(planned.stage, ()))


def _loggers(document: Document, value: Any, more: tuple[str, ...]) -> tuple[str, ...]:
    """One name or a list of them, and more from the command line."""
    names = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) for name in names):
        raise ConfigError(f"log is {shown(value)}, but must be a name or a list of names", where=document.where("log"))
    check_names(tuple(names), where=document.where("log"))
    check_names(more, where="--log")
    return tuple(dict.fromkeys((*names, *more)))


def _stages(document: Document, top: dict[str, Any], rounds: int, changes: dict[str, Any]) -> list[Planned]:
    if rounds < 0:
        raise ConfigError(f"rounds is {rounds}, but cannot be negative", where=document.where("rounds"))
    stages = [entry.planned("first", None) for entry in _entries(document, top, "first", changes)]
    entries = _entries(document, top, "round", changes)
    if rounds * max(1, len(entries)) > MAX_STAGES:
        raise ConfigError(
            f"{rounds:,} rounds of {len(entries)} stages are more than the {MAX_STAGES:,} stages that a plan may have",
            where=document.where("rounds"),
        )
    for number in range(1, rounds + 1):
        stages += [entry.planned("round", number) for entry in entries if entry.due(number)]
    stages += [entry.planned("then", None) for entry in _entries(document, top, "then", changes)]
    if not stages:
        raise ConfigError(
            "the pipeline has no stages", where=document.path, fix="Give them under first, round or then."
        )
    return stages


class _Entry(NamedTuple):
    """A stage of a phase, as the file has it."""

    stage: str
    settings: Any
    written: frozenset[str]
    where: str
    due: Callable[[int], bool]  # in which rounds

    def planned(self, phase: str, number: int | None) -> Planned:
        return Planned(phase, number, self.stage, self.settings, self.written, self.where)


def _entries(document: Document, top: dict[str, Any], phase: str, changes: dict[str, Any]) -> list[_Entry]:
    entries = top.get(phase) or []
    if not isinstance(entries, list):
        raise ConfigError(
            f"{phase} is a list of stages, such as - collect: {{steps: 200}}", where=document.where(phase)
        )
    return [_entry(document, entry, phase, index, changes) for index, entry in enumerate(entries)]


def _entry(document: Document, entry: Any, phase: str, index: int, changes: dict[str, Any]) -> _Entry:
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
        raise ConfigError(f"{name} takes settings like {{steps: 200}}, not {shown(given)}", where=here)
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
    if name in _TRAINING and (stage.updates is None or stage.updates < 1):
        raise ConfigError(f"{name} needs updates, such as {{updates: 200}}", where=where("updates"))
    render = getattr(stage, "render", Path())
    if render.is_absolute() or ".." in render.parts:
        raise ConfigError(
            f"render is {shown(str(render))}, but must lie in the run's media/", where=where("render"),
            fix="Write a name, such as final.mp4.",
        )  # fmt: skip

    def due(number: int) -> bool:
        return number >= (first or 1) and (last is None or number <= last) and number % (every or 1) == 0

    return _Entry(name, stage, frozenset(settings), here, due)


def _agent_config(document: Document, agent: str, preset: str, settings: Any, changes: dict[str, Any]) -> Any:
    presets = presets_for(agent)
    if preset not in presets:
        raise ConfigError(f"unknown preset '{preset}'", where=document.where("preset"), fix=nearest(preset, presets))
    sections = section_presets_for(agent)
    config = updated(
        presets[preset], settings or {}, where=lambda *keys: document.where("settings", *keys), presets=sections
    )
    return updated(config, changes, where=lambda *keys: "--set " + ".".join(keys), presets=sections)


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Nested settings, those of `over` before those of `under`."""
    both = {key: _merged(under[key], over[key]) for key in under.keys() & over.keys() if isinstance(over[key], dict)}
    return {**under, **over, **both}


def _filled(template: str, variables: dict[str, Any], document: Document, key: str) -> str:
    """A path with names in braces filled in; just names, as a format of Python's could ask for any width."""

    def value(found: re.Match[str]) -> str:
        if found[1] not in variables:
            raise ConfigError(
                f"'{template[:200]}' names something unknown", where=document.where(key),
                fix="Known: {game}, {agent}, {seed}.",
            )  # fmt: skip
        return str(variables[found[1]])

    return _VARIABLE.sub(value, template)
