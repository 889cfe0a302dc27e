"""How a sweep stands, from its files alone: while it is carried out, by whom and wherever that may be, and after."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from iris_cli import console
from iris_cli.errors import IrisError
from iris_cli.evaluations import final_evaluation
from iris_cli.history import read_plan
from iris_cli.metrics import Follower, numbers_of
from iris_cli.report import Report, Section
from iris_cli.stages.run_facts import stage_lines
from iris_cli.sweep.manifest import Entry, Sweep
from iris_cli.sweep.states import DONE, FAILED, RUNNING, STOPPED, State, is_done, is_held, read_state
from iris_cli.working_copy import at_hand

WAITING, DIED, GONE = "waiting", "died", "gone"
STATES = (DONE, RUNNING, FAILED, DIED, GONE, STOPPED, WAITING)  # in the order in which they are counted
_ADVICE = {DIED: "its process is gone; resume goes on", GONE: "its directory is gone; resume begins anew"}
LIVE_ROWS = 24  # on a terminal that is drawn again and again
COLUMNS = ("run", "state", "round and stage", "score", "node", "time", "error")


@dataclass(frozen=True)
class Row:
    """A run of a sweep as it stands.

    Attributes:
        run: its name.
        directory: of the run.
        state: one of `STATES`.
        stage: round and stage it is in, or the last one it ended; None: none ended yet.
        score: mean of its final evaluation, or, before that, of its last one; None: there is none.
        node: who carries it out, or did.
        seconds: of work.
        starts: how often it was begun or gone on with.
        error: of a failed one, in one line; of one that died or is gone, what that means.
    """

    run: str
    directory: str
    state: str
    stage: str | None
    score: float | None
    node: str | None
    seconds: float
    starts: int
    error: str | None


class Board:
    """Looks at all runs of a sweep again and again, reading only what is new."""

    def __init__(self, sweep: Sweep) -> None:
        self._sweep = sweep
        self._progress = {entry.name: _Progress(sweep, entry) for entry in sweep.entries}
        self._over: dict[str, tuple[State, Row]] = {}  # of which nothing changes while the state is that one

    def rows(self) -> list[Row]:
        """All runs, in the order of the sweep."""
        return [self._row(entry) for entry in self._sweep.entries]

    def report(self, *, rows: int | None = None) -> Report:
        """The table; with `rows`, at most so many: those under way and failed before those that wait or are done."""
        found = self.rows()
        states = [row.state for row in found]
        counts = ", ".join(f"{states.count(state)} {state}" for state in STATES if state in states)
        shown = found
        if rows is not None and len(found) > rows:
            order = (RUNNING, FAILED, DIED, GONE, STOPPED, DONE, WAITING)
            kept = set(sorted(range(len(found)), key=lambda at: order.index(states[at]))[:rows])
            shown = [row for at, row in enumerate(found) if at in kept]
        title = f"{self._sweep.name}: {len(found)} runs, {counts}"
        if len(shown) < len(found):
            title += f"; {len(shown)} of them:"
        return Report(stage="sweep", sections=(Section(title, COLUMNS, tuple(_cells(row) for row in shown)),))

    def facts(self) -> dict[str, Any]:
        """The same for other programs, JSON-safe."""
        rows = self.rows()
        states = [row.state for row in rows]
        return {
            "sweep": self._sweep.name,
            "runs": [asdict(row) for row in rows],
            "counts": {state: states.count(state) for state in STATES},
        }

    def _row(self, entry: Entry) -> Row:
        state = read_state(self._sweep, entry)
        if state is not None and entry.name in self._over and self._over[entry.name][0] == state:
            return self._over[entry.name][1]
        word = WAITING if state is None else state.state
        if word == RUNNING and not is_held(self._sweep, entry):
            word = DIED
        if word == DONE and not is_done(self._sweep, entry):
            word = GONE  # somebody took its directory away
        stage, score = self._progress[entry.name].look()
        if word == DONE:
            stage, score = None, self._final_score(entry, score)
        running = time.time() - state.begun if state is not None and word == RUNNING else 0.0
        row = Row(
            run=entry.name, directory=str(entry.run), state=word, stage=stage, score=score,
            node=state.node if state else None, seconds=round((state.seconds if state else 0.0) + running, 1),
            starts=state.starts if state else 0, error=state.error if state and word == FAILED else _ADVICE.get(word),
        )  # fmt: skip
        if state is not None and word in (DONE, FAILED, STOPPED):
            self._over[entry.name] = state, row
        return row

    def _final_score(self, entry: Entry, otherwise: float | None) -> float | None:
        try:
            evaluation = final_evaluation(at_hand(self._sweep.place(entry)))
        except IrisError:  # said by `iris scores`
            return otherwise
        return otherwise if evaluation is None else evaluation.mean


class _Progress:
    """Where a run stands in its pipeline; nothing of one in an object store before it ends."""

    def __init__(self, sweep: Sweep, entry: Entry) -> None:
        place = sweep.place(entry)
        self._directory = place if isinstance(place, Path) else None
        self._follower = Follower(self._directory / "metrics.jsonl") if self._directory else None
        self._ended = 0
        self._score: float | None = None
        self._plan: list[Any] | None = None

    def look(self) -> tuple[str | None, float | None]:
        """Round and stage, and the last score."""
        if self._directory is None or self._follower is None:
            return None, None
        lines, anew = self._follower.look()
        if anew:
            self._ended, self._score = 0, None
        stages = stage_lines(lines)
        self._ended += len(stages)
        for line in stages:
            if line["stage"] == "evaluate":
                self._score = numbers_of(line).get("mean_score", self._score)
        if self._plan is None:
            plan = read_plan(self._directory)
            self._plan = plan["stages"] if plan else None
        if self._plan is None:
            return None, self._score
        if self._ended >= len(self._plan):
            return f"all {len(self._plan)} stages", self._score
        try:
            phase, number, stage, _ = self._plan[self._ended]
        except (TypeError, ValueError):  # as somebody else wrote it
            return None, self._score
        rounds = max((part[1] or 0 for part in self._plan), default=0)
        return f"{phase}, {stage}" if number is None else f"round {number}/{rounds}, {stage}", self._score


def _cells(row: Row) -> tuple[float | int | str | None, ...]:
    seconds = console.duration(row.seconds) if row.starts else None
    return row.run, row.state, row.stage, row.score, row.node, seconds, row.error
