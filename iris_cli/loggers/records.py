"""Lines of metrics.jsonl as records that a logger can draw: a stage, a step, and numbers with names."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from iris_cli.metrics import Line, is_number, numbers_of


@dataclass(frozen=True)
class Record:
    """What a stage reported at one moment.

    Attributes:
        number: of the line in metrics.jsonl, from 0: records in the order they were made.
        stage: its name.
        step: updates of the component by then; for other stages, environment steps collected by then.
        time: in seconds since 1970.
        values: name -> finite number.
    """

    number: int
    stage: str
    step: int
    time: float
    values: dict[str, float]


@dataclass
class Counters:
    """What reading further needs to know of the lines before: how many there were, and the steps collected by then."""

    lines: int = 0
    steps: int = 0


@dataclass(frozen=True)
class Origin:
    """Whose records these are.

    Attributes:
        name: of the run.
        id: of the run, 32 hex digits.
        settings: as run.yaml has them.
    """

    name: str
    id: str
    settings: dict[str, Any]


class Logger(Protocol):
    """Draws records somewhere."""

    def write(self, records: list[Record]) -> None:
        """Take records; they are safe when this returns."""

    def close(self) -> None:
        """Nothing more will come."""


def records_of(lines: Iterable[Line], counters: Counters) -> Iterator[Record]:
    """The lines that have numbers, as records; moves the counters on."""
    for line in lines:
        number, counters.lines = counters.lines, counters.lines + 1
        values, stage, time = numbers_of(line), line.get("stage"), line.get("time")
        if not isinstance(stage, str) or line.get("event") not in (None, "stage"):
            continue
        if is_number(values.get("steps_in_all")):
            counters.steps = int(values["steps_in_all"])
        step = line.get("update", values.get("updates"))
        if line.get("event") == "stage" and is_number(line.get("seconds")):
            values = {**values, "seconds": float(line["seconds"])}
        if values:
            yield Record(
                number=number, stage=stage, step=int(step) if is_number(step) else counters.steps,
                time=float(time) if isinstance(time, int | float) else 0.0, values=values,
            )  # fmt: skip
