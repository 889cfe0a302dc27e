"""A sweep: one pipeline over games and seeds, as a folder from which it can be followed, stopped and gone on with.

    runs/sweeps/atari100k/
      sweep.yaml      what was asked for: games, seeds, settings, versions; its runs by name
      pipeline.yaml   the text of the pipeline file, as it was then
      states/NAME.json  locks/NAME.lock   of each run that was begun: see states.py
      logs/NAME.log   what `iris run` would have printed
      stop            while a stop is asked for
      .lock           names the process that drives it
      report.html     of all its runs, at the end

The runs and datasets themselves lie where the pipeline says, from the directory in which the sweep was made. That is
kept relative to the folder, so that another node may see all of it under another path.
"""

import os
import platform
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from iris_cli.card import read_card
from iris_cli.config import dump_yaml, load_yaml, nearest, to_mapping
from iris_cli.errors import ConfigError, RunError, reason_of
from iris_cli.files import write_atomically
from iris_cli.object_store import Location, located
from iris_cli.pipeline import check
from iris_cli.plan import Plan, make_plan
from iris_cli.published import reference_scores
from iris_cli.version import VERSION

FORMAT = 1
ENGINES = ("ray", "local", "slurm")
MOST_RUNS = 100_000
_ADDRESS = re.compile(r"auto|[\w.\[\]-]+(:[\w\[\]]+)*:[0-9]+")
_NAME = re.compile(r"[a-z0-9_]+-[0-9]+")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What each run of a sweep is, besides its game and seed. Never changes once the sweep is made.

    Attributes:
        agent, preset: in place of the pipeline's.
        device: auto, cpu or cuda; which GPU is the engine's choice.
        assignments: from --set.
        cpus_per_run: threads that a run computes with, whatever the machine has: their number changes how sums round.
    """

    agent: str | None = None
    preset: str | None = None
    device: str = "auto"
    assignments: tuple[str, ...] = ()
    cpus_per_run: int = 1

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(
                f"a sweep cannot have device '{self.device}'", where="--device",
                fix="Choose auto, cpu or cuda; which GPU is the engine's choice.",
            )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where and how many at a time. May be another each time a sweep is gone on with.

    Attributes:
        engine: one of `ENGINES`.
        address: of a Ray cluster, HOST:PORT, or auto for that of this node; None: one is started, and ends with the
            sweep.
        gpus_per_run: a share of a GPU, or several; None: one where there are GPUs.
        parallel: runs at a time; None: as many as there is room for.
    """

    engine: str = "ray"
    address: str | None = None
    gpus_per_run: float | None = None
    parallel: int | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ConfigError(
                f"there is no engine '{self.engine}'", where="--engine", fix=nearest(self.engine, ENGINES)
            )
        if self.address is not None and self.engine != "ray":
            raise ConfigError("only Ray has an address", where="--address", fix="Add --engine ray.")
        if self.address is not None and not _ADDRESS.fullmatch(self.address):
            raise ConfigError(
                f"'{self.address}' is no address of a Ray cluster", where="--address",
                fix="It is the HOST:PORT that ray start --head names, or auto on one of its nodes.",
            )  # fmt: skip
        share = self.gpus_per_run
        if share is not None and not (0 <= share < 1 or share == int(share)):
            raise ConfigError(f"gpus-per-run is {share}, but must be below 1 or whole", where="--gpus-per-run")


@dataclass(frozen=True)
class Entry:
    """One run of a sweep.

    Attributes:
        name: the game's name for files and the seed: pong-0.
        game, seed: as `iris run` takes them.
        run: its directory or URL, as the pipeline has it.
    """

    name: str
    game: str
    seed: int
    run: Location


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep as its folder has it.

    Attributes:
        directory: the folder, absolute.
        root: the directory from which the paths of runs and datasets count, absolute.
        source: the pipeline file, as it was named.
        wanted, placement: how its runs are made.
        entries: its runs.
        versions: of the program, torch and Python when it was made.
    """

    directory: Path
    root: Path
    source: str
    wanted: Wanted
    placement: Placement
    entries: tuple[Entry, ...]
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder, as one would type it from where the runs count from."""
        return os.path.relpath(self.directory, self.root)

    @property
    def pipeline(self) -> Path:
        """The kept pipeline file, from `root`."""
        return Path(self.name) / "pipeline.yaml"

    def entry(self, name: str) -> Entry:
        """A run by its name.

        Raises:
            ConfigError: if it has no such run.
        """
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise ConfigError(
            f"the sweep has no run '{name}'", where=self.name, fix=nearest(name, [e.name for e in self.entries])
        )

    def place(self, entry: Entry) -> Location:
        """Where one of its runs is, from anywhere."""
        return self.root / entry.run if isinstance(entry.run, Path) else entry.run

    def plan(self, entry: Entry) -> Plan:
        """What `iris run` would do for one of its runs; to be called in `root`."""
        return _plan(self.pipeline, self.wanted, entry.game, entry.seed)

    def command(self, entry: Entry) -> list[str]:
        """The arguments of `iris` that carry out one of its runs alone, in `root`."""
        wanted = self.wanted
        options = [("--agent", wanted.agent), ("--preset", wanted.preset), ("--device", wanted.device)]
        given = [part for name, value in options if value is not None for part in (name, value)]
        given += [part for assignment in wanted.assignments for part in ("--set", assignment)]
        return ["run", str(self.pipeline), "--game", entry.game, "--seed", str(entry.seed), *given]

    def log(self, entry: Entry) -> Path:
        """Where what one of its runs says is kept."""
        return self.directory / "logs" / f"{entry.name}.log"


def new_sweep(
    source: Path, directory: Path, *, games: str | None, seeds: str, wanted: Wanted, placement: Placement
) -> Sweep:
    """A sweep of the current directory, checked run by run. Nothing is written.

    Args:
        source: a pipeline file.
        directory: of the sweep.
        games: `all`, the 26 of Atari 100k; or names with commas; None: the pipeline's.
        seeds: a number of seeds from 0 on; or seeds with commas.
        wanted, placement: see there.

    Raises:
        ConfigError: for whatever is unknown or cannot be carried out, or two runs in one directory.
    """
    entries: list[Entry] = []
    datasets: dict[Location, str] = {}
    named = [None] if games is None else games_of(games)
    for game in named:
        for seed in seeds_of(seeds):
            plan = _plan(source, wanted, game, seed)
            check(plan)
            _check_agent(plan)
            name = f"{plan.environment.stem}-{seed}"
            _check_apart(entries, datasets, name, plan)
            entries.append(Entry(name, plan.environment.name, seed, plan.run))
            if len(entries) > MOST_RUNS:
                raise ConfigError(f"a sweep of more than {MOST_RUNS:,} runs is not made", where="--seeds")
    return Sweep(
        directory=directory.absolute(), root=Path.cwd(), source=str(source), wanted=wanted, placement=placement,
        entries=tuple(entries),
        versions={"iris-wm": VERSION, "torch": str(torch.__version__), "python": platform.python_version()},
    )  # fmt: skip


def games_of(text: str) -> list[str]:
    """`all` or `Pong,ms_pacman` as a list of games.

    Raises:
        ConfigError: if it names none.
    """
    if text.strip().lower() == "all":
        return sorted(reference_scores()["HUMAN"])
    games = [game.strip() for game in text.split(",") if game.strip()]
    if not games:
        raise ConfigError("there is no game", where="--games", fix="Examples: --games all, --games Pong,Qbert")
    return games


def seeds_of(text: str) -> list[int]:
    """`5` as the seeds 0 to 4; `0,3` as these; `7,` as that one alone.

    Raises:
        ConfigError: if it is neither.
    """
    parts = [part.strip() for part in text.split(",")]
    digits = [part for part in parts if part]
    if not digits or not all(part.isascii() and part.isdigit() and len(part) <= 10 for part in digits):
        raise ConfigError(f"'{text}' are no seeds", where="--seeds", fix="Examples: --seeds 5 (0 to 4), --seeds 0,3")
    numbers = [int(part) for part in digits]
    if len(parts) > 1:
        return numbers
    if not 1 <= numbers[0] <= MOST_RUNS:
        raise ConfigError(
            f"{numbers[0]:,} seeds are too few or too many", where="--seeds", fix="A single one: --seeds 7,"
        )
    return list(range(numbers[0]))


def write_sweep(sweep: Sweep, text: str) -> None:
    """Make the folder of a new sweep, with the text of its pipeline. The manifest comes last: with it, it is one.

    Raises:
        RunError: if something else is there, or it cannot be written.
    """
    folders = ("states", "locks", "logs")
    try:
        foreign = [path.name for path in sweep.directory.glob("[!.]*") if path.name not in (*folders, "pipeline.yaml")]
        if foreign or sweep.directory.is_file():
            raise RunError("something else is there already", where=sweep.directory, fix="Name another with --dir.")
        for name in folders:
            (sweep.directory / name).mkdir(parents=True, exist_ok=True)
        write_atomically(sweep.directory / "pipeline.yaml", text)
    except OSError as error:
        raise RunError(
            f"the sweep cannot be made: {reason_of(error)}", where=sweep.directory, fix="Name another with --dir."
        ) from None
    manifest = {
        "format": FORMAT,
        "source": sweep.source,
        "root": os.path.relpath(sweep.root, sweep.directory),
        "wanted": to_mapping(sweep.wanted),
        "placement": to_mapping(sweep.placement),
        "versions": sweep.versions,
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "runs": [{"name": e.name, "game": e.game, "seed": e.seed, "run": str(e.run)} for e in sweep.entries],
    }
    write_atomically(sweep.directory / "sweep.yaml", dump_yaml(manifest))


def is_sweep(directory: Path) -> bool:
    """Whether a folder holds a sweep."""
    return (directory / "sweep.yaml").exists()


def newest_sweep(root: Path = Path("runs/sweeps")) -> Path:
    """The sweep under `root` that was made last.

    Raises:
        RunError: if there is none.
    """
    made = sorted(root.glob("[!.]*/sweep.yaml"), key=lambda path: path.stat().st_mtime)
    if not made:
        raise RunError("there is no sweep yet", where=root, fix="iris sweep FILE makes one.")
    return made[-1].parent


def read_sweep(directory: Path) -> Sweep:
    """The sweep in a folder.

    Raises:
        RunError: if there is none, or its manifest cannot be read.
    """
    path = directory / "sweep.yaml"
    if not path.exists():
        raise RunError(
            "there is no sweep here" if directory.exists() else "there is no such sweep", where=directory,
            fix="Make one: iris sweep pipelines/atari100k.yaml --games all --seeds 5",
        )  # fmt: skip
    card: Any = load_yaml(path).data
    try:
        if card["format"] != FORMAT:
            raise RunError(f"sweep.yaml has format {card['format']}, but this program reads {FORMAT}", where=path)
        wanted = {**card["wanted"], "assignments": tuple(card["wanted"]["assignments"])}
        entries = tuple(Entry(e["name"], e["game"], e["seed"], located(e["run"])) for e in card["runs"])
        if not all(_NAME.fullmatch(entry.name) for entry in entries):
            raise ValueError("a run's name is none")
        return Sweep(
            directory=directory.resolve(), root=(directory / card["root"]).resolve(), source=card["source"],
            wanted=Wanted(**wanted), placement=Placement(**card["placement"]), entries=entries,
            versions=card["versions"],
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"the manifest of the sweep cannot be read ({error})", where=path) from None


def runs_in(directory: Path) -> list[Location]:
    """Where the runs of a sweep are that have begun, paths as one would type them here; URLs all.

    Raises:
        RunError: if there is no such sweep, or none of its runs is there.
    """
    sweep = read_sweep(directory)
    places = [sweep.place(entry) for entry in sweep.entries]
    there = [
        Path(os.path.relpath(place)) if isinstance(place, Path) else place
        for place in places
        if not isinstance(place, Path) or (place / "run.yaml").exists()
    ]
    if not there:
        raise RunError("no run of the sweep has begun", where=directory, fix=f"See: iris sweep status {directory}")
    return there


def check_same(there: Sweep, sweep: Sweep, text: str) -> None:
    """Refuse to go on with a sweep as if it were another one.

    Raises:
        ConfigError: if their runs, settings or pipelines differ.
    """
    differing = [
        word
        for word, differs in (
            ("games or seeds", there.entries != sweep.entries),
            (_differing(there.wanted, sweep.wanted), there.wanted != sweep.wanted),
            ("a pipeline", (there.root / there.pipeline).read_text(encoding="utf-8") != text),
        )
        if differs
    ]
    if differing:
        raise ConfigError(
            f"the sweep that is there has other {' and '.join(differing).replace('other a', 'another')}",
            where=there.name, fix=f"Name another with --dir, or go on with it: iris sweep resume {there.name}",
        )  # fmt: skip


def _differing(there: Wanted, here: Wanted) -> str:
    """Which settings differ, in words."""
    names = [field.name for field in fields(Wanted) if getattr(there, field.name) != getattr(here, field.name)]
    return f"settings ({', '.join(names).replace('assignments', 'set').replace('_', '-')})"


def placed(sweep: Sweep, changes: dict[str, Any]) -> Sweep:
    """A sweep with another placement, where one is named. Another engine starts from that engine's defaults."""
    named = {name: value for name, value in changes.items() if value is not None}
    old = sweep.placement
    if named.get("engine", old.engine) != old.engine:
        old = replace(old, address=None)
    return replace(sweep, placement=replace(old, **named))


def _plan(source: Path, wanted: Wanted, game: str | None, seed: int) -> Plan:
    return make_plan(
        source, game=game, seed=seed, agent=wanted.agent, preset=wanted.preset, assignments=wanted.assignments
    )


def _check_agent(plan: Plan) -> None:
    """Refuse a run that is there already, but another agent's."""
    if isinstance(plan.run, Path) and (plan.run / "run.yaml").exists():
        there = read_card(plan.run)["agent"]
        if there != plan.agent:
            raise ConfigError(
                f"the run {plan.run} is there already, and learns by {there}, not {plan.agent}", where=plan.source,
                fix="Tell them apart: --set run=runs/{agent}-{game}-{seed}, and the dataset likewise.",
            )  # fmt: skip


def _check_apart(entries: Sequence[Entry], datasets: dict[Location, str], name: str, plan: Plan) -> None:
    """Refuse a run that would write where another one of the sweep does."""
    for entry in entries:
        if entry.name == name:
            raise ConfigError(f"{name} is named twice", where="--games and --seeds")
        if entry.run == plan.run:
            raise ConfigError(
                f"{entry.name} and {name} would share the run {plan.run}", where=plan.source,
                fix="Tell them apart: --set run=runs/{agent}-{game}-{seed}",
            )  # fmt: skip
    collects = any(planned.stage == "collect" for planned in plan.stages)
    if collects and plan.dataset in datasets:
        raise ConfigError(
            f"{datasets[plan.dataset]} and {name} would collect into the same dataset {plan.dataset}",
            where=plan.source, fix="Tell them apart: --set dataset=data/{agent}-{game}-{seed}.zarr",
        )  # fmt: skip
    datasets[plan.dataset] = name
