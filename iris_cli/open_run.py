"""From what a person types to an open run: the default run of a dataset, the newest run, or a new one."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from iris_cli import console
from iris_cli.agents import presets_for, section_presets_for, view_of
from iris_cli.card import newest_run
from iris_cli.config import nearest, parse_assignments, updated
from iris_cli.device import choose_device
from iris_cli.envs.spec import EnvSpec, training_spec
from iris_cli.envs.vector import VectorEnv
from iris_cli.errors import ConfigError, DatasetError, IrisError, RunError
from iris_cli.history import Note
from iris_cli.launch import WAIT_SECONDS, Launch, choose_network, launch
from iris_cli.loggers.feed import Feed, check_names
from iris_cli.loggers.records import Origin
from iris_cli.nn import data_parallel
from iris_cli.object_store import Location
from iris_cli.replay.dataset import Dataset
from iris_cli.report import Report
from iris_cli.run import Run

S = TypeVar("S")


def open_for_training(
    dataset: Location,
    *,
    create: bool = False,
    run: Location | None = None,
    agent: str | None = None,
    preset: str | None = None,
    seed: int | None = None,
    device: str = "auto",
    assignments: tuple[str, ...] = (),
    log: tuple[str, ...] = (),
) -> Run:
    """The run that learns from a dataset: `runs/STEM` unless named.

    Args:
        dataset: what it learns from.
        create: whether to make the run, with the settings that follow, where there is none.
        run: its directory, or its URL.
        agent, preset, seed: of a new run; for one that is there they must agree.
        device: where it computes.
        assignments: settings from --set.
        log: names of loggers to draw its metrics with.

    Raises:
        IrisError: if the dataset is not one, there is no run, or a setting does not fit the one that is there.
    """
    check_names(log, where="--log")
    with Dataset.open(dataset) as stored:
        environment, num_actions = EnvSpec.from_mapping(stored.environment), stored.num_actions
    directory, changes = _directory(dataset, run), parse_assignments(assignments)
    chosen = choose_device(device)
    if not (directory / "run.yaml").exists():
        if not create:
            where = "" if run is None else f" --run {run}"
            raise RunError(
                "there is no run yet", where=directory, fix=f"First run: iris train-tokenizer {dataset}{where}"
            )
        name = agent or "iris"
        config = configured(name, preset or "published", changes)
        made = Run.create(
            directory, agent=name, config=config, environment=environment, num_actions=num_actions, dataset=dataset,
            seed=seed or 0, device=chosen,
        )  # fmt: skip
        console.say(f"New run {directory}: {name}, preset {config.preset}, seed {made.seed}, on {made.device}.")
        return begun(made, log)
    opened = Run.open(directory, device=chosen, training=True)
    with closing_on_error(opened):
        for key, given, there in (
            ("agent", agent, opened.agent_name), ("preset", preset, opened.config.preset), ("seed", seed, opened.seed)
        ):  # fmt: skip
            if given is not None and given != there:
                raise RunError(
                    f"the run has {key} {there}, not {given}", where=directory, fix="Start another: --run runs/NAME."
                )
        if environment.to_mapping() != opened.environment.to_mapping() or num_actions != opened.agent.num_actions:
            raise DatasetError(
                f"the dataset is of {environment.name}, but {directory} learns {opened.environment.name} "
                "(or the same game with other settings)", where=dataset, fix="Start another run: --run runs/NAME.",
            )  # fmt: skip
        opened.dataset_path = dataset
        for sentence in opened.change(changes, where=lambda *keys: "--set " + ".".join(keys)):
            console.say(f"Changed {sentence}.")
    return begun(opened, log)


def open_together(dataset: Path, *, device: str = "auto", run: Path | None = None, **options: Any) -> Run:
    """As `open_for_training`; of several processes that torchrun started, the first one opens it, the others follow.

    Each process has a GPU of its own, or all have the CPU; each loads the whole dataset.

    Raises:
        IrisError: as `open_for_training`, and if a process does not come, or sees other files.
    """
    start = launch()
    if start.processes == 1:
        return open_for_training(dataset, device=device, run=run, **options)
    device = _own_device(device, start)
    choose_network()
    data_parallel.join(torch.device(device), WAIT_SECONDS)
    if start.rank == 0:
        opened = open_for_training(dataset, device=device, run=run, **options)
    data_parallel.anywhere(True)  # it is there now
    if start.rank != 0:
        opened = Run.open(_directory(dataset, run), device=choose_device(device), follower=True)
        opened.dataset_path = dataset
    with closing_on_error(opened):
        if not data_parallel.alike(opened.checkpoint_number):
            raise RunError(
                "the processes see different checkpoints", where=opened.directory,
                fix="All machines need the same file system, up to date.",
            )  # fmt: skip
    console.say(f"{start.processes} processes train as one.")
    return opened


def _directory(dataset: Location, run: Location | None) -> Location:
    """Of the run that learns from a dataset: the named one, or its default."""
    return run or Path("runs") / dataset.stem


def _own_device(name: str, start: Launch) -> str:
    """What --device means to one of several processes.

    Raises:
        ConfigError: if it names one device for all of them, or there are not enough.
    """
    if name != "cuda" and (name != "auto" or not torch.cuda.is_available()):
        if ":" in name:
            raise ConfigError(
                f"{start.processes} processes cannot share {name}", where="--device", fix="Choose auto, cpu or cuda."
            )
        return "cpu" if name == "auto" else name
    count = torch.cuda.device_count()
    if start.local_processes > count:
        raise ConfigError(
            f"{start.local_processes} processes need as many GPUs, but there are {count}", where="--device",
            fix="Start fewer processes, or choose --device cpu.",
        )  # fmt: skip
    return f"cuda:{start.local_rank}"


def logged(run: Run, log: tuple[str, ...]) -> Run:
    """The run, with loggers attached that learn all that it ever logged at its next checkpoint.

    Raises:
        IrisError: if a logger's package is not installed; the run is then closed, and gone if it is new.
    """
    origin = Origin(name=run.directory.name, id=run.card["id"], settings=run.card["config"])
    try:
        for name in dict.fromkeys(log):
            run.listeners.append(Feed(run.directory, name, origin, warn=console.warn))
    except BaseException:
        run.withdraw()
        run.close()
        raise
    return run


def begun(run: Run, log: tuple[str, ...] = ()) -> Run:
    """The run, with loggers attached, and with a note of this command in its history once something is saved.

    Raises:
        IrisError: as `logged`.
    """
    logged(run, log).listeners.append(Note(run.directory, run.device))
    return run


def open_existing(
    run: Location | None, *, device: str = "auto", training: bool = False, trust_env: bool = False
) -> Run:
    """The named run, or the newest one, which is then printed; `trust_env`: its environment may import its module."""
    if run is None:
        run = newest_run()
        console.say(f"Run: {run} (the newest; --run names another)")
    opened = Run.open(run, device=choose_device(device), training=training)
    if trust_env:
        opened.environment = opened.environment.as_trusted()
    return opened


def open_for_collecting(
    run: Location,
    *,
    env: str | None,
    agent: str | None = None,
    dataset: Location | None,
    device: str,
    trust_env: bool = False,
) -> Run:
    """A run whose policy is to play its own environment, whose module may be imported if it is named or trusted.

    Raises:
        RunError: if it learned another one, or is of another agent.
    """
    opened = Run.open(run, device=choose_device(device), training=True)
    with closing_on_error(opened):
        if agent not in (None, opened.agent_name):
            raise RunError(f"the run has agent {opened.agent_name}, not {agent}", where=run, fix="Leave --agent away.")
        if env is not None and environment_for(opened.agent_name, env) != opened.environment:
            raise RunError(f"the run plays {opened.environment.name}, not {env}", where=run, fix="Leave --env away.")
        if env is not None or trust_env:
            opened.environment = opened.environment.as_trusted()
    opened.dataset_path = dataset or opened.dataset_path
    return begun(opened)


@contextmanager
def closing_on_error(run: Run) -> Iterator[None]:
    """Within it, an error closes the run."""
    try:
        yield
    except BaseException:
        run.close()
        raise


def environment_named(env: str | None, agent: str) -> EnvSpec:
    """The training environment that a name means, as an agent sees it.

    Raises:
        ConfigError: if there is no name, or no such agent.
    """
    if env is None:
        raise ConfigError("collect needs a game", where="--env", fix="Example: iris collect --env Pong")
    return environment_for(agent, env)


def environment_for(agent: str, env: str) -> EnvSpec:
    """The environment of that name as an agent is trained in it.

    Raises:
        ConfigError: for an unknown agent.
        EnvironmentError_: if there is no environment of that name.
    """
    return seen_by(agent, training_spec(env))


def seen_by(agent: str, environment: EnvSpec) -> EnvSpec:
    """An environment as an agent is trained in it.

    Raises:
        ConfigError: for an unknown agent.
    """
    return environment.as_grey_stacks() if view_of(agent) == "grey-stack" else environment


def alone(stage: Callable[[Run, S], Report], run: Run, settings: S) -> Report:
    """Carry out one stage outside a pipeline, save what it did, and close the run."""
    try:
        report = stage(run, settings)
        run.save()
    except IrisError:
        run.withdraw()
        raise
    finally:
        run.close()
    return report


def configured(agent: str, preset: str, changes: dict[str, Any]) -> Any:
    """An agent's settings: a preset with changes from --set.

    Raises:
        ConfigError: for an unknown agent, preset or setting.
    """
    presets = presets_for(agent)
    if "preset" in changes:
        raise ConfigError("a preset of the whole agent is not a single setting", where="--set", fix="Use --preset.")
    if preset not in presets:
        raise ConfigError(f"unknown preset '{preset}'", where="--preset", fix=nearest(preset, presets))
    return updated(
        presets[preset], changes, where=lambda *keys: "--set " + ".".join(keys), presets=section_presets_for(agent)
    )


def actions_of(environment: EnvSpec) -> int:
    """How many actions an environment has."""
    with VectorEnv(environment, 1) as envs:
        return envs.num_actions
