"""`iris sweep`: make a sweep or go on with one, carry out its runs on an engine, follow, stop, and sum up."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import chdir, closing, contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from iris_cli import console, interrupts
from iris_cli.device import choose_device
from iris_cli.errors import ConfigError, Interrupted, IrisError, RunError
from iris_cli.machine import cores
from iris_cli.replay.lock import holder, take_lock
from iris_cli.report import Report
from iris_cli.stages import report as page
from iris_cli.stages import scores
from iris_cli.sweep.engine import Ended, Engine
from iris_cli.sweep.local import Local, places, visible_gpus
from iris_cli.sweep.manifest import (
    Entry,
    Placement,
    Sweep,
    Wanted,
    check_same,
    is_sweep,
    new_sweep,
    placed,
    read_sweep,
    write_sweep,
)
from iris_cli.sweep.process import BROKEN, COMPLETE, PAUSED, is_to_stop
from iris_cli.sweep.slurm import submission, write_script
from iris_cli.sweep.states import (
    FAILED,
    State,
    ask_to_stop,
    held,
    is_done,
    is_held,
    may_go_on,
    read_state,
    write_state,
)
from iris_cli.sweep.table import LIVE_ROWS, Board

RETRIES = 3  # of a run whose worker or node died, each time the sweep is started or gone on with
LOOK_SECONDS = 1.0  # between two looks at the runs' files, at least
PICTURED = 12  # runs; of more, the report has no pictures, for each of which an agent is loaded


def start(
    source: Path, directory: Path | None, *, games: str | None, seeds: str, wanted: Wanted, placement: Placement
) -> None:
    """Make a sweep and carry it out, or go on with it if it is there already.

    Args:
        source: the pipeline file.
        directory: of the sweep; None: runs/sweeps/ and the file's name.
        games, seeds, wanted, placement: as `new_sweep`.

    Raises:
        IrisError: for bad input, before anything is written; if a run failed, after all others have ended.
        Interrupted: if it was stopped, with all work saved.
    """
    folder = directory or Path("runs") / "sweeps" / source.stem
    sweep = new_sweep(source, folder, games=games, seeds=seeds, wanted=wanted, placement=placement)
    text = source.read_text(encoding="utf-8")
    if is_sweep(folder):
        there = read_sweep(folder)
        check_same(there, sweep, text)
        sweep = replace(there, placement=placement)
    _check(sweep)
    if not is_sweep(folder):
        write_sweep(sweep, text)
        count = len(sweep.entries)
        console.say(f"New sweep {sweep.name}: {count} run{'s' * (count != 1)}.")
    _go_on(sweep)


def resume(directory: Path, **changes: Any) -> None:
    """Go on with a sweep: what is complete stays, what failed is tried again.

    Args:
        directory: of the sweep.
        changes: fields of `Placement` to be otherwise from now on; None: as before.

    Raises:
        IrisError, Interrupted: as `start`.
    """
    sweep = placed(read_sweep(directory), changes)
    _check(sweep)
    _go_on(sweep)


def stop(directory: Path) -> None:
    """Ask all runs of a sweep to save and end, wherever they are, and wait until they have.

    Raises:
        RunError: if there is no such sweep.
        Interrupted: if waiting was stopped; the runs still end.
    """
    sweep = read_sweep(directory)
    ask_to_stop(sweep)
    said = False
    while left := [entry.name for entry in sweep.entries if is_held(sweep, entry)]:
        if not said:
            console.say(f"{len(left)} runs save their work and end; a stage may have to finish an update first.")
            said = True
        if interrupts.requested():
            raise Interrupted(f"No longer waiting for {len(left)} runs; they end by themselves.")
        time.sleep(0.2)
    while (process := holder(sweep.directory / ".lock")) is not None and not interrupts.requested():
        console.say(f"The sweep's own process {process} ends.") if not said else None
        said = True
        time.sleep(0.2)
    console.say(f"{sweep.name} is stopped; iris sweep resume {sweep.name} goes on.")


def status(directory: Path) -> Board:
    """How a sweep stands.

    Raises:
        RunError: if there is no such sweep.
    """
    return Board(read_sweep(directory))


def _check(sweep: Sweep) -> None:
    """Refuse now what would fail on every node, as far as this machine can tell."""
    if sweep.placement.engine == "local" or (sweep.placement.engine == "ray" and sweep.placement.address is None):
        choose_device(sweep.wanted.device)
        each = sweep.wanted.cpus_per_run
        if each > cores():
            console.warn(
                f"each run is to compute with {each} threads, but there are {cores()} cores, so it will be slow"
            )
        places(sweep, visible_gpus(sweep))
    if sweep.placement.engine == "ray":
        _ray_engine()


def _ray_engine() -> Any:
    try:
        return import_module("iris_cli.sweep.on_ray").OnRay
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "ray":
            raise
        raise ConfigError(
            "Ray is not installed", fix="Install it: pip install 'iris-wm[cluster]'; or go without: --engine local"
        ) from None


def _go_on(sweep: Sweep) -> None:
    with _driving(sweep):
        may_go_on(sweep)
        todo = [entry for entry in sweep.entries if not is_done(sweep, entry)]
        if todo and sweep.placement.engine == "slurm":
            _write_job(sweep, todo)
            return
        failures = _carry_out(sweep, todo) if todo else {}
        board = Board(sweep)
        console.show(board.report())
        if is_to_stop(sweep.directory):
            raise Interrupted(f"Stopped, with all work saved; iris sweep resume {sweep.name} goes on.")
        with chdir(sweep.root):
            _sum_up(sweep)
    if failures:
        raise RunError(
            f"{len(failures)} of {len(sweep.entries)} runs failed, the first ({min(failures)}) with: "
            f"{failures[min(failures)]}", where=sweep.name,
            fix=f"Their logs are in {sweep.name}/logs; iris sweep resume {sweep.name} tries them again.",
        )  # fmt: skip


@contextmanager
def _driving(sweep: Sweep) -> Iterator[None]:
    """Be the only one to drive a sweep."""
    lock = take_lock(sweep.directory / ".lock", what="sweep", where=Path(sweep.name), error=RunError)
    try:
        yield
    finally:
        lock.release()


def _write_job(sweep: Sweep, todo: list[Entry]) -> None:
    script = write_script(sweep, todo)
    console.say(
        f"{script} carries out {len(todo)} runs. Submit it, with what your cluster wants (--time, --partition):"
    )
    console.say(submission(sweep, script))
    console.say(f"iris sweep status {sweep.name} follows them; once they are done, the same command sums up.")


def _carry_out(sweep: Sweep, todo: list[Entry]) -> dict[str, str]:
    """Carry out runs; those that failed, with their errors."""
    engine: Engine = Local(sweep) if sweep.placement.engine == "local" else _ray_engine()(sweep)
    with closing(engine), console.live() as draw:
        count = sweep.wanted.cpus_per_run
        console.say(
            f"{len(todo)} of {len(sweep.entries)} runs to do {engine.words}, each with {count} "
            f"thread{'s' if count > 1 else ''} (as OMP_NUM_THREADS={count} iris run)."
        )
        return _Drive(sweep, engine, [entry.name for entry in todo]).finish(draw)


class _Drive:
    """One time of carrying out runs on an engine: which wait, which are under way, and whose workers died."""

    def __init__(self, sweep: Sweep, engine: Engine, names: list[str]) -> None:
        self._sweep, self._engine, self._board = sweep, engine, Board(sweep)
        self._waiting = deque(names)
        self._under_way: set[str] = set()
        self._deaths: Counter[str] = Counter()
        self._failures: dict[str, str] = {}

    def finish(self, draw: Callable[[Callable[[], Report]], None]) -> dict[str, str]:
        """Until none waits or is under way; the errors of those that failed."""
        next_look = 0.0
        while self._waiting or self._under_way:
            if interrupts.requested() and not is_to_stop(self._sweep.directory):
                ask_to_stop(self._sweep)
            if is_to_stop(self._sweep.directory):
                self._waiting.clear()
            while self._waiting and (self._engine.room is None or len(self._under_way) < self._engine.room):
                name = self._waiting.popleft()
                self._engine.start(name)
                self._under_way.add(name)
            for ended in self._engine.ended(LOOK_SECONDS if self._under_way else 0):
                self._under_way.discard(ended.name)
                self._judge(ended)
            if (begun := time.monotonic()) >= next_look:
                draw(lambda: self._board.report(rows=LIVE_ROWS))
                took = time.monotonic() - begun
                next_look = begun + max(LOOK_SECONDS, 10 * took)  # many runs, or a slow file system
        return self._failures

    def _judge(self, ended: Ended) -> None:
        name = ended.name
        entry = self._sweep.entry(name)
        state = read_state(self._sweep, entry)
        stopping = is_to_stop(self._sweep.directory)
        if ended.code == COMPLETE:
            seconds = console.duration(state.seconds) if state else ""
            console.say(f"{name}: done, {seconds} of work.")
        elif ended.code is not None and ended.code > 0 and ended.code not in (PAUSED, 128 + 9, 128 + 15):
            known = state.error if state is not None and state.state == FAILED and ended.code == BROKEN else None
            self._failed(entry, state, known or ended.how or _last_line(self._sweep.log(entry)))
        elif stopping:
            return
        elif self._deaths[name] < RETRIES:
            self._deaths[name] += 1
            console.say(f"{name}: {_death(ended)}; it goes on (retry {self._deaths[name]} of {RETRIES}).")
            self._waiting.append(name)
        else:
            self._failed(entry, state, f"its worker died {RETRIES + 1} times, the last time as {_death(ended)}")

    def _failed(self, entry: Entry, state: State | None, error: str) -> None:
        self._failures[entry.name] = error
        console.say(f"{entry.name}: failed: {error}")
        if state is None or state.state != FAILED:
            before = state or State(state=FAILED, node="-", process=0, starts=0, begun=time.time())
            try:
                with held(self._sweep, entry, patience=0):
                    write_state(self._sweep, entry, replace(before, state=FAILED, error=error))
            except RunError:  # somebody works on it after all
                return


def _death(ended: Ended) -> str:
    if ended.code is None:
        return f"its worker or node died ({ended.how})"
    if ended.code == PAUSED:
        return "it was told to stop by somebody else"
    return f"its process was killed by signal {-ended.code if ended.code < 0 else ended.code - 128}"


def _last_line(log: Path) -> str:
    """Of what a run said, where it could say nothing else."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1] if lines else "it ended without a word"


def _sum_up(sweep: Sweep) -> None:
    """The table of `iris scores` and the page of `iris report`, over the runs that are complete."""
    runs = [entry.run for entry in sweep.entries if is_done(sweep, entry)]
    if not runs:
        return
    try:
        scores.show(scores.scores(runs))
    except IrisError as error:
        console.warn(str(error))
    pictures = len(runs) <= PICTURED
    if not pictures:
        console.say(f"The report of more than {PICTURED} runs is without pictures; iris report RUNS has them.")
    try:
        console.show(page.report(runs, page.WriteReport(out=Path(sweep.name) / "report.html", pictures=pictures)))
    except IrisError as error:
        console.warn(str(error))
