"""`iris watch`: a run while it is being trained, from its files alone; whoever trains it does not notice.

metrics.jsonl says what was done, plan.json what is still to do, the lock who is at work. What is left is an estimate:
of each stage still to come, its amount by the recent speed of stages of that name.
"""

import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from iris_cli import console
from iris_cli.card import read_card
from iris_cli.evaluations import evaluations
from iris_cli.history import read_plan
from iris_cli.metrics import Follower, Line, is_number, numbers_of
from iris_cli.object_store import Location, StoreURL
from iris_cli.replay.lock import holder
from iris_cli.report import Report, Section
from iris_cli.stages.run_facts import read_state, stage_lines
from iris_cli.working_copy import at_hand

FETCH_SECONDS = 5.0  # between two looks into an object store
RECENT = 5  # stages of a name whose speed is taken
SHOWN_EVALUATIONS = 5
SHOWN_FIGURES = 6  # of a stage, in its line
UNITS = {"collect": "steps", "evaluate": "episodes", "diagnose": "steps", "imagine": "steps"}  # others: updates


@dataclass(frozen=True)
class _Stage:
    """A stage of a plan."""

    phase: str
    round: int | None
    name: str
    amount: int | None


class Watcher:
    """Looks at a run again and again, reading only what is new.

    Raises:
        RunError: if this is no run.
    """

    def __init__(self, run: Location) -> None:
        self._location, self._run, self._fetched = run, at_hand(run), time.monotonic()
        self._was_trained_here, self._card = False, read_card(self._run)
        self._follower, self._lines = Follower(self._run / "metrics.jsonl"), list[Line]()

    def look(self) -> tuple[Report, bool]:
        """How it stands, and whether nobody trains it (any more), as far as this machine can know."""
        process = holder(self._run / ".lock")  # first: what is written before its end is then read below
        over, nobody = process is None, "nobody trains it"
        if isinstance(self._location, StoreURL):  # where another machine may be at work, whose lock is not seen
            if over or time.monotonic() - self._fetched >= FETCH_SECONDS:
                self._run, self._fetched = at_hand(self._location), time.monotonic()
            self._was_trained_here |= process is not None
            over, nobody = over and self._was_trained_here, "nobody on this machine trains it"
        new, anew = self._follower.look()
        self._lines = new if anew else self._lines + new
        now, plan, state = time.time(), _stages(read_plan(self._run)), read_state(self._run)
        environment = self._card["environment"].get("id")
        title = f"{self._run}: {self._card['agent']} on {environment}, " + (
            nobody if process is None else f"trained by process {process}"
        )
        rows = [*_progress(self._lines, plan, state, process, now), *_saved(state, now)]
        sections = [Section(title, ("", ""), tuple(rows)), *_learned(self._lines), *_evaluated(self._lines, self._run)]
        return Report(stage="watch", sections=tuple(sections)), over


def _progress(
    lines: list[Line], plan: list[_Stage], state: dict[str, Any] | None, process: int | None, now: float
) -> Iterable[tuple[str, str]]:
    """Where the pipeline and its stage stand, how fast it goes, and what is left."""
    done = stage_lines(lines)
    current = plan[len(done)] if len(done) < len(plan) else None
    if plan:
        rounds = max((stage.round or 0 for stage in plan), default=0)
        where = "done" if current is None else f"round {current.round} of {rounds}" if current.round else current.phase
        yield "pipeline", f"{where}, {len(done):,} of {len(plan):,} stages  {console.bar(len(done) / len(plan))}"
    elif done:
        last = done[-1]
        where = f"round {last['round']}" if is_number(last.get("round")) else last.get("phase", "")
        yield "pipeline", f"{where}, {len(done):,} stages done; how many there are is not recorded"
    under_way = _under_way(lines, done)
    name, amount, made = _stage_of(current, under_way, state, done)
    if process is not None and name is not None:
        unit = UNITS.get(name, "updates")
        if amount and made is not None:
            yield "stage", f"{name}, {made:,} of {amount:,} {unit}  {console.bar(made / amount)}"
        else:
            yield "stage", name + (f", {amount:,} {unit}" if amount else "")
        if lines and is_number(lines[-1].get("time")):
            yield "last news", f"{console.duration(max(0.0, now - lines[-1]['time']))} ago"
    if process is not None and (speed := _speed(under_way)):
        yield "speed", f"{console.number(speed)} updates/s"
    if process is not None and plan:
        left = _seconds_left(done, plan, now)
        yield "left", "not known yet" if left is None else f"about {console.duration(left)}"


def _saved(state: dict[str, Any] | None, now: float) -> Iterable[tuple[str, str]]:
    if state is None:
        return
    if isinstance(state.get("updates"), dict):
        yield "updates", ", ".join(f"{name} {console.number(count)}" for name, count in state["updates"].items())
    if isinstance(state.get("collected"), dict) and state["collected"].get("steps"):
        yield "steps collected", console.number(state["collected"]["steps"])
    if is_number(state.get("time")):
        yield "checkpoint", f"{state.get('number')}, {console.duration(max(0.0, now - state['time']))} ago"


def _learned(lines: list[Line]) -> Iterable[Section]:
    """The newest figures of each stage that learns."""
    newest = {line["stage"]: line for line in lines if _is_update(line)}
    rows = []
    for stage, line in newest.items():
        figures = list(numbers_of(line).items())[:SHOWN_FIGURES]
        words = ", ".join(f"{name.replace('_', ' ')} {console.number(value)}" for name, value in figures)
        rows.append((stage, line["update"], words))
    if rows:
        yield Section("Learning", ("stage", "update", "newest figures"), tuple(rows))


def _evaluated(lines: list[Line], run: Path) -> Iterable[Section]:
    """The last evaluations of a pipeline, or of a run that is trained by hand."""
    rows: list[tuple[float | int | str | None, ...]] = []
    steps = 0
    for line in stage_lines(lines):
        figures = numbers_of(line)
        steps = int(figures.get("steps_in_all", steps))
        if line["stage"] == "evaluate" and "mean_score" in figures:
            where = f"round {line['round']}" if is_number(line.get("round")) else str(line.get("phase"))
            interval = line["figures"].get("confidence_interval", "")
            rows.append((where, steps, figures["mean_score"], str(interval), figures.get("human_normalised")))
    if not rows:
        rows = [(report.path.stem, report.steps, report.mean, None, None) for report in evaluations(run)]
    if rows:
        columns = ("", "steps", "mean score", "interval", "human-normalised")
        yield Section("Evaluations", columns, tuple(rows[-SHOWN_EVALUATIONS:]))


def _stages(plan: dict[str, Any] | None) -> list[_Stage]:
    """The stages of plan.json; none if it is not as the pipeline writes it."""
    try:
        stages = [_Stage(str(p), r, str(n), a) for p, r, n, a in plan["stages"]] if plan else []
    except (ValueError, TypeError):
        return []
    counts = [count for stage in stages for count in (stage.round, stage.amount)]
    return stages if all(count is None or type(count) is int for count in counts) else []


def _is_update(line: Line) -> bool:
    return "event" not in line and isinstance(line.get("stage"), str) and is_number(line.get("update"))


def _under_way(lines: list[Line], done: list[Line]) -> list[Line]:
    """The lines of the stage that has not been closed yet."""
    since = next((index for index in range(len(lines) - 1, -1, -1) if done and lines[index] is done[-1]), -1)
    later = [line for line in lines[since + 1 :] if _is_update(line)]
    return [line for line in later if line["stage"] == later[-1]["stage"]]


def _stage_of(
    current: _Stage | None, under_way: list[Line], state: dict[str, Any] | None, done: list[Line]
) -> tuple[str | None, int | None, int | None]:
    """Name of the stage under way, its amount, and how much of it is done, as far as they are known."""
    name = current.name if current else under_way[-1]["stage"] if under_way else None
    amount = current.amount if current else None
    progress = state.get("progress") if state else None
    if isinstance(progress, dict) and progress.get("stage") == name and amount is None:  # trained by hand
        amount = progress.get("total")
        return name, amount, progress.get("done")
    if not under_way or under_way[-1]["stage"] != name:
        return name, amount, None
    before = [numbers_of(line).get("updates", 0.0) for line in done if line["stage"] == name]
    return name, amount, int(under_way[-1]["update"] - (before[-1] if before else 0))


def _speed(under_way: list[Line]) -> float | None:
    """Updates per second between the last two lines of the stage."""
    if len(under_way) < 2:
        return None
    first, last = under_way[-2:]
    seconds = last.get("time", 0) - first.get("time", 0)
    return (last["update"] - first["update"]) / seconds if seconds > 0 else None


def _seconds_left(done: list[Line], plan: list[_Stage], now: float) -> float | None:
    """Of the stages still to come; None while one of them was never timed."""
    timed: dict[str, list[float]] = defaultdict(list)
    for stage, line in zip(plan, done, strict=False):
        timed[stage.name].append(float(line["seconds"]) / (stage.amount or 1))
    coming = plan[len(done) :]
    if any(stage.name not in timed for stage in coming):
        return None
    each = {name: median(seconds[-RECENT:]) for name, seconds in timed.items()}
    total = sum(each[stage.name] * (stage.amount or 1) for stage in coming)
    begun = done[-1].get("time") if done else None
    current = each[coming[0].name] * (coming[0].amount or 1) if coming else 0.0
    return total - (min(now - begun, current) if is_number(begun) else 0.0)
